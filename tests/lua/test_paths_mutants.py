"""Whether the comparison with the model would notice mistakes in the script of paths: each of these has to be caught.

Each mutant is put through seeded random walks until the first difference, beginning with one that is known to show it.
The script as it is passes them all. After a change of the script, ``python tests/lua/quickest_walks.py`` finds the
walks to begin with again: without it the tests take minutes more.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import redis
from paths_driver import DECIDE_PATHS, PEEK_PATHS
from paths_pair import PathsPair
from paths_walk import PathsWalk
from script_driver import running_server, server_binary

WALKS, STEPS = 150, 60


class Mutant(NamedTuple):
    """A mistake: this text of the script, which occurs once, replaced by that.

    `walk`: the walk that is tried first, one that notices the mistake early. Where it no longer does, all are tried.
    """

    name: str
    text: str
    replacement: str
    walk: int = 0


SOURCE = DECIDE_PATHS.source.decode()

MUTANTS = [
    # Policies, per operation.
    Mutant("an unknown account is not told", "if not policies[1] and not has_left then return '\\3' end", "", walk=28),
    Mutant("the account's version is not compared", "if version ~= policies[1] then path", "if false then path"),
    Mutant(
        "the key's version is not compared", "elseif of_key ~= sub(batch, from, from + 7) then", "elseif false then"
    ),
    Mutant("the first key's version for all", "versions_at + 8 * (k - 1)", "versions_at"),
    Mutant(
        "a deleted key goes on",
        "if not of_key then path[VERDICT] = UNKNOWN_KEY",
        "if not of_key then path[VERDICT] = 0",
        walk=7,
    ),
    Mutant(
        "a deleted key is an old one",
        "if not of_key then path[VERDICT] = UNKNOWN_KEY",
        "if not of_key then path[VERDICT] = OLD_POLICY",
        walk=27,
    ),
    Mutant(
        "settles and charges need the present policy",
        "and paths[p]\n            add_r",
        "and paths[p][VERDICT] == 0 and paths[p]\n            add_r",
    ),
    Mutant("the account's policy is told for a key's", "told_old[on[WHOSE]] = true", "told_old[0] = true"),
    Mutant("policies are told that didn't refuse", "told_old = told_old or {}\n", "told_old = { [0] = true }\n"),
    Mutant(
        "policies are told again on a replay, old or not",
        "elseif verdict == OLD_POLICY and on[VERDICT] == OLD_POLICY then",
        "elseif verdict == OLD_POLICY then",
        walk=69,
    ),
    # The end of a credential, in the usual call and by the general rules.
    Mutant(
        "the usual call admits after the end",
        "count == window_count and (ends_ms == 0 or ends_ms > clock_ms)",
        "count == window_count",
        walk=8,
    ),
    Mutant(
        "the usual call admits at the end",
        "(ends_ms == 0 or ends_ms > clock_ms)",
        "(ends_ms == 0 or ends_ms >= clock_ms)",
        walk=23,
    ),
    Mutant(
        "the end is ignored",
        "path[VERDICT] == 0 then path[VERDICT] = ENDED",
        "false then path[VERDICT] = ENDED",
        walk=1,
    ),
    Mutant(
        "admitted at the end",
        "ends_ms > 0 and ends_ms <= clock_ms and",
        "ends_ms > 0 and ends_ms < clock_ms and",
        walk=2,
    ),
    Mutant(
        "ended by the account's clock",
        "ends_ms > 0 and ends_ms <= clock_ms and",
        "ends_ms > 0 and ends_ms <= now and",
        walk=4,
    ),
    Mutant("no end is an end", "if ends_ms > 0 and ends_ms <= clock_ms", "if ends_ms <= clock_ms"),
    Mutant(
        "the end hides an old policy",
        "ends_ms <= clock_ms and path[VERDICT] == 0 then",
        "ends_ms <= clock_ms then",
        walk=1,
    ),
    # Keys that have moved away.
    Mutant(
        "what a lost key had counted is taken for moved",
        "not policies[k + 1] and call('HEXISTS', KEYS[1], 'f:' .. ARGV[k + 2]) == 1 then",
        "not policies[k + 1] then",
        walk=71,
    ),
    Mutant(
        "a moved key counts here, too",
        "other_count > 0 and k > 0 and not policies[k + 1]",
        "false and not policies[k + 1]",
        walk=39,
    ),
    # Exactly once.
    Mutant("a batch sent again counts again", "replayed = number == recorded", "replayed = false"),
    Mutant("an older batch is decided", "if number < recorded then return '\\2' end", "", walk=2),
    Mutant("a lost record isn't noticed", "if recorded < expected then", "if false then", walk=3),
    Mutant(
        "only a missing record is noticed", "if recorded < expected then", "if not record and expected > 0 then", walk=3
    ),
    Mutant("a record is taken for lost", "if recorded < expected then", "if recorded <= expected and record then"),
    Mutant(
        "the record that is left isn't told",
        "return '\\4' .. spack('<I8', recorded)",
        "return '\\4' .. spack('<I8', 0)",
        walk=3,
    ),
    Mutant(
        "what was counted isn't recorded", "not replayed and (changed or flags == 1)", "not replayed and flags == 1"
    ),
    Mutant(
        "what was resent isn't recorded unless counted",
        "not replayed and (changed or flags == 1)",
        "not replayed and changed",
    ),
    Mutant("everything is recorded", "not replayed and (changed or flags == 1)", "not replayed"),
    Mutant("the new record isn't told", "            recorded = number\n", ""),
    Mutant("one record for all nodes", "local node, batch = ARGV[1],", "local node, batch = 'all-same',"),
    Mutant("the record's time is now", "replayed and record_ms or now", "now", walk=2),
    Mutant("a settle of a replay counts again", "counted = not replayed and (kind", "counted = (kind", walk=2),
    Mutant(
        "a replay decides again",
        "            if replayed then\n                local from = VERD",
        "            if false then\n                local from = VERD",
    ),
    Mutant(
        "recorded verdicts one off", "VERDICTS_AT + 2 * (i - other_count - 1)", "VERDICTS_AT + 2 * (i - other_count)"
    ),
    Mutant("the window isn't recorded", "or 0, places and places[i] or 0)", "or 0, 0)"),
    Mutant(
        "a replay names today's window",
        "if not replayed then verdicts[i], places[i] = unit",
        "if true then verdicts[i], places[i] = unit",
        walk=75,
    ),
    Mutant(
        "what never fits is found on replay, too",
        "if need > limit and not replayed then",
        "if need > limit then",
        walk=88,
    ),
    Mutant("records are never forgotten", "if seen_ms >= now - 2 * life_ms then", "if true then", walk=46),
    Mutant(
        "records are forgotten after one life",
        "if seen_ms >= now - 2 * life_ms then",
        "if seen_ms >= now - life_ms then",
        walk=18,
    ),
    Mutant(
        "records of long windows are forgotten early",
        "life_ms = max(life_ms, (windows[k]",
        "life_ms = max(life_ms, 0 * (windows[k]",
        walk=46,
    ),
    Mutant("forgotten in the list only", "elseif other then call('HDEL', KEYS[2], some[i]) end", "end", walk=46),
    Mutant("a node's name is lost", "kept[#kept + 1] = some[i]\n", "kept[1] = node\n"),
    Mutant("a node is listed at each batch", "if is_recorded and not record then", "if is_recorded then", walk=13),
    # The clock.
    Mutant("a step back is ignored", "if now < last_ms or now < latest_ms then", "if false then", walk=2),
    Mutant("the last tick is ignored", "if now < last_ms or now < latest_ms then", "if now < latest_ms then", walk=2),
    Mutant(
        "windows newer than the clock are ignored",
        "if now < last_ms or now < latest_ms then",
        "if now < last_ms then",
        walk=9,
    ),
    Mutant("time goes on from the last tick only", "now = max(last_ms, latest_ms)\n", "now = last_ms\n", walk=9),
    Mutant("time goes on from the windows only", "now = max(last_ms, latest_ms)\n", "now = latest_ms\n", walk=2),
    Mutant(
        "former steps are not added up",
        "local now, tick_ms = clock_ms + skew_ms, last_ms",
        "local now, tick_ms = clock_ms, last_ms",
        walk=4,
    ),
    Mutant(
        "a step back is forgotten if nothing is counted",
        "skew_ms, stepped = now - clock_ms, true",
        "skew_ms = now - clock_ms",
        walk=4,
    ),
    Mutant("the step is forgotten", "spack(CLOCK_FORMAT, last_ms, skew_ms)", "spack(CLOCK_FORMAT, last_ms, 0)", walk=4),
    Mutant("the clock is stored to the ms", "\nlast_ms = now - now % TICK_MS", "\nlast_ms = now", walk=4),
    Mutant("the tick isn't stored", "(changed or expired) and last_ms > tick_ms then", "false then", walk=2),
    Mutant(
        "the tick isn't stored where only old buckets leave",
        "not replayed and (changed or expired)",
        "not replayed and changed",
        walk=59,
    ),
    Mutant(
        "the newest of the last window only",
        "if newest * bucket_ms > latest_ms then latest_ms",
        "if true then latest_ms",
        walk=9,
    ),
    # The window.
    Mutant(
        "a bucket too few counts",
        "local oldest, newest, head = bucket - w[WIDTH],",
        "local oldest, newest, head = bucket - w[WIDTH] + 1,",
        walk=3,
    ),
    Mutant(
        "a bucket too many counts",
        "local oldest, newest, head = bucket - w[WIDTH],",
        "local oldest, newest, head = bucket - w[WIDTH] - 1,",
        walk=2,
    ),
    Mutant("all windows have the first one's buckets", "if w[BUCKET_MS] ~= of_ms then", "if of_ms == 0 then", walk=1),
    Mutant(
        "only the first window expires",
        "    elseif head < oldest and newest > 0 then",
        "    elseif k == 1 and head < oldest and newest > 0 then",
        walk=1,
    ),
    Mutant(
        "an empty window keeps its sums",
        "for slot = HEAD, READABLE do w[slot] = 0 end",
        "for slot = HEAD, NEWEST do w[slot] = 0 end",
        walk=2,
    ),
    Mutant("an empty window keeps its groups", "if w[GONE_FROM] then", "if false then", walk=11),
    Mutant(
        "an empty window keeps its last group",
        "for g = w[GONE_FROM], w[GONE_TO] do",
        "for g = w[GONE_FROM], w[GONE_TO] - 1 do",
        walk=2,
    ),
    Mutant(
        "the sums of a group that leaves only in part",
        "if (g + 1) * 24 <= oldest and from == 5",
        "if g * 24 <= oldest and from == 5",
        walk=41,
    ),
    Mutant(
        "output doesn't expire",
        "sum_r + r, sum_i + i, sum_o + o\n        end\n        b,",
        "sum_r + r, sum_i + i, sum_o\n        end\n        b,",
    ),
    Mutant("output doesn't expire with its group", "return r, i, o, nil\n", "return r, i, 0, nil\n", walk=113),
    Mutant("the sums of a group outlive its oldest bucket", "<= oldest and from == 5 and", "<= oldest and", walk=94),
    Mutant(
        "the oldest bucket of a wide group is searched as in a narrow one",
        "local from, bit_ = cell_at(mask, b % 24, size)",
        "local from, bit_ = cell_at(mask, b % 24, 12)",
        walk=109,
    ),
    Mutant(
        "expired, but the group isn't written",
        "                w[GROUPS][g], w[TOUCHED][g] = false, true\n",
        "                w[GROUPS][g] = false\n",
        walk=47,
    ),
    Mutant("expired, but the meta isn't written", "w[CHANGED], expired = true, true", "expired = true", walk=12),
    Mutant(
        "sums count what has left of the oldest group",
        "if sums_size > 0 and from == CELLS_AT then",
        "if sums_size > 0 then",
        walk=149,
    ),
    Mutant(
        "the oldest group's first cell is taken for the oldest bucket",
        "sunpack(format, value, head_at)",
        "sunpack(format, value, CELLS_AT)",
        walk=143,
    ),
    Mutant(
        "what frees is searched from the oldest group's first cell",
        "= floor(mask / 2 ^ (head % GROUP)), head, head_at",
        "= mask, b, from",
        walk=22,
    ),
    Mutant(
        "a dense group's cells are one off",
        "return from + nth * size end",
        "return from + math.max(nth - 1, 0) * size end",
        walk=60,
    ),
    Mutant("gaps lose the oldest bucket", "head = stays or newest", "head = stays and stays + 1 or newest"),
    Mutant("expiry ends too early", "if b >= oldest then return", "if b >= oldest - 1 then return", walk=12),
    Mutant("fields of former rounds are taken for new", "value = g <= floor(w[READABLE] / 24) and", "value =", walk=65),
    Mutant(
        "the ring is too short",
        "char(g % RING)\n                        if value",
        "char(g % 25)\n                        if value",
    ),
    Mutant(
        "a removed group takes the new one's field",
        "if gone then call('HDEL', key, unpack(gone, 1, gone_size)) end",
        "if gone then call('HSET', key, unpack(fields, 1, size)) size = 0\n"
        "call('HDEL', key, unpack(gone, 1, gone_size)) end",
        walk=2,
    ),
    Mutant("newest input of what has expired", "if w[NEWEST_I] < oldest then w[NEWEST_I] = 0 end\n", "", walk=59),
    Mutant("newest requests of what has expired", "if w[NEWEST_R] < oldest then w[NEWEST_R] = 0 end\n", "", walk=28),
    # The decision: all or nothing, each unit of each window.
    Mutant(
        "only the first window decides", "for j = FIRST, #path do\n", "for j = FIRST, min(#path, FIRST) do\n", walk=3
    ),
    Mutant("the last window doesn't decide", "for j = FIRST, #path do\n", "for j = FIRST, #path - 1 do\n"),
    Mutant(
        "the last window doesn't count",
        "for j = FIRST, counted and #counted or 0 do",
        "for j = FIRST, counted and #counted - 1 or 0 do",
    ),
    Mutant("requests are not limited", "if r < room_r then", "if false then", walk=4),
    Mutant("input is not limited", "if t < room_i then", "if false then"),
    Mutant("output is not limited", "if o < room_o then", "if false then"),
    Mutant("tokens are not limited", "if both < room_t then", "if false then"),
    Mutant("tokens are input only", "w[LIMIT_T] - used_i - used_o", "w[LIMIT_T] - used_i", walk=4),
    Mutant(
        "one request too few", "if room_r > 0 and (input <= room_i or", "if room_r > 1 and (input <= room_i or", walk=6
    ),
    Mutant(
        "one request too many",
        "if room_r > 0 and (input <= room_i or",
        "if room_r >= 0 and (input <= room_i or",
        walk=6,
    ),
    Mutant("input has to stay below", "(input <= room_i or", "(input < room_i or", walk=14),
    Mutant("output has to stay below", "(output <= room_o or", "(output < room_o or", walk=13),
    Mutant("tokens have to stay below", "(input + output <= room_t or", "(input + output < room_t or", walk=14),
    Mutant("no input has to fit, too", "(input <= room_i or input == 0)", "(input <= room_i)", walk=16),
    Mutant("no output has to fit, too", "(output <= room_o or output == 0)", "(output <= room_o)", walk=59),
    Mutant(
        "no tokens have to fit, too",
        "(input + output <= room_t or input + output == 0)",
        "(input + output <= room_t)",
        walk=16,
    ),
    Mutant("no tokens fit if there is no input", "or input + output == 0)", "or input == 0)", walk=4),
    Mutant("a row of admits goes on for ever", "if p == current and room_r > 0 and", "if p == current and", walk=6),
    Mutant(
        "a row of admits has one too many",
        "if p == current and room_r > 0 and",
        "if p == current and room_r >= 0 and",
        walk=6,
    ),
    Mutant(
        "a row of admits isn't limited by tokens",
        "output <= room_o and input + output <= room_t then",
        "output <= room_o then",
    ),
    Mutant(
        "a row of admits uses no room",
        "row_r + 1, row_i + input, row_o + output\n        room_r, room_i, room_o, room_t = "
        "room_r - 1, room_i - input, room_o - output, room_t - input - output",
        "row_r + 1, row_i + input, row_o + output",
        walk=2,
    ),
    Mutant(
        "a row begins without using room",
        "row_r, row_i, row_o = 1, input, output\n                    room_r, room_i, room_o, room_t = "
        "room_r - 1, room_i - input, room_o - output, room_t - input - output",
        "row_r, row_i, row_o = 1, input, output",
        walk=6,
    ),
    Mutant(
        "a row is counted as one request",
        "row_r, row_i, row_o = row_r + 1, row_i + input,",
        "row_r, row_i, row_o = 1, row_i + input,",
    ),
    Mutant("a row is counted twice", "counted = path\n            row_r, row_i, row_o = 0, 0, 0", "counted = path"),
    Mutant(
        "the room of the former path",
        "                if p ~= current then\n",
        "                if current == 0 then\n",
    ),
    Mutant("the last row isn't counted", "for i = 1, operations + 1 do", "for i = 1, operations do"),
    Mutant(
        "rejected ones count, too",
        "else verdict = 1 end -- or",
        "else verdict, row_r, current, path = 1, 1, p, paths[p] end -- or",
    ),
    # Never fits.
    Mutant(
        "exactly the limit never fits",
        "if need > limit and not replayed then",
        "if need >= limit and not replayed then",
        walk=2,
    ),
    Mutant("what never fits waits", "if need > limit and not replayed then", "if false then"),
    Mutant(
        "the first limit that it is above is named",
        "if not smallest or limit < smallest then",
        "if not smallest then",
        walk=3,
    ),
    Mutant(
        "the largest limit that it is above is named",
        "if not smallest or limit < smallest then",
        "if not smallest or limit > smallest then",
    ),
    Mutant(
        "the last of equal limits is named",
        "if not smallest or limit < smallest then",
        "if not smallest or limit <= smallest then",
        walk=2,
    ),
    Mutant(
        "a window that frees is named for what never fits",
        "local is_searched = verdicts[i] < NEVER and",
        "local is_searched =",
        walk=3,
    ),
    Mutant(
        "the place in the path for the window's number",
        "NEVER + unit, byte(batch, on[NUMBERS] + j - FIRST)",
        "NEVER + unit, j - FIRST + 1",
        walk=2,
    ),
    # Retry times.
    Mutant(
        "the place in the path for the number of the window that frees",
        "over, byte(batch, on[NUMBERS] + j - FIRST), until_ms }",
        "over, j - FIRST + 1, until_ms }",
        walk=2,
    ),
    Mutant("retry a bucket early", "local retry_ms = (last + w[WIDTH] + 1)", "local retry_ms = (last + w[WIDTH])"),
    Mutant("retry a bucket late", "local retry_ms = (last + w[WIDTH] + 1)", "local retry_ms = (last + w[WIDTH] + 2)"),
    Mutant("retry at the tick, not to the ms", "* w[BUCKET_MS] - now\n    if", "* w[BUCKET_MS] - last_ms\n    if"),
    Mutant(
        "the limit that frees first is named",
        "and (retry_ms > retries[i] or",
        "and (retries[i] == 0 or retry_ms < retries[i] or",
        walk=4,
    ),
    Mutant(
        "of those that free together the last is named",
        "and (retry_ms > retries[i] or",
        "and (retry_ms >= retries[i] or",
        walk=2,
    ),
    Mutant(
        "retry without the own need",
        "w[USED_I] + w[USED_O]) + need - limit\n",
        "w[USED_I] + w[USED_O]) + min(need, 1) - limit\n",
    ),
    Mutant("what needs nothing waits", "elseif over > 0 and need > 0 and", "elseif over > 0 and", walk=4),
    Mutant("what just fits waits", "elseif over > 0 and need > 0 and", "elseif over >= 0 and need > 0 and", walk=15),
    Mutant(
        "the newest bucket is asked too early",
        "and over <= before_newest then",
        "and over < before_newest then",
        walk=13,
    ),
    Mutant("the oldest bucket frees everything", "then last = head\n", "or true then last = head\n"),
    Mutant(
        "the oldest bucket frees more than it has",
        "if over <= (unit == 1 and r",
        "if over <= 1 + (unit == 1 and r",
        walk=16,
    ),
    Mutant("the first group for the right one", "while g < size and sum[g] < over do g = g + 1 end", "", walk=3),
    Mutant(
        "a group frees just less than it holds",
        "while g < size and sum[g] < over do",
        "while g < size and sum[g] <= over do",
        walk=59,
    ),
    Mutant("the end of the group for the right bucket", "while left > 0 and mask > 0 do", "while mask > 0 do", walk=3),
    Mutant(
        "tokens free with their input",
        "sums[4][size] = sum_r, sum_i, sum_o, sum_i + sum_o",
        "sums[4][size] = sum_r, sum_i, sum_o, sum_i",
        walk=4,
    ),
    Mutant(
        "sums that a charge has not changed",
        "spack(SUMS_FORMAT, sum_r + r, sum_i + t, sum_o + o)",
        "spack(SUMS_FORMAT, sum_r, sum_i, sum_o)",
        walk=45,
    ),
    Mutant(
        "sums before a group is complete",
        "if #cells >= 6 * size and math.floor(into / 24) > math.floor(newest / 24) then",
        "if #cells >= 6 * size then",
        walk=6,
    ),
    Mutant("sums of all but the last bucket", "for _ = 1, #cells / size do", "for _ = 1, #cells / size - 1 do", walk=6),
    # Counting, settling, charging.
    Mutant("input isn't counted in the bucket", "cell_r + r, w[CELL_I] + add_i,", "cell_r + r, w[CELL_I],"),
    Mutant("requests aren't counted in the sum", "w[USED_R] + r, w[USED_I] + add_i,", "w[USED_R], w[USED_I] + add_i,"),
    Mutant("newest input without any", "if add_i > 0 then w[NEWEST_I] = into end", "w[NEWEST_I] = into", walk=2),
    Mutant("newest output isn't told", "if add_o > 0 then w[NEWEST_O] = into end", ""),
    Mutant(
        "settled below zero",
        "local t = max(min(add_i, AMOUNT_MAX - w[USED_I]), -old_i)",
        "local t = min(add_i, AMOUNT_MAX - w[USED_I])",
        walk=4,
    ),
    Mutant(
        "settled in the first window only",
        "for j = FIRST, counted and #counted or 0 do",
        "for j = FIRST, counted and (kind == SETTLE and min(#counted, FIRST) or #counted) or 0 do",
        walk=9,
    ),
    Mutant(
        "settled twice",
        "if kind == SETTLE then add_r, add_i, add_o = -requests, -input, -output end",
        "if kind == SETTLE then add_r, add_i, add_o = -requests, -2 * input, -2 * output end",
        walk=2,
    ),
    Mutant(
        "settled the wrong way",
        "add_r, add_i, add_o = -requests, -input, -output end",
        "add_r, add_i, add_o = -requests, input, output end",
        walk=2,
    ),
    Mutant(
        "no request is given back",
        "add_r, add_i, add_o = -requests, -input, -output end",
        "add_r, add_i, add_o = 0, -input, -output end",
        walk=4,
    ),
    Mutant(
        "settled in another bucket where its own has left",
        "elseif into < w[HEAD] or into > newest then into = 0 end",
        "elseif into < w[HEAD] then into = w[HEAD] elseif into > newest then into = 0 end",
        walk=2,
    ),
    Mutant(
        "settled in a bucket later than the newest",
        "elseif into < w[HEAD] or into > newest then into = 0 end",
        "elseif into < w[HEAD] then into = 0 elseif into > newest then into = newest end",
        walk=15,
    ),
    Mutant(
        "settled in the current bucket",
        "into = floor(time_ms / w[BUCKET_MS])\n",
        "into = kind == SETTLE and current_bucket or floor(time_ms / w[BUCKET_MS])\n",
        walk=2,
    ),
    Mutant(
        "settled by the first window's buckets",
        "into = floor(time_ms / w[BUCKET_MS])\n",
        "into = floor(time_ms / counted[FIRST][BUCKET_MS])\n",
        walk=3,
    ),
    Mutant("settled in a bucket without requests", "if kind == CHARGE or old_r > 0 then", "if true then", walk=16),
    Mutant("charged only where there is something", "if kind == CHARGE or old_r > 0 then", "if old_r > 0 then"),
    Mutant(
        "a settle is not remembered",
        "w[CHANGED], changed = true, true\n                end",
        "w[CHANGED], changed = true, changed or kind == CHARGE\n                end",
        walk=2,
    ),
    Mutant(
        "a charge of nothing counts",
        "(kind == SETTLE or requests ~= 0 or input ~= 0 or output ~= 0) and",
        "true and",
        walk=65,
    ),
    Mutant("a charge without requests is lost", "or requests ~= 0 or input ~= 0 or output ~= 0)", "or requests ~= 0)"),
    Mutant(
        "charged to the future",
        "if kind == CHARGE then into = min(into, current_bucket)",
        "if kind == CHARGE then into = into",
        walk=5,
    ),
    Mutant(
        "charged to a bucket that has left",
        "if into < oldest then into = 0 end",
        "if into < oldest - 1 then into = 0 end",
        walk=2,
    ),
    Mutant(
        "charged to the oldest bucket, which still counts: lost",
        "if into < oldest then into = 0 end",
        "if into <= oldest then into = 0 end",
    ),
    Mutant("all buckets before it are taken to be in use", "if before == bit_ - 1 then", "if true then"),
    Mutant("settled in the wrong cell", "from, before = from + odd * size,", "from, before = from + size,", walk=3),
    Mutant("a charge overwrites its neighbour", "is_present and from + size or from)", "from + size)", walk=3),
    Mutant("the oldest bucket isn't lowered", "true, min(w[HEAD], into)", "true, w[HEAD]"),
    Mutant(
        "newest input of what was given back", "elseif into == w[NEWEST_I] then w[EMPTIED] = true end", "end", walk=4
    ),
    Mutant(
        "newest output of what was given back", "elseif into == w[NEWEST_O] then w[EMPTIED] = true end", "end", walk=9
    ),
    Mutant(
        "newest requests of what was given back",
        "elseif into == w[NEWEST_R] then w[EMPTIED] = true end",
        "end",
        walk=13,
    ),
    Mutant("newest searched for in one group only", "if found then break end\n", "break\n", walk=6),
    # Wide amounts.
    Mutant("wide cells are lost when the bucket changes", "(i > 4294967295 or o > 4294967295) and 1 or 0", "0"),
    Mutant(
        "wide output is lost when the bucket changes",
        "(i > 4294967295 or o > 4294967295) and 1 or 0",
        "i > 4294967295 and 1 or 0",
        walk=7,
    ),
    Mutant(
        "narrow neighbours of a wide cell are not widened",
        "if has_kind < kind then cells = widen(cells) else",
        "if has_kind < kind then else",
        walk=13,
    ),
    Mutant("a narrow cell in a wide group", "else kind = has_kind end", "end"),
    Mutant(
        "wide charges in older buckets are lost",
        "if kind_of_group == 0 and (new_i > NARROW_MAX or new_o > NARROW_MAX) then",
        "if false then",
        walk=7,
    ),
    Mutant(
        "wide from one token too late",
        "new_i > NARROW_MAX or new_o > NARROW_MAX) then",
        "new_i > NARROW_MAX + 1 or new_o > NARROW_MAX + 1) then",
        walk=17,
    ),
    Mutant(
        "cells after a wide one are not widened", "widen(before), widen(after), 1", "widen(before), after, 1", walk=130
    ),
    # Retry times: which windows are searched.
    Mutant(
        "the window that is looked at first is named",
        "or retry_ms == retries[i] and n < (named[i] or 0)) then",
        ") then",
        walk=13,
    ),
    Mutant(
        "only what can take longest is searched", "for n = 1, 2 * wait_count do", "for n = 1, wait_count do", walk=13
    ),
    # The usual call.
    Mutant(
        "usual: an old policy",
        "record and not replayed and version == policies[1] then",
        "record and not replayed then",
        walk=140,
    ),
    Mutant("usual: a batch sent again", "and record and not replayed and version", "and record and version", walk=36),
    Mutant(
        "usual: an old policy of the key",
        "and (of_key == 0 or policies[of_key + 1] == sub(batch, from, from + 7))",
        "",
        walk=53,
    ),
    Mutant("usual: nothing is counted, but recorded", "local fits = admit_count > 0 and count > 0 and", "local fits ="),
    Mutant("usual: settles are left out", "path_count == 1 and other_count == 0\n", "path_count == 1\n", walk=76),
    Mutant("usual: requests are not limited", "cell_r <= REQUESTS_MAX and used_r <= limit_r and", "true and", walk=11),
    Mutant("usual: input is not limited", "and (used_i <= limit_i or add_i == 0)", "", walk=42),
    Mutant("usual: output is not limited", "and (used_o <= limit_o or add_o == 0)", "", walk=92),
    Mutant("usual: tokens are not limited", "and (used_i + used_o <= limit_t or add_i + add_o == 0)", "", walk=14),
    Mutant("usual: the clock isn't stored", "spack(CLOCK_FORMAT, new_last_ms, skew_ms), 4", "clock, 4", walk=74),
    Mutant(
        "usual: the former bucket is lost",
        "append(groups[i + 1], newest, bucket,",
        "append(false, newest, bucket,",
        walk=8,
    ),
    Mutant(
        "usual: the next group stays whole",
        "r, t, o, stays = leave(following,",
        "r, t, o, stays = 0, 0, 0, g * 24 + 24 or leave(",
        walk=25,
    ),
    Mutant("usual: a group that has left stays", "if leavers[h] then", "if false then", walk=72),
    Mutant("usual: the oldest bucket isn't raised", "                head = stays\n", "", walk=79),
    Mutant("usual: newest input of what has expired", "if newest_i < oldest then newest_i = 0 end\n", "", walk=49),
    Mutant("usual: newest input without any", "if add_i > 0 then newest_i = bucket end", "newest_i = bucket", walk=8),
    Mutant("usual: newest output isn't told", "if add_o > 0 then newest_o = bucket end", "", walk=1),
    Mutant("usual: newest requests aren't told", "            newest_r = bucket\n", "", walk=1),
    Mutant("usual: the hash's life isn't prolonged", "if ttls_ms[h] > 0 then", "if false then", walk=23),
    Mutant(
        "usual: the hash's life is too short",
        "ttls_ms[1], ttls_ms[h] = max(ttls_ms[1], life_ms), max(ttls_ms[h] or 0, life_ms)",
        "",
        walk=92,
    ),
    Mutant(
        "usual: one record for all numbers",
        "spack(RECORD_FORMAT, number, now), 2\n            if new_last",
        "record, 2\n            if new_last",
        walk=1,
    ),
    # Writing.
    Mutant(
        "only the shared hash is written",
        "if size > 0 then call('HSET', key, unpack(fields, 1, size)) end",
        "if size > 0 and h == 2 then call('HSET', key, unpack(fields, 1, size)) end",
    ),
    Mutant(
        "windows of keys are stored in the shared hash",
        "if size > 0 then call('HSET', key, unpack(fields, 1, size)) end",
        "if size > 0 then call('HSET', KEYS[2], unpack(fields, 1, size)) end",
    ),
    Mutant("a key's hash is never refreshed", "if ttl_ms > 0 and h > 2 then", "if false then"),
    Mutant(
        "a shorter window shortens the hash's life",
        "if redis.call('PEXPIRE', key, ttl_ms, 'GT') == 0 then redis.call('PEXPIRE', key, ttl_ms, 'NX') end",
        "redis.call('PEXPIRE', key, ttl_ms)",
        walk=3,
    ),
    Mutant("the shared hash is never refreshed", "if shared_ttl_ms > 0 then", "if false then"),
    Mutant(
        "a life of one bucket too few, and no slack",
        "local life_ms = (w[WIDTH] + 1 + TTL_STEP) * w[BUCKET_MS] + TTL_SLACK_MS",
        "local life_ms = w[WIDTH] * w[BUCKET_MS]",
    ),
]


@pytest.fixture(scope="module")
def valkey() -> Iterator[redis.Redis]:
    """One store is enough here: it's the comparison that is tested."""
    binary = server_binary("valkey")
    assert binary
    with running_server(binary) as client:
        client.script_load(PEEK_PATHS.source.decode())
        yield client


