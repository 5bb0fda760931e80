"""The known fields of each object, and the rule for the others: whatever a server could put into its prompt counts.

A known field is counted by its own rule, or is no input (a name for billing, a setting, an id; if prompt templates may
show it, it counts when it is longer than such a value is). Of unknown fields, numbers and booleans pass, because
servers have many settings. Texts, lists and objects count as their JSON. An operator, who knows the service, can name
unknown fields that pass uncounted (`extra_fields`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from limiter_node.http.requests.json_body import to_json

ExtraFields = Callable[[str], frozenset[str]]
"""Returns the names of unknown fields that pass uncounted for a model."""

_ANYWHERE: Final = frozenset(("cache_control", "prompt_cache_breakpoint"))
_OF_ALL: Final = frozenset(
    (
        "model", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
        "prompt_cache_options", "prompt_cache_retention", "stream_options", "moderation",
    )
)  # fmt: skip
_OF_SAMPLING: Final = frozenset(("stop", "stop_token_ids", "logit_bias"))

SHORT: Final = frozenset(("id", "call_id", "tool_call_id", "status", "phase", "reasoning_effort", "verbosity"))
"""Known everywhere as no input, if they are texts of up to `_SHORT_CHARS`."""
_SHORT_CHARS: Final = 64

OF_CHAT: Final = _OF_ALL | _OF_SAMPLING | {
    "messages", "tools", "tool_choice", "functions", "function_call", "response_format", "modalities", "audio",
    "reasoning", "web_search_options", "documents", "chat_template",
    "chat_template_kwargs",
}  # fmt: skip
OF_COMPLETION: Final = _OF_ALL | _OF_SAMPLING | {"prompt", "suffix"}
OF_RESPONSES_API: Final = _OF_ALL | {
    "input", "instructions", "tools", "tool_choice", "text", "reasoning", "truncation", "include", "context_management",
    "access_programs", "image", "previous_response_id", "conversation", "prompt", "background_options",
}  # fmt: skip
"""Requests with one of the last four are rejected."""
OF_EMBEDDING: Final = _OF_ALL | {"input", "encoding_format"}

OF_RESPONSE_FORMAT: Final = frozenset(("type", "json_schema"))
OF_TEXT: Final = frozenset(("format",))

_OF_ANSWERS: Final = frozenset(("type", "annotations"))
"""Fields of an answer that return when the answer is sent as a message."""
OF_MESSAGE: Final = _ANYWHERE | _OF_ANSWERS | {
    "role", "content", "name", "refusal", "tool_calls", "function_call", "audio", "reasoning",
    "reasoning_content",
}  # fmt: skip
OF_AUDIO: Final = frozenset(("expires_at",))
"""Of a message: the audio itself is stored at the service."""
OF_PARTS: Final = {kind: _ANYWHERE | {"type", kind} for kind in ("text", "refusal", "image_url", "input_audio", "file")}
"""By type."""
OF_PARTS_OBJECT: Final = {
    "image_url": frozenset(("url", "detail", "format")),
    "input_audio": frozenset(("data", "format")),
    "file": frozenset(("file_data", "file_id")),
}
"""Fields of the object within a part, by the part's type."""
OF_TOOL_CALLS: Final = {kind: frozenset(("type", "index", kind)) for kind in ("function", "custom")}
OF_CALLED: Final = {"function": frozenset(("name", "arguments")), "custom": frozenset(("name", "input"))}

_OF_ITEM: Final = _OF_ANSWERS | {"caller"}
OF_ITEMS: Final = {
    "message": _ANYWHERE | _OF_ANSWERS | {"role", "content"},
    "function_call": _OF_ITEM | {"name", "arguments"},
    "custom_tool_call": _OF_ITEM | {"name", "input"},
    "function_call_output": _OF_ITEM | {"output"},
    "custom_tool_call_output": _OF_ITEM | {"output"},
    "reasoning": _OF_ITEM | {"summary", "content"},
}
"""Items of the Responses API that count as messages, by type."""
_OF_TEXT_PART: Final = _ANYWHERE | {"type", "text", "annotations", "logprobs"}
OF_ITEM_PARTS: Final = {
    "input_text": _OF_TEXT_PART,
    "output_text": _OF_TEXT_PART,
    "text": _OF_TEXT_PART,
    "summary_text": _OF_TEXT_PART,
    "reasoning_text": _OF_TEXT_PART,
    "refusal": _ANYWHERE | {"type", "refusal"},
    "input_image": _ANYWHERE | {"type", "image_url", "file_id", "detail"},
    "input_file": _ANYWHERE | {"type", "file_data", "file_id", "file_url", "detail"},
    "input_audio": _ANYWHERE | {"type", "input_audio"},
}


def no_extra_fields(_model: str) -> frozenset[str]:
    """Return no name: every unknown field counts."""
    return frozenset()


def add_unknown(holder: dict[str, Any], known: frozenset[str], path: str, texts: list[str]) -> None:
    """Add to `texts`, as JSON, the fields of `holder` (which `path` names) that aren't `known` and have to be counted.

    Raises `InvalidRequest` for a field that is nested too deeply to be written. O(characters).
    """
    for name, value in holder.items():
        if name in known:
            continue
        kind = type(value)
        if kind is str:
            if len(value) <= _SHORT_CHARS and name in SHORT:
                continue
        elif kind is not dict and kind is not list:
            continue  # a number cannot hide text
        if value:
            texts.append(to_json(value, f"{path}.{name[:64]}" if path else name[:64]).decode())
