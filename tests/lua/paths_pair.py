"""An account on a server beside its model: each step is done on both, and everything that can be seen is compared."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import paths_driver
import redis
from paths_driver import PathsDriver, PathsReply, PathWindow, body_of
from reference_calls import (
    DECIDED,
    REPLAYED,
    AdmitOn,
    AnswerOn,
    Call,
    Filled,
    OperationOn,
    Policy,
    SettleOn,
    Window,
)
from reference_paths import RECORDS_LEAST_MS, RECORDS_SLACK_MS, Account
from script_driver import EPOCH_MS

PASSED_MS = 10_000
"""The real time that a walk may take, while its clock stands still."""
NONE = Filled((0, 0, 0), (0, 0, 0))


@dataclass
class PathsPair:
    """The account under its driver and its model, and the clock that both are told."""

    driver: PathsDriver
    model: Account = field(default_factory=Account)
    clock_ms: int = EPOCH_MS
    numbers: dict[str, int] = field(default_factory=dict)

    def set_policy(self, version: bytes, keys: dict[str, bytes], moved: Collection[str] = ()) -> None:
        """Store the versions of the account and of its keys; an empty `version` makes the account unknown.

        `moved`: keys that have moved to another account.
        """
        self.driver.policy(version, keys, moved)
        self.model.moved = frozenset(moved)
        self.model.policy = Policy(version, body_of(version)) if version else None
        self.model.keys = {kid: Policy(each, body_of(each)) for kid, each in keys.items()} if version else {}

    def lose(self, owner: str) -> None:
        """Lose what one key's hash holds, or, for "", the shared one."""
        self.driver.client.delete(self.driver.key_hash(owner) if owner else self.driver.shared_key)
        self.model.lose(owner)

    def pass_time(self, ms: int, owners: Sequence[str]) -> None:
        """Let the clock go on, and the hashes of these owners and the shared one grow older with it."""
        self.clock_ms += ms
        for owner in {"", *owners}:
            key = self.driver.key_hash(owner) if owner else self.driver.shared_key
            left_ms = int(self.driver.client.pttl(key)) - ms
            if left_ms > 2 * PASSED_MS:  # else it might expire during the walk, which takes real time
                self.driver.client.pexpire(key, left_ms)

    def now_ms(self, windows: Sequence[Window] = ()) -> int:
        """The account's time, for a call that names these windows."""
        return self.model.time_ms(self.clock_ms, windows)

    def decide(
        self,
        call: Call,
        operations: Sequence[OperationOn],
        *,
        node: str = "node-001",
        number: int | None = None,
        resent: bool = False,
        expected: int | None = None,
    ) -> AnswerOn:
        """Decide on both sides; AssertionError where they differ. The node expects the record that it has there.

        Settles and charges come first in `operations`, as they do in a batch.
        """
        record = self.model.records.get(node)
        if expected is None:
            expected = record.number if record else 0
        if number is None:
            number = self.numbers[node] = max(self.numbers.get(node, 0), record.number if record else 0) + 1
        shared_life_ms = int(self.driver.client.pttl(self.driver.shared_key))
        reply = self._ask(call, operations, node, number, resent=resent, expected=expected)
        answer = self.model.decide(node, number, call, operations, self.clock_ms, resent=resent, expected=expected)
        self._compare(call, operations, reply, answer)
        self._compare_peek(call)
        is_first = record is None and node in self.model.records
        self._compare_records(call, is_first=is_first, shared_life_ms=shared_life_ms)
        if answer.state == DECIDED and answer.recorded == number:
            self._check_lives(call, answer.time_ms)
        return answer

    def _ask(
        self, call: Call, operations: Sequence[OperationOn], node: str, number: int, *, resent: bool, expected: int
    ) -> PathsReply:
        admits = [each for each in operations if isinstance(each, AdmitOn)]
        others = operations[: len(operations) - len(admits)]
        kids = [kid for kid, _ in call.keys]
        paths = [
            paths_driver.Path(
                kids[path.key - 1] if path.key else "", tuple(place + 1 for place in path.windows), path.ends_ms
            )
            for path in call.paths
        ]
        return self.driver.decide(
            node.encode(),
            number,
            self._windows(call),
            paths,
            [self._packed(each) for each in others if not isinstance(each, AdmitOn)],
            [paths_driver.Admit(each.path + 1, each.input, each.output) for each in admits],
            self.clock_ms,
            resent=resent,
            expected=expected,
            version=call.version,
            versions=dict(call.keys),
        )

    @staticmethod
    def _packed(other: OperationOn) -> paths_driver.Settle | paths_driver.Charge:
        assert not isinstance(other, AdmitOn)
        kind = paths_driver.Settle if isinstance(other, SettleOn) else paths_driver.Charge
        return kind(other.path + 1, other.time_ms, other.requests, other.input, other.output)

    @staticmethod
    def _windows(call: Call) -> dict[str, list[PathWindow]]:
        """The windows as a call names them: by hash, the shared one first, keys without windows included."""
        found: dict[str, list[PathWindow]] = {"": [], **{kid: [] for kid, _ in call.keys}}
        owners = [owner for owner, _ in groupby(window.owner for window in call.windows)]
        assert owners == [owner for owner in found if owner in owners], "windows are in the order of their hashes"
        for window in call.windows:
            requests, input_tokens, output_tokens, tokens = window.limits
            limits = (requests, input_tokens, output_tokens, tokens)
            found[window.owner].append(PathWindow(window.id, window.bucket_ms, window.width, limits))
        return found

    def _compare(self, call: Call, operations: Sequence[OperationOn], reply: PathsReply, answer: AnswerOn) -> None:
        told = (reply.state, reply.time_ms, reply.recorded)
        by_rules = (answer.state, answer.time_ms, answer.recorded)
        assert told == by_rules, f"decided {told}, by the rules {by_rules}"
        if answer.state not in (DECIDED, REPLAYED):
            return
        results = [
            tuple(result)
            for operation, result in zip(operations, answer.results, strict=True)
            if isinstance(operation, AdmitOn)
        ]
        assert reply.results == results, f"decided {reply.results}, by the rules {results}"
        assert reply.skipped == answer.skipped, f"skipped {reply.skipped}, by the rules {answer.skipped}"
        assert reply.policies == dict(answer.policies), f"policies {reply.policies}, by the rules {answer.policies}"
        now_ms = self.now_ms(call.windows)
        for window, meta, filled in zip(call.windows, reply.metas, answer.windows, strict=True):
            if meta is None:
                assert filled == NONE, f"{window} isn't stored, by the rules {filled}"
                continue
            assert (meta.used, meta.newest_in) == filled, f"{window} holds {meta}, by the rules {filled}"
            counting = self.model.counting(window, now_ms)
            assert meta.newest == max(counting, default=0), f"{window} holds {meta}, by the rules {counting}"
            assert meta.cell == counting.get(meta.newest, (0, 0, 0)), f"{window}: {meta}, by the rules {counting}"
            assert meta.head <= min(counting, default=0), f"{window} begins at {meta.head}, by the rules {counting}"

    def _compare_peek(self, call: Call) -> None:
        """What peek adds up is what the model holds."""
        peek = self.driver.peek(self._windows(call), self.clock_ms)
        if self.model.policy is None:
            assert peek is None
            return
        assert peek
        now_ms = self.now_ms(call.windows)
        assert (peek.time_ms, peek.account_version) == (now_ms, self.model.policy.version)
        keys = {kid: self.model.keys[kid].version if kid in self.model.keys else None for kid, _ in call.keys}
        assert peek.key_versions == keys
        for window, found in zip(call.windows, peek.windows, strict=True):
            filled = self.model.filled(window, now_ms)
            assert (found.used, found.newest_in) == filled, f"{window} adds up to {found}, by the rules {filled}"

    def _check_lives(self, call: Call, now_ms: int) -> None:
        """What was counted, and the record of it, outlives the window; the server's own time has passed by little."""
        client: redis.Redis = self.driver.client
        assert int(client.pttl(self.driver.shared_key)) > RECORDS_LEAST_MS - PASSED_MS
        for window in call.windows:
            if max(self.model.stored(window), default=0) == now_ms // window.bucket_ms:
                key = self.driver.key_hash(window.owner) if window.owner else self.driver.shared_key
                life_ms = int(client.pttl(key))
                assert life_ms > window.life_ms + RECORDS_SLACK_MS - PASSED_MS, f"{window} lives for {life_ms} ms"

    def _compare_records(self, call: Call, *, is_first: bool, shared_life_ms: int) -> None:
        """The nodes that have a record, by their fields and by the list of their names.

        With a node's first record old ones are forgotten. Those of windows that this call doesn't name may be kept for
        longer, up to twice the time that the shared hash had left to live: that depends on real time.
        """
        client: redis.Redis = self.driver.client
        fields = client.hkeys(self.driver.shared_key)
        names = client.hget(self.driver.shared_key, "n") or b""
        listed = sorted(names[at : at + 8] for at in range(0, len(names), 8))
        kept = sorted(each for each in fields if len(each) == 8)
        assert kept == listed, f"{fields}, listed are {listed}"
        assert {each.decode() for each in kept} <= set(self.model.records), f"{kept}, by the rules {self.model.records}"
        needed_ms = 2 * self.model.record_life_ms(call.windows)
        now_ms = self.now_ms(call.windows)
        for node, record in list(self.model.records.items()):
            age_ms = now_ms - record.time_ms
            if node.encode() not in kept:
                assert is_first, f"{node} is forgotten without need"
                assert age_ms > needed_ms, f"{node} is forgotten after {age_ms} ms"
                del self.model.records[node]
            else:
                assert not is_first or age_ms <= max(needed_ms, 2 * shared_life_ms), f"{node} is kept for {age_ms} ms"
