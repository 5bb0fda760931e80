"""Carries out what declarations make of keys: `key_plans` says what, `key_places` finds what is stored.

Each write is made only over what was read, else the key is read and planned again. A key enters an account in this
order: its credentials lead there, then the account has it. So whatever is interrupted, a key is in one place at most,
and loading again finishes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from limiter_node.changes import Change
from limiter_node.errors import ConfigError, StoreUnavailable
from limiter_node.limits import KeyLimits
from limiter_node.policy import AccountPolicy
from limiter_node.store.admin.adopting import Adopter, Adoption, plain_account
from limiter_node.store.admin.key_places import KeyPlace, KeyPlaces
from limiter_node.store.admin.key_plans import KeyPlan, Unchanged, Wanted
from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.moving import Mover
from limiter_node.store.admin.plain_keys import PlainKeys, PlainWrite, PlainWritten
from limiter_node.store.admin.pointers import Pointer, Pointers, Way
from limiter_node.store.admin.policies import NO_VERSION, Policies, Write
from limiter_node.store.values import pack_limits
from limiter_node.store.written import ATTEMPTS, Written

Planner: TypeAlias = Callable[[Wanted, KeyPlace], KeyPlan | Unchanged]


@dataclass
class KeyResults:
    """The outcomes for declared keys, by their first credential. `problems`: why a key is not as it is declared."""

    changes: dict[str, Change] = field(default_factory=dict)
    unchanged: dict[str, Unchanged] = field(default_factory=dict)
    warnings: dict[str, Sequence[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    kids: dict[str, str] = field(default_factory=dict)
    """The first credential in the declaration of each key, by its ``kid``."""
    expiring: set[str] = field(default_factory=set)
    """The credentials of deleted keys whose marks are of an earlier version, and would end."""
    begun: dict[str, Change] = field(default_factory=dict)
    """The whole changes of keys that are written in more than one step."""

    def begin(self, name: str) -> None:
        """Keep the change of a key that is planned again after its first step, as the change from before that step."""
        if name in self.changes:
            self.begun.setdefault(name, self.changes[name])


class KeyLoader:
    """Load declared keys into one store. Methods raise redis-py's errors, and ours."""

    def __init__(
        self, masters: Masters, policies: Policies, pointers: Pointers, plain: PlainKeys, mover: Mover
    ) -> None:
        self._policies, self._pointers, self._plain, self._mover = policies, pointers, plain, mover
        self._places, self._adopter = KeyPlaces(masters, policies), Adopter(masters)

    async def load(
        self, wanted: Mapping[str, Wanted], plan: Planner, *, by_word: bool = False, dry_run: bool = False
    ) -> KeyResults:
        """Make of each key what `plan` says. `by_word`: also keys that were deleted, which then come back."""
        results, left = KeyResults(), dict(wanted)
        for _ in range(ATTEMPTS):
            plans = {}
            for name, place in (await self._places.find({name: each.sought for name, each in left.items()})).items():
                found = self._plan(left[name], place, plan, results)
                if found is not None:
                    plans[name] = found
            if dry_run:
                return results
            await self._pointers.keep_marks(results.expiring)
            again = await self._carry_out(plans, results, by_word=by_word)
            for name in again:
                if plans[name].moves:
                    results.begin(name)
            results.changes |= results.begun
            left = {name: left[name] for name in again}
            if not left:
                return results
        raise StoreUnavailable(f"{len(left)} declared keys keep being changed by others: try again")

    def _plan(self, wanted: Wanted, place: KeyPlace, plan: Planner, results: KeyResults) -> KeyPlan | None:
        name = wanted.kid
        if results.kids.setdefault(place.kid, name) != name:
            results.problems.append(f"the credential sha256:{name[:12]} is one of another key that is declared, too")
            return None
        found = plan(wanted, place)
        results.changes.pop(name, None)
        if isinstance(found, Unchanged):
            results.unchanged[name] = found
            if found is Unchanged.DELETED:
                marks = ((digest, each.mark) for digest, each in place.digests.items())
                results.expiring.update(digest for digest, mark in marks if mark is not None and mark.expires)
            return None
        results.warnings.setdefault(name, found.warnings)
        if found.change is not None:
            results.changes[name] = found.change
        return found

    async def _carry_out(self, plans: Mapping[str, KeyPlan], results: KeyResults, *, by_word: bool) -> list[str]:
        """Carry plans out. Return the keys that have to be planned again."""
        leaving = {name: plan for name, plan in plans.items() if plan.place.sealed or plan.moves}
        # Whoever moves a key that is marked as deleted takes it away: by a person's word it comes back first.
        if by_word:
            marked = [(plan.place, plan.place.key) for plan in leaving.values() if plan.place.is_marked]
            digests = [(each.digest, place) for place, key in marked if key is not None for each in key.all_credentials]
            await self._pointers.claim({digest: Way(place.tag, place.kid) for digest, place in digests})
        again = await self._move(leaving, results)
        left = {name: plan for name, plan in plans.items() if name not in leaving}
        refused = await self._claim(left, results, by_word=by_word)
        left = {name: plan for name, plan in left.items() if plan.is_written and name not in refused}
        plain = {name: plan for name, plan in left.items() if isinstance(plan.policy, KeyLimits)}
        adopted = {name: left[name] for name in left.keys() - plain.keys() if left[name].place.plain is not None}
        again += await self._put(plain, results, by_word=by_word)
        again += await self._adopt(adopted)
        rest = {name: plan for name, plan in left.items() if name not in plain and name not in adopted}
        return [*again, *await self._write(rest, results)]

    async def _move(self, plans: Mapping[str, KeyPlan], results: KeyResults) -> list[str]:
        """Bring keys to their accounts. Return those that are to be planned again, where they are then."""
        plain = {name: plan for name, plan in plans.items() if plan.place.plain is not None}
        await self._adopt(plain, is_as_before=True)
        again = list(plain)
        for name, plan in plans.items():
            if name in plain:
                continue
            place = plan.place
            try:
                if place.sealed:
                    await self._mover.finish(place.kid, place.sealed)
                else:
                    await self._mover.move(place.kid, place.tag, plan.tag, policy=plan.key, expected=place.version)
            except ConfigError as error:
                self._fail(name, plan, str(error), results)
            else:
                again.append(name)
        return again

    async def _adopt(self, plans: Mapping[str, KeyPlan], *, is_as_before: bool = False) -> list[str]:
        """Make plain keys accounts of their own, on the way to another account with the limits that they have."""
        adoptions, names = {}, {}
        for name, plan in plans.items():
            place, account = plan.place, plan.policy
            assert place.plain is not None
            if is_as_before:
                account = plain_account(place.kid, place.plain, place.plain_record, place.time_ms)
            assert isinstance(account, AccountPolicy)
            adoptions[place.kid], names[place.kid] = Adoption(account, place.plain), name
        return [names[kid] for kid in await self._adopter.adopt(adoptions)]

    async def _claim(self, plans: Mapping[str, KeyPlan], results: KeyResults, *, by_word: bool) -> set[str]:
        """Make the credentials of keys lead to them. Return the keys that must not be written.

        A way that leads there is left alone, and so is the first credential of a plain key, which holds its limits.
        """
        pointers = {digest: each for plan in plans.values() for digest, each in plan.place.digests.items()}
        unread = [each for plan in plans.values() for each in plan.credentials if each not in pointers]
        pointers |= await self._places.read_digests(unread)
        ways, owners = {}, {}
        for name, plan in plans.items():
            for digest in plan.credentials:
                if digest == plan.place.kid and (isinstance(plan.policy, KeyLimits) or plan.place.plain is not None):
                    continue
                way, found = Way(plan.tag, plan.place.kid), pointers[digest]
                if found.mark is not None and not by_word:
                    continue  # it is just being deleted
                if found.mark is not None or not _leads(digest, found.pointer, way):
                    ways[digest], owners[digest] = way, name
        refused = set()
        for digest in await self._pointers.claim(ways):
            name = owners[digest]
            self._fail(name, plans[name], f"the credential sha256:{digest[:12]} is another key's", results)
            refused.add(name)
        return refused

    async def _put(self, plans: Mapping[str, KeyPlan], results: KeyResults, *, by_word: bool) -> list[str]:
        again, names = [], {plan.place.kid: name for name, plan in plans.items()}
        writes = {kid: _plain_write_of(plans[name], by_word=by_word) for kid, name in names.items()}
        for kid, written in (await self._plain.write(writes)).items():
            if written is PlainWritten.OTHER_KEYS:
                self._fail(names[kid], plans[names[kid]], "its credential was another key's", results)
            elif written is not PlainWritten.DONE:
                again.append(names[kid])
        return again

    async def _write(self, plans: Mapping[str, KeyPlan], results: KeyResults) -> list[str]:
        replies = await self._policies.write([_write_of(plan) for plan in plans.values()])
        found = dict(zip(plans, replies, strict=True))
        taken = [name for name, reply in found.items() if reply is Written.NAME_TAKEN]
        again = [name for name, reply in found.items() if reply not in (Written.DONE, Written.NAME_TAKEN)]
        if len(taken) < len(found):
            return [*again, *taken]  # a name may be free by now
        if (first := _first_of_circle({name: plans[name] for name in taken})) is not None:
            results.begin(first)
            await self._policies.write([_nameless(plans[first])])
            return [*again, *taken]
        for name in taken:
            problem = f"another key of account {plans[name].account} has the name: rename or delete that one first"
            self._fail(name, plans[name], problem, results)
        return again

    def _fail(self, name: str, plan: KeyPlan, problem: str, results: KeyResults) -> None:
        results.problems.append(f"{plan.who} is not as it is declared: {problem}")
        results.changes.pop(name, None)
        results.begun.pop(name, None)