def walk_of(client: redis.Redis, make_paths_pair: Callable[..., PathsPair], source: str, seed: int) -> PathsWalk:
    """Return a walk of a script, at its beginning."""
    client.script_load(source)
    sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    return PathsWalk(make_paths_pair(client, decide_sha=sha), seed)


def first_difference(walk: PathsWalk, steps: int) -> int | None:
    """Return the step on which a script differs from the model, breaks, or answers what can't be read."""
    for step in range(steps):
        try:
            walk.run(1)
        except (AssertionError, redis.exceptions.ResponseError, struct.error, IndexError):
            return step
    return None


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_mutant_is_caught(valkey: redis.Redis, make_paths_pair: Callable[..., PathsPair], mutant: Mutant) -> None:
    assert SOURCE.count(mutant.text) == 1, "the script has changed: the mutation no longer applies"
    source = SOURCE.replace(mutant.text, mutant.replacement)
    assert source != SOURCE
    for seed in (mutant.walk, *range(WALKS)):
        step = first_difference(walk_of(valkey, make_paths_pair, source, seed), STEPS)
        if step is not None:
            # The script itself takes the same steps without a difference: else that walk would show nothing.
            walk_of(valkey, make_paths_pair, SOURCE, seed).run(step + 1)
            return
    pytest.fail("no walk notices the mistake")
