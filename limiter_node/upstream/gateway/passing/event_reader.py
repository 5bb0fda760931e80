"""Event streams while they pass: their bytes go on unchanged, and an account learns their content.

Bytes pass as soon as they come, in whole events: an incomplete event waits for its end. Taken out are only a usage that
the caller didn't ask for, and an error, which is sent in another form.
"""

from __future__ import annotations

import re
from typing import Final

from limiter_node.held import SMALL_BYTES, Hold
from limiter_node.upstream.gateway.cost.account import Account
from limiter_node.upstream.gateway.cost.text_only_events import EventTemplate
from limiter_node.upstream.gateway.lenient_json import BYTE_ORDER_MARK, read_json, write_json

MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
"""The most bytes of an incomplete event."""

_ENDS: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\n\r(?=[^\n])")
_LONGEST_END = 4
_MOST_LIKENED_BYTES = 65_536
"""The longest event that others are compared with: a picture won't repeat."""
_MOST_LINES = 10_000
"""The most lines of an event that is read: 16 MB of empty lines would hold the event loop for seconds."""


class TooLong(Exception):
    """Raised when an event doesn't end."""


class EventReader:
    """Take a stream's bytes and return those that pass; `account` learns their content.

    `hold` counts the bytes of a long event that wait for its end.

    Most events of a stream differ in their text only. Of these only the text is read, see `EventTemplate`.
    """

    def __init__(self, account: Account, hold: Hold | None = None) -> None:
        self._account, self._hold = account, hold
        self._rest = bytearray()
        self._is_first = True
        self._is_cut = False
        """Whether an unreadable event may be the beginning of one that was cut off, which clients drop."""
        self._template = EventTemplate()

    def feed(self, data: bytes) -> bytes:
        """Return the bytes that pass, of `data` and of bytes that had to wait. Raises `TooLong`, `Overloaded`."""
        waiting = self._rest
        if not waiting:
            template = self._template
            if template.before and data.startswith(template.before) and (text := template.text_of(data)) is not None:
                self._account.add_text(text)
                return data
            if data.endswith(b"\n\n") and data.find(b"\n\n") == len(data) - 2 and b"\r" not in data:
                return self._kept(data)  # one event, as most come
            end = _end(data, 0)
            waiting += data[end:]
            whole = data[:end]
        else:
            # The waiting bytes may end with a part of an event's end.
            start = max(0, len(waiting) - _LONGEST_END)
            waiting += data
            end = _end(waiting, start)
            whole = bytes(waiting[:end])
            del waiting[:end]
        if len(self._rest) > MAX_EVENT_BYTES:
            raise TooLong
        if self._hold is not None and (len(self._rest) > SMALL_BYTES or self._hold.size):
            self._hold.give(self._hold.size)
            self._hold.take(len(self._rest))
        return self._passed(whole) if whole else b""

    def rest(self) -> bytes:
        """Return the rest at the end of the stream: an event without its empty line, which some services forget."""
        rest, self._rest = bytes(self._rest), bytearray()
        self._is_cut = not rest.endswith(b"\n\r")
        return self._passed(rest) if rest else b""

    def _passed(self, whole: bytes) -> bytes:
        """Return the bytes of whole events that pass on to the caller."""
        if b"\r" in whole:
            ends = [found.end() for found in _ENDS.finditer(whole)]
            if not ends or ends[-1] < len(whole):
                ends.append(len(whole))
            events = [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        else:
            *ended, last = whole.split(b"\n\n")
            events = [event + b"\n\n" for event in ended]
            if last:
                events.append(last)
        account = self._account
        # Empty lines are no events, and may be many.
        return b"".join([event if len(event) <= 2 and account.error is None else self._kept(event) for event in events])

    def _kept(self, event: bytes) -> bytes:
        """Return the bytes of one event that pass on."""
        account = self._account
        if account.error is not None:
            return b""  # nothing after an error is of use
        template = self._template
        if template.before and event.startswith(template.before) and (text := template.text_of(event)) is not None:
            account.add_text(text)
            return event
        name = b""
        first_line = event.find(b"\n", 0, -2)
        if first_line < 0 and event.startswith(b"data:") and b"\r" not in event:
            data = event[5:]
        elif (
            event.startswith(b"event:")
            and event.startswith(b"data:", first_line + 1)
            and event.find(b"\n", first_line + 1, -2) < 0
            and b"\r" not in event
        ):
            name, data = event[6:first_line].strip(), event[first_line + 6 :]
        else:
            unmarked = event.removeprefix(BYTE_ORDER_MARK) if self._is_first else event
            if unmarked.count(b"\n") + unmarked.count(b"\r") > _MOST_LINES:
                self._is_first = False
                account.note_unread(len(unmarked))
                return event
            lines = unmarked.splitlines()
            data_lines = [line[5:].strip() for line in lines if line.startswith(b"data:")]
            if not data_lines:
                self._is_first &= not unmarked.strip()
                return event
            data = b"\n".join(data_lines)
            name = next((line[6:].strip() for line in lines if line.startswith(b"event:")), b"")
        self._is_first = False
        try:
            fields = read_json(data)
        except ValueError:
            stripped = data.strip()
            if stripped == b"[DONE]":
                account.note_done()
            elif name == b"error":
                account.note_named_error(stripped.decode("utf-8", "replace"))
                template.forget()
                return b""
            elif not self._is_cut:
                account.note_unread(len(stripped))
            return event
        if type(fields) is not dict:
            if fields is not None and not self._is_cut:  # some services send null now and then
                account.note_unread(len(data.strip()))
            return event
        if name == b"error":
            account.note_named_error(fields)
            template.forget()
            return b""
        passed = account.note(fields)
        if passed is fields:
            if account.plain_text and len(event) < _MOST_LIKENED_BYTES:
                template.learn(event, account.plain_name, account.plain_text)
            return event
        template.forget()
        return b"" if passed is None else _rewritten(event, passed)


def _end(data: bytes | bytearray, start: int) -> int:
    """Return the end of the last whole event of `data`, 0 if there is none; none ends before `start`."""
    if data.find(b"\r", start) < 0:
        found_at = data.rfind(b"\n\n", start)
        return found_at + 2 if found_at >= 0 else 0
    end = 0
    for found in _ENDS.finditer(data, start):
        end = found.end()
    return end


def _rewritten(event: bytes, fields: object) -> bytes:
    """Return `event` with `fields` as its data; the unchanged event if they can't be written."""
    try:
        data = write_json(fields)
    except ValueError:
        return event
    lines, is_written = [], False
    for line in event.splitlines(keepends=True):
        if not line.startswith(b"data:"):
            lines.append(line)
        elif not is_written:
            is_written = True
            lines.append(b"data: %b%b" % (data, line[len(line.rstrip(b"\r\n")) :]))
    return b"".join(lines)