def _first_of_circle(plans: Mapping[str, KeyPlan]) -> str | None:
    """Return one of keys that can't be written because each wants the name that the next has; None if none are so."""
    holders = {(plan.tag, plan.place.key.name): name for name, plan in plans.items() if plan.place.key is not None}
    seen: set[str] = set()
    for first in plans:
        at: str | None = first
        way: set[str] = set()
        while at is not None and at not in seen:
            seen.add(at)
            way.add(at)
            key = plans[at].key
            at = None if key is None else holders.get((plans[at].tag, key.name))
            if at in way:
                return at
    return None


def _nameless(plan: KeyPlan) -> Write:
    """Return the write that takes the name of a key away, for another one that shall have it."""
    place = plan.place
    assert place.key is not None
    policy = replace(place.key, name="", revision=place.key.revision + 1)
    return Write(plan.tag, place.kid, place.version, policy, place.key.name)


def _leads(digest: str, pointer: Pointer, way: Way) -> bool:
    return pointer == (way.tag if digest == way.kid else way)


def _plain_write_of(plan: KeyPlan, *, by_word: bool) -> PlainWrite:
    place, limits = plan.place, plan.policy
    assert isinstance(limits, KeyLimits)
    return PlainWrite(place.plain or place.damaged, pack_limits(limits), by_word, place.record, plan.record)


def _write_of(plan: KeyPlan) -> Write:
    place, policy = plan.place, plan.policy
    assert not isinstance(policy, KeyLimits)
    kid = "" if isinstance(policy, AccountPolicy) else place.kid
    if place.key is None:
        return Write(plan.tag, kid, NO_VERSION, policy, forward=place.forward)
    return Write(plan.tag, kid, place.version, policy, place.key.name if kid else "")
