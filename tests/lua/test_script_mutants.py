"""Whether the comparison with the model would notice: small mistakes are made in the script, and each has to be caught.

Each mutant is put through seeded random walks until the first difference. The script as it is passes them all.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import redis
from random_walk import Walk
from script_driver import DECIDE, PEEK, Pair, running_server, server_binary

WALKS, STEPS = 60, 120
WIDTHS = (5, 20, 600)


class Mutant(NamedTuple):
    """A mistake: this text of the script, which occurs once, replaced by that."""

    name: str
    text: str
    replacement: str


SOURCE = DECIDE.source.decode()

MUTANTS = [
    # The decision.
    Mutant("one request too many", "used_r < limit_r and", "used_r <= limit_r and"),
    Mutant("one request too few", "used_r < limit_r and", "used_r + 1 < limit_r and"),
    Mutant("input is not limited", "and used_i + a <= limit_i and", "and"),
    Mutant("output is not limited", " and used_o + output <= limit_o then", " then"),
    Mutant("input has to stay below", "used_i + a <= limit_i", "used_i + a < limit_i"),
    Mutant("output has to stay below", "used_o + output <= limit_o", "used_o + output < limit_o"),
    Mutant("limits compare with what is used, need left out", "used_i + a <= limit_i", "used_i <= limit_i"),
    Mutant("one default choice only", "local output = b + c * reserve", "local output = b + min(c, 1) * reserve"),
    Mutant("default choices forgotten", "local output = b + c * reserve", "local output = b"),
    Mutant(
        "requests not counted in the sum", "used_r, used_i, used_o = used_r + 1,", "used_r, used_i, used_o = used_r,"
    ),
    Mutant(
        "input not counted in the bucket",
        "cell_r + 1, cell_i + a, cell_o + output",
        "cell_r + 1, cell_i, cell_o + output",
    ),
    Mutant(
        "rejected ones count, too",
        "any_rejected = true\n                if",
        "any_rejected, used_r, changed = true, used_r + 1, true\n                if",
    ),
    # Never fits.
    Mutant("exactly the limit never fits", "elseif a > limit_i then", "elseif a >= limit_i then"),
    Mutant("too much output fits some day", "elseif output > limit_o then verdict = NEVER + 3\n", ""),
    Mutant("no requests at all: not now", "if limit_r < 1 then", "if limit_r < 0 then"),
    # The window.
    Mutant("a bucket too few counts", "local oldest = bucket - width ", "local oldest = bucket - width + 1 "),
    Mutant("a bucket too many counts", "local oldest = bucket - width ", "local oldest = bucket - width - 1 "),
    Mutant(
        "a bucket expires twice",
        "list[j + 1], list[j + 2], list[j + 3] = 0, 0, 0\n                        touch(g)",
        "",
    ),
    Mutant("expired, but not written", "= 0, 0, 0\n                        touch(g)", "= 0, 0, 0"),
    Mutant("output doesn't expire", "used_r - r, used_i - t, used_o - o", "used_r - r, used_i - t, used_o"),
    Mutant("expiry ends too early", "if g * GROUP + i >= oldest then", "if g * GROUP + i >= oldest - 1 then"),
    Mutant(
        "only one group expires at a time",
        "for g = first, newest_group do",
        "for g = first, min(first, newest_group) do",
    ),
    Mutant("gaps lose the oldest bucket", "head = g * GROUP + i\n", "head = g * GROUP + i + 1\n"),
    Mutant("an empty window keeps its sums", "used_r, used_i, used_o, cell_r, cell_i, cell_o = 0, 0, 0, 0, 0, 0\n", ""),
    Mutant("an empty window keeps its buckets", "if wiped then call('DEL', KEYS[2]) end", ""),
    Mutant("an empty window is not noticed", "wiped = true\n", ""),
    Mutant(
        "fields of former rounds are taken for new",
        "not wiped and not all_read and g <= newest_group and call",
        "not all_read and call",
    ),
    Mutant("the ring is too short", "BUCKET_MS, GROUP, RING = 100, 5, 128", "BUCKET_MS, GROUP, RING = 100, 5, 120"),
    Mutant(
        "the former bucket is lost (decoded)", "list[j + 1], list[j + 2], list[j + 3] = cell_r, cell_i, cell_o\n", ""
    ),
    Mutant("the former bucket is lost (appended)", "META, meta, flushed_group % RING, flushed_value)", "META, meta)"),
    Mutant("the appended bucket is lost on decoding", "raw[flushed_group] = flushed_value\n", ""),
    Mutant("the appended bucket is marked as its neighbour", "2 ^ (newest % GROUP)", "2 ^ ((newest + 1) % GROUP)"),
    Mutant(
        "a removed group takes the new one's field",
        "unpack(fields, 1, size))",
        "unpack(fields, 1, size))\n"
        "for _, g in ipairs(older.dirty) do if not older.encoded(g) then call('HDEL', KEYS[2], g % RING) end end",
    ),
    # Retry times, times to full.
    Mutant(
        "retry a bucket early",
        "max((last + width + 1) * BUCKET_MS - now, 0)",
        "max((last + width) * BUCKET_MS - now, 0)",
    ),
    Mutant(
        "retry a bucket late",
        "max((last + width + 1) * BUCKET_MS - now, 0)",
        "max((last + width + 2) * BUCKET_MS - now, 0)",
    ),
    Mutant("retry at the bucket, not to the ms", "* BUCKET_MS - now, 0)", "* BUCKET_MS - bucket * BUCKET_MS, 0)"),
    Mutant("retry forgets input", "local k = frees(2, used_i + input - limit_i)", "local k = -1"),
    Mutant("retry forgets output", "k = frees(3, used_o + output - limit_o)", "k = -1"),
    Mutant("retry without the own request", "frees(1, used_r + 1 - limit_r)", "frees(1, used_r - limit_r)"),
    Mutant(
        "retry for more than is needed", "frees(2, used_i + input - limit_i)", "frees(2, used_i + input - limit_i + 1)"
    ),
    Mutant(
        "of those that free together, the last is named",
        "- limit_o)\n        if k > last",
        "- limit_o)\n        if k >= last",
    ),
    Mutant(
        "the first of the group for the right one",
        "return (first + low - 1) * GROUP + i end",
        "return (first + low - 1) * GROUP end",
    ),
    Mutant(
        "retry times of before a charge",
        "touch(g)\n            frees = nil\n            if k < head",
        "touch(g)\n            if k < head",
    ),
    # The same where the sums or the oldest bucket tell it.
    Mutant(
        "quick retry a bucket early", "(last + width + 1) * BUCKET_MS - now\n", "(last + width) * BUCKET_MS - now\n"
    ),
    Mutant(
        "quick retry at the bucket",
        "(last + width + 1) * BUCKET_MS - now\n",
        "(last + width + 1) * BUCKET_MS - bucket * BUCKET_MS\n",
    ),
    Mutant(
        "quick retry without the own request",
        "over_r, over_i, over_o = used_r + 1 -",
        "over_r, over_i, over_o = used_r -",
    ),
    Mutant("quick retry forgets input", "local last_i = over_i <= 0 and -1", "local last_i = -1"),
    Mutant("quick retry forgets output", "local last_o = over_o <= 0 and -1", "local last_o = -1"),
    Mutant("the oldest bucket frees more than it has", "or over_r <= first_r and", "or over_r <= first_r + 1 and"),
    Mutant("the oldest bucket frees everything", "or over_r <= first_r and head", "or head"),
    Mutant("the newest bucket is asked too early", "over_o > used_o - cell_o and", "over_o >= used_o - cell_o and"),
    Mutant("the newest bucket has nothing", "over_i > used_i - cell_i and", "over_i > used_i and"),
    Mutant("quick retry names the last of those that free together", "if last_o > last then", "if last_o >= last then"),
    Mutant("quick retry names the wrong one", "last, verdict = last_i, 2 end", "last = last_i end"),
    Mutant("time to full without the last bucket's kind", "if a > 0 then newest_i = bucket end", ""),
    Mutant("time to full for output that needs none", "if output > 0 then newest_o = bucket end", "newest_o = bucket"),
    Mutant(
        "time to full of what was given back",
        "emptied = true end\n                changed",
        "end\n                changed",
    ),
    Mutant("time to full of what was given back later", " elseif k == newest_o then emptied = true end", " end"),
    Mutant("time to full of what has expired", "if newest_i < oldest then newest_i = 0 end\n", ""),
    # Settling and charging.
    Mutant("settled below zero", "local input, output = min(b, cell_i), min(c, cell_o)", "local input, output = b, c"),
    Mutant(
        "settled below zero (older buckets)",
        "new_i, new_o = max(min(list[j + 2] + t, CELL_MAX), 0),",
        "new_i, new_o = min(list[j + 2] + t, CELL_MAX),",
    ),
    Mutant(
        "settled in another where its bucket has left",
        "elseif a >= oldest and a >= head and a <= newest then",
        "elseif a <= newest then\n a = max(a, head)",
    ),
    Mutant(
        "settled in a bucket without requests", "[(a % GROUP) * 3 + 1]) > 0 then", "[(a % GROUP) * 3 + 1]) >= 0 then"
    ),
    Mutant(
        "settled in the sum only",
        "cell_i, cell_o, used_i, used_o = cell_i - input, cell_o - output, used_i",
        "used_i, used_o = used_i",
    ),
    Mutant("settled in the current bucket", "older.add(a, 0, -b, -c)", "older.add(newest, 0, -b, -c)"),
    Mutant("settled the wrong way", "older.add(a, 0, -b, -c)", "older.add(a, 0, b, c)"),
    Mutant(
        "a settle is not remembered",
        "older.add(a, 0, -b, -c)\n                    changed = true",
        "older.add(a, 0, -b, -c)",
    ),
    Mutant(
        "charged to a bucket that has left",
        "elseif min(a, bucket) >= oldest and",
        "elseif min(a, bucket) >= oldest - 1 and",
    ),
    Mutant("charged to the future", "older.add(min(a, bucket), b, c, d)", "older.add(a, b, c, d)"),
    Mutant("the oldest bucket isn't lowered", "if k < head then head = k end", ""),
    # Exactly once.
    Mutant("a batch sent again counts again", "if recorded == number then", "if false then"),
    Mutant("an older batch is decided", "if number < recorded then return '\\2' end", ""),
    Mutant("what was counted isn't recorded", "if changed or resent == 1 then", "if resent == 1 then"),
    Mutant("what was resent isn't recorded unless counted", "if changed or resent == 1 then", "if changed then"),
    Mutant("everything is recorded", "if changed or resent == 1 then", "if true then"),
    Mutant("one record for all nodes", "local node, batch = ARGV[1],", "local node, batch = 'node',"),
    Mutant("the record's reserve is today's", "record_ms, record_reserve, 0\n", "record_ms, reserve, 0\n"),
    Mutant(
        "the record's time is now",
        "state, decided_ms, reserve, resent = 1, record_ms,",
        "state, decided_ms, reserve, resent = 1, now,",
    ),
    Mutant(
        "verdicts one off",
        "string.byte(record, verdicts_at + i - 1), 0",
        "string.byte(record, verdicts_at + i % #record) or 0, 0",
    ),
    Mutant("records are never forgotten", "if seen_ms < now - 2 * ttl_ms then", "if false then"),
    Mutant("records are forgotten at once", "if seen_ms < now - 2 * ttl_ms then", "if all[i] ~= node then"),
    # The clock.
    Mutant("a step back is ignored", "if now < newest * BUCKET_MS then", "if false then"),
    Mutant(
        "a step back is forgotten",
        "used_o, skew_ms, cell_r, cell_i, cell_o)\n        if older",
        "used_o, 0, cell_r, cell_i, cell_o)\n        if older",
    ),
    Mutant(
        "a step back is forgotten if nothing is counted",
        "elseif stepped then\n    call('HSET', KEYS[2], META, stepped)\n",
        "",
    ),
    Mutant("time goes on a bucket too late", "now = newest * BUCKET_MS\n", "now = newest * BUCKET_MS + BUCKET_MS\n"),
    Mutant("former steps are not added up", "now = clock_ms + skew_ms", "now = clock_ms"),
]


@pytest.fixture(scope="module")
def valkey() -> Iterator[redis.Redis]:
    """One store is enough here: it's the comparison that is tested."""
    binary = server_binary("valkey")
    assert binary
    with running_server(binary) as client:
        client.script_load(PEEK.source.decode())
        yield client


