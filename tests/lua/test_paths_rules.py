"""The accounting rules of accounts as literal cases on the real script, each on both stores.

Times are ms after `EPOCH_MS`, which begins a bucket of every window used here. A result is verdict, window, retry_ms.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
import redis
from paths_driver import (
    DECIDED,
    ENDED,
    LOST,
    NO_LIMIT,
    OLD_POLICY,
    REPLAYED,
    SHARED,
    STALE,
    UNKNOWN_ACCOUNT,
    UNKNOWN_KEY,
    Admit,
    Charge,
    Path,
    PathsDriver,
    PathsReply,
    PathWindow,
    Settle,
    body_of,
)

EPOCH_MS = 1_699_920_000_000
"""A multiple of all widths of buckets here: 100 ms, 6 s and 144 s."""
A, B = b"node-aaa", b"node-bbb"
V1, V2, V3 = b"version1", b"version2", b"version3"
KID, OTHER = "0" * 32, "1" * 32
DAY_MS = 86_400_000
DONE = (0, 0, 0)
NOTHING = (0, 0, 0)


def limits(
    requests: int = NO_LIMIT, input: int = NO_LIMIT, output: int = NO_LIMIT, tokens: int = NO_LIMIT
) -> PathWindow:
    """Return a minute's window of the account with these limits."""
    return PathWindow(b"minute", limits=(requests, input, output, tokens))


def day(requests: int = NO_LIMIT, input: int = NO_LIMIT, output: int = NO_LIMIT, tokens: int = NO_LIMIT) -> PathWindow:
    """Return a day's window with these limits."""
    return PathWindow(b"oneday", 144_000, 600, (requests, input, output, tokens))


class Scene:
    """An account with one path over all windows: the account's, and those of the key `KID`."""

    def __init__(self, driver: PathsDriver, shared: list[PathWindow], own: list[PathWindow] | None = None) -> None:
        self.driver = driver
        self.windows = {SHARED: shared, KID: own or []}
        self.paths = [Path(KID, tuple(range(1, len(shared) + len(own or []) + 1)))]
        driver.policy(V1, {KID: V2})

    def decide(self, *operations: Admit | Settle | Charge, ms: int = 0, node: bytes = A, **batch: object) -> PathsReply:
        """Decide these at `ms` after `EPOCH_MS`."""
        admits = [each for each in operations if isinstance(each, Admit)]
        others = [each for each in operations if not isinstance(each, Admit)]
        number = batch.pop("number", None)
        return self.driver.decide(node, number, self.windows, self.paths, others, admits, EPOCH_MS + ms, **batch)

    def admit(self, input: int = 0, output: int = 0, *, ms: int = 0) -> tuple[int, int, int]:
        """Return the result of one request."""
        return self.decide(Admit(1, input, output), ms=ms).results[0]

    def used(self, ms: int = 0) -> list[tuple[int, int, int]]:
        """Return what counts in each window, added up from its buckets; the running sums must agree."""
        peek = self.driver.peek(self.windows, EPOCH_MS + ms)
        assert peek
        reply = self.decide(ms=ms, node=b"observer")
        counted = [(meta.used, meta.newest_in) if meta else (NOTHING, NOTHING) for meta in reply.metas]
        assert counted == [tuple(each) for each in peek.windows]
        return [each.used for each in peek.windows]


OpenScene = Callable[..., Scene]


@pytest.fixture
def scene(account: PathsDriver) -> OpenScene:
    return lambda shared, own=None: Scene(account, shared, own)


