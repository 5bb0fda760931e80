"""What the scripts cost and leave in the store: time to live, memory, behaviour when memory is out, calls, layouts."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

import pytest
import redis
from reference import Admit, Charge, Operation, Settle
from script_driver import EPOCH, EPOCH_MS, Window, packed

from limiter_node.credentials import key_id
from limiter_node.limits import BUCKET_MS, WINDOW_BUCKETS
from limiter_node.store import codec, values
from limiter_node.store.keyspace import limits_key, past_key, window_key
from limiter_node.store.scripts import load_script

OpenWindow = Callable[..., Window]
FAR = 4_000_000_000
TTL_MS = 90_000
"""A window and 30 s."""


def pass_time(window: Window, ms: int) -> None:
    """Let that much time pass for the window's clock and for what the server still gives its keys."""
    window.clock_ms += ms
    for key in window.keys[1:]:
        left_ms = window.client.pttl(key)
        if left_ms > 0:
            window.client.pexpire(key, left_ms - ms) if left_ms > ms else window.client.delete(key)


def shortest_life_ms(window: Window) -> int:
    """How long the store will keep all there is of the key beside its limits."""
    lives: list[int] = [window.client.pttl(key) for key in window.keys[1:] if window.client.exists(key)]
    return min(lives)


# ---- time to live --------------------------------------------------------------------------------------------


def test_keys_expire_and_limits_do_not(open_window: OpenWindow, store: redis.Redis) -> None:
    window = open_window()
    window.admit()
    window.clock_ms += 100
    window.admit()
    assert store.pttl(window.keys[0]) == -1
    for key in window.keys[1:]:
        assert TTL_MS - 5_000 < store.pttl(key) <= TTL_MS


@pytest.mark.parametrize("gap_ms", [100, 900, 9_900, 10_000, 31_000, 59_000, 60_050, 70_000])
def test_what_counts_never_expires_before_it_has_left(open_window: OpenWindow, store: redis.Redis, gap_ms: int) -> None:
    window = open_window(FAR, FAR, FAR)
    admitted: list[int] = []
    for _ in range(8 if gap_ms > 5_000 else 120):
        window.admit()
        admitted.append(window.bucket)
        assert window.used()[0] == sum(bucket >= window.bucket - 600 for bucket in admitted)
        # The 5 s are for a slow test machine: the store's time goes on meanwhile.
        assert shortest_life_ms(window) > 60_100 + 5_000
        pass_time(window, gap_ms)


def test_what_is_charged_to_the_past_lives_long_enough(open_window: OpenWindow, store: redis.Redis) -> None:
    window = open_window()
    window.decide(Charge(EPOCH - 600, 1))
    assert shortest_life_ms(window) > 60_100
    pass_time(window, 30_000)
    window.decide(Charge(EPOCH - 100, 1), Charge(EPOCH - 200, 1))
    assert store.exists(*window.keys[1:]) == 2
    assert shortest_life_ms(window) > 60_100


@pytest.mark.parametrize("operation", [Admit(101), Settle(EPOCH, 1, 1)], ids=["rejected", "settled"])
def test_records_that_count_nothing_expire_too(
    open_window: OpenWindow, store: redis.Redis, operation: Operation
) -> None:
    window = open_window(10, 100, 100)
    window.decide(operation, resent=True)
    assert store.hkeys(window.keys[1]) == [b"node"]
    assert store.exists(window.keys[2]) == 0
    assert TTL_MS - 5_000 < store.pttl(window.keys[1]) <= TTL_MS


def test_all_keys_exist_from_the_first_decision_on(open_window: OpenWindow, store: redis.Redis) -> None:
    # While a slot moves, the store refuses a script some of whose keys are missing.
    window = open_window(FAR, FAR, FAR)
    for ms in (0, 100, 60_200, 60_300, 120_400, 200_000):  # a window that begins, empties in part, and wholly
        window.clock_ms = EPOCH_MS + ms
        window.admit(1, 1)
        assert store.exists(*window.keys) == 3


