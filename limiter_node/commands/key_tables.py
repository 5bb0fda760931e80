"""The lines in which ``limiter-node keys`` shows keys: one with its credentials and limits, or a list of them.

Pure: takes views, returns lines. Names and digests are shown as they can be typed back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from limiter_node.commands.limit_tables import limit_lines
from limiter_node.commands.tables import NOTHING, facts, number, table
from limiter_node.limit_names import PER_MINUTE
from limiter_node.management.views import CredentialView, KeyEntry, KeyView
from limiter_node.policy import ENFORCE

_DIGEST_DIGITS = 12
_MINUTE_COLUMNS = tuple(field.upper().replace("_", " ") for field in PER_MINUTE)


def short_digest(digest: str) -> str:
    """Return as much of ``sha256:…`` as tells keys apart, without the prefix; it can be typed as it is."""
    return digest.removeprefix("sha256:")[:_DIGEST_DIGITS]


def key_lines(key: KeyView) -> list[str]:
    """Return a key with its state and end, its credentials, and all limits on its path, the tightest first."""
    said = facts(
        ("digest", key.digest),
        ("state", key.state),
        ("expires", key.expires or "never"),
        ("team", key.team or ""),
        ("weight", number(key.weight) if key.weight != 1 else ""),
        ("reserve", f"{number(key.output_reserve)} output tokens for a request without a cap"),
    )
    lines = [key.who, *said, ""]
    if len(key.credentials) > 1 or any(each.expires or each.state != key.state for each in key.credentials):
        lines += [*_credential_lines(key.credentials), ""]
    return [*lines, *limit_lines(key.limits)]


def _credential_lines(credentials: Sequence[CredentialView]) -> list[str]:
    rows = [(short_digest(each.digest), each.state, each.expires or "never") for each in credentials]
    return table(("CREDENTIAL", "STATE", "EXPIRES"), rows, left=("CREDENTIAL", "STATE", "EXPIRES"))


def listing_lines(entries: Sequence[KeyEntry]) -> list[str]:
    """Return a line per key under a header; only columns in which a key has something are shown."""
    if not entries:
        return ["no keys"]
    header = ("NAME", "DIGEST", "STATE", "EXPIRES", "TEAM", *_MINUTE_COLUMNS, "RESERVE", "WEIGHT", "OTHER LIMITS")
    left = ("NAME", "DIGEST", "STATE", "EXPIRES", "TEAM", "OTHER LIMITS")
    return table(header, [_row(each) for each in entries], left=left)


def _row(key: KeyEntry) -> tuple[str, ...]:
    other = [_limit_text(name, value) for name, value in key.limits.items() if not _has_column(name, value)]
    return (
        key.who if key.who != key.digest else NOTHING,
        short_digest(key.digest),
        key.state,
        key.expires or NOTHING,
        key.team or NOTHING,
        *(_cell(field, key.limits.get(field)) for field in PER_MINUTE),
        number(key.output_reserve),
        number(key.weight) if key.weight != 1 else NOTHING,
        ", ".join(other) or NOTHING,
    )


def _has_column(name: str, value: Any) -> bool:
    return name in PER_MINUTE and type(value) is int


def _cell(name: str, value: Any) -> str:
    return number(value) if _has_column(name, value) else NOTHING


def _limit_text(name: str, value: Any) -> str:
    """Return a limit among others: ``1,000,000 input_tokens/1d``, ``10 requests/1s (audit)``."""
    if type(value) is int:
        return f"{number(value)} {name}"
    mode = value.get("mode", ENFORCE)
    return f"{number(value['amount'])} {name}{'' if mode == ENFORCE else f' ({mode})'}"
