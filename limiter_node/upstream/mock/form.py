"""Puts the mock's prose into the form that a request asks for: stop sequences, a tool call, JSON.

The counts stay exact: they are the tokenizer's count of the text, or of a call's name and payload. A longer answer is
cut to the cap, with finish reason ``length``.
"""

from __future__ import annotations

from itertools import islice

from limiter_node.tokens.vocabulary import count
from limiter_node.upstream.mock.schema import fitting_json
from limiter_node.upstream.mock.text import pieces
from limiter_node.upstream.requests import AnswerForm, CallableTool
from limiter_node.upstream.source import Completion, ToolCall

CUSTOM_INPUT = "mock input"

ANY_OBJECT = {"type": "object"}
OBJECT_TOKENS = 6
"""The tokens that the object around its text may have."""
_MOST_WORDS = 4_000
"""The most words of an object's text: it is tokenized, which prose isn't, and a length may be a million tokens."""


def shaped(prose: Completion, form: AnswerForm, model: str, cap: int) -> Completion:
    """Return `prose` in the form `form`; no choice exceeds `cap` tokens of `model`'s vocabulary."""
    choices = len(prose.contents)
    if form.tool is not None:
        call, tokens, reason = _call(form.tool, model, cap)
        calls = (() if call is None else (call,),) * choices
        return Completion(
            ("",) * choices, (reason,) * choices, (tokens,) * choices, tokens * choices, prose.system_fingerprint, calls
        )
    if form.json_schema == ANY_OBJECT:
        ended = []
        for content, tokens in zip(prose.contents, prose.choice_tokens, strict=True):
            text = any_object(content, tokens)
            ended.append(stopped(text, "stop", count(text, model), form.stop, model, cap))
    elif form.json_schema is not None:
        text = fitting_json(form.json_schema)
        one = stopped(text, "stop", count(text, model), form.stop, model, cap)
        ended = [one] * choices
    else:
        drawn = zip(prose.contents, prose.finish_reasons, prose.choice_tokens, strict=True)
        ended = [stopped(text, reason, tokens, form.stop, model, cap) for text, reason, tokens in drawn]
    contents, reasons, counts = zip(*ended, strict=True)
    return Completion(contents, reasons, counts, sum(counts), prose.system_fingerprint)


def any_object(prose: str, tokens: int) -> str:
    """Return a JSON object of about `tokens` tokens, the length of `prose`, with the beginning of `prose` in it."""
    words = min(max(0, tokens - OBJECT_TOKENS), _MOST_WORDS)
    return '{"answer":"' + "".join(islice(pieces(prose), words)) + '"}'


def stopped(text: str, reason: str, tokens: int, stop: tuple[str, ...], model: str, cap: int) -> tuple[str, str, int]:
    """Return `text` up to the first of `stop` and to `cap` tokens, why it ended, and its tokens.

    `reason` and `tokens` are those of the whole text.
    """
    end = min([found for each in stop if (found := text.find(each)) >= 0], default=-1)
    if end >= 0:
        text = text[:end]
        reason, tokens = "stop", count(text, model)
    if tokens <= cap:
        return text, reason, tokens
    text, tokens = fit(text, model, cap)
    return text, "length", tokens


def fit(text: str, model: str, cap: int) -> tuple[str, int]:
    """Return a long prefix of `text` of at most `cap` tokens, and its tokens. O(length × log length)."""
    low, high = 0, len(text)
    # A longer prefix can have fewer tokens; then the result may be shorter than possible, but never too long.
    while low < high:
        middle = (low + high + 1) // 2
        if count(text[:middle], model) <= cap:
            low = middle
        else:
            high = middle - 1
    return text[:low], count(text[:low], model)


def _call(tool: CallableTool, model: str, cap: int) -> tuple[ToolCall | None, int, str]:
    """Return the call of `tool`, its tokens and the finish reason; no call if not even the name fits."""
    payload = CUSTOM_INPUT if tool.kind == "custom" else fitting_json(tool.parameters or {"type": "object"})
    name_tokens = count(tool.name, model)
    if name_tokens > cap:
        return None, 0, "length"
    tokens = count(payload, model)
    if name_tokens + tokens <= cap:
        return ToolCall(tool.kind, tool.name, payload), name_tokens + tokens, "tool_calls"
    payload, tokens = fit(payload, model, cap - name_tokens)
    return ToolCall(tool.kind, tool.name, payload), name_tokens + tokens, "length"
