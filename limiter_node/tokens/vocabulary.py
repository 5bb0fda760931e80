"""Counts the tokens of a text by the vocabulary of its model. Pure; knows no HTTP and no upstream.

The vocabularies are part of bpe-openai (nothing is downloaded). Its binding is called directly: the package's
tiktoken-like `encode` builds a list, and refuses texts that spell a special token and texts of a million characters.
Counting needs neither. Counting is linear in the length (about 30 MB/s, at worst 10 MB/s) and holds the interpreter:
large texts go through `limiter_node.tokens.process`, or are counted in the process that reads the whole request
(`limiter_node.http.requests.reader`). Long texts are counted once and remembered.

Errors: none. Any `str` has a count, see `count`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import TypeVar

from limiter_node.tokens.cache import DIGEST_CHARS, CountCache

T = TypeVar("T")
TokenCounter = Callable[[str], int]
"""Returns how many tokens a text is."""

O200K_BASE = "o200k_base"
CL100K_BASE = "cl100k_base"

# As tiktoken maps names (tiktoken/model.py): GPT-4 proper and older models. Newer models, and models that are not
# OpenAI's, are counted by the newest vocabulary. `gpt-4o`, `gpt-4.1`, `gpt-4.5` start with none of these.
_CL100K_PREFIXES = ("gpt-4-", "gpt-4:", "gpt-3.5", "gpt-35", "text-embedding-")
_CL100K_NAMES = frozenset({"gpt-4"})
_FINE_TUNED = "ft:"


def encoding_name(model: str) -> str:
    """Return the name of the vocabulary of `model`.

    It is ``cl100k_base`` for gpt-3.5, gpt-4 proper and embeddings, else ``o200k_base``.
    """
    name = model.removeprefix(_FINE_TUNED)
    return CL100K_BASE if name.startswith(_CL100K_PREFIXES) or name in _CL100K_NAMES else O200K_BASE


@cache
def _binding() -> ModuleType:
    """Return the compiled module of bpe-openai, loaded without the package around it.

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
    """Return a counter by that vocabulary without a memory; it raises `UnicodeEncodeError` for lone surrogates."""
    counter: TokenCounter = _binding().tokenizer_for_encoding(encoding).count
    return counter


@cache
def cache_of(encoding: str) -> CountCache:
    """Return this process's cache of counts by that vocabulary."""
    return CountCache(counter_of(encoding))


def warm() -> None:
    """Load both vocabularies. Done at the start, so that no request waits for it."""
    for encoding in (O200K_BASE, CL100K_BASE):
        counter_of(encoding)("warm")


def count(text: str, model: str) -> int:
    """Return the tokens of `text`. Text that spells a special token is text; a lone surrogate counts as U+FFFD."""
    return count_encoded(text, encoding_name(model))


def count_encoded(text: str, encoding: str) -> int:
    """Return the tokens of `text` by the vocabulary of that name."""
    return _count_any(cache_of(encoding).count, text)


def count_anew(text: str, encoding: str) -> int:
    """Return the same as `count_encoded`, without looking up or remembering the count."""
    return _count_any(counter_of(encoding), text)


def _count_any(counter: TokenCounter, text: str) -> int:
    try:
        return counter(text)
    except UnicodeEncodeError:
        return counter(well_formed(text))


def well_formed(text: str) -> str:
    """Return `text` with its surrogate pairs joined and each lone surrogate replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def once_each(look_up: Callable[[str], T]) -> Callable[[str], T]:
    """Return a `look_up` for one request that looks up each long text once, even if the request repeats it."""
    seen: dict[str, T] = {}

    def look(text: str) -> T:
        if len(text) <= DIGEST_CHARS:
            return look_up(text)
        if text not in seen:
            seen[text] = look_up(text)
        return seen[text]

    return look