def test_what_a_lost_window_left_behind_does_not_count(open_window: OpenWindow, store: redis.Redis) -> None:
    window = open_window(FAR, FAR, FAR)
    for _ in range(4):
        window.admit(1, 1)
        window.clock_ms += 100
    store.delete(window.keys[1])  # the sums and the newest bucket: the rest means nothing without them
    assert (window.used(), window.decide().used) == ((0, 0, 0), (0, 0, 0))
    for count in range(1, 4):
        window.clock_ms += 100
        assert window.admit(1, 1).used == window.used() == (count, count, count)


def test_older_buckets_that_were_lost_stop_no_decision(open_window: OpenWindow, store: redis.Redis) -> None:
    window = open_window(4, FAR, FAR)
    for _ in range(3):
        window.admit(1, 1)
        window.clock_ms += 100
    window.decide(Charge(window.bucket, 1))
    store.delete(window.keys[2])
    # What is left says that four count, of which one is known to leave, last.
    assert window.verdict() == (1, 60_100)
    assert window.decide(Charge(EPOCH + 1, 1), Settle(EPOCH, 1, 1)).results == [(0, 0)] * 2


# ---- memory --------------------------------------------------------------------------------------------------


def memory(window: Window) -> int:
    """What all of a key takes in the store, in bytes."""
    return sum(window.client.memory_usage(key, samples=0) or 0 for key in window.keys)


def crowded(open_window: OpenWindow) -> Window:
    """A window with use in every bucket, by ten nodes."""
    window = open_window(FAR, FAR, FAR)
    for bucket in range(700):  # 70 s with use in every bucket, settled late, and charged to now and then
        window.clock_ms = EPOCH_MS + bucket * 100
        operations: list[Operation] = [Admit(4_000, 400), Admit(4_000, 400)]
        if bucket % 3 == 0:
            operations += [Settle(window.bucket - 250, 0, 300), Charge(window.bucket - 7, 1, 10, 10)]
        window.decide(*operations, node=f"node-{bucket % 10}")
    return window


def test_a_full_window_is_small(open_window: OpenWindow) -> None:
    window = crowded(open_window)
    assert memory(window) <= 12 * 1024
    assert window.used()[0] > 1_200


def test_the_sums_of_a_group_are_those_of_its_buckets(open_window: OpenWindow, store: redis.Redis) -> None:
    window = crowded(open_window)
    with_sums = 0
    past = store.hgetall(window.keys[2])
    assert past.pop(b"-") == b""
    assert len(past) == 26
    for value in past.values():
        size = int.from_bytes(value[:3], "little").bit_count() * 12
        cells, sums = list(struct.iter_unpack("<III", value[3 : 3 + size])), value[3 + size :]
        if sums:
            expected = [sum(column) for column in zip(*cells, strict=True)]
            assert [int.from_bytes(sums[at : at + 6], "little") for at in range(0, len(sums), 6)] == expected
            with_sums += 1
    assert with_sums == 24  # of 26: not the oldest, from which buckets leave, and not the newest


def test_a_quiet_key_is_small(open_window: OpenWindow, store: redis.Redis) -> None:
    window = open_window()
    for ms in range(0, 120_000, 6_000):
        window.clock_ms = EPOCH_MS + ms
        window.admit(4_000 % 90, 40)
    assert window.used()[0] == 10
    assert [store.object("encoding", key) for key in window.keys[1:]] == [b"listpack"] * 2
    assert memory(window) <= 600


