"""The record of the declarations that were applied to an item: the last one, and the digests of those before.

By the record, a declaration is known as the last one, as an earlier one, or as new: see `declaration_merging`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from limiter_node.policy import MAX_APPLIED, Declared

_Digest = TypeVar("_Digest", str, bytes)

_DIGEST_DIGITS = 12


def declaration_of(fields: Mapping[str, Any]) -> str:
    """Return declared fields as the text that is kept of them: the same for the same fields."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def declaration_bytes(declaration: str) -> bytes:
    """Return the SHA-256 of a declaration."""
    return hashlib.sha256(declaration.encode()).digest()


def kept_digest(digest: bytes) -> str:
    """Return the hex digits that are kept of a declaration's SHA-256, or of its beginning."""
    return digest.hex()[:_DIGEST_DIGITS]


def declaration_digest(declaration: str) -> str:
    """Return the 12 hex digits by which a declaration is known once it is no longer the last one."""
    return kept_digest(declaration_bytes(declaration))


def was_applied(declared: Declared, declaration: str) -> bool:
    """Whether a declaration was applied, but is not the last one that was."""
    return declaration != declared.last and declaration_digest(declaration) in declared.applied


def with_declaration(declared: Declared, declaration: str) -> Declared:
    """Return the record of declarations once `declaration` has been applied."""
    if declaration == declared.last:
        return declared
    former = [declaration_digest(declared.last)] if declared.last else []
    return Declared(declaration, applied_before(declaration_digest(declaration), (*former, *declared.applied)))


def applied_before(digest: _Digest, earlier: Iterable[_Digest]) -> tuple[_Digest, ...]:
    """Return the digests to keep of declarations before that with `digest`. `earlier`: the latest first."""
    return tuple(dict.fromkeys(each for each in earlier if each != digest))[:MAX_APPLIED]
