"""A proxy that puts made-up replies in the place of true ones, beside what `fault_proxy` does."""

from __future__ import annotations

import asyncio
from collections import deque

from fault_proxy import FaultProxy


class LyingProxy(FaultProxy):
    """`lies`: each takes the place of the next whole bulk reply, which is what the decision script's are."""

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port)
        self.lies: deque[bytes] = deque()
        self.told = 0

    @property
    def relays(self) -> int:
        """How many connections are relayed now."""
        return len(self._writers) // 2

    def pass_all(self) -> None:
        """End all faults."""
        self.pass_requests = self.pass_replies = True
        self.delay_s, self.piece_bytes, self.garbage = 0.0, 0, b""
        self.lies.clear()

    async def _pass(self, data: bytes, writer: asyncio.StreamWriter, *, is_reply: bool) -> None:
        if is_reply and self.lies and data[:1] == b"$":
            # One read brings whole replies as a rule. Where it doesn't, what is left of a true one is one more lie.
            length, _, rest = data[1:].partition(b"\r\n")
            if length.isdigit() and len(rest) >= int(length) + 2:
                lie = self.lies.popleft()
                self.told += 1
                data = b"$%d\r\n%b\r\n" % (len(lie), lie) + rest[int(length) + 2 :]
        try:
            await super()._pass(data, writer, is_reply=is_reply)
        except RuntimeError as error:  # uvloop's word for a connection that was closed meanwhile
            raise ConnectionResetError(str(error)) from None