def walk_of(client: redis.Redis, make_pair: Callable[..., Pair], source: str, seed: int) -> None:
    """One walk of a script; raises where it differs from the model."""
    client.script_load(source)
    sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    pair = make_pair(client, None, width=WIDTHS[seed % len(WIDTHS)], decide_sha=sha)
    Walk(pair, seed).run(STEPS)


def caught_by(client: redis.Redis, make_pair: Callable[..., Pair], source: str) -> int | None:
    """The first walk on which a script differs from the model, breaks, or answers what can't be read."""
    for seed in range(WALKS):
        try:
            walk_of(client, make_pair, source, seed)
        except (AssertionError, redis.exceptions.ResponseError, struct.error):
            return seed
    return None


@pytest.mark.parametrize("part", range(4))
def test_the_script_itself_passes_every_walk(valkey: redis.Redis, make_pair: Callable[..., Pair], part: int) -> None:
    for seed in range(part, WALKS, 4):
        walk_of(valkey, make_pair, SOURCE, seed)


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_mutant_is_caught(valkey: redis.Redis, make_pair: Callable[..., Pair], mutant: Mutant) -> None:
    assert SOURCE.count(mutant.text) == 1, "the script has changed: the mutation no longer applies"
    source = SOURCE.replace(mutant.text, mutant.replacement)
    assert source != SOURCE
    assert caught_by(valkey, make_pair, source) is not None
