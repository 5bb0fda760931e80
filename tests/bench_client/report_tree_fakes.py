"""Runs of keys that share limits: records as an exact limiter with accounts, teams and models would leave them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from report_fakes import Simulation

from bench_client.audit.paths import HIDDEN_NAME, length_text
from bench_client.load.declared_limits import AUDIT, ENFORCE, OWN, DeclaredLimit, DeclaredTree, KeyPath
from bench_client.records.record import Record
from bench_client.records.run_directory import RunInfo
from bench_client.report.shown_limits import matches

MINUTE, HOUR = 60_000, 3_600_000
Amounts = tuple[int, int, int]

ABOVE = (
    DeclaredLimit("acme", "tokens", MINUTE, (), 14_000, ENFORCE, ""),
    DeclaredLimit("acme", "requests", HOUR, (), 2_000, ENFORCE, ""),
    DeclaredLimit("acme", "requests", 1_000, (), 6, AUDIT, "burst"),
    DeclaredLimit("acme", "output_tokens", MINUTE, ("gpt-5*", "o3*"), 1_500, ENFORCE, "big models"),
    DeclaredLimit("acme/research", "requests", 10_000, (), 40, ENFORCE, ""),
    DeclaredLimit("acme/research/vision", "input_tokens", 90_000, ("o3*",), 900, ENFORCE, ""),
)
"""The limits of an account and of its teams."""
TEAMS = ("research", "research/vision", "sales")


def amount_of(unit: str, amounts: Amounts) -> int:
    requests, inputs, outputs = amounts
    return {"requests": requests, "input_tokens": inputs, "output_tokens": outputs, "tokens": inputs + outputs}[unit]


@dataclass
class ExactWindow:
    """What one window counts of all keys below its subject; settles need no time."""

    per_ms: int
    admitted: deque[tuple[int, Amounts]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.bucket_ms = max(100, -(-self.per_ms // 60_000) * 100)
        self.buckets = -(-self.per_ms // self.bucket_ms)

    def used(self, unit: str, time_ms: int) -> int:
        while self.admitted and self.admitted[0][0] < time_ms // self.bucket_ms - self.buckets:
            self.admitted.popleft()
        return sum(amount_of(unit, amounts) for _, amounts in self.admitted)

    def add(self, time_ms: int, amounts: Amounts) -> None:
        self.admitted.append((time_ms // self.bucket_ms, amounts))

    def free_ms(self, unit: str, limit: int, need: int, time_ms: int) -> int:
        """How long until so much is free."""
        used = self.used(unit, time_ms)
        for bucket, amounts in self.admitted:
            used -= amount_of(unit, amounts)
            if used + need <= limit:
                return (bucket + self.buckets + 1) * self.bucket_ms - time_ms
        raise AssertionError("it never fits")


@dataclass
class TreeSimulation(Simulation):
    """A load of plain keys and of keys of an account; the last ``tree_keys`` of all keys are in its teams, in turn."""

    keys: int = 9
    tree_keys: int = 6
    account: str = "acme"
    zipf: float = 0.3
    own: bool = False
    """Whether callers see neither names nor numbers above their key."""
    models: tuple[str, ...] = ("gpt-4o", "o3-mini")

    def __post_init__(self) -> None:
        ids = self.key_ids
        own = [f"{self.account}/key-{place}" for place in range(self.keys - self.tree_keys, self.keys)]
        above = tuple(limit._replace(subject=limit.subject.replace("acme", self.account)) for limit in ABOVE)
        limits = (*above, *(DeclaredLimit(name, "requests", MINUTE, (), 40, ENFORCE, "") for name in own))
        paths = {}
        for number, key in enumerate(ids[self.keys - self.tree_keys :]):
            team = TEAMS[number % len(TEAMS)]
            places = [at for at, limit in enumerate(ABOVE) if f"acme/{team}/".startswith(f"{limit.subject}/")]
            show = OWN if self.own else "path"
            paths[key] = KeyPath(self.account, team, show, (*places, len(ABOVE) + number))
        self.tree = DeclaredTree(limits, paths)
        self.windows: dict[Any, ExactWindow] = {}

    def info(self, records: list[Record], **changes: Any) -> RunInfo:
        info = super().info(records, **{"tree": self.tree, **changes})
        info.settings.update(model=None, models=dict.fromkeys(self.models, 1.0))
        return info

    def records(self) -> list[Record]:
        self.windows = {}
        return super().records()

    def _record(self, draw: Random, request: int, due_us: int, window: Any, key: str) -> Record:
        model = draw.choice(self.models)
        record = super()._record(draw, request, due_us, window, key)._replace(model=model)
        if key not in self.tree.keys or record.error is not None:
            return record
        return self._decide(draw, record, model)

    def _decide(self, draw: Random, record: Record, model: str) -> Record:
        """Decide it by the tree instead, all limits or none."""
        time_ms, path = record.time_ms or 0, self.tree.keys[record.key]
        need = (1, record.input_tokens, record.reserved_output or 0)
        limits = [self.tree.limits[place] for place in path.limits]
        limits = [limit for limit in limits if not limit.models or matches(limit.models, model)]
        above = [limit for limit in limits if self._over(limit, need, time_ms)]
        in_the_way = {limit: self._free_ms(limit, need, time_ms) for limit in above if limit.mode == ENFORCE}
        values: dict[str, Any] = dict.fromkeys(Record._fields[Record._fields.index("exceeded") :])
        if in_the_way:
            last = max(in_the_way, key=lambda limit: in_the_way[limit])
            values |= {"status": 429, "exceeded": last.unit, "retry_after_ms": in_the_way[last]}
            values |= {"requested": amount_of(last.unit, need), "limit": self._shown(last, path)}
        else:
            output = draw.randint(1, need[2])
            for shape in {(limit.subject, limit.per_ms, limit.models): limit for limit in limits}:
                self._window(*shape).add(time_ms, (1, record.input_tokens, output))
            values |= {"status": 200, "prompt_tokens": record.input_tokens, "completion_tokens": output}
        named = [limit for limit in above if limit.mode == AUDIT and self._shown(limit, path) != HIDDEN_NAME]
        names = [limit.name or self._shown(limit, path) for limit in named]
        values |= {"audited": ", ".join(names) or None, **self._announced(limits, path, time_ms)}
        values |= {"never_fits": False, "has_other_limits": True, "model": model}
        return record._replace(**{**values, "reserved_output": record.reserved_output, "max_tokens": record.max_tokens})

    def _announced(self, limits: Iterable[DeclaredLimit], path: KeyPath, time_ms: int) -> dict[str, Any]:
        """What the headers say: limits that reject, those above the key only if its caller may see them."""
        shown = [limit for limit in limits if limit.mode == ENFORCE and self._shown(limit, path) != HIDDEN_NAME]
        left = {limit: max(limit.amount - self._used(limit, time_ms), 0) for limit in shown}
        shown.sort(key=lambda limit: left[limit] / limit.amount)
        names = {limit: f'"{self._shown(limit, path)}"' for limit in shown}
        policies = [f"{names[limit]};q={limit.amount};w={-(-limit.per_ms // 1_000)}" for limit in shown]
        values: dict[str, Any] = {"policies": ", ".join(policies)}
        values["states"] = ", ".join(f"{names[limit]};r={left[limit]};t={limit.per_ms // 1_000}" for limit in shown)
        for unit, column in (("requests", "requests"), ("input_tokens", "input"), ("output_tokens", "output")):
            minutes = [(left[limit], limit.amount) for limit in shown if (limit.unit, limit.per_ms) == (unit, MINUTE)]
            if minutes:
                values[f"remaining_{column}"], values[f"limit_{column}"] = min(minutes)
        return values

    def _shown(self, limit: DeclaredLimit, path: KeyPath) -> str:
        subject = limit.subject
        if path.show == OWN:
            if self.tree.limits.index(limit) < len(ABOVE):
                return HIDDEN_NAME
            subject = subject.partition("/")[2]
        return f"{subject} {limit.unit}/{length_text(limit.per_ms)}"

    def _window(self, subject: str, per_ms: int, models: tuple[str, ...]) -> ExactWindow:
        return self.windows.setdefault((subject, per_ms, models), ExactWindow(per_ms))

    def _used(self, limit: DeclaredLimit, time_ms: int) -> int:
        return self._window(limit.subject, limit.per_ms, limit.models).used(limit.unit, time_ms)

    def _over(self, limit: DeclaredLimit, need: Amounts, time_ms: int) -> bool:
        needed = amount_of(limit.unit, need)
        return needed > 0 and self._used(limit, time_ms) + needed > limit.amount

    def _free_ms(self, limit: DeclaredLimit, need: Amounts, time_ms: int) -> int:
        window = self._window(limit.subject, limit.per_ms, limit.models)
        return window.free_ms(limit.unit, limit.amount, amount_of(limit.unit, need), time_ms)


def found_by_hand(records: Sequence[Record], tree: DeclaredTree, place: int) -> dict[str, Any]:
    """What the audit must say of a limit, in the plainest way: each window that ends with an admission is summed up."""
    limit = tree.limits[place]
    keys = {key for key, path in tree.keys.items() if place in path.limits}
    below = [each for each in records if each.key in keys and each.time_ms is not None]
    below = [each for each in below if not limit.models or matches(limit.models, each.model or "")]
    admitted = [
        (each.time_ms or 0, amount_of(limit.unit, (1, each.prompt_tokens or 0, each.completion_tokens or 0)))
        for each in below
        if each.status == 200
    ]
    used, time_ms = 0, 0
    for end, _ in sorted(admitted):
        held = sum(amount for at, amount in admitted if end - limit.per_ms < at <= end)
        if held > used:
            used, time_ms = held, end
    name = f"{limit.subject} {limit.unit}/{length_text(limit.per_ms)}"
    if any(tree.keys[key].show == OWN for key in keys):
        name = name.partition("/")[2] if len(keys) == 1 else HIDDEN_NAME
    named = [each for each in below if (each.limit, each.exceeded) == (name, limit.unit)]
    times_ms = [each.time_ms for each in records if each.time_ms is not None]
    return {
        **{field: getattr(limit, field) for field in ("subject", "unit", "per_ms", "models", "name", "mode")},
        "limit": limit.amount,
        "windows": len(admitted),
        "used": used,
        "ratio": used / limit.amount,
        "time_ms": time_ms,
        "over": 0,
        "rejected": len(named) if limit.mode == ENFORCE else 0,
        "would_have_rejected": sum((limit.name or name) in (each.audited or "").split(", ") for each in below),
        "slid": max(times_ms) - min(times_ms) >= limit.per_ms,
    }