def test_memory_out_is_an_error_before_anything_is_written(open_window: OpenWindow, store: redis.Redis) -> None:
    window = open_window(10, FAR, FAR)
    window.admit(1, 1)
    before, used = window.dump(), window.used()
    store.config_set("maxmemory", "1")
    try:
        for operations in ([Admit(1, 1)], [Charge(EPOCH, 1), Admit()], [Settle(EPOCH, 1, 1)], [Admit(2**40)]):
            with pytest.raises(redis.exceptions.OutOfMemoryError):
                window.decide(*operations)
        window.clock_ms += 100
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            window.admit(1, 1)
        assert window.used() == used  # reading goes on
    finally:
        store.config_set("maxmemory", "0")
    assert window.dump() == before
    assert window.admit(1, 1, number=1).state == codec.REPLAYED
    assert window.admit(1, 1, number=9).used == (2, 2, 2)


# ---- peek ----------------------------------------------------------------------------------------------------


def test_peek_writes_nothing_and_agrees_with_the_running_sums(open_window: OpenWindow) -> None:
    window = open_window(FAR, FAR, FAR)
    for bucket in range(0, 1_500, 7):
        window.clock_ms = EPOCH_MS + bucket * 100 + bucket % 100
        window.decide(Admit(bucket, 3), Settle(window.bucket - 70, 2, 9))
        before = window.dump()
        usage, reply = window.peek(), window.decide()
        assert usage
        assert window.dump() == before
        assert (usage.used, usage.reset_ms, usage.time_ms) == (reply.used, reply.reset_ms, reply.time_ms)
        assert (usage.limits, usage.output_reserve) == (reply.limits, reply.output_reserve)
    # Also where the decision script has not expired anything for long.
    for ms in (20_000, 60_000, 64_000, 70_000):
        window.clock_ms = EPOCH_MS + 149_800 + ms
        usage = window.peek()
        assert usage
        assert usage.used == window.decide().used


def test_peek_of_a_key_not_used_yet(open_window: OpenWindow) -> None:
    usage = open_window(1, 2, 3, reserve=4).peek()
    assert usage
    assert (usage.limits, usage.used, usage.reset_ms) == ((1, 2, 3), (0, 0, 0), (0, 0, 0))
    assert (usage.output_reserve, usage.name, usage.buckets) == (4, "key", ())


