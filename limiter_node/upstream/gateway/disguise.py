"""Bodies that a service may read in another way than we did, so that it does more than was admitted.

JSON readers disagree about fields that come twice, about the case of names (Go's takes any), and servers have names of
their own for a cap. What would get around a limit that way is refused before it is admitted, or written anew:

- another spelling of a field that counts (``Max_Tokens``), in the request, its messages, parts and calls: refused;
- a field that makes a server do something else (`steering`): refused;
- a field that elsewhere caps or multiplies the output (``n_predict`` beats ``max_tokens`` in llama.cpp), or is an input
  that can't be counted: refused;
- a field of the request that comes twice, or is written with escapes: the body is written anew from what was checked.

Its weakness: a field that comes twice within a message. The last one counts here, as in all servers that we know.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from limiter_node.upstream.base import ChatRequest, LimitedRequest, NotServed
from limiter_node.upstream.gateway.steering import CONTAINERS, STEERING, refuse_steering, unsupported

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
"""Those of a call of a tool, and of what came of it."""

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
"""What servers call a cap, a number of choices or an input of their own → what says it here."""

COUNTING_FIELDS: Final = _COUNTING | frozenset(_OTHER_NAMES)
"""What no operator can let pass uncounted."""
_WITHIN_CONTAINERS: Final = COUNTING_FIELDS - {"role", "content", "text"}
_SPELLED: Final = STEERING | CONTAINERS | frozenset(_OTHER_NAMES)
_REFUSED: Final = frozenset(name.casefold() for name in _SPELLED)

_CAPITALIZED: Final = re.compile(rb'"[a-z_]*[A-Z][A-Za-z_]*"\s*:')
"""What may be a field's name with a capital letter in it; what is said in a text has its quotes escaped."""
_FOLDING: Final = (b"\xc5\xbf", b"\xe2\x84\xaa", b"\\u017", b"\\u212")
"""Letters beyond ASCII that fold to s and k, and how they may be escaped."""
_MOST_FIELDS: Final = 32
"""A body with more of them is written anew rather than looked through for each."""
_ESCAPED_ASCII: Final = re.compile(rb"\\u00[2-7]")


def refuse_disguised(request: LimitedRequest, body: bytes, extra_fields: frozenset[str] = frozenset()) -> None:
    """Raise `NotServed` for fields that would be read in another way than they were counted. O(length).

    `extra_fields` steer as the service's operator wants it.
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
    may_hide = b"\\u" in body or _FOLDING[0] in body or _FOLDING[1] in body
    if _CAPITALIZED.search(body) is not None or (may_hide and _hides_letters(body)):
        for name in fields:
            if name not in _SPELLED and name.casefold() in _REFUSED and name not in extra_fields:
                raise unsupported(name[:64])
        for counting, names in ((_COUNTING, _names(fields)), (_OF_CALLS, _names_of_calls(fields))):
            for name in names:
                if name not in counting and (meant := name.casefold()) in counting:
                    message = f"Unrecognized request argument: '{name[:64]}'. Did you mean '{meant}'?"
                    raise NotServed(message, name[:64], "unknown_parameter")


def _hides_letters(body: bytes) -> bool:
    """Whether letters are written so that they don't look like what they are."""
    return any(letter in body for letter in _FOLDING) or _ESCAPED_ASCII.search(body) is not None


def is_ambiguous(body: bytes, fields: Mapping[str, Any]) -> bool:
    """Whether a field comes twice, or may do so unseen. True now and then for bodies that are all right."""
    if len(fields) > _MOST_FIELDS:
        return True
    for name in fields:
        quoted, named = _spelled(name)
        if body.count(quoted) != 1 and len(named.findall(body)) != 1:
            return True
    return b"\\u00" in body and _ESCAPED_ASCII.search(body) is not None


@lru_cache(1_024)  # callers choose them
def _spelled(name: str) -> tuple[bytes, re.Pattern[bytes]]:
    """What a name is, and what it is in front of its value."""
    quoted = b'"%b"' % name.encode()
    return quoted, re.compile(re.escape(quoted) + rb"\s*:")


def _names(fields: Mapping[str, Any]) -> Iterator[str]:
    """Of the fields of the request, its messages or items, and their parts."""
    yield from fields
    for several in ("messages", "input", "prompt", "system"):
        yield from _names_within(fields.get(several), 2)
    yield from _names_within([fields.get("stream_options")], 0)


def _names_of_calls(fields: Mapping[str, Any]) -> Iterator[str]:
    """Of the fields of calls in messages, and of items that are calls or what came of them."""
    for several in ("messages", "input"):
        for item in fields[several] if type(fields.get(several)) is list else ():
            if type(item) is not dict:
                continue
            if str(item.get("type")).endswith(("_call", "_call_output")):
                yield from item
            called = item.get("tool_calls")
            for call in (item.get("function_call"), *(called if type(called) is list else ())):
                if type(call) is dict:
                    yield from call
                    for kind in ("function", "custom"):
                        if type(call.get(kind)) is dict:
                            yield from call[kind]


def _names_within(items: Any, depth: int) -> Iterator[str]:
    if type(items) is list:
        for item in items:
            if type(item) is dict:
                yield from item
                if depth:
                    for part in item.values():
                        yield from _names_within(part, depth - 1)
