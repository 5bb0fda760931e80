"""Whether the comparison with the model would notice: small mistakes are made in the script, and each has to be caught.

Each mutant is put through seeded random walks until the first difference, beginning with one that is known to show it.
The script as it is passes them all. `quickest_walks.py` finds the walks to begin with.
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
    """A mistake: this text of the script, which occurs once, replaced by that.

    `walk`: the walk that is tried first, one that notices the mistake early. Where it no longer does, all are tried.
    """

    name: str
    text: str
    replacement: str
    walk: int = 0


SOURCE = DECIDE.source.decode()

MUTANTS = [
    # The decision.
    Mutant("one request too many", "used_r < limit_r and", "used_r <= limit_r and"),
    Mutant("one request too few", "used_r < limit_r and", "used_r + 1 < limit_r and"),
    Mutant("input is not limited", "and (used_i + a <= limit_i or a == 0)", ""),
    Mutant("output is not limited", "and (used_o + output <= limit_o or output == 0)", ""),
    Mutant("input has to stay below", "used_i + a <= limit_i", "used_i + a < limit_i", walk=52),
    Mutant("output has to stay below", "used_o + output <= limit_o", "used_o + output < limit_o", walk=16),
    Mutant("limits compare with what is used, need left out", "used_i + a <= limit_i", "used_i <= limit_i"),
    Mutant("no input has to fit, too", "used_i + a <= limit_i or a == 0", "used_i + a <= limit_i", walk=4),
    Mutant("no output has to fit, too", "used_o + output <= limit_o or output == 0", "used_o + output <= limit_o"),
    Mutant("some input fits as none does", "limit_i or a == 0", "limit_i or a <= 1"),
    Mutant("one default choice only", "output = b + c * reserve", "output = b + min(c, 1) * reserve", walk=1),
    Mutant("default choices forgotten", "output = b + c * reserve", "output = b", walk=1),
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
        "        local retry_ms = 0\n        if verdict",
        "        local retry_ms = 0\n        used_r, changed = used_r + 1, true\n        if verdict",
    ),
    # Never fits.
    Mutant("exactly the limit never fits", "elseif a > limit_i and", "elseif a >= limit_i and", walk=2),
    Mutant("the first that never fits is named", " and (output <= limit_o or limit_i <= limit_o)", ""),
    Mutant("the larger that never fits is named", "or limit_i <= limit_o)", "or limit_i >= limit_o)"),
    Mutant("of equal ones the last is named", "or limit_i <= limit_o)", "or limit_i < limit_o)"),
    Mutant("input never fits: not now", "(output <= limit_o or limit_i <= limit_o)", "limit_i <= limit_o"),
    Mutant("too much output fits some day", "elseif output > limit_o then verdict = NEVER + 3\n", ""),
    Mutant("no requests at all: not now", "if limit_r < 1 then", "if limit_r < 0 then"),
    # The window.
    Mutant("a bucket too few counts", "local oldest = bucket - width ", "local oldest = bucket - width + 1 "),
    Mutant("a bucket too many counts", "local oldest = bucket - width ", "local oldest = bucket - width - 1 "),
    Mutant(
        "a bucket expires twice",
        "groups[g] = mask > 0 and spack(MASK_FORMAT, mask) .. sub(value, from, #value - sums_size)\n",
        "groups[g] = value\n",
    ),
    Mutant(
        "expired, but not written",
        "#value - sums_size)\n                    changed_groups[g] = true",
        "#value - sums_size)",
        walk=1,
    ),
    Mutant("output doesn't expire", "used_r - r, used_i - i, used_o - o", "used_r - r, used_i - i, used_o"),
    Mutant("expiry ends too early", "if k >= oldest then break end", "if k >= oldest - 1 then break end"),
    Mutant(
        "the sums of a group outlive its oldest bucket",
        "sub(value, from, #value - sums_size)",
        "sub(value, from)",
        walk=25,
    ),
    Mutant(
        "only one group expires at a time", "for g = first, floor(newest / GROUP) do", "for g = first, first do", walk=1
    ),
    Mutant("gaps lose the oldest bucket", "head = k\n", "head = k + 1\n", walk=1),
    Mutant("an empty window keeps its sums", "used_r, used_i, used_o, cell_r, cell_i, cell_o = 0, 0, 0, 0, 0, 0\n", ""),
    Mutant("an empty window keeps its buckets", "call('DEL', KEYS[3])\n", ""),
    Mutant("an empty window is not noticed", "wiped, unread = true, -1\n", "unread = -1\n"),
    Mutant(
        "fields of former rounds are taken for new", "value = g <= unread and redis.call", "value = redis.call", walk=1
    ),
    Mutant("the ring is too short", "BUCKET_MS, GROUP, RING = 100, 24, 32", "BUCKET_MS, GROUP, RING = 100, 24, 25"),
    Mutant(
        "fields read together are taken for later ones",
        "unread - (unread - field) % RING",
        "unread + (field - unread) % RING",
        walk=5,
    ),
    Mutant("the former bucket is lost", "sub(value, CELLS_AT) .. cells end", "sub(value, CELLS_AT) end"),
    Mutant(
        "the group of the former bucket is lost",
        "groups[g], changed_groups[g] = spack(MASK_FORMAT, mask) .. cells, true",
        "groups[g] = spack(MASK_FORMAT, mask) .. cells",
    ),
    Mutant("the appended bucket is marked as its neighbour", "2 ^ (newest % GROUP)", "2 ^ ((newest + 1) % GROUP)"),
    Mutant(
        "a removed group takes the new one's field",
        "if size > 0 and call('HSET', KEYS[3], unpack(fields)) > 0 then call('PEXPIRE', KEYS[3], ttl_ms) end",
        "if size > 0 then call('HSET', KEYS[3], unpack(fields)) end\n"
        "for g in pairs(changed_groups) do if not groups[g] then call('HDEL', KEYS[3], g % RING) end end",
        walk=17,
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
    Mutant("retry forgets input", "last_i = last_i or between(2, over_i)", "last_i = last_i or -1", walk=10),
    Mutant("retry forgets output", "last_o = last_o or between(3, over_o)", "last_o = last_o or -1", walk=11),
    Mutant(
        "retry without the own request",
        "last_r = last_r or between(1, over_r)",
        "last_r = last_r or between(1, over_r - 1)",
    ),
    Mutant(
        "retry for more than is needed",
        "last_i = last_i or between(2, over_i)",
        "last_i = last_i or between(2, over_i + 1)",
        walk=28,
    ),
    Mutant(
        "of those that free together, the last is named", "if last_i > last then", "if last_i >= last then", walk=26
    ),
    Mutant(
        "the first of the group for the right one",
        "if left <= 0 then return k end",
        "if true then return g * GROUP end",
    ),
    Mutant("the first group for the right one", "while sum[low] < excess do low = low + 1 end", "", walk=2),
    Mutant("retry times of before a charge", "first_r, between = nil, nil\n                end", "end", walk=44),
    Mutant("retry times of before the bucket changed", "first_r, between = nil, nil\n        end", "end", walk=53),
    Mutant(
        "sums that a settle has not changed",
        "spack(SUMS_FORMAT, r + new_r - old_r, t + new_i - old_i, o + new_o - old_o)",
        "spack(SUMS_FORMAT, r, t, o)",
        walk=26,
    ),
    Mutant(
        "sums of all but the last bucket",
        "for from = 1, #cells, CELL_SIZE do",
        "for from = 1, #cells - CELL_SIZE, CELL_SIZE do",
        walk=26,
    ),
    Mutant("sums before a group is complete", " and floor(into / GROUP) > g then", " then", walk=10),
    # The same where the sums or the oldest bucket tell it.
    Mutant(
        "quick retry without the own request",
        "local over_r = used_r + 1 -",
        "local over_r = used_r -",
    ),
    Mutant(
        "what needs no input waits for some", "a > 0 and used_i + a - limit_i or 0", "used_i + a - limit_i", walk=20
    ),
    Mutant(
        "what needs no output waits for some",
        "output > 0 and used_o + output - limit_o or 0",
        "used_o + output - limit_o",
        walk=1,
    ),
    Mutant("quick retry forgets input", "local last_i = over_i <= 0 and -1", "local last_i = -1", walk=7),
    Mutant("quick retry forgets output", "local last_o = over_o <= 0 and -1", "local last_o = -1", walk=11),
    Mutant("the oldest bucket frees more than it has", "or over_r <= first_r and", "or over_r <= first_r + 1 and"),
    Mutant("the oldest bucket frees everything", "or over_r <= first_r and head", "or head"),
    Mutant(
        "the newest bucket is asked too early", "over_o > used_o - cell_o and", "over_o >= used_o - cell_o and", walk=16
    ),
    Mutant(
        "quick retry names the last of those that free together",
        "if last_o > last then",
        "if last_o >= last then",
        walk=12,
    ),
    Mutant("retry names the wrong one", "last, dimension = last_i, 2 end", "last = last_i end", walk=7),
    Mutant("time to full without the last bucket's kind", "if a > 0 then newest_i = bucket end", ""),
    Mutant("time to full for output that needs none", "if output > 0 then newest_o = bucket end", "newest_o = bucket"),
    Mutant("time to full of what was given back", "elseif into == newest_i then emptied = true end", "end"),
    Mutant("time to full of what was given back (output)", "elseif into == newest_o then emptied = true end", "end"),
    Mutant("time to full of what has expired", "if newest_i < oldest then newest_i = 0 end\n", "", walk=4),
    # Settling and charging.
    Mutant(
        "settled below zero",
        "local new_i, new_o = max(min(old_i + add_i, CELL_MAX), 0),",
        "local new_i, new_o = min(old_i + add_i, CELL_MAX),",
        walk=5,
    ),
    Mutant(
        "settled in another where its bucket has left",
        "if a >= head and a >= oldest and a <= newest then into = a end",
        "if a <= newest then into = max(a, head) end",
    ),
    Mutant("settled in a bucket without requests", "if kind ~= SETTLE or old_r > 0 then", "if true then", walk=2),
    Mutant(
        "settled in the sum only",
        "if into == newest then cell_r, cell_i, cell_o = new_r, new_i, new_o",
        "if into == newest then cell_r = new_r",
    ),
    Mutant(
        "settled in the current bucket", "and a <= newest then into = a end", "and a <= newest then into = newest end"
    ),
    Mutant("settled the wrong way", "add_r, add_i, add_o = -d, -b, -c end", "add_r, add_i, add_o = -d, b, c end"),
    Mutant(
        "no request is given back",
        "add_r, add_i, add_o = -d, -b, -c end",
        "add_r, add_i, add_o = 0, -b, -c end",
        walk=1,
    ),
    Mutant(
        "a settle is not remembered",
        "                changed = true\n            end",
        "                changed = changed or kind ~= SETTLE\n            end",
    ),
    Mutant(
        "settled in the wrong cell",
        "from, before = from + before % 2 * CELL_SIZE,",
        "from, before = from + CELL_SIZE,",
        walk=1,
    ),
    Mutant(
        "a charge overwrites its neighbour",
        "sub(value, CELLS_AT, from - 1), sub(value, from)",
        "sub(value, CELLS_AT, from - 1), sub(value, from + CELL_SIZE)",
    ),
    Mutant(
        "charged to a bucket that has left",
        "min(a, bucket) >= oldest then into",
        "min(a, bucket) >= oldest - 1 then into",
    ),
    Mutant("charged to the future", "then into = min(a, bucket)\n", "then into = a\n"),
    Mutant(
        "the oldest bucket isn't lowered", "changed_groups[g], head = true, min(head, into)", "changed_groups[g] = true"
    ),
    # Exactly once.
    Mutant("a batch sent again counts again", "replayed = number == recorded", "replayed = false"),
    Mutant("an older batch is decided", "if number < recorded then return '\\2' end", "", walk=1),
    Mutant("what was counted isn't recorded", "if changed or flags == 1 then", "if flags == 1 then"),
    Mutant("what was resent isn't recorded unless counted", "if changed or flags == 1 then", "if changed then"),
    Mutant("everything is recorded", "if changed or flags == 1 then", "if true then"),
    Mutant("a lost record isn't noticed", "if recorded < expected then", "if false then"),
    Mutant("only a missing record is noticed", "if recorded < expected then", "if not record and expected > 0 then"),
    Mutant("a record is taken for lost", "if recorded < expected then", "if recorded <= expected and record then"),
    Mutant("the record that is left isn't told", "spack('<I8', recorded) end", "spack('<I8', 0) end"),
    Mutant("the new record isn't told", "        recorded = number\n", ""),
    Mutant(
        "a first batch isn't told the name", "if record then return reply end", "if true then return reply end", walk=1
    ),
    Mutant("every batch is told the name", "if record then return reply end", ""),
    Mutant("one record for all nodes", "local node, batch = ARGV[1],", "local node, batch = 'node',"),
    Mutant(
        "the record's reserve is today's",
        "reserve = 1, record_ms, record_reserve end",
        "reserve = 1, record_ms, reserve end",
    ),
    Mutant(
        "the record's time is now", "reserve = 1, record_ms, record_reserve end", "reserve = 1, now, record_reserve end"
    ),
    Mutant(
        "verdicts one off",
        "string.byte(record, verdicts_at + i - 1) or 0",
        "string.byte(record, verdicts_at + i % operations) or 0",
    ),
    Mutant(
        "verdicts of what was done are left out",
        "verdicts[i] or 0, results[i] or DONE end",
        "verdicts[i] or 1, results[i] or DONE end",
        walk=8,
    ),
    Mutant("records are never forgotten", "if seen_ms < now - 2 * ttl_ms then", "if false then"),
    Mutant("records are forgotten at once", "if seen_ms < now - 2 * ttl_ms then", "if all[i] ~= node then"),
    # The clock.
    Mutant("a step back is ignored", "if now < newest * BUCKET_MS then", "if false then"),
    Mutant(
        "a step back is forgotten",
        "used_o, skew_ms, cell_r, cell_i, cell_o)\n        local fields",
        "used_o, 0, cell_r, cell_i, cell_o)\n        local fields",
    ),
    Mutant(
        "a step back is forgotten if nothing is counted",
        "local meta, remembered = stepped, nil",
        "local meta, remembered",
    ),
    Mutant(
        "a step back is forgotten if answered from the record",
        "if stepped then call('HSET', KEYS[2], META, stepped, node, record) else",
        "if false then else",
        walk=16,
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


def walk_of(client: redis.Redis, make_pair: Callable[..., Pair], source: str, seed: int) -> Walk:
    """Return a walk of a script, at its beginning."""
    client.script_load(source)
    sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    return Walk(make_pair(client, None, width=WIDTHS[seed % len(WIDTHS)], decide_sha=sha), seed)


def first_difference(walk: Walk, steps: int) -> int | None:
    """Return the step on which a script differs from the model, breaks, or answers what can't be read."""
    for step in range(steps):
        try:
            walk.run(1)
        except (AssertionError, redis.exceptions.ResponseError, struct.error):
            return step
    return None


@pytest.mark.parametrize("part", range(4))
def test_the_script_itself_passes_every_walk(valkey: redis.Redis, make_pair: Callable[..., Pair], part: int) -> None:
    for seed in range(part, WALKS, 4):
        walk_of(valkey, make_pair, SOURCE, seed).run(STEPS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_mutant_is_caught(valkey: redis.Redis, make_pair: Callable[..., Pair], mutant: Mutant) -> None:
    assert SOURCE.count(mutant.text) == 1, "the script has changed: the mutation no longer applies"
    source = SOURCE.replace(mutant.text, mutant.replacement)
    assert source != SOURCE
    walks = (walk_of(valkey, make_pair, source, seed) for seed in (mutant.walk, *range(WALKS)))
    assert any(first_difference(walk, STEPS) is not None for walk in walks), "no walk notices the mistake"