# ---- limits: four units, all windows or none -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "needs", "verdicts"),
    [
        pytest.param(limits(2), [(1, 1)] * 3, [0, 0, 1], id="requests"),
        pytest.param(limits(9, 100), [(60, 0), (41, 0), (40, 0), (1, 0), (0, 9)], [0, 2, 0, 2, 0], id="input"),
        pytest.param(limits(9, NO_LIMIT, 100), [(0, 60), (0, 41), (0, 40), (0, 1)], [0, 3, 0, 3], id="output"),
        pytest.param(limits(tokens=100), [(30, 30), (30, 11), (30, 10), (0, 1), (0, 0)], [0, 4, 0, 4, 0], id="tokens"),
        pytest.param(limits(0), [(0, 0)], [9], id="no requests allowed: never"),
        pytest.param(limits(9, 0), [(1, 0), (0, 1)], [10, 0], id="a limit of 0 admits what needs nothing of it"),
        pytest.param(limits(9, 9, 9), [(0, 10), (0, 9)], [11, 0], id="larger than the output limit: never"),
        pytest.param(limits(tokens=9), [(5, 5), (5, 4)], [12, 0], id="input and output larger than tokens: never"),
        pytest.param(limits(10**15 - 1, 10**15 - 1), [(10**15 - 1, 0), (1, 0)], [0, 2], id="the largest limits"),
        pytest.param(limits(), [(2**53 - 1, 0), (1, 0)], [0, 2], id="what can be counted exactly"),
        pytest.param(limits(), [(2**53, 0)], [10], id="more than can be counted exactly"),
    ],
)
def test_each_unit_holds_to_the_last_one(
    scene: OpenScene, window: PathWindow, needs: list[tuple[int, int]], verdicts: list[int]
) -> None:
    here = scene([window])
    assert [here.admit(*need)[0] for need in needs] == verdicts
    admitted = [need for need, verdict in zip(needs, verdicts, strict=True) if verdict == 0]
    assert here.used() == [(len(admitted), sum(i for i, _ in admitted), sum(o for _, o in admitted))]


@pytest.mark.parametrize("blocking", [0, 1, 2])
def test_what_one_window_blocks_is_counted_in_none(scene: OpenScene, blocking: int) -> None:
    windows = [PathWindow(bytes([48 + i]) * 6, limits=(9, 9 if i == blocking else NO_LIMIT, 9, 99)) for i in range(3)]
    here = scene(windows[:2], windows[2:])
    assert here.decide(Admit(1, 5), Admit(1, 5), Admit(1, 4)).results == [DONE, (2, blocking + 1, 60_100), DONE]
    assert here.used() == [(2, 9, 0)] * 3


def test_a_need_of_nothing_fits_where_more_than_the_limit_is_used(scene: OpenScene) -> None:
    here = scene([limits(9, 100, 100, 300)])
    here.admit(80, 80)
    here.windows[SHARED] = [limits(9, 10, 10, 10)]
    assert here.admit(0, 0) == DONE
    assert here.admit(1, 0) == (2, 1, 60_100)
    assert here.admit(0, 1) == (3, 1, 60_100)
    here.windows[SHARED] = [limits(9, 10, 200, 200)]
    assert here.admit(0, 40) == DONE


@pytest.mark.parametrize(
    ("shared", "own", "need", "result"),
    [
        pytest.param([limits(9, 50)], [day(9, 40)], (60, 0), (10, 2, 0), id="the smallest is named, not the first"),
        pytest.param([limits(9, 40)], [day(9, 40)], (60, 0), (10, 1, 0), id="of equal ones the first on the path"),
        pytest.param([limits(9, 40, 40, 40)], [], (60, 60), (10, 1, 0), id="of equal ones the first unit"),
        pytest.param([limits(0, 40)], [], (60, 60), (9, 1, 0), id="0 is the smallest"),
        pytest.param([limits(9, 90, tokens=70)], [], (60, 11), (12, 1, 0), id="tokens"),
    ],
)
def test_what_can_never_fit_names_the_smallest_limit(
    scene: OpenScene,
    shared: list[PathWindow],
    own: list[PathWindow],
    need: tuple[int, int],
    result: tuple[int, int, int],
) -> None:
    here = scene(shared, own)
    assert here.admit(*need) == result
    assert here.used() == [NOTHING] * (len(shared) + len(own))


def test_paths_share_windows_in_the_order_of_the_admits(account: PathsDriver) -> None:
    account.policy(V1, {KID: V2, OTHER: V3})
    windows = {SHARED: [limits(3)], KID: [limits(2)], OTHER: [limits(9)]}
    paths = [Path(KID, (1, 2)), Path(OTHER, (1, 3)), Path("", ()), Path("", (1,))]
    admits = [Admit(each) for each in (1, 2, 1, 2, 3, 4, 1)]
    reply = account.decide(A, None, windows, paths, (), admits, EPOCH_MS)
    assert [verdict for verdict, _, _ in reply.results] == [0, 0, 0, 1, 0, 1, 1]
    assert [where for _, where, _ in reply.results] == [0, 0, 0, 1, 0, 1, 1]
    assert [reply.used(each)[0] for each in (1, 2, 3)] == [3, 2, 1]


