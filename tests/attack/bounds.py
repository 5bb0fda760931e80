"""What an attack may do, and whether it did more.

- **Others' latency**: the p99 of a client that behaves, counted from when its requests were due, is at most twice its
  normal. Normal is its p99 beside the attack's twin (the same bytes from the same process, to another server on the
  same cores). Both are medians over rounds that alternate. Below `FLOOR_MS` a ratio says nothing: a scheduler's whim is
  as long. Where an attack says `more_p99_ms` instead, its p99 may be so much above normal. A request that fails
  counts as one that was answered after the client's whole patience, so more than one in a hundred is above any bound.
- **Memory**: the node's and its helpers' resident memory is at its peak at most `peak_mb` above what it was before, and
  at most `after_mb` within ten seconds of the end.
- **CPU**: a request that is refused costs the node at most `cpu_each_ms`, by what it uses beside the attack more than
  beside the twin.
- **An end**: no answer takes longer than `ends_within_s`, where the attack says that it must end.
"""

from __future__ import annotations

from collections.abc import Iterator

from .attacks import Attack
from .scene import Seen

RATIO, FLOOR_MS = 2.0, 10.0


def p99_bound_ms(attack: Attack, seen: Seen) -> float:
    """The most that others' p99 may be."""
    if attack.more_p99_ms is not None:
        return seen.normal_ms + attack.more_p99_ms
    return max(RATIO * seen.normal_ms, FLOOR_MS)


def failures(attack: Attack, seen: Seen) -> Iterator[str]:
    """What was above a bound, in words."""
    if (bound_ms := p99_bound_ms(attack, seen)) < seen.attacked_ms:
        failed = "".join(f", {count} × {what}" for what, count in sorted(seen.errors.items()))
        yield f"others' p99 {seen.attacked_ms:,.1f} ms, bound {bound_ms:,.1f}{failed}"
    yield from failures_within(attack, seen)


def failures_within(attack: Attack, seen: Seen) -> Iterator[str]:
    """What was above a bound, but for others' latency: what a busy machine doesn't change."""
    if not seen.shots:
        yield "the attacker sent nothing"
    elif attack.cpu_each_ms is not None and (each_ms := seen.cpu_s * 1000 / seen.shots) > attack.cpu_each_ms:
        yield f"{each_ms:,.1f} ms of CPU for each, bound {attack.cpu_each_ms:,.0f}"
    if seen.peak_mb > seen.before_mb + attack.peak_mb:
        yield f"memory {seen.peak_mb - seen.before_mb:,.0f} MB more at its peak, bound {attack.peak_mb:,.0f}"
    if seen.after_mb > seen.before_mb + attack.after_mb:
        yield f"memory {seen.after_mb - seen.before_mb:,.0f} MB more afterwards, bound {attack.after_mb:,.0f}"
    if (
        attack.ends_within_s is not None
        and (took_s := max(seen.longest_s, seen.oldest_unended_s)) > attack.ends_within_s
    ):
        yield f"an answer took {took_s:,.1f} s, bound {attack.ends_within_s:,.0f}"
