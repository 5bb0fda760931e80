"""The limits of a key for one model, in words: which apply, what each has left, which one rejects."""

from __future__ import annotations

from typing import Final

from limiter_node.decisions import Usage
from limiter_node.management.finding import Found
from limiter_node.management.showing import credential_state, key_state, limit_views, tightest_first, window_views
from limiter_node.management.views import ExplainedLimit, Explanation, LimitView, digest_text, utc
from limiter_node.plans import plan_of
from limiter_node.policy import ENFORCE, REQUESTS, UNITS
from limiter_node.store.admin.key_items import KeyItem

FOR_ALL_MODELS: Final = "it is for all models"
"""Why most limits apply; texts for people leave it out."""


def explanation(found: Found, item: KeyItem, usage: Usage, model: str) -> Explanation:
    """Return which limits on a key's path apply to `model`, the caller's name of it, and which of them rejects."""
    if usage.path is None or item.account is None or item.key is None:  # a plain key: all of its limits always apply
        applying, others = limit_views(usage, item), []
    else:
        windows = {each.id for each in plan_of(item.account, item.key, (model,), item.time_ms).windows}
        found_views = list(window_views(usage.path))
        applying = tightest_first(view for window, view in found_views if window.id in windows)
        others = [view for window, view in found_views if window.id not in windows]
    binding = next((view for view in applying if view.mode == ENFORCE), None)
    limits = [ExplainedLimit(each, True, _rejects(each), _why_applies(each, model)) for each in applying]
    limits += [ExplainedLimit(each, False, False, _why_not(each, model)) for each in others]
    state = _state(found, item)
    return Explanation(
        item.who,
        digest_text(item.kid),
        model,
        state,
        tuple(limits),
        binding,
        _summary(found, item, model, state, binding),
    )


def _rejects(view: LimitView) -> bool:
    return view.mode == ENFORCE and view.remaining == 0


def _why_applies(view: LimitView, model: str) -> str:
    reason = f"a pattern of {', '.join(view.models)} matches {model}" if view.models else FOR_ALL_MODELS
    if view.mode != ENFORCE:
        reason += "; it is audited only, and never rejects"
    if not _rejects(view):
        return reason
    # A tick is freed at a time: something has room before all of it has.
    blocked = "it is 0, which blocks" if view.limit == 0 else "nothing is left"
    return f"{reason}; {blocked}"


def _why_not(view: LimitView, model: str) -> str:
    return f"no pattern of {', '.join(view.models)} matches {model}"


def _state(found: Found, item: KeyItem) -> str:
    key = item.policy
    if found.cid is None:
        return key_state(key, item.time_ms)
    return credential_state(key, found.cid, item.time_ms)


def _summary(found: Found, item: KeyItem, model: str, state: str, binding: LimitView | None) -> str:
    if state != "active":
        return f"Every request is refused (401): {_why_refused(found, item, state)}."
    if binding is None:
        return f"No limit applies to requests of {item.who} for {model}."
    limit = f"{binding.subject} {binding.unit}/{binding.window}"
    left = f"{binding.remaining:,} of {binding.limit:,} left"
    if _rejects(binding):
        what = "Every request" if binding.unit == UNITS[REQUESTS] else f"A request that needs any {binding.unit}"
        return f"{what} for {model} is rejected now by {limit}: {left}."
    return f"Of the limits that apply to {model}, {limit} would reject first: {left}."


def _why_refused(found: Found, item: KeyItem, state: str) -> str:
    key = item.policy
    if state == "disabled":
        return "the key is disabled"
    what = "all credentials of the key" if found.cid is None else "this credential"
    if state == "expired":
        if 0 < key.expires_ms <= item.time_ms:
            return f"the key has expired on {utc(key.expires_ms)}"
        if found.cid is None:
            return f"{what} have expired or been revoked"
        return f"{what} has expired on {utc(key.ends_ms(found.cid))}"
    return f"{what} {'have' if found.cid is None else 'has'} been revoked"
