"""A call of the admin API, and what it replies: between the routes, which speak HTTP, and the operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Call:
    """A request that is as its schemas say. `path`: the values of the route's ``{…}``, decoded.

    `body`: the fields of its JSON body; of the route that applies a keys file `file`, the file's text.
    """

    path: Mapping[str, str]
    query: Mapping[str, Any]
    body: Mapping[str, Any]
    file: bytes = b""


@dataclass(frozen=True, slots=True)
class Reply:
    """The JSON to send. `is_secret`: no cache may keep it."""

    content: Mapping[str, Any]
    is_secret: bool = False