# ---- time: sliding, retry, expiry ------------------------------------------------------------------------------


@pytest.mark.parametrize(("bucket_ms", "buckets"), [(100, 10), (100, 600), (6_000, 600), (144_000, 600), (200, 450)])
def test_a_bucket_counts_for_its_life(scene: OpenScene, bucket_ms: int, buckets: int) -> None:
    life_ms = (buckets + 1) * bucket_ms
    here = scene([PathWindow(b"window", bucket_ms, buckets, (1, NO_LIMIT, NO_LIMIT, NO_LIMIT))])
    assert here.admit(7, 8) == DONE
    assert here.admit(ms=bucket_ms - 1) == (1, 1, life_ms - bucket_ms + 1)
    assert here.admit(ms=life_ms - 1) == (1, 1, 1)
    assert here.used(life_ms - 1) == [(1, 7, 8)]
    assert here.used(life_ms) == [NOTHING]
    assert here.admit(ms=life_ms) == DONE


def test_the_limit_that_frees_last_is_named(scene: OpenScene) -> None:
    here = scene([limits(9, 100, 100)], [day(9, 200, tokens=300)])
    here.admit(60, 0)
    here.admit(40, 60, ms=1_000)
    assert here.admit(10, 0, ms=2_000) == (2, 1, 58_100)
    assert here.admit(70, 0, ms=2_000) == (2, 1, 59_100)
    assert here.admit(10, 50, ms=2_000) == (3, 1, 59_100)
    assert here.admit(100, 40, ms=70_000) == DONE
    assert here.admit(1, 0, ms=70_000) == (2, 2, 601 * 144_000 - 70_000)
    assert here.admit(0, 1, ms=70_000) == (4, 2, 601 * 144_000 - 70_000)


