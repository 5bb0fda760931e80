"""Which strings of an answer are output: one rule for whole answers and for the pieces of streams.

Output is the text of a message (a string or a list of parts), a refusal, reasoning, the transcript of audio, and the
calls of tools with their names. Services that show reasoning often show it under several names; it counts once. What
only describes an answer (ids, annotations, citations, log probabilities, encrypted reasoning) is no output.
"""

from __future__ import annotations

from typing import Any, Final

from limiter_node.tokens import TokenCounter, count_anew, counter_of, well_formed
from limiter_node.upstream.gateway.lenient import write_json

BYTES_PER_TOKEN: Final = 4
"""For what cannot be read: English has some four bytes a token, JSON with its quotes has fewer of text."""

_TEXTS = ("content", "text", "refusal", "arguments", "input", "summary", "transcript", "code", "query")
_CONTAINERS = (
    "message",
    "delta",
    "choices",
    "output",
    "content",
    "summary",
    "tool_calls",
    "function_call",
    "function",
    "custom",
    "executed_tools",
    "audio",
    "action",
    "queries",
)
_REASONING = ("reasoning_content", "reasoning", "thinking", "reasoning_details", "thinking_blocks")
"""Names of the same reasoning: as a text, or as a list of parts. The longest text counts, else the first list."""
_CALLS = ("function", "custom", "function_call")
_NO_TEXT_OF_CALLS = frozenset(("id", "type", "index", "status"))


def unread_tokens(size: int) -> int:
    """Return the tokens of `size` bytes that cannot be read: one per `BYTES_PER_TOKEN`, rounded up."""
    return -(-size // BYTES_PER_TOKEN)


def text_tokens(answer: Any, encoding: str) -> int:
    """Return the output tokens of `answer`, a whole answer or any part of one; any JSON has a count. O(length)."""
    try:
        return _walk(answer, counter_of(encoding))
    except UnicodeEncodeError:
        return _walk(answer, lambda text: count_anew(text, encoding))


def safe_count(counter: TokenCounter, text: str) -> int:
    """Return `counter(text)`; `text` may hold lone surrogates."""
    try:
        return counter(text)
    except UnicodeEncodeError:
        return counter(well_formed(text))


def _walk(answer: Any, count: TokenCounter) -> int:
    """Not recursive: services may nest as deeply as they like."""
    tokens = 0
    waiting: list[Any] = [answer]
    while waiting:
        part = waiting.pop()
        if type(part) is str:
            if part:
                tokens += count(part)
        elif type(part) is list:
            waiting += part
        elif type(part) is dict:
            for name in _TEXTS:
                if (text := part.get(name)) and type(text) is str:
                    tokens += count(text)
            for name in _CONTAINERS:
                if (inner := part.get(name)) and type(inner) in (list, dict):
                    waiting.append(inner)
            if reasoning := _reasoning(part):
                waiting.append(reasoning)
            tokens += _call_tokens(part, count)
    return tokens


def _reasoning(part: dict[str, Any]) -> Any:
    said = [value for name in _REASONING if (value := part.get(name)) and type(value) in (str, list)]
    if len(said) < 2:
        return said[0] if said else None
    texts = [value for value in said if type(value) is str]
    return max(texts, key=len) if texts else said[0]


def _call_tokens(part: dict[str, Any], count: TokenCounter) -> int:
    """Names of called tools, arguments that are no text, and calls of kinds that nobody knows yet."""
    tokens = 0
    called, holds_call = part.get("name"), False
    for name in ("arguments", "input"):
        value = part.get(name)
        holds_call |= name in part
        if type(value) in (dict, list) and value and type(called) is str:
            tokens += _json_tokens(value, count)
    if holds_call and type(called) is str and called:
        tokens += count(called)
    for name in _CALLS:
        inner = part.get(name)
        # A stream's first piece of a call may have the name and nothing else.
        if type(inner) is dict and "arguments" not in inner and "input" not in inner:
            called = inner.get("name")
            if type(called) is str and called:
                tokens += count(called)
    calls = part.get("tool_calls")
    if type(calls) is list:
        for call in calls:
            if type(call) is dict and "function" not in call and "custom" not in call:
                tokens += _unknown_call_tokens(call, count)
    return tokens


def _unknown_call_tokens(call: dict[str, Any], count: TokenCounter) -> int:
    """As ``{"type": "web_search", "web_search": {"query": …}}``: what isn't counted by its name is as JSON."""
    tokens = 0
    for name, value in call.items():
        if name in _NO_TEXT_OF_CALLS or name in _TEXTS or name in _CONTAINERS or name in _REASONING:
            continue
        if type(value) is str and value and name != "name":
            tokens += count(value)
        elif type(value) in (dict, list) and value:
            tokens += _json_tokens(value, count)
    return tokens


def _json_tokens(value: Any, count: TokenCounter) -> int:
    try:
        return count(write_json(value).decode())
    except ValueError:  # nested too deeply
        return 1
