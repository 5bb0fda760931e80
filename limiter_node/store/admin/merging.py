"""A stored policy and a newly declared one, made one: what changes, and what goes on counting.

A window is the same if its subject, length and patterns are. It keeps the time since when it counts. A window that has
lost its limits stays without any until its length has passed, so that taking a limit away and back loses nothing.
Teams that are no longer declared stay as they are, as keys do.
"""

from __future__ import annotations

from dataclasses import replace

from limiter_node.policy import AccountPolicy, KeyPolicy, Subject
from limiter_node.window_merging import merge_windows


def merge_account(stored: AccountPolicy | None, declared: AccountPolicy, now_ms: int) -> AccountPolicy:
    """Return the policy to store for a declared account. `now_ms`: by the store's clock."""
    before = {each.name: each for each in stored.subjects} if stored is not None else {}
    subjects = [_merge_subject(before.pop(each.name, None), each, now_ms) for each in declared.subjects]
    # In an order of their own: the same file, loaded twice, must give the same policy.
    kept = sorted(before.values(), key=lambda each: each.name)
    key = declared.key
    if key is not None:
        key = merge_key(stored.key if stored is not None else None, key, now_ms)
    return replace(declared, subjects=(*subjects, *kept), key=key)


def merge_key(stored: KeyPolicy | None, declared: KeyPolicy, now_ms: int) -> KeyPolicy:
    """Return the policy to store for a declared key."""
    return replace(declared, windows=merge_windows(stored.windows if stored else (), declared.windows, now_ms))


def _merge_subject(stored: Subject | None, declared: Subject, now_ms: int) -> Subject:
    return declared._replace(windows=merge_windows(stored.windows if stored else (), declared.windows, now_ms))
