"""Fetches ``/metrics`` of all nodes at once; a node that doesn't answer in time is reported as down.

The only module here that speaks HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from urllib.parse import urlsplit

import aiohttp

from limiter_node.errors import ConfigError
from limiter_node.reasons import system_reason
from limiter_node.top.sample import NodeReading, NotOurs, read_sample

_MAX_BYTES = 4 << 20
"""Far more than a node's page: a longer one comes from another program and isn't read to its end."""


@dataclass(frozen=True, slots=True)
class Target:
    """Hold the address of a node to ask."""

    name: str
    """``host:port``, as shown in the view."""
    url: str
    """URL of its metrics."""


def parse_target(url: str) -> Target:
    """Return the target for a ``--target`` URL. Raises ConfigError, which never shows a login in the URL."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        raise ConfigError("--target: invalid host or port: give http://host:port") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError("--target must be the base URL of a node, as http://host:port")
    if "@" in parts.netloc:
        raise ConfigError("--target: a node's metrics need no login: give http://host:port")
    path = parts.path.rstrip("/").removesuffix("/metrics")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    name = f"{host}:{port or (443 if parts.scheme == 'https' else 80)}"
    return Target(f"{name}{path}", f"{parts.scheme}://{parts.netloc}{path}/metrics")


class NodePoller:
    """Fetch the metrics of `targets`; made by `polling`."""

    def __init__(self, session: aiohttp.ClientSession, targets: Sequence[Target], timeout_s: float) -> None:
        self._session, self._targets, self._timeout_s = session, targets, timeout_s

    async def poll(self) -> tuple[NodeReading, ...]:
        """Return a reading of each target, in their order, within the timeout. A target that is away raises nothing."""
        return tuple(await asyncio.gather(*(self._ask(target) for target in self._targets)))

    async def _ask(self, target: Target) -> NodeReading:
        try:
            async with asyncio.timeout(self._timeout_s), self._session.get(target.url) as response:
                if response.status != 200:
                    return NodeReading(target.name, None, f"/metrics returned status {response.status}")
                text = bytearray()
                async for piece in response.content.iter_any():
                    text += piece
                    if len(text) > _MAX_BYTES:
                        return NodeReading(target.name, None, "its metrics are not a limiter's: is it a node?")
                at_s = monotonic()
            return NodeReading(target.name, read_sample(text.decode("utf-8", "replace"), at_s))
        except NotOurs as error:
            return NodeReading(target.name, None, str(error))
        except TimeoutError:
            return NodeReading(target.name, None, f"no answer within {self._timeout_s:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return NodeReading(
                target.name, None, system_reason(error) or " ".join(str(error).split()) or type(error).__name__
            )


@asynccontextmanager
async def polling(targets: Sequence[Target], timeout_s: float) -> AsyncIterator[NodePoller]:
    """Hold a poller of `targets` while the block runs, with its connections. Each is waited for `timeout_s` at most."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        yield NodePoller(session, targets, timeout_s)