def test_the_stores_own_clock(open_window: OpenWindow, store: redis.Redis) -> None:
    window = open_window()
    window.clock_ms = 0
    seconds, micros = store.time()
    reply = window.admit(1, 1)
    usage = window.peek()
    assert usage
    started_ms = seconds * 1000 + micros // 1000
    assert started_ms <= reply.time_ms <= usage.time_ms < started_ms + 60_000
    assert [b.bucket for b in usage.buckets] == [reply.time_ms // 100]


# ---- calls ---------------------------------------------------------------------------------------------------


def calls(window: Window, *operations: Operation, ms: int = 0, **batch: object) -> dict[str, int]:
    """The commands that one batch makes the store run, `ms` later and by the store's own count."""
    window.clock_ms += ms
    window.client.config_resetstat()
    window.decide(*operations, **batch)  # type: ignore[arg-type]
    ran = {name.removeprefix("cmdstat_"): row["calls"] for name, row in window.client.info("commandstats").items()}
    return {name: n for name, n in ran.items() if name not in ("evalsha", "config|resetstat", "info")}


BASE = {"get": 1, "hmget": 1}  # the limits; the sums, the newest bucket and the node's record


def test_a_batch_makes_the_documented_calls(open_window: OpenWindow) -> None:
    window = open_window(FAR, 100_000, FAR)
    window.admit(1, 1)
    # The tests' clock saves the call to TIME: three of the four.
    assert calls(window, Admit(1, 1)) == BASE | {"hset": 1}
    assert calls(window, *[Admit(1, 1)] * 50, Settle(EPOCH, 0, 1)) == BASE | {"hset": 1}
    assert calls(window) == BASE
    assert calls(window, Admit(10**9)) == BASE
    # The bucket changes: the former one's group is read and written; a new one is seen to live long enough.
    assert calls(window, Admit(1, 1), ms=100) == BASE | {"hget": 1, "hset": 2, "pexpire": 1}
    assert calls(window, Admit(1, 1), ms=100) == BASE | {"hget": 1, "hset": 2}
    assert calls(window, Settle(EPOCH, 0, 1), Settle(EPOCH, 1, 0)) == BASE | {"hget": 1, "hset": 2}
    # Once in ten seconds the time to live is renewed.
    assert calls(window, Admit(1, 1), ms=10_000) == BASE | {"hget": 1, "hset": 2, "pexpire": 1}
    assert calls(window, Admit(1, 1), ms=10_000) == BASE | {"hget": 1, "hset": 2, "pexpire": 2}


def test_the_bucket_changes_in_a_full_window(open_window: OpenWindow) -> None:
    window = open_window(FAR, FAR, FAR)
    for _ in range(650):
        window.clock_ms += 100
        window.admit(1, 1)
    ran = [calls(window, Admit(1, 1), ms=100) for _ in range(96)]
    # The oldest group is read for what expires, the newest for what was the newest bucket; once in 24, the oldest is
    # used up: it goes, and the next is read.
    assert all((n["get"], n["hmget"], n["hset"]) == (1, 1, 2) for n in ran)
    assert sorted(n["hget"] for n in ran) == [2] * 92 + [3] * 4
    assert sorted(n.get("hdel", 0) for n in ran) == [0] * 92 + [1] * 4
    assert {name for n in ran for name in n} <= {"get", "hmget", "hget", "hset", "hdel", "pexpire"}


def test_a_rejection_reads_as_many_of_the_oldest_groups_as_free_enough(open_window: OpenWindow) -> None:
    window = open_window(650, FAR, FAR)
    for _ in range(601):
        window.clock_ms += 100
        window.admit(1, 1)
    window.decide(Charge(window.bucket, 49))
    assert calls(window, Admit()) == BASE | {"hget": 1}  # the oldest group
    assert calls(window, Admit(), Admit(), Admit()) == BASE | {"hget": 1}
    # 26 groups: some are read one by one, more of them all at once.
    window.decide(Charge(window.bucket, 48))
    assert calls(window, Admit()) == BASE | {"hget": 3}
    window.decide(Charge(window.bucket, 452))
    assert calls(window, Admit()) == BASE | {"hget": 4, "hgetall": 1}
    # Only the newest bucket frees enough: the sums tell.
    window.decide(Charge(window.bucket, 100))
    assert calls(window, Admit()) == BASE | {"hget": 1}


def test_a_rejection_that_only_the_newest_bucket_ends_reads_no_group(open_window: OpenWindow) -> None:
    window = open_window(10, FAR, FAR)
    window.decide(*[Admit()] * 10)
    assert calls(window, Admit()) == BASE


def test_an_answer_from_the_record_writes_that_again_and_nothing_new(open_window: OpenWindow) -> None:
    """A WAIT behind it has to wait until replicas have what was decided."""
    window = open_window()
    window.admit(1, 1, number=1)
    before = window.dump()
    assert calls(window, Admit(1, 1), number=1, resent=True) == BASE | {"hset": 1}
    assert calls(window, Admit(1, 1), number=0, resent=True) == BASE
    assert window.dump() == before


# ---- layouts -------------------------------------------------------------------------------------------------

DECIDE, PEEK = (load_script(name).source.decode() for name in ("decide", "peek"))


def header(source: str) -> str:
    """The comment at the top of a script, as one line."""
    lines = source.split("\n")[1:]
    comment = lines[: next(i for i, line in enumerate(lines) if not line.startswith("--"))]
    return re.sub(r"\s+", " ", " ".join(line.removeprefix("--") for line in comment))


def fields(documented: str) -> str:
    """``I8 number, I1 1 = sent before, 3 × I4 limits`` → the struct format ``<QBIII``."""
    found = re.findall(r"(?:(\d) × )?\b([Ii][1248])\b", documented)
    letters = {"I1": "B", "I2": "H", "I4": "I", "I8": "Q", "i8": "q"}
    return "<" + "".join(letters[kind] * int(count or 1) for count, kind in found)


def between(text: str, start: str, end: str) -> str:
    return text[text.index(start) + len(start) : text.index(end)]


def test_the_batch_is_packed_as_the_script_documents_it() -> None:
    documented = header(DECIDE)
    batch = between(documented, "batch packed", "1 admit")
    of_batch, of_operation = batch.split("then per operation")
    assert struct.calcsize(fields(of_operation)) == codec._OPERATION.size == 33
    assert struct.calcsize(fields(of_batch)) == codec._HEADER.size == 27
    assert fields(of_operation) == "<Bqqqq"
    assert fields(of_batch) == codec._HEADER.format
    for operation in (Admit(1, 2, 3), Settle(1, 2, 3), Charge(1, 2, 3, 4)):
        assert len(packed(operation)) == 33
    assert len(codec.pack_batch(1, [packed(Admit()), packed(Admit())], resent=False)) == 27 + 2 * 33


def test_the_reply_is_packed_as_the_script_documents_it() -> None:
    documented = between(header(DECIDE), "Reply packed", ", then the key's name")
    of_reply, of_result = documented.split("; and if one was rejected, or the node had no record, per operation")
    assert fields(of_result) == codec._RESULT.format == "<BI"
    assert struct.calcsize(fields(of_reply)) == codec._REPLY.size
    assert fields(of_reply) == "<" + re.sub(r"(\d)(\w)", lambda m: m[2] * int(m[1]), codec._REPLY.format[1:])


def test_a_loss_is_told_as_the_script_documents_it() -> None:
    documented = between(header(DECIDE), "then the key's name.", "A reply from the record")
    assert fields("I1 state, " + documented) == codec._LOST.format


def test_peeks_buckets_are_packed_as_the_script_documents_it() -> None:
    documented = between(header(PEEK), "one string of", "each (little endian")
    assert fields(documented) == "<" + re.sub(r"(\d)(\w)", lambda m: m[2] * int(m[1]), values._BUCKET.format[1:])


def test_the_keys_are_those_the_scripts_document() -> None:
    kid = key_id("sk-alice")
    assert re.fullmatch(r"[0-9a-f]{32}", kid)
    documented = re.findall(r"rl:\{kid\}:\w+", between(header(DECIDE), "KEYS", "ARGV"))
    assert documented == [k.replace(kid, "kid") for k in (limits_key(kid), window_key(kid), past_key(kid))]
    documented = re.findall(r"rl:\{kid\}:\w+", between(header(PEEK), "KEYS", "ARGV"))
    assert documented == [k.replace(kid, "kid") for k in (limits_key(kid), window_key(kid), past_key(kid))]


@pytest.mark.parametrize("source", [DECIDE, PEEK], ids=["decide", "peek"])
def test_scripts_take_only_the_documented_keys_and_arguments(source: str) -> None:
    code = "\n".join(line for line in source.split("\n") if not line.lstrip().startswith("--"))
    keys, arguments = (set(re.findall(rf"{name}\[(\d)\]", code)) for name in ("KEYS", "ARGV"))
    documented = header(source)
    count = len(re.findall(r"rl:\{kid\}", between(documented, "KEYS", "ARGV")))
    assert keys == {str(n + 1) for n in range(count)}
    assert arguments == {"1", "2"}


def test_constants_are_the_same_on_both_sides() -> None:
    for source in (DECIDE, PEEK):
        assert f"BUCKET_MS, GROUP, RING = {BUCKET_MS}, 24, 32" in source
    assert "NEVER = " + str(codec.NEVER) in DECIDE
    assert WINDOW_BUCKETS * BUCKET_MS == 60_000
