"""How many tokens a text or a chat is, by the vocabulary of the model it is for. Pure; knows no HTTP and no upstream.

The vocabularies are those that bpe-openai carries (nothing is downloaded). Its binding is called directly: the
package's tiktoken-like `encode` builds a list, refuses texts that spell a special token and texts of a million
characters, none of which counting needs. Counting is linear in the length (about 30 MB/s, at worst 10 MB/s) and holds
the interpreter: what is large goes through `limiter_node.tokens.process`, or is counted where the whole request is read
(`limiter_node.http.requests.reader`). Long texts are counted once and remembered.

Errors: none. Any `str` has a count, see `count`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any, TypeVar

from limiter_node.tokens.cache import DIGEST_CHARS, CountCache

T = TypeVar("T")
TokenCounter = Callable[[str], int]

O200K_BASE = "o200k_base"
CL100K_BASE = "cl100k_base"

# As tiktoken maps names (tiktoken/model.py): GPT-4 proper and what came before it; everything newer, and every name
# that is not OpenAI's, is counted by the newest vocabulary. `gpt-4o`, `gpt-4.1`, `gpt-4.5` start with none of these.
_CL100K_PREFIXES = ("gpt-4-", "gpt-4:", "gpt-3.5", "gpt-35", "text-embedding-")
_CL100K_NAMES = frozenset({"gpt-4"})
_FINE_TUNED = "ft:"

# The chat formula of OpenAI's cookbook ("How to count tokens with tiktoken", num_tokens_from_messages).
TOKENS_PER_MESSAGE = 3
TOKENS_PER_NAME = 1
TOKENS_PER_REPLY = 3
"""Every reply is primed with ``<|start|>assistant<|message|>``."""

REASONING_FIELDS = ("reasoning_content", "reasoning")
"""What servers call the reasoning of an earlier message, which some models are shown again."""

# One token each in both vocabularies; a test holds this.
_ROLE_TOKENS = {"system": 1, "developer": 1, "user": 1, "assistant": 1, "tool": 1, "function": 1}

# Estimates for what has no text. Images: OpenAI's vision guide, 85 tokens at low detail, and 765 for 1024 × 1024 pixels
# at high detail; the true size would have to be fetched and decoded. Audio: ten tokens a second; mp3 at 64 kbit/s is
# some 10,700 base64 characters a second (wav is larger, so this errs to the safe side). Files: no published rule; the
# price of one image, or more where the file is sent along and large.
IMAGE_TOKENS_LOW = 85
IMAGE_TOKENS = 765
AUDIO_CHARS_PER_TOKEN = 1_000
FILE_CHARS_PER_TOKEN = 16


def encoding_name(model: str) -> str:
    """The vocabulary of `model`: ``cl100k_base`` for gpt-3.5, gpt-4 proper and embeddings, else ``o200k_base``."""
    name = model.removeprefix(_FINE_TUNED)
    return CL100K_BASE if name.startswith(_CL100K_PREFIXES) or name in _CL100K_NAMES else O200K_BASE


@cache
def _binding() -> ModuleType:
    """The compiled module of bpe-openai, loaded without the package around it.

    The package reads three vocabularies into Python dicts when it is imported, which the binding doesn't use: with it,
    `warm` takes 0.55 s and 159 MB, without it 0.07 s and 97 MB.
    """
    name = "bpe_openai._bindings"
    package = find_spec("bpe_openai")
    spec = PathFinder.find_spec(name, package.submodule_search_locations) if package else None
    if spec is None or spec.loader is None:
        raise ImportError(f"{name} is not installed: install bpe-openai", name=name)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def counter_of(encoding: str) -> TokenCounter:
    """What counts by that vocabulary and remembers nothing. Raises `UnicodeEncodeError` for lone surrogates."""
    counter: TokenCounter = _binding().tokenizer_for_encoding(encoding).count
    return counter


@cache
def cache_of(encoding: str) -> CountCache:
    """The counts by that vocabulary that this process remembers."""
    return CountCache(counter_of(encoding))


def warm() -> None:
    """Load both vocabularies: at start, so that no request waits for it."""
    for encoding in (O200K_BASE, CL100K_BASE):
        counter_of(encoding)("warm")


def count(text: str, model: str) -> int:
    """The tokens of `text`. Text that spells a special token is text; each lone surrogate counts as U+FFFD."""
    return count_encoded(text, encoding_name(model))


def count_encoded(text: str, encoding: str) -> int:
    """The tokens of `text` by the vocabulary of that name."""
    return _count_any(cache_of(encoding).count, text)


def count_anew(text: str, encoding: str) -> int:
    """`count_encoded`, with nothing looked up or remembered."""
    return _count_any(counter_of(encoding), text)


def _count_any(counter: TokenCounter, text: str) -> int:
    try:
        return counter(text)
    except UnicodeEncodeError:
        return counter(well_formed(text))


def count_chat(messages: Sequence[dict[str, Any]], model: str) -> int:
    """The prompt tokens of a chat: 3 a message, its role, content and name (plus 1), and 3 for the reply's start.

    The formula is OpenAI's cookbook's. Beside it, what a model also reads is counted as text: refusals, reasoning, and
    the names and arguments of the calls that an assistant's message holds. What has no text is estimated: an image is
    765 tokens (85 at low detail), audio a token per 1,000 base64 characters, a file a token per 16 characters and 765
    at least.
    `messages` must be well-formed, as `limiter_node.http.requests.messages.check_messages` ensures. O(characters).
    """
    counter = cache_of(encoding_name(model)).count
    try:
        return sum_chat(messages, counter)
    except UnicodeEncodeError:
        return sum_chat(messages, lambda text: counter(well_formed(text)))


def sum_chat(messages: Sequence[dict[str, Any]], counter: TokenCounter) -> int:
    """`count_chat` with a counter of the caller's: a sum of its counts and of what isn't text."""
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


def well_formed(text: str) -> str:
    """`text` with its surrogate pairs joined and each lone surrogate replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def once_each(look_up: Callable[[str], T]) -> Callable[[str], T]:
    """`look_up` for the texts of one request, which may name one of them a thousand times: a digest is made once."""
    seen: dict[str, T] = {}

    def look(text: str) -> T:
        if len(text) <= DIGEST_CHARS:
            return look_up(text)
        if text not in seen:
            seen[text] = look_up(text)
        return seen[text]

    return look
