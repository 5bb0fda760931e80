"""The headers about limits, read as clients should: structured fields by a parser of RFC 9651, names decoded.

`assert_told` holds them against ``GET /v1/rate_limits`` by rules of its own: none of the node's code is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

import http_sf

UNITS = ("requests", "input_tokens", "output_tokens", "tokens")
MINUTE = "1m"
FLAT_NAMES = {"requests": "rpm", "input_tokens": "input-tpm", "output_tokens": "output-tpm"}
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class ListedLimit(NamedTuple):
    """One limit of `RateLimit-Policy` and `RateLimit`."""

    name: str
    quota: int
    window_s: int
    remaining: int


def listed_limits(headers: Mapping[str, str]) -> list[ListedLimit]:
    """Return the limits that the two fields list, in their order; AssertionError if they don't fit together."""
    policies, states = _items(headers.get("RateLimit-Policy")), _items(headers.get("RateLimit"))
    assert [name for name, _ in policies] == [name for name, _ in states], "the fields list the same limits"
    found = []
    for (name, policy), (_, state) in zip(policies, states, strict=True):
        assert set(policy) == {"q", "w"}, policy
        assert set(state) == {"r", "t"}, state
        for number in (*policy.values(), *state.values()):
            assert type(number) is int
            assert 0 <= number < 10**15, "an Integer of a structured field"
        found.append(ListedLimit(unquote(name, errors="strict"), policy["q"], policy["w"], state["r"]))
    return found


def x_ratelimits(headers: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Return limit and remainder of each unit of `x-ratelimit-*`; all three headers of a unit are there, or none."""
    found: dict[str, tuple[int, int]] = {}
    for unit in UNITS:
        names = [f"x-ratelimit-{what}-{unit.replace('_', '-')}" for what in ("limit", "remaining", "reset")]
        present = [name for name in names if name in headers]
        assert present in ([], names), f"only {present}"
        if present:
            found[unit] = (int(headers[names[0]]), int(headers[names[1]]))
            assert headers[names[2]][-1] == "s"
    return found


def audited_names(headers: Mapping[str, str]) -> list[str]:
    """Return the decoded names of `x-limiter-audit`."""
    listed = headers.get("x-limiter-audit")
    return [] if listed is None else [unquote(name, errors="strict") for name in listed.split(", ")]


def assert_told(
    headers: Mapping[str, str],
    told: Mapping[str, Any],
    *,
    need: Mapping[str, int],
    is_flat: bool = False,
    is_plain: bool = False,
) -> None:
    """Hold the headers of a decision against the body that ``GET /v1/rate_limits?model=…`` had next.

    `need`: of the request, by unit. `is_flat`: the key is in no account. `is_plain`: and has just its three limits a
    minute, which are listed in their own order.
    """
    limits = told["limits_on_path"]
    enforced = [each for each in limits if each["mode"] == "enforce"]
    expected = [
        ListedLimit(_name_of(each, is_flat), each["limit"], _seconds(each["window"]), each["remaining"])
        for each in enforced
    ]
    listed = listed_limits(headers)
    assert sorted(listed) == sorted(expected) if len(expected) <= 16 else set(listed) <= set(expected)
    shares = [each.remaining / each.quota if each.quota else 0.0 for each in listed]
    assert is_plain or shares == sorted(shares), "the smallest share comes first"

    tightest: dict[str, tuple[int, int]] = {}
    for unit in UNITS[:3]:
        if per_minute := [each for each in enforced if each["unit"] == unit and each["window"] == MINUTE]:
            tightest[unit] = _tightest(per_minute)
    for name, place in (("limits", 0), ("remaining", 1)):
        assert told[name] == {unit: tightest[unit][place] if unit in tightest else None for unit in UNITS[:3]}
    if tokens := [each for each in enforced if each["unit"] != "requests" and each["window"] == MINUTE]:
        tightest["tokens"] = _tightest(tokens)
    assert x_ratelimits(headers) == tightest

    is_admitted = "x-limiter-exceeded" not in headers
    would_reject = [
        each["name"] or _name_of(each)
        for each in limits
        if each["mode"] == "audit"
        and need[each["unit"]]
        and each["used"] + (0 if is_admitted else need[each["unit"]]) > each["limit"]
    ]
    assert audited_names(headers) == list(dict.fromkeys(would_reject))


def _tightest(limits: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """Return limit and remainder of the one with the fewest remaining, then the smallest."""
    remaining, limit = min((each["remaining"], each["limit"]) for each in limits)
    return limit, remaining


def _name_of(limit: Mapping[str, Any], is_flat: bool = False) -> str:
    if is_flat and limit["window"] == MINUTE and "models" not in limit and limit["unit"] in FLAT_NAMES:
        return FLAT_NAMES[limit["unit"]]
    return f"{limit['subject']} {limit['unit']}/{limit['window']}"


def _seconds(window: str) -> int:
    return int(window[:-1]) * _SECONDS[window[-1]]


def _items(field: str | None) -> list[tuple[str, dict[str, Any]]]:
    if field is None:
        return []
    items = http_sf.parse(field.encode("ascii"), tltype="list")
    assert items, "an empty list is no field"
    return [(name, dict(parameters)) for name, parameters in items]
