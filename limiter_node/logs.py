"""Logging of a process: one line per event on stderr, as text for people or as JSON for machines.

Events worth finding again carry a name and their figures as fields (``extra={"event": "shard_cut_off", "shard": …}``);
the message says the same in words, so that text needs no fields. Neither ever holds an API key: events name digests.
"""

from __future__ import annotations

import logging
import sys
from typing import Final

from pythonjsonlogger.orjson import OrjsonFormatter

from limiter_node.errors import ConfigError

FORMATS: Final = ("text", "json")
LEVELS: Final = ("debug", "info", "warning", "error")

_TEXT = "%(asctime)s %(levelname)s %(message)s"
_FIELDS = ("levelname", "name", "message")


class _Json(OrjsonFormatter):
    """Render ``time`` (UTC), ``level``, ``logger``, ``message``, the event's fields; a traceback is ``exc_info``."""

    def __init__(self, node_id: str) -> None:
        super().__init__(
            _FIELDS,
            rename_fields={"levelname": "level", "name": "logger"},
            static_fields={"node": node_id} if node_id else {},
            timestamp="time",
        )


def check(style: str, level: str) -> None:
    """Raise ConfigError unless `style` is one of `FORMATS` and `level` one of `LEVELS`."""
    for option, value, values in (("--log-format", style, FORMATS), ("--log-level", level, LEVELS)):
        if value not in values:
            raise ConfigError(f"{option} must be one of {', '.join(values)}")


def configure(style: str, level: str, node_id: str = "") -> None:
    """Log to stderr in one of `FORMATS`, from one of `LEVELS` on. JSON names the node if the process is one.

    Raises ConfigError for others.
    """
    check(style, level)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(node_id) if style == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
