"""The frames between a node and its second process about a large request (`limiter_node.second_process.Frame`).

Heads are pickled: both processes are this program, and no other process has the pipes between them. No key is sent to
the second process.
"""

from __future__ import annotations

import pickle
from typing import Any, Final, NamedTuple, NoReturn

from limiter_node.decisions import Need
from limiter_node.http.requests.fields import InvalidRequest
from limiter_node.second_process import Frame
from limiter_node.upstream.errors import NotServed, UnknownModel
from limiter_node.upstream.interface import Drafter

SETUP: Final = 0
"""The kind of the first frame, whose head is the upstream's drafter."""
READ: Final = 2
"""The kind of a request, whose head is a path, and of its answer, whose head is a `Read`."""
_REFUSED: Final = 3


class Read(NamedTuple):
    """Hold the result of reading a request in the second process."""

    need: Need
    content: Any
    """Of its draft."""
    is_body_as_sent: bool
    """Whether the body of its draft is the request's own; else it is the frame's."""


def setup_frame(drafter: Drafter) -> Frame:
    """Return the frame that comes first."""
    return Frame(SETUP, pickle.dumps(drafter))


def drafter_of(frame: Frame) -> Drafter:
    """Return the drafter that `setup_frame` was given."""
    drafter: Drafter = pickle.loads(frame.head)
    return drafter


def read_frame(read: Read, body: bytes | bytearray) -> Frame:
    """Return the frame for a request that an upstream serves."""
    return Frame(READ, pickle.dumps(read), b"" if read.is_body_as_sent else body)


def refusal_frame(error: InvalidRequest | NotServed) -> Frame:
    """Return the frame for a request that was refused."""
    if isinstance(error, InvalidRequest):
        arguments: tuple[Any, ...] = (error.message, error.param, error.code)
    elif isinstance(error, UnknownModel):
        arguments = (error.model,)
    else:
        arguments = (str(error), error.param, error.code)
    return Frame(_REFUSED, pickle.dumps((type(error), arguments)))


def failure_frame(trace: str) -> Frame:
    """Return the frame for an unexpected failure; `trace` is its traceback, for the log."""
    return Frame(_REFUSED, pickle.dumps((RuntimeError, (trace,))))


def read_of(answer: Frame) -> Read:
    """Return the result in `answer`. Raises the error that it may hold: InvalidRequest, NotServed or RuntimeError."""
    if answer.kind != READ:
        _raise(answer)
    read: Read = pickle.loads(answer.head)
    return read


def _raise(answer: Frame) -> NoReturn:
    kind, arguments = pickle.loads(answer.head)
    raise kind(*arguments)
