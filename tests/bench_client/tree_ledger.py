"""Records of an exact limiter of trees, written out plainly, to hold the audit against; or of a wrong one when told to.

Windows are lists of what was counted, each decision adds them up anew, and headers are rendered as docs/http-api.md
says. Nothing here comes from the audit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import quote

from bench_fakes import T0, run_info

from bench_client.audit.judge import audit_records
from bench_client.audit.report import AuditReport
from bench_client.load.declared_limits import UNITS, DeclaredLimit, DeclaredTree, KeyPath
from bench_client.records.record import Record

LETTERS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
FLAT = ["rpm", "input-tpm", "output-tpm"]
Amounts = tuple[int, int, int]


def limit(
    text: str, amount: int, *, models: Sequence[str] = (), mode: str = "enforce", name: str = ""
) -> DeclaredLimit:
    """Return a limit. `text`: ``acme/research requests/1m``; the last word says unit and length."""
    subject, _, what = text.rpartition(" ")
    unit, per = what.split("/")
    return DeclaredLimit(subject, unit, int(per[:-1]) * LETTERS[per[-1]], tuple(models), amount, mode, name)


def key_id(name: str) -> str:
    """Return a key's id: any 12 hex digits that differ from name to name."""
    return name.encode().hex()[-12:].rjust(12, "0")


@dataclass
class Counted:
    """What one request counts in all windows of its path, from the store's time on."""

    time_ms: int
    admitted: Amounts
    settled: Amounts
    settled_ms: float

    def at(self, time_ms: int) -> Amounts:
        return self.admitted if time_ms < self.settled_ms else self.settled