@pytest.mark.parametrize("wide", [1, 2**31])
@pytest.mark.parametrize("need", [1, 2, 5, 6, 7, 23, 24, 25, 47, 48, 100, 299, 575, 599, 600])
def test_retry_times_in_a_full_window(scene: OpenScene, need: int, wide: int) -> None:
    """Two tokens of each kind in each of 601 buckets: so many buckets have to leave as the request needs pairs."""
    here = scene([limits(tokens=601 * 4 * wide)])
    for bucket in range(0, 601, 1 if need in (5, 48, 600) else 7):
        here.admit(2 * wide, 2 * wide, ms=bucket * 100)
    step = 1 if need in (5, 48, 600) else 7
    used = len(range(0, 601, step)) * 4 * wide
    here.windows[SHARED] = [limits(tokens=used)]
    at_ms = 60_000
    pairs = min(need, len(range(0, 601, step)))
    leaving = (pairs - 1) * step
    assert here.admit(pairs * 2 * wide, pairs * 2 * wide, ms=at_ms) == (4, 1, (leaving + 601) * 100 - at_ms)
    assert here.used(at_ms) == [(used // (4 * wide), used // 2, used // 2)]
    for later in (60_100, 72_300, 84_700, 119_900):
        left = sum(bucket * 100 + 60_100 > later for bucket in range(0, 601, step))
        assert here.used(later) == [(left, left * 2 * wide, left * 2 * wide)]


def test_idle_gaps_shorter_and_longer_than_the_window(scene: OpenScene) -> None:
    here = scene([limits()], [day()])
    sent: list[int] = []
    for gap_ms in (100, 2_400, 30_000, 59_900, 60_100, 300_000, 3_600_000, DAY_MS // 2, 100, DAY_MS, 2 * DAY_MS):
        ms = (sent[-1] if sent else 0) + gap_ms
        here.admit(3, 4, ms=ms)
        sent.append(ms)
        minute = sum(ms // 100 - each // 100 <= 600 for each in sent)
        whole = sum(ms // 144_000 - each // 144_000 <= 600 for each in sent)
        assert here.used(ms) == [(minute, 3 * minute, 4 * minute), (whole, 3 * whole, 4 * whole)]


def test_a_clock_that_steps_back_blocks_nobody_for_longer_than_the_window(scene: OpenScene) -> None:
    here = scene([limits(1)])
    assert here.admit(ms=50_000) == DONE
    assert here.admit(ms=0) == (1, 1, 60_100)
    assert here.admit(ms=60_099) == (1, 1, 1)
    assert here.decide(Admit(1), ms=60_100).time_ms == EPOCH_MS + 110_100
    assert here.used(60_100) == [(1, 0, 0)]


# ---- the end of a credential -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ends_ms", "ms", "verdict"),
    [(0, 10**9, 0), (5_000, 4_999, 0), (5_000, 5_000, ENDED), (5_000, 10**9, ENDED), (2**48 - 1 - EPOCH_MS, 10**9, 0)],
)
@pytest.mark.parametrize("is_usual", [True, False])
def test_a_request_is_decided_until_its_credential_ends(
    scene: OpenScene, ends_ms: int, ms: int, verdict: int, is_usual: bool
) -> None:
    here = scene([limits()], [day()])
    here.paths = [here.paths[0]._replace(ends_ms=EPOCH_MS + ends_ms if ends_ms else 0)]
    if is_usual:  # windows in use, and a record
        here.decide(Charge(1, EPOCH_MS + ms, 1), ms=ms)
    assert here.admit(1, 1, ms=ms) == (verdict, 0, 0)
    assert here.used(ms) == [(is_usual + (verdict == 0), int(verdict == 0), int(verdict == 0))] * 2


def test_only_requests_with_the_credential_that_has_ended_are_refused(scene: OpenScene) -> None:
    here = scene([limits(3)])
    here.paths = [here.paths[0], here.paths[0]._replace(ends_ms=EPOCH_MS), here.paths[0]._replace(ends_ms=EPOCH_MS + 1)]
    reply = here.decide(Admit(2), Admit(1), Admit(2), Admit(3), Admit(2), Admit(1), Admit(2), Admit(3))
    assert [verdict for verdict, _, _ in reply.results] == [ENDED, 0, ENDED, 0, ENDED, 0, ENDED, 1]


def test_settles_and_charges_have_no_end(scene: OpenScene) -> None:
    here = scene([limits()])
    here.admit(5, 50)
    here.paths = [here.paths[0]._replace(ends_ms=1)]
    here.decide(Charge(1, EPOCH_MS, 1, 2, 3), Settle(1, EPOCH_MS, 0, 0, 40))
    assert here.used() == [(2, 7, 13)]


def test_an_old_policy_and_a_key_that_is_gone_are_told_before_the_end(scene: OpenScene) -> None:
    """By the new policy, the credential may end later."""
    here = scene([limits()])
    here.paths = [here.paths[0]._replace(ends_ms=1)]
    assert here.decide(Admit(1), version=V3).results == [(OLD_POLICY, 0, 0)]
    assert here.decide(Admit(1), versions={KID: V3}).results == [(OLD_POLICY, 0, 0)]
    here.driver.policy(V1, {})
    assert here.decide(Admit(1), versions={KID: V2}).results == [(UNKNOWN_KEY, 0, 0)]


def test_a_credential_ends_by_the_stores_clock_and_not_by_the_accounts(scene: OpenScene) -> None:
    """Which goes on where the store's clock had got to before it stepped back."""
    here = scene([limits()])
    here.admit(ms=50_000)
    here.paths = [here.paths[0]._replace(ends_ms=EPOCH_MS + 30_000)]
    assert here.admit(ms=29_999) == DONE
    assert here.admit(ms=30_000) == (ENDED, 0, 0)


def test_a_refusal_is_answered_from_the_record(scene: OpenScene) -> None:
    here = scene([limits()])
    here.paths = [here.paths[0], here.paths[0]._replace(ends_ms=EPOCH_MS + 10)]
    first = here.decide(Admit(1), Admit(2), ms=10, number=7)
    again = here.decide(Admit(1), Admit(2), ms=0, number=7, resent=True)
    assert (first.state, again.state) == (DECIDED, REPLAYED)
    assert first.results == again.results == [DONE, (ENDED, 0, 0)]


# ---- settles and charges ---------------------------------------------------------------------------------------


def test_a_settle_changes_the_buckets_of_the_admission_in_each_window(scene: OpenScene) -> None:
    here = scene([limits()], [day()])
    for second in range(30):
        here.admit(10, 100, ms=second * 1_000)
    reply = here.decide(Settle(1, EPOCH_MS + 5_000, 0, -5, 60), ms=29_000)
    assert [reply.used(each) for each in (1, 2)] == [(30, 305, 2_940)] * 2
    assert here.used(29_000) == [(30, 305, 2_940)] * 2
    assert here.used(65_100) == [(24, 240, 2_400), (30, 305, 2_940)]
    here.decide(Settle(1, EPOCH_MS + 29_000, 1, 99, 0), ms=65_100)
    assert here.used(65_100) == [(23, 230, 2_400), (29, 206, 2_940)]


@pytest.mark.parametrize("ms", [-100, 100, 99_900_000], ids=["before", "an empty bucket", "later"])
def test_a_settle_of_nothing_changes_nothing(scene: OpenScene, ms: int) -> None:
    here = scene([limits()])
    here.admit(1, 1)
    here.admit(1, 1, ms=200)
    reply = here.decide(Settle(1, EPOCH_MS + ms, 1, 1, 1), ms=300, number=50)
    assert (reply.used(1), reply.recorded) == ((2, 2, 2), 2)


def test_a_settle_passes_by_windows_made_since(scene: OpenScene) -> None:
    here = scene([limits()])
    here.admit(10, 10)
    here.windows[KID], here.paths = [day()], [Path(KID, (1, 2))]
    here.decide(Settle(1, EPOCH_MS, 0, 4, 4), ms=100)
    assert here.used(100) == [(1, 6, 6), NOTHING]


def test_never_less_than_nothing(scene: OpenScene) -> None:
    here = scene([limits()])
    here.admit(10, 10)
    here.admit(10, 10, ms=1_000)
    here.decide(Settle(1, EPOCH_MS, 5, 50, 50), Settle(1, EPOCH_MS, 5, -50, -50), ms=1_000)
    assert here.used(1_000) == [(1, 10, 10)]


def test_charges_count_above_limits_and_in_the_past(scene: OpenScene) -> None:
    here = scene([limits(1, 10)], [day()])
    here.decide(Charge(1, EPOCH_MS - 60_000, 3, 7, 0), Charge(1, EPOCH_MS - 60_100, 1, 1, 1), Charge(1, EPOCH_MS))
    assert here.used() == [(3, 7, 0), (4, 8, 1)]
    here.decide(Charge(1, EPOCH_MS + 500_000, 0, 0, 9), ms=50)
    assert here.used(50) == [(3, 7, 9), (4, 8, 10)]
    assert here.admit(1, ms=50) == (1, 1, 50)
    assert here.used(100) == [(0, 0, 9), (4, 8, 10)]


def test_the_newest_bucket_of_each_counter_after_settles(scene: OpenScene) -> None:
    here = scene([limits()])
    for ms, need in ((0, (1, 1)), (4_000, (0, 2)), (9_000, (3, 0)), (9_100, (0, 0))):
        here.admit(*need, ms=ms)
    first = EPOCH_MS // 100
    meta = here.decide(Settle(1, EPOCH_MS + 9_000, 0, 3, 0), Settle(1, EPOCH_MS + 9_100, 1), ms=9_100).metas[0]
    assert meta
    assert meta.newest_in == (first + 90, first, first + 40)
    assert here.used(9_100) == [(3, 1, 3)]


@pytest.mark.parametrize("ms", [0, 100, 100_000])
def test_counters_are_exact_up_to_the_largest_and_stop_there(scene: OpenScene, ms: int) -> None:
    here = scene([day()])
    here.decide(Charge(1, EPOCH_MS, 2**32 - 1, 2**53 - 3, 5))
    here.decide(Charge(1, EPOCH_MS, 1, 1, 0), ms=ms)
    assert here.used(ms) == [(2**32 - 1, 2**53 - 2, 5)]
    here.decide(Charge(1, EPOCH_MS, 1, 2**60, 0), ms=ms)
    assert here.used(ms) == [(2**32 - 1, 2**53 - 1, 5)]
    assert here.admit(1, 0, ms=ms)[0] == 2


def test_wide_amounts_keep_those_beside_them(scene: OpenScene) -> None:
    here = scene([day()])
    for bucket in range(30):
        here.admit(bucket, 2**33 if bucket in (11, 25) else 1, ms=bucket * 144_000)
    now = 29 * 144_000
    total = [30, sum(range(30)), 28 + 2**34]
    assert here.used(now) == [tuple(total)]
    for bucket, amount in ((3, 2**40), (20, 2**41), (25, -(2**32))):
        here.decide(Settle(1, EPOCH_MS + bucket * 144_000, 0, -amount, 0), ms=now)
        total[1] += max(amount, -bucket)
    assert here.used(now) == [tuple(total)]
    assert here.used(601 * 144_000)[0][0] == 29


# ---- policies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("account_version", "key_version", "verdict", "policies"),
    [
        pytest.param(V1, V2, 0, {}, id="as stored"),
        pytest.param(V3, V2, OLD_POLICY, {0: body_of(V1)}, id="another version of the account's"),
        pytest.param(V1, V3, OLD_POLICY, {1: body_of(V2)}, id="another version of the key's"),
        pytest.param(V3, V3, OLD_POLICY, {0: body_of(V1)}, id="both: the account's comes first"),
    ],
)
def test_old_policies_are_told_per_admit_and_hold_up_nobody_else(
    account: PathsDriver, account_version: bytes, key_version: bytes, verdict: int, policies: dict[int, bytes]
) -> None:
    account.policy(V1, {KID: V2, OTHER: V2})
    windows = {SHARED: [limits()], KID: [], OTHER: [limits()]}
    paths = [Path(KID, (1,)), Path(OTHER, (1, 2)), Path("", (1,))]
    account.decide(A, 1, windows, paths, (), [Admit(1, 10)], EPOCH_MS)

    def decide(number: int, *, resent: bool = False) -> PathsReply:
        others = [Settle(1, EPOCH_MS, 0, 4), Charge(2, EPOCH_MS, 0, 0, 1)]
        admits = [Admit(1), Admit(2), Admit(3)]
        versions = {KID: key_version}
        return account.decide(
            A,
            number,
            windows,
            paths,
            others,
            admits,
            EPOCH_MS,
            resent=resent,
            version=account_version,
            versions=versions,
        )

    reply = decide(2)
    others = OLD_POLICY if account_version != V1 else 0
    assert [each for each, _, _ in reply.results] == [verdict, others, others]
    assert reply.policies == policies
    assert reply.used(1) == (1 + [verdict, others, others].count(0), 6, 1)
    assert decide(2, resent=True)[2:] == reply[2:]


def test_a_key_that_the_account_has_lost_gets_its_settles_and_charges(account: PathsDriver) -> None:
    """A node declares it again, and it must not find its windows empty."""
    account.policy(V1, {OTHER: V2})
    windows, paths = {SHARED: [limits()], KID: [limits()]}, [Path(KID, (1, 2))]
    reply = account.decide(A, 1, windows, paths, [Charge(1, EPOCH_MS, 2, 3, 4)], [Admit(1)], EPOCH_MS)
    assert (reply.results, reply.skipped) == ([(UNKNOWN_KEY, 0, 0)], ())
    reply = account.decide(A, 2, windows, paths, [Settle(1, EPOCH_MS, 0, 0, 1)], (), EPOCH_MS)
    assert (reply.used(1), reply.used(2)) == ((2, 3, 3), (2, 3, 3))


def test_an_account_that_is_gone(account: PathsDriver) -> None:
    account.policy(b"")
    windows = {SHARED: [limits()], KID: [limits()]}
    assert account.decide(A, 1, windows, [Path(KID, (1, 2))], (), [Admit(1)], EPOCH_MS).state == UNKNOWN_ACCOUNT
    assert account.peek(windows) is None


def test_a_key_that_has_moved_to_another_account(account: PathsDriver) -> None:
    """Its own windows are there; a batch that is sent again names the same settles and charges as before."""
    account.policy(V1, {OTHER: V2}, [KID])
    windows = {SHARED: [limits()], KID: [limits()]}
    others = [Charge(1, EPOCH_MS, 1), Charge(2, EPOCH_MS, 1)]
    paths = [Path(KID, (1, 2)), Path("", (1,))]
    reply = account.decide(A, 1, windows, paths, others, [Admit(1)], EPOCH_MS)
    assert (reply.results, reply.policies) == ([(UNKNOWN_KEY, 0, 0)], {})
    assert (reply.used(1), reply.used(2), reply.skipped) == ((2, 0, 0), NOTHING, (0,))
    assert not account.client.exists(account.key_hash(KID))
    account.policy(V1, {OTHER: V2, KID: V2})
    again = account.decide(A, 1, windows, paths, others, [Admit(1)], EPOCH_MS, resent=True)
    assert (again.state, again.skipped, again.used(1)) == (REPLAYED, (0,), (2, 0, 0))


# ---- records -----------------------------------------------------------------------------------------------------


def test_a_batch_sent_again_is_answered_from_the_record(scene: OpenScene) -> None:
    here = scene([limits(2, 100)], [day(9)])
    batch = (Charge(1, EPOCH_MS, 1, 1, 1), Admit(1, 50), Admit(1, 1), Admit(1, 200))
    first = here.decide(*batch, number=7)
    assert first.results == [DONE, (1, 1, 60_100), (10, 1, 0)]
    again = here.decide(*batch, number=7, ms=1_000, resent=True, expected=7)
    assert (again.state, again.time_ms, again.recorded) == (REPLAYED, EPOCH_MS, 7)
    assert again.results == [DONE, (1, 1, 59_100), (10, 1, 0)]
    assert here.decide(*batch, number=7, ms=61_000, resent=True).results == [DONE, (1, 1, 0), (10, 1, 0)]
    here.windows[SHARED] = [limits(2, 20)]
    assert here.decide(*batch, number=7, ms=1_000, resent=True).results[0] == DONE
    assert here.used(1_000) == [(2, 51, 1)] * 2
    assert here.decide(number=6).state == STALE
    assert here.decide(number=9, expected=8)[:3] == (LOST, 0, 7)
    assert here.decide(number=9, node=B, expected=0).state == DECIDED


def test_what_counts_nothing_is_recorded_only_if_it_was_sent_before(scene: OpenScene) -> None:
    here = scene([limits(1)])
    here.admit()
    assert here.decide(Admit(1), number=5).recorded == 1
    assert here.decide(Admit(1), number=6, resent=True).recorded == 6
    assert here.decide(Admit(1), number=6, resent=True).state == REPLAYED


def names(store: redis.Redis, driver: PathsDriver) -> list[bytes]:
    """Return the nodes that have a record."""
    found = store.hget(driver.shared_key, "n")
    return sorted(found[i : i + 8] for i in range(0, len(found), 8))


def test_records_of_old_nodes_are_forgotten_with_a_new_nodes_first(scene: OpenScene, store: redis.Redis) -> None:
    here = scene([limits()])
    shared = here.driver.shared_key
    nodes = [f"node-{i:03d}".encode() for i in range(5)]
    for i, node in enumerate(nodes):
        here.decide(Admit(1), node=node, ms=i * 20_000)
    assert names(store, here.driver) == nodes
    here.decide(Admit(1), node=nodes[4], ms=250_000)
    assert store.hlen(shared) == 2 + 1 + 5  # clock, names, meta, records: nothing older is left
    here.decide(Admit(1), node=B, ms=250_000)
    assert names(store, here.driver) == [*nodes[3:], B]
    assert store.hexists(shared, nodes[3])
    assert not store.hexists(shared, nodes[2])


def test_a_record_outlives_a_new_node_that_touches_shorter_windows_only(scene: OpenScene, store: redis.Redis) -> None:
    here = scene([limits()], [day()])
    here.decide(Admit(1), node=A)
    windows, paths = {SHARED: [limits()]}, [Path("", (1,))]
    here.driver.decide(B, 1, windows, paths, (), [Admit(1)], EPOCH_MS + 3_600_000)
    assert names(store, here.driver) == [A, B]
    assert here.decide(Admit(1), node=A, ms=3_600_100, expected=1).state == DECIDED


def test_a_shared_hash_made_anew_lives_as_long_as_the_keys_windows(scene: OpenScene, store: redis.Redis) -> None:
    here = scene([limits()], [day()])
    here.admit()
    store.delete(here.driver.shared_key)
    here.admit(ms=200)
    assert store.pttl(here.driver.shared_key) > 601 * 144_000 + 30_000


# ---- what is stored ------------------------------------------------------------------------------------------------


def test_rejections_write_nothing_unless_buckets_have_left(scene: OpenScene, store: redis.Redis) -> None:
    here = scene([limits(3)], [day()])
    for ms in (0, 100, 200):
        here.admit(ms=ms)
    keys = here.driver.keys(here.windows)
    before = [store.dump(key) for key in keys]
    assert here.admit(ms=59_900)[0] == 1
    assert [store.dump(key) for key in keys] == before
    here.windows[SHARED] = [limits(1)]
    assert here.admit(ms=60_150)[0] == 1
    after = [store.dump(key) for key in keys]
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False, True]
    assert here.decide(ms=60_000).time_ms == EPOCH_MS + 60_100  # what was taken off doesn't come back
    assert here.decide(ms=60_000).recorded == 3


def test_every_hash_lives_as_long_as_its_longest_window(scene: OpenScene, store: redis.Redis) -> None:
    here = scene([limits()], [PathWindow(b"second", 100, 10)])
    shared, own = here.driver.keys(here.windows)[1:]
    here.admit()
    assert 90_000 < store.pttl(shared) <= 110_000
    assert 31_100 < store.pttl(own) <= 45_000
    here.windows[KID], here.paths = [PathWindow(b"second", 100, 10), day()], [Path(KID, (1, 2, 3))]
    here.admit(ms=500)
    for key in (shared, own):
        assert store.pttl(key) > 601 * 144_000 + 30_000
    store.pexpire(own, 1_000)
    here.admit(ms=100 * 144_000)
    assert store.pttl(own) > 601 * 144_000 + 30_000
    assert store.pttl(here.driver.policy_key) == -1


@pytest.mark.parametrize("window", [limits(), day()], ids=["minute", "day"])
def test_a_full_window_takes_12_kib_at_most(scene: OpenScene, store: redis.Redis, window: PathWindow) -> None:
    here = scene([], [window])
    for bucket in range(600):
        here.admit(900_000, 900_000, ms=bucket * window.bucket_ms)
    assert store.memory_usage(here.driver.key_hash(KID), samples=0) <= 12 * 1024


def test_the_stored_form_of_a_window(scene: OpenScene, store: redis.Redis) -> None:
    here = scene([limits()])
    for ms in (0, 100, 300):
        here.admit(5, 7, ms=ms)
    bucket = EPOCH_MS // 100
    found = store.hgetall(here.driver.shared_key)
    group = bucket // 24
    mask = (1 << bucket % 24) + (1 << bucket % 24 + 1)
    assert found[b"minute" + bytes([group % 32])] == (
        mask.to_bytes(3, "little") + b"\0" + struct.pack("<III", 1, 5, 7) * 2
    )
    meta = [(bucket, 5), *[(bucket + 3, 5)] * 4, (3, 6), (15, 7), (21, 7), (1, 4), (5, 7), (7, 7)]
    assert found[b"minute"] == b"".join(n.to_bytes(size, "little") for n, size in meta)
    assert found[b"c"] == (EPOCH_MS + 300).to_bytes(6, "little") + bytes(6)
    assert found[A] == (3).to_bytes(8, "little") + (EPOCH_MS + 300).to_bytes(6, "little")
    assert found[b"n"] == A


# ---- the usual call: what looks like it, and isn't ---------------------------------------------------------------


def test_a_window_that_is_not_on_the_path_is_not_counted_in(scene: OpenScene) -> None:
    here = scene([limits()], [day()])
    here.admit()
    here.paths = [Path(KID, (2,))]
    here.admit()
    assert [counted[0] for counted in here.used()] == [1, 2]


def test_a_clock_that_steps_back_within_a_long_bucket_stands_still(scene: OpenScene) -> None:
    here = scene([day()])
    here.admit(ms=100_000)
    reply = here.decide(Admit(1), ms=50_000)
    assert reply.time_ms == EPOCH_MS + 100_000
    assert here.decide(Admit(1), ms=50_100).time_ms == EPOCH_MS + 100_100
    assert here.used(50_100)[0][0] == 3
