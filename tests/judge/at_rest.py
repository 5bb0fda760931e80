"""Asks at rest, when nothing else happens: what is told then is foretold from the store's buckets, to the ms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from limiter_node.decisions import Need

from .drawing import MODELS, AccountPlan
from .policies import Declared, Rule, widths
from .records import ADMITTED, DECIDED, NEVER, NO_LIMIT, NOTHING, REJECTED, Op, Peek, Place, Triple, by_unit, plus
from .scene import Scene

_KEYS, _TIMES = 3, 4


class Foretold(NamedTuple):
    """The one decision that can be. `window`: its place in the path, and `unit`, as in `UNITS`; -1 if none rejects."""

    outcome: str
    window: int = -1
    unit: int = -1
    retry_ms: int = 0


def foretell(
    declared: Declared, op: Op, peeks: Mapping[Place, Peek], *, models: tuple[str, ...], need: Triple
) -> Foretold:
    """Return the decision on a request at `op.time_ms`, by what the store counts."""
    needs, now_ms = by_unit(need), op.time_ms
    rules = [rule for rule in declared.path(op.key, models) or () if not 0 < rule.until_ms <= now_ms]
    smallest = Foretold(ADMITTED)
    least = NO_LIMIT
    latest = Foretold(ADMITTED)
    for window, rule in enumerate(rules):
        peek = peeks.get(declared.place(rule))
        buckets = {} if peek is None else peek.buckets
        for unit, limit in enumerate(rule.limits):
            if needs[unit] > limit and limit < least:
                smallest, least = Foretold(NEVER, window, unit), limit
            elif needs[unit]:  # where there is no limit, a window holds `NO_LIMIT` at most
                retry_ms = _frees_ms(rule, buckets, unit, needs[unit] - limit, now_ms)
                if retry_ms > latest.retry_ms:
                    latest = Foretold(REJECTED, window, unit, retry_ms)
    return latest if smallest.outcome == ADMITTED else smallest


def _frees_ms(rule: Rule, buckets: Mapping[int, Triple], unit: int, beyond: int, now_ms: int) -> int:
    """Return the time until all that is counted, and `beyond`, is 0 at most; 0 if it is already."""
    bucket_ms, width = widths(rule.per_ms)
    oldest = now_ms // bucket_ms - width
    counting = sorted((bucket, by_unit(amounts)) for bucket, amounts in buckets.items() if bucket >= oldest)
    used = by_unit(_sum([buckets[bucket] for bucket, _ in counting]))[unit]
    excess = used + beyond
    for bucket, amounts in counting:
        if excess <= 0:
            return 0
        excess -= amounts[unit]
        if excess <= 0:
            return (bucket + width + 1) * bucket_ms - now_ms
    return 0


def _sum(triples: list[Triple]) -> Triple:
    total = NOTHING
    for each in triples:
        total = plus(total, each)
    return total


def told(op: Op) -> Foretold:
    """Return what the caller was told."""
    return Foretold(op.outcome, op.exceeded, op.unit, op.retry_ms)


async def peek_account(scene: Scene, plan: AccountPlan) -> dict[Place, Peek]:
    """Return what the store counts in all windows that an account ever had."""
    puts = scene.record.accounts[plan.tag].puts
    places = {put.declared.place(rule): None for put in puts for rule in put.declared.rules}
    try:
        return await scene.store.accounts.peek(plan.declared, places)
    except AssertionError as error:
        scene.record.leaks.append(f"what the store has of an account disagrees: {error}")
        return {}


async def ask_at_rest(scene: Scene, plan: AccountPlan) -> None:
    """Ask for some requests, one after the other, and compare what is told with what has to be told."""
    declared, rng = scene.current[plan.tag], scene.rng
    for kid in rng.sample(sorted(declared.keys), min(len(declared.keys), _KEYS)):
        models, node = rng.choice(MODELS), rng.choice(scene.nodes)
        rules = declared.path(kid, models) or []
        amounts = sorted({limit for rule in rules for limit in rule.limits if limit != NO_LIMIT}) or [1]
        for _ in range(_TIMES):
            need = Need(
                rng.choice((0, 1, rng.choice(amounts))), rng.choice((0, 1, rng.choice(amounts) // 2)), 0, models
            )
            most = (1, need.input_tokens, need.output_tokens)
            peeks = await peek_account(scene, plan)
            op, _ = await node.ask(kid, need, most, finds=True)
            if op.degraded or op.outcome not in DECIDED:
                break  # this machine stood still
            foretold = foretell(declared, op, peeks, models=models, need=most)
            if foretold != told(op):
                scene.record.leaks.append(f"at rest node {op.node} told {kid[:6]} {told(op)}, not {foretold}: {most}")
