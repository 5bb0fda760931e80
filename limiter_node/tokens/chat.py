"""Counts the tokens of a chat: OpenAI's formula, and estimates for images, audio and files.

Pure. Texts are counted by `limiter_node.tokens.vocabulary`; tool definitions by `limiter_node.tokens.tools`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from limiter_node.tokens.vocabulary import TokenCounter, cache_of, encoding_name, well_formed

# The chat formula of OpenAI's cookbook ("How to count tokens with tiktoken", num_tokens_from_messages).
TOKENS_PER_MESSAGE = 3
TOKENS_PER_NAME = 1
TOKENS_PER_REPLY = 3
"""Every reply is primed with ``<|start|>assistant<|message|>``."""

REASONING_FIELDS = ("reasoning_content", "reasoning")
"""Servers' names for the reasoning of an earlier message, which some models read again."""

# One token each in both vocabularies; a test holds this.
_ROLE_TOKENS = {"system": 1, "developer": 1, "user": 1, "assistant": 1, "tool": 1, "function": 1}

# Estimates for parts without text. Images: OpenAI's vision guide, 85 tokens at low detail, 765 for 1024 × 1024 pixels
# at high detail; the true size would have to be fetched and decoded. Audio: ten tokens a second; mp3 at 64 kbit/s is
# some 10,700 base64 characters a second (wav is larger, so this errs to the safe side). Files: no published rule; the
# price of one image, or more where the file is sent along and large.
IMAGE_TOKENS_LOW = 85
IMAGE_TOKENS = 765
AUDIO_CHARS_PER_TOKEN = 1_000
FILE_CHARS_PER_TOKEN = 16


def count_chat(messages: Sequence[dict[str, Any]], model: str) -> int:
    """Return the prompt tokens of a chat: 3 a message, its role, content and name (plus 1), 3 for the answer's start.

    The formula is that of OpenAI's cookbook. Other parts that a model reads count as text: refusals, reasoning, and the
    names and arguments of calls in an assistant's message. Parts without text are estimated: an image is 765 tokens (85
    at low detail), audio a token per 1,000 base64 characters, a file a token per 16 characters and at least 765.
    `messages` must be well-formed, as `limiter_node.http.requests.messages.check_messages` ensures. O(characters).
    """
    counter = cache_of(encoding_name(model)).count
    try:
        return sum_chat(messages, counter)
    except UnicodeEncodeError:
        return sum_chat(messages, lambda text: counter(well_formed(text)))


def sum_chat(messages: Sequence[dict[str, Any]], counter: TokenCounter) -> int:
    """Return the same as `count_chat`, with the caller's counter: the sum of its counts and the estimates."""
    total = TOKENS_PER_REPLY
    for message in messages:
        total += TOKENS_PER_MESSAGE + _ROLE_TOKENS[message["role"]]
        content = message.get("content")
        if type(content) is str:
            total += counter(content)
            if len(message) == 2:
                continue
        elif content is not None:
            for part in content:
                total += _count_part(part, counter)
        total += _count_extras(message, counter)
    return total


def _count_part(part: dict[str, Any], counter: TokenCounter) -> int:
    kind = part["type"]
    if kind == "text" or kind == "refusal":
        return counter(part[kind])
    if kind == "image_url":
        return IMAGE_TOKENS_LOW if part["image_url"].get("detail") == "low" else IMAGE_TOKENS
    if kind == "input_audio":
        return 1 + len(part["input_audio"]["data"]) // AUDIO_CHARS_PER_TOKEN
    return max(IMAGE_TOKENS, len(part["file"].get("file_data") or "") // FILE_CHARS_PER_TOKEN)


def _count_extras(message: dict[str, Any], counter: TokenCounter) -> int:
    total = 0
    if (name := message.get("name")) is not None:
        total += counter(name) + TOKENS_PER_NAME
    if (refusal := message.get("refusal")) is not None:
        total += counter(refusal)
    for field in REASONING_FIELDS:
        if (reasoning := message.get(field)) is not None:
            total += counter(reasoning)
    if (call := message.get("function_call")) is not None:
        total += counter(call["name"]) + counter(call["arguments"])
    for tool_call in message.get("tool_calls") or ():
        if tool_call["type"] == "function":
            function = tool_call["function"]
            total += counter(function["name"]) + counter(function["arguments"])
        else:
            custom = tool_call["custom"]
            total += counter(custom["name"]) + counter(custom["input"])
    return total
