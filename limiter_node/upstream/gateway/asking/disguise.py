"""Bodies that a service may read in another way than we did, so that it does more than was admitted.

JSON readers disagree about fields that come twice and about the case of names (Go's takes any), and servers have names
of their own for a cap. A body that could get around a limit that way is refused before it is admitted, or written anew:

- another spelling of a field that counts (``Max_Tokens``), in the request, its messages, parts and calls: refused;
- a field that makes a server do something else (`steering`): refused;
- a field that elsewhere caps or multiplies the output (``n_predict`` beats ``max_tokens`` in llama.cpp), or is an input
  that can't be counted: refused;
- a field of the request that comes twice, or is written with escapes: the body is written anew from what was checked.

Its weakness: a field that comes twice within a message. The last one counts here, as in all servers that we know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from limiter_node.upstream.errors import NotServed
from limiter_node.upstream.gateway.asking.steering import CONTAINERS, STEERING, refuse_steering, unsupported
from limiter_node.upstream.requests import ChatRequest, LimitedRequest

_COUNTING: Final = frozenset(
    [
        "model",
        "messages",
        "prompt",
        "input",
        "instructions",
        "role",
        "content",
        "text",
        "n",
        "best_of",
        "stream",
        "stream_options",
        "include_usage",
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "tools",
        "functions",
        "tool_calls",
        "function_call",
        "image_url",
        "input_audio",
    ]
)
"""Names of fields that decide what a request needs."""

_OF_CALLS: Final = frozenset(("function", "custom", "name", "arguments", "input", "output"))
"""The fields of a tool's call and of its result."""

_OTHER_NAMES: Final = {
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "max_new_tokens": "max_tokens",
    "max_length": "max_tokens",
    "max_gen_len": "max_tokens",
    "max_tokens_to_sample": "max_tokens",
    "n_cmpl": "n",
    "num_return_sequences": "n",
    "prompt_embeds": "prompt",
}
"""Servers' own names of a cap, a number of choices or an input → the name here."""

COUNTING_FIELDS: Final = _COUNTING | frozenset(_OTHER_NAMES)
"""Fields that `extra_fields` can't let pass uncounted."""
_WITHIN_CONTAINERS: Final = COUNTING_FIELDS - {"role", "content", "text"}
_SPELLED: Final = STEERING | CONTAINERS | frozenset(_OTHER_NAMES)
_REFUSED: Final = frozenset(name.casefold() for name in _SPELLED)

_PLAIN: Final = frozenset(("temperature", "top_p", "seed", "user", "stop", "tool_choice", "parallel_tool_calls"))
"""Frequent fields that need no further check."""
_HOLDERS: Final = ("messages", "input", "prompt", "system")
_MOST_FIELDS: Final = 32
"""A body with more fields is written anew rather than searched for each."""
_COLON: Final = re.compile(rb"\s*:")
_ESCAPED_ASCII: Final = re.compile(rb"\\u00[2-7]")


def refuse_disguised(request: LimitedRequest, extra_fields: frozenset[str] = frozenset()) -> None:
    """Raise `NotServed` for fields that would be read in another way than they were counted. O(values).

    `extra_fields`: fields that the service's operator lets pass.
    """
    fields = request.body
    if isinstance(request, ChatRequest) and fields.get("best_of") not in (None, 1):
        raise NotServed("Unsupported parameter: 'best_of'. Use 'n' instead.", "best_of", "unsupported_parameter")
    if not _SPELLED.isdisjoint(fields):
        for name in fields:
            if (instead := _OTHER_NAMES.get(name)) is not None:
                message = f"Unsupported parameter: '{name}'. Use '{instead}' instead."
                raise NotServed(message, name, "unsupported_parameter")
        refuse_steering(fields, _WITHIN_CONTAINERS, extra_fields)
    for name in fields:
        if name not in COUNTING_FIELDS and (meant := name.casefold()) not in _PLAIN:
            if meant in _COUNTING:
                raise _misspelled(name, meant)
            if meant in _REFUSED and name not in _SPELLED and name not in extra_fields:
                raise unsupported(name[:64])
    for several in _HOLDERS:
        if type(items := fields.get(several)) is list:
            for item in items:
                _check_item(item)
    if type(options := fields.get("stream_options")) is dict:
        _check_names(options, _COUNTING)


def _check_item(item: Any) -> None:
    """Raise `NotServed` for another spelling of a field that counts in a message or an item, its parts or calls."""
    if type(item) is not dict or (len(item) == 2 and "role" in item and type(item.get("content")) is str):
        return  # as in most messages
    _check_names(item, _COUNTING)
    if str(item.get("type")).endswith(("_call", "_call_output")):
        _check_names(item, _OF_CALLS)
    for name, value in item.items():
        if name == "function_call":
            _check_call(value)
        elif type(value) is list:
            for part in value:
                if name == "tool_calls":
                    _check_call(part)
                if type(part) is dict:
                    _check_names(part, _COUNTING)
                    for within in part.values():
                        for each in within if type(within) is list else ():
                            if type(each) is dict:
                                _check_names(each, _COUNTING)


def _check_call(call: Any) -> None:
    if type(call) is dict:
        _check_names(call, _OF_CALLS)
        for kind in ("function", "custom"):
            if type(call.get(kind)) is dict:
                _check_names(call[kind], _OF_CALLS)


def _check_names(fields: Mapping[str, Any], counting: frozenset[str]) -> None:
    for name in fields:
        if name not in counting and (meant := name.casefold()) in counting:
            raise _misspelled(name, meant)


def _misspelled(name: str, meant: str) -> NotServed:
    message = f"Unrecognized request argument: '{name[:64]}'. Did you mean '{meant}'?"
    return NotServed(message, name[:64], "unknown_parameter")


def is_ambiguous(body: bytes, fields: Mapping[str, Any]) -> bool:
    """Whether a field of the body comes twice, or might. Sometimes true of a body in which none does."""
    if len(fields) > _MOST_FIELDS:
        return True
    for name in fields:
        quoted = b'"%b"' % name.encode()
        if body.count(quoted) != 1 and not _is_before_one_value(quoted, body):
            return True
    return b"\\u00" in body and _ESCAPED_ASCII.search(body) is not None


def _is_before_one_value(quoted: bytes, body: bytes) -> bool:
    """Whether a name is in front of a value just once; elsewhere it may be a text.

    Compiles no pattern per name: that takes a microsecond a byte, and callers choose names.
    """
    times, at = 0, body.find(quoted)
    while at >= 0 and times < 2:
        at += len(quoted)
        times += _COLON.match(body, at) is not None
        at = body.find(quoted, at)
    return times == 1