@dataclass
class TreeLedger:
    """Decides requests exactly and records them. `keys`: by name, such as ``acme/research/alice``."""

    limits: list[DeclaredLimit]
    show: str = "path"
    faults: set[str] = field(default_factory=set)
    """`counts rejected`: in the account's windows; `forgets`: the account's hour forgets what is 100 ms old."""
    teams: dict[str, str] = field(default_factory=dict)
    """Team of each key of an account, by the key's name as in ``acme/alice``."""
    counted: dict[tuple[Any, ...], list[Counted]] = field(default_factory=lambda: defaultdict(list))
    """By window."""
    records: list[Record] = field(default_factory=list)
    _keys: dict[str, KeyPath] = field(default_factory=dict)

    def tree(self) -> DeclaredTree:
        return DeclaredTree(tuple(self.limits), dict(self._keys))

    def audit(self, **changes: Any) -> AuditReport:
        tree = changes.pop("tree", self.tree())
        return audit_records(
            self.records, run_info(tree=tree, settings={"timeout_s": 10.0, "model": "gpt-4o"}), **changes
        )

    def found(self, **changes: Any) -> dict[str, int]:
        return dict(self.audit(**changes).findings.counts)

    def change(self, index: int = -1, **values: Any) -> None:
        self.records[index] = self.records[index]._replace(**values)

    def ask(
        self,
        at_ms: int,
        who: str = "acme/alice",
        *,
        model: str | None = None,
        inputs: int = 10,
        cap: int = 20,
        output: int = 20,
        told: int | None = None,
        took_ms: float = 5,
        admit: bool | None = None,
        by: int | None = None,
        uncounted_in: Sequence[int] = (),
        **changes: Any,
    ) -> Record:
        """Decide a request. `admit` and `by` (index of the limit to name) overrule what is right.

        `uncounted_in`: limits in whose windows an admission is forgotten.
        """
        time_ms, needs = T0 + at_ms, (1, inputs, cap)
        on_path = self._path(who, model or "gpt-4o")
        enforced = [each for each in on_path if self.limits[each].mode == "enforce"]
        over = [each for each in enforced if self._over(who, each, time_ms, needs) > 0]
        if by is not None:
            over, admit = [by], False
        fields: dict[str, Any] = {"max_tokens": cap, "reserved_output": cap, "input_tokens": inputs, "model": model}
        audited = self._audited(who, on_path, time_ms, needs)
        if admit is None:
            admit = not over
        if admit:
            settled = (1, max(inputs, told or 0), output)
            counting = (each for each in on_path if each not in uncounted_in)
            self._count(who, counting, Counted(time_ms, needs, settled, time_ms + took_ms))
            fields |= {"status": 200, "prompt_tokens": inputs, "completion_tokens": output}
            fields |= {"told_input": inputs if told is None else told, "told_input_at_most": told or inputs}
        else:
            fields |= self._rejection(who, over, time_ms, needs)
            if "counts rejected" in self.faults:
                of_account = (each for each in on_path if self.limits[each].subject == "acme")
                self._count(who, of_account, Counted(time_ms, needs, needs, 0))
        fields |= self._headers(who, enforced, time_ms) | {"audited": ", ".join(audited) or None}
        return self._record(who, at_ms, took_ms, **{**fields, **changes})

    def carry(self, at_ms: int, who: str, *amounts: int) -> None:
        """Count a request from before the run."""
        self._count(who, self._path(who, "gpt-4o"), Counted(T0 + at_ms, amounts, amounts, 0))  # type: ignore[arg-type]

    def _count(self, who: str, on_path: Iterable[int], counted: Counted) -> None:
        for window in {self._window(who, each) for each in on_path}:
            self.counted[window].append(counted)

    # ---- windows ----------------------------------------------------------------------------------------------------

    def _path(self, who: str, model: str) -> list[int]:
        key = key_id(who)
        account, _, name = who.rpartition("/")
        team = self.teams.get(who, "")
        if key not in self._keys:
            subjects = [who]
            if account:
                parts = team.split("/") if team else []
                subjects = [account, *(f"{account}/{'/'.join(parts[: n + 1])}" for n in range(len(parts))), who]
            places = [n for subject in subjects for n, each in enumerate(self.limits) if each.subject == subject]
            self._keys[key] = KeyPath(account, team, self.show, tuple(places))
        assert name
        return [each for each in self._keys[key].limits if self._is_for(self.limits[each], model)]

    def _is_for(self, each: DeclaredLimit, model: str) -> bool:
        return not each.models or any(fnmatchcase(model.lower(), pattern) for pattern in each.models)

    def _window(self, who: str, index: int) -> tuple[Any, ...]:
        subject, _, per_ms, models, *_ = self.limits[index]
        return subject, who if subject == who else "", per_ms, models

    def _used(self, who: str, index: int, time_ms: int, known_ms: int | None = None) -> int:
        """Return the usage at `time_ms`, by what is settled at `known_ms`."""
        known_ms = time_ms if known_ms is None else known_ms
        per_ms, unit = self.limits[index].per_ms, UNITS.index(self.limits[index].unit)
        width = max(100, -(-per_ms // 60_000) * 100)
        first = time_ms // width - -(-per_ms // width)
        if "forgets" in self.faults and self.limits[index].subject == "acme" and per_ms == 3_600_000:
            first = (time_ms - 100) // width
        counted = self.counted[self._window(who, index)]
        found = [each.at(known_ms) for each in counted if each.time_ms // width >= first]
        return sum(each[1] + each[2] if unit == 3 else each[unit] for each in found)

    def _over(self, who: str, index: int, time_ms: int, needs: Amounts, known_ms: int | None = None) -> int:
        need = needed(needs, self.limits[index].unit)
        return self._used(who, index, time_ms, known_ms) + need - self.limits[index].amount if need else 0

    def _free_ms(self, who: str, index: int, time_ms: int, needs: Amounts) -> int:
        """Return when a limit has room: the beginning of the first bucket in which it has."""
        per_ms = self.limits[index].per_ms
        width = max(100, -(-per_ms // 60_000) * 100)
        for bucket in sorted({each.time_ms // width for each in self.counted[self._window(who, index)]}):
            leaves_ms = (bucket + -(-per_ms // width) + 1) * width
            if leaves_ms > time_ms and self._over(who, index, leaves_ms, needs, time_ms) <= 0:
                return leaves_ms
        return time_ms + per_ms

    # ---- responses --------------------------------------------------------------------------------------------------

    def _rejection(self, who: str, over: list[int], time_ms: int, needs: Amounts) -> dict[str, Any]:
        too_small = [each for each in over if needed(needs, self.limits[each].unit) > self.limits[each].amount]
        if too_small:
            named, retry = min(too_small, key=lambda each: self.limits[each].amount), None
        else:
            free = {each: self._free_ms(who, each, time_ms, needs) for each in over}
            named = max(over, key=lambda each: free[each])
            retry = max(free[named] - time_ms, 1)
        unit = self.limits[named].unit
        return {
            "status": 429,
            "exceeded": unit,
            "requested": needed(needs, unit),
            "retry_after_ms": retry,
            "never_fits": bool(too_small),
            "limit": self._shown(who, named),
        }

    def _shown(self, who: str, index: int, *, in_list: bool = False) -> str:
        each = self.limits[index]
        per = next(f"{each.per_ms // ms}{letter}" for letter, ms in reversed(LETTERS.items()) if each.per_ms % ms == 0)
        subject = each.subject
        if "/" not in who and in_list and per == "1m" and not each.models and each.unit != "tokens":
            return FLAT[UNITS.index(each.unit)]
        if self.show == "own" and "/" in who:
            if subject != who:
                return "account"
            subject = who.partition("/")[2]
        return encoded(f"{subject} {each.unit}/{per}")

    def _is_shown(self, who: str, index: int) -> bool:
        return self.show == "path" or self.limits[index].subject == who

    def _headers(self, who: str, enforced: list[int], time_ms: int) -> dict[str, Any]:
        rows = []
        minutes: dict[str, list[tuple[int, int]]] = {unit: [] for unit in UNITS}
        for place, each in enumerate(enforced):
            if self._is_shown(who, each):
                amount = self.limits[each].amount
                left = max(amount - self._used(who, each, time_ms), 0)
                name = self._shown(who, each, in_list=True)
                policy = f'"{name}";q={amount};w={self.limits[each].per_ms // 1_000}'
                rows.append((left / amount if amount else 0.0, place, policy, f'"{name}";r={left};t=1'))
                if self.limits[each].per_ms == 60_000:
                    minutes[self.limits[each].unit].append((left, amount))
        rows = sorted(rows)[:16]
        tightest: dict[str, int | None] = {}
        for unit, name in zip(UNITS, ("requests", "input", "output"), strict=False):
            least = min(minutes[unit], default=(None, None))
            tightest |= {f"remaining_{name}": least[0], f"limit_{name}": least[1]}
        return tightest | {
            "policies": ", ".join(row[2] for row in rows) or None,
            "states": ", ".join(row[3] for row in rows) or None,
            "has_other_limits": True,
        }

    def _audited(self, who: str, on_path: list[int], time_ms: int, needs: Amounts) -> list[str]:
        names = {}
        for each in on_path:
            is_over = self.limits[each].mode == "audit" and self._over(who, each, time_ms, needs) > 0
            if is_over and self._is_shown(who, each):
                names[encoded(self.limits[each].name) or self._shown(who, each)] = None
        return list(names)[:16]

    def _record(self, who: str, at_ms: int, took_ms: float, **values: Any) -> Record:
        empty = dict.fromkeys(Record._fields)
        record = Record(
            **{
                **empty,
                "request": len(self.records),
                "due_us": at_ms * 1000,
                "sent_us": at_ms * 1000,
                "done_us": int((at_ms + took_ms) * 1000),
                "target": 0,
                "key": key_id(who),
                "node": "n1",
                "time_ms": T0 + at_ms,
                "never_fits": False,
                **values,
            }
        )  # type: ignore[arg-type]
        self.records.append(record)
        return record


def needed(needs: Amounts, unit: str) -> int:
    return needs[1] + needs[2] if unit == "tokens" else needs[UNITS.index(unit)]


def encoded(text: str) -> str:
    """Percent-encode what a header can't hold."""
    safe = "".join(chr(code) for code in range(33, 127) if chr(code) not in '%,"\\') + " "
    text = quote(text, safe=safe)
    if text.startswith(" "):
        text = "%20" + text[1:]
    return text[:-1] + "%20" if text.endswith(" ") else text
