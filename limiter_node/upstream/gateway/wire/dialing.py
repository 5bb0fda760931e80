"""Makes connections to services: looks up names, does TLS, and gives up after a while."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from aiohappyeyeballs import AddrInfoType, start_connection
from yarl import URL

from limiter_node.upstream.gateway.wire.read_turns import ReadTurns

_EYEBALLS_S: Final = 0.25
"""Seconds that an address of a name may take before the next one is tried beside it (RFC 8305)."""
_REMEMBERED_S: Final = 10.0
"""Seconds to remember the addresses of a name."""

_Protocol = TypeVar("_Protocol", bound=asyncio.Protocol)


class Unreachable(Exception):
    """Raised when no connection can be made. The text is the reason, without the address."""


class Dialer:
    """Make connections, each within `connect_s` seconds, the look-up of names and TLS included."""

    def __init__(self, connect_s: float) -> None:
        self._connect_s = connect_s
        self.turns = ReadTurns()
        """The turns of all connections made here."""
        self._addresses: dict[tuple[str, int], tuple[float, Sequence[AddrInfoType]]] = {}
        self._tls: ssl.SSLContext | None = None

    async def dial(self, url: URL, protocol: Callable[[], _Protocol]) -> _Protocol:
        """Connect to the host of `url`. Raises `Unreachable`."""
        host, port = url.host, url.port
        assert host is not None
        assert port is not None
        connection: socket.socket | None = None
        try:
            async with asyncio.timeout(self._connect_s):
                connection = await start_connection(
                    await self._addresses_of(host, port), happy_eyeballs_delay=_EYEBALLS_S
                )
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                loop = asyncio.get_running_loop()
                secure = url.scheme == "https"
                _, made = await loop.create_connection(
                    protocol,
                    sock=connection,
                    ssl=self._context() if secure else None,
                    server_hostname=host if secure else None,
                )
                connection = None  # the transport's
        except TimeoutError:
            raise Unreachable("connecting took too long") from None
        except ssl.SSLCertVerificationError as error:
            raise Unreachable(f"the service's certificate is not valid: {error.verify_message}") from None
        except ssl.SSLError as error:
            raise Unreachable(f"TLS failed: {error.reason or type(error).__name__}") from None
        except socket.gaierror as error:
            raise Unreachable(error.strerror or "the host name is not known") from None
        except (OSError, RuntimeError) as error:  # uvloop raises the latter, too
            raise Unreachable(getattr(error, "strerror", None) or type(error).__name__) from None
        finally:
            if connection is not None:
                connection.close()
        return made

    async def _addresses_of(self, host: str, port: int) -> Sequence[AddrInfoType]:
        loop = asyncio.get_running_loop()
        until_s, addresses = self._addresses.get((host, port), (0.0, []))
        if loop.time() < until_s:
            return addresses
        flags = socket.AI_NUMERICHOST if _is_address(host) else socket.AI_ADDRCONFIG
        found: Sequence[AddrInfoType] = await loop.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=flags
        )
        self._addresses[host, port] = loop.time() + _REMEMBERED_S, found
        return found

    def _context(self) -> ssl.SSLContext:
        """Return the TLS context. Made once: reading the system's certificates takes some tens of milliseconds."""
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
