#!lua
-- Decides a batch of operations on one API key: admit, settle, charge.
--
-- Guarantee: the operations are decided in order, each as if it had come alone; all of them or, on an error, none take
-- effect; a batch sent again under its number (retry after a lost reply) is answered from the record, never applied twice.
-- The window counts the buckets b-W .. b of 100 ms, b being the current one, so that everything admitted in the last
-- W*100 ms counts and nothing older than (W+1)*100 ms does.
--
-- KEYS  1 rl:{kid}:limits   string, read: the limits and the key's name
--       2 rl:{kid}:window   hash: the sums, the newest bucket, each node's last batch
--       3 rl:{kid}:past    hash: the older buckets (layouts in README.md of this folder)
-- ARGV  1 node    id of the calling process, new at each start
--       2 batch   packed, little endian: I8 number (rises with every batch of the node), I1 flags: 1 = sent before,
--                 I8 the lowest number that the node's record can have, by this script's last reply (0 = none),
--                 I2 W, I8 clock in ms (0 = this server's; tests set it), then per operation I1 kind and 4 × i8:
--                   1 admit   input, output, choices, -        reserves output + choices × output_reserve
--                   2 settle  bucket, input, output, requests  gives back a part of an earlier admit (negative: adds)
--                   3 charge  bucket, requests, input, output  counts usage admitted elsewhere, limit or not
-- Reply packed, little endian: I1 state (0 decided, 1 answered from the record, 2 number too old, 3 no such key,
--       4 the store has lost what it had counted: nothing was decided);
--       for 0 and 1 also: I8 time in ms, I8 number of the node's record after this batch (0 = none; it lives for W and
--       20 s longer), then for requests/input/output 3 × I4 limits, 3 × I4 used after the batch,
--       3 × I2 age in buckets of the newest use (65535 = none), I1 ms since the current bucket began; I4
--       output_reserve; and if one was rejected, or the node had no record, per operation I1 verdict, I4 retry in ms,
--       then the key's name. For 4 also I8 number of the node's record (0 = none): the counts of later batches are gone.
--       Verdict 0 = done; 1, 2, 3 = rejected, that dimension frees last; 5, 6, 7 = can never fit, the smallest such limit.
--       A reply from the record has that batch's verdicts, time and output_reserve; all else is as it is now.
-- Cost  amortized O(1) per operation: 4 calls a batch; 2 more when the current bucket or older ones change, and one for
--       each further group of buckets that changes. Rejections write nothing: one takes one more call if the oldest bucket
--       frees enough, and none if only the newest does; between these it reads on, 5 calls at most.
--
-- Everything is read and decided first and written at the end: a script is not rolled back. Buckets are changed in their
-- packed form, and there are few functions: each variable that a function shares with the rest costs as much as some ten
-- lines whenever the function is made, that is in every call of the script.

local call, sunpack, spack, floor, max, min = redis.call, struct.unpack, struct.pack, math.floor, math.max, math.min
local sub = string.sub

local ADMIT, SETTLE = 1, 2
local NEVER = 4 -- added to the dimension
local BUCKET_MS, GROUP, RING = 100, 24, 32 -- a group's field is group % RING; a window spans at most 26 groups
local META = 'm'
local META_FORMAT = '<I6I6I6I6I6I6I6I6I4I4I4'
local MASK_FORMAT, CELLS_AT = '<I3', 4
local CELL_FORMAT, CELL_SIZE, CELL_MAX = '<I4I4I4', 12, 4294967295
local SUMS_FORMAT, SUMS_SIZE = '<I6I6I6', 18
local COMPACT_SIZE = 64 -- if no value of a hash is longer, the store keeps the hash in a compact form
local ANCHOR = '-' -- a field that keeps the hash in existence: while a slot moves, a script with a key missing is refused
local TTL_SLACK_MS = 30000
local TTL_STEP = 100 -- buckets between two refreshes of the time to live
local NO_USE = 65535
local OPERATION_SIZE = 33
local DONE = '\0\0\0\0\0'

local node, batch = ARGV[1], ARGV[2]
local number, flags, expected, width, clock_ms, at = sunpack('<I8I1I8I2I8', batch)
local operations = (#batch - at + 1) / OPERATION_SIZE

local limits = call('GET', KEYS[1])
if not limits then return '\3' end
local limit_r, limit_i, limit_o, reserve, name_at = sunpack('<I4I4I4I4', limits)

local found = call('HMGET', KEYS[2], META, node)
local stored, record = found[1], found[2]
local replayed = false -- this batch was decided before
local recorded, record_ms, record_reserve, verdicts_at = 0
if record then
    recorded, record_ms, record_reserve, verdicts_at = sunpack('<I8I6I4', record)
    if number < recorded then return '\2' end
    replayed = number == recorded
end
if recorded < expected then return '\4' .. spack('<I8', recorded) end

if clock_ms == 0 then
    local time = call('TIME')
    clock_ms = time[1] * 1000 + floor(time[2] / 1000)
end

-- ---- the window: sums, and the newest bucket in use (the cell); older buckets are in groups -----------------------------
local now, skew_ms = clock_ms, 0 -- now: the window's clock, which is the server's, but never steps back
local head = 0 -- the oldest bucket in use
local newest, newest_i, newest_o = 0, 0, 0 -- newest bucket in use, with input, with output; 0 = none
local used_r, used_i, used_o = 0, 0, 0
local cell_r, cell_i, cell_o = 0, 0, 0
local stepped -- the stored meta with the new `skew_ms`, if the clock has stepped back since
if stored then
    head, newest, newest_i, newest_o, used_r, used_i, used_o, skew_ms, cell_r, cell_i, cell_o = sunpack(META_FORMAT, stored)
    now = clock_ms + skew_ms
    if now < newest * BUCKET_MS then
        -- The clock stepped back. Time goes on from the newest bucket instead: history stays in the window (never over the
        -- limit) and leaves it within one window's length (never blocked for longer).
        -- The skew has to be stored even if nothing is counted: else time would stand still until the clock has caught up.
        now = newest * BUCKET_MS
        skew_ms = now - clock_ms
        stepped = sub(stored, 1, 42) .. spack('<I6', skew_ms) .. sub(stored, 49)
    end
end
local bucket = floor(now / BUCKET_MS)
local oldest = bucket - width -- the oldest bucket that counts
local previous = newest
local wiped = not stored -- nothing stored counts (any more)

-- ---- older buckets: read as needed, changed in their packed form, written at the end -------------------------------------
-- A group's value is a mask of the buckets in use, the first one's bit the lowest; their cells, the oldest first; and for
-- many cells, once a later group has begun, their sums, which save a rejection reading the cells. The length shows whether
-- sums follow the cells.
local groups = {} -- group -> value (false = none), of groups read or changed so far
local changed_groups = {} -- group -> true
-- A stored field f belongs to the one group g in unread-31 .. unread with g % 32 = f; -1: nothing is left to be read.
local unread = wiped and -1 or floor(newest / GROUP)

-- Functions get their variables as arguments, because sharing them costs more (see above).
local function read(groups, g, unread) -- a group's value
    local value = groups[g]
    if value == nil then
        value = g <= unread and redis.call('HGET', KEYS[3], g % RING)
        groups[g] = value
    end
    return value
end

local function read_all(groups, unread) -- in one call; the new `unread`
    local fields = unread >= 0 and redis.call('HGETALL', KEYS[3]) or {}
    for i = 1, #fields, 2 do
        local field = tonumber(fields[i]) -- nil: the anchor
        local g = field and unread - (unread - field) % RING
        if g and groups[g] == nil then groups[g] = fields[i + 1] end
    end
    return -1
end

if stored and head < oldest then
    if newest < oldest then
        wiped, unread = true, -1
        head, newest, newest_i, newest_o = 0, 0, 0, 0
        used_r, used_i, used_o, cell_r, cell_i, cell_o = 0, 0, 0, 0, 0, 0
    else
        -- Each bucket is subtracted once, when it leaves the window. `head` ends on the oldest bucket still in use, so that
        -- each gap is walked once, too.
        local first = floor(head / GROUP)
        head = newest
        for g = first, floor(newest / GROUP) do
            if g == first + 3 then unread = read_all(groups, unread) end -- a long gap: cheaper than one by one
            local value = read(groups, g, unread)
            if value then
                local mask, from = sunpack(MASK_FORMAT, value)
                local k, bit_ = g * GROUP, 1
                while mask >= bit_ do
                    if mask % (2 * bit_) >= bit_ then
                        if k >= oldest then break end
                        local r, i, o
                        r, i, o, from = sunpack(CELL_FORMAT, value, from)
                        used_r, used_i, used_o = used_r - r, used_i - i, used_o - o
                        mask = mask - bit_
                    end
                    k, bit_ = k + 1, bit_ * 2
                end
                if from > CELLS_AT then -- the rest gets no sums, because it leaves next
                    local sums_size = (#value - CELLS_AT + 1) % CELL_SIZE > 0 and SUMS_SIZE or 0
                    groups[g] = mask > 0 and spack(MASK_FORMAT, mask) .. sub(value, from, #value - sums_size)
                    changed_groups[g] = true
                end
                if mask > 0 then
                    head = k
                    break
                end
            end
        end
        if newest_i < oldest then newest_i = 0 end
        if newest_o < oldest then newest_o = 0 end
    end
end

-- ---- deciding -----------------------------------------------------------------------------------------------------------
local state, decided_ms = 0, now
local changed = false -- something has to be recorded under this number
local emptied = false -- a settle took the last tokens of one kind from the newest bucket that had any
local verdicts, results -- one per operation, as soon as one is rejected
local first_r, first_i, first_o -- the oldest bucket, if it isn't the newest, as soon as a rejection has read it
local between -- finds a retry time in the older buckets; made on first use, and again if they have changed
if replayed then state, decided_ms, reserve = 1, record_ms, record_reserve end

for i = 1, operations do
    local kind, a, b, c, d
    kind, a, b, c, d, at = sunpack('<I1i8i8i8i8', batch, at)
    local into = 0 -- the bucket that changes
    local output, verdict = 0, 0
    if kind == ADMIT then
        output = b + c * reserve
        if replayed then verdict = string.byte(record, verdicts_at + i - 1) or 0
        -- What needs nothing of a dimension fits, also while that is overrun or its limit was lowered.
        elseif used_r < limit_r and (used_i + a <= limit_i or a == 0) and (used_o + output <= limit_o or output == 0) then
            into = bucket
        elseif limit_r < 1 then verdict = NEVER + 1 -- too much even for an empty window
        elseif a > limit_i and (output <= limit_o or limit_i <= limit_o) then verdict = NEVER + 2 -- the smaller limit
        elseif output > limit_o then verdict = NEVER + 3
        else verdict = 1 -- or another dimension: see below
        end
    elseif replayed then into = 0
    elseif kind == SETTLE then -- nothing to do if its bucket has left the window
        if a >= head and a >= oldest and a <= newest then into = a end
    elseif b + c + d > 0 and min(a, bucket) >= oldest then into = min(a, bucket)
    end

    if into > newest then -- it becomes the newest; the former newest goes to the end of its group
        if newest == 0 then head = into
        else
            local g, bit_ = floor(newest / GROUP), 2 ^ (newest % GROUP)
            local value = read(groups, g, unread)
            local mask, cells = bit_, spack(CELL_FORMAT, cell_r, cell_i, cell_o)
            if value then mask, cells = sunpack(MASK_FORMAT, value) + bit_, sub(value, CELLS_AT) .. cells end
            if #cells > COMPACT_SIZE and floor(into / GROUP) > g then
                local sum_r, sum_i, sum_o = 0, 0, 0
                for from = 1, #cells, CELL_SIZE do
                    local r, t, o = sunpack(CELL_FORMAT, cells, from)
                    sum_r, sum_i, sum_o = sum_r + r, sum_i + t, sum_o + o
                end
                cells = cells .. spack(SUMS_FORMAT, sum_r, sum_i, sum_o)
            end
            groups[g], changed_groups[g] = spack(MASK_FORMAT, mask) .. cells, true
            first_r, between = nil, nil
        end
        newest, cell_r, cell_i, cell_o = into, 0, 0, 0
    end

    if into > 0 then
        if kind == ADMIT then
            cell_r, cell_i, cell_o = cell_r + 1, cell_i + a, cell_o + output
            used_r, used_i, used_o = used_r + 1, used_i + a, used_o + output
            if a > 0 then newest_i = bucket end
            if output > 0 then newest_o = bucket end
            changed = true
        else
            local add_r, add_i, add_o = b, c, d
            if kind == SETTLE then add_r, add_i, add_o = -d, -b, -c end
            local old_r, old_i, old_o = cell_r, cell_i, cell_o
            local g, value, mask, from, bit_, present
            if into < newest then
                g, mask, from, bit_ = floor(into / GROUP), 0, CELLS_AT, 2 ^ (into % GROUP)
                value = read(groups, g, unread)
                if value then
                    mask = sunpack(MASK_FORMAT, value)
                    local before = mask % bit_
                    while before > 0 do
                        from, before = from + before % 2 * CELL_SIZE, floor(before / 2)
                    end
                end
                present = mask % (2 * bit_) >= bit_
                old_r, old_i, old_o = 0, 0, 0
                if present then old_r, old_i, old_o = sunpack(CELL_FORMAT, value, from) end
            end
            if kind ~= SETTLE or old_r > 0 then -- nothing to settle if nothing was admitted
                local new_r = max(min(old_r + add_r, CELL_MAX), 0)
                local new_i, new_o = max(min(old_i + add_i, CELL_MAX), 0), max(min(old_o + add_o, CELL_MAX), 0)
                used_r, used_i, used_o = used_r + new_r - old_r, used_i + new_i - old_i, used_o + new_o - old_o
                if into == newest then cell_r, cell_i, cell_o = new_r, new_i, new_o
                else
                    local before, after
                    if present then before, after = sub(value, 1, from - 1), sub(value, from + CELL_SIZE)
                    else
                        before, after = spack(MASK_FORMAT, mask + bit_), ''
                        if value then before, after = before .. sub(value, CELLS_AT, from - 1), sub(value, from) end
                    end
                    if #after % CELL_SIZE > 0 then
                        local r, t, o = sunpack(SUMS_FORMAT, after, #after - SUMS_SIZE + 1)
                        after = sub(after, 1, -SUMS_SIZE - 1)
                            .. spack(SUMS_FORMAT, r + new_r - old_r, t + new_i - old_i, o + new_o - old_o)
                    end
                    groups[g] = before .. spack(CELL_FORMAT, new_r, new_i, new_o) .. after
                    changed_groups[g], head = true, min(head, into)
                    first_r, between = nil, nil
                end
                if new_i > 0 then newest_i = max(newest_i, into) elseif into == newest_i then emptied = true end
                if new_o > 0 then newest_o = max(newest_o, into) elseif into == newest_o then emptied = true end
                changed = true
            end
        end
    elseif verdict > 0 then
        local retry_ms = 0
        if verdict < NEVER then
            -- When each dimension is free: now (-1) if nothing is missing; with the newest bucket if all others together
            -- don't free enough; with the oldest if it frees enough alone; else somewhere between.
            local over_r = used_r + 1 - limit_r
            local over_i, over_o = a > 0 and used_i + a - limit_i or 0, output > 0 and used_o + output - limit_o or 0
            if not first_r then
                local value = head < newest and read(groups, floor(head / GROUP), unread)
                first_r, first_i, first_o = 0, 0, 0
                if value then first_r, first_i, first_o = sunpack(CELL_FORMAT, value, CELLS_AT) end
            end
            local last_r = over_r <= 0 and -1 or over_r > used_r - cell_r and newest or over_r <= first_r and head
            local last_i = over_i <= 0 and -1 or over_i > used_i - cell_i and newest or over_i <= first_i and head
            local last_o = over_o <= 0 and -1 or over_o > used_o - cell_o and newest or over_o <= first_o and head
            if not (last_r and last_i and last_o) and not between then
                local first, size = floor(head / GROUP), 0
                local sums = { { [0] = 0 }, { [0] = 0 }, { [0] = 0 } } -- per dimension, of the first `size` groups
                between = function(dimension, excess) -- the first bucket that frees `excess` by leaving
                    local sum, last = sums[dimension], floor(newest / GROUP) - first
                    while sum[size] < excess do
                        if size > last then return newest end
                        if size == 4 then unread = read_all(groups, unread) end -- most retry times lie within four groups or beyond many
                        local value, r, t, o = read(groups, first + size, unread), 0, 0, 0
                        if value and (#value - CELLS_AT + 1) % CELL_SIZE > 0 then
                            r, t, o = sunpack(SUMS_FORMAT, value, #value - SUMS_SIZE + 1)
                        else
                            for from = CELLS_AT, value and #value or 0, CELL_SIZE do
                                local one_r, one_i, one_o = sunpack(CELL_FORMAT, value, from)
                                r, t, o = r + one_r, t + one_i, o + one_o
                            end
                        end
                        size = size + 1
                        sums[1][size], sums[2][size] = sums[1][size - 1] + r, sums[2][size - 1] + t
                        sums[3][size] = sums[3][size - 1] + o
                    end
                    local low = 1
                    while sum[low] < excess do low = low + 1 end
                    local g, left = first + low - 1, excess - sum[low - 1]
                    local mask, from = sunpack(MASK_FORMAT, groups[g])
                    for k = g * GROUP, newest do
                        if mask % 2 == 1 then
                            left = left - select(dimension, sunpack(CELL_FORMAT, groups[g], from))
                            if left <= 0 then return k end
                            from = from + CELL_SIZE
                        end
                        mask = floor(mask / 2)
                    end
                end
            end
            last_r = last_r or between(1, over_r)
            last_i = last_i or between(2, over_i)
            last_o = last_o or between(3, over_o)
            local last, dimension = last_r, 1
            if last_i > last then last, dimension = last_i, 2 end
            if last_o > last then last, dimension = last_o, 3 end
            if not replayed then verdict = dimension end
            retry_ms = max((last + width + 1) * BUCKET_MS - now, 0)
        end
        if not results then verdicts, results = {}, {} end
        verdicts[i], results[i] = verdict, spack('<I1I4', verdict, retry_ms)
    end
end

local newest_r = newest
if emptied or cell_r == 0 and used_r > 0 then -- or the newest bucket has charged tokens only
    local function newest_with(dimension, used, k) -- the newest bucket in use in that dimension, k at the latest; 0 = none
        if used == 0 then return 0 end
        if k == newest and select(dimension, cell_r, cell_i, cell_o) > 0 then return k end
        local first = floor(k / GROUP)
        for g = first, floor(head / GROUP), -1 do
            if g == first - 2 then unread = read_all(groups, unread) end
            local value, last = read(groups, g, unread)
            local mask, from = 0
            if value then mask, from = sunpack(MASK_FORMAT, value) end
            for j = g * GROUP, g * GROUP + GROUP - 1 do
                if mask % 2 == 1 then
                    if select(dimension, sunpack(CELL_FORMAT, value, from)) > 0 then last = j end
                    from = from + CELL_SIZE
                end
                mask = floor(mask / 2)
            end
            if last then return last end
        end
        return 0
    end
    newest_r = newest_with(1, used_r, newest)
    newest_i, newest_o = newest_with(2, used_i, newest_i), newest_with(3, used_o, newest_o)
end

-- ---- writing ------------------------------------------------------------------------------------------------------------
if results then
    for i = 1, operations do verdicts[i], results[i] = verdicts[i] or 0, results[i] or DONE end
end
if replayed then
    -- The record is written again, so that a following WAIT for replicas covers the batch, too.
    if stepped then call('HSET', KEYS[2], META, stepped, node, record) else call('HSET', KEYS[2], node, record) end
else
    local ttl_ms = width * BUCKET_MS + TTL_SLACK_MS
    local meta, remembered = stepped, nil
    if changed or next(changed_groups) then
        meta = spack(META_FORMAT, head, newest, newest_i, newest_o, used_r, used_i, used_o, skew_ms, cell_r, cell_i, cell_o)
        local fields, size = {}, 0
        if wiped then
            call('DEL', KEYS[3])
            fields[1], fields[2], size = ANCHOR, '', 2
        end
        for g in pairs(changed_groups) do
            local value = groups[g]
            if value then
                fields[size + 1], fields[size + 2] = g % RING, value
                size = size + 2
            else
                call('HDEL', KEYS[3], g % RING) -- before the HSET, because a new group may take the field
            end
        end
        -- A group spans a few seconds, so extending its life when it begins is enough.
        if size > 0 and call('HSET', KEYS[3], unpack(fields)) > 0 then call('PEXPIRE', KEYS[3], ttl_ms) end
    end
    if changed or flags == 1 then
        recorded = number
        remembered = spack('<I8I6I4', number, now, reserve) .. (verdicts and string.char(unpack(verdicts, 1, operations)) or '')
    end
    if meta and remembered then call('HSET', KEYS[2], META, meta, node, remembered)
    elseif meta then call('HSET', KEYS[2], META, meta)
    elseif remembered then call('HSET', KEYS[2], node, remembered)
    end
    if remembered and not record then
        -- A node's first batch on this key: forget the nodes whose batches no longer matter.
        local all = call('HGETALL', KEYS[2])
        for i = 1, #all, 2 do
            if all[i] ~= META then
                local _, seen_ms = sunpack('<I8I6', all[i + 1])
                if seen_ms < now - 2 * ttl_ms then call('HDEL', KEYS[2], all[i]) end
            end
        end
        call('PEXPIRE', KEYS[2], ttl_ms)
    elseif remembered and (wiped or floor(bucket / TTL_STEP) ~= floor(previous / TTL_STEP)) then
        call('PEXPIRE', KEYS[2], ttl_ms)
    end
end

local reply = spack('<I1I8I8I4I4I4I4I4I4I2I2I2I1I4', state, decided_ms, recorded, limit_r, limit_i, limit_o,
    min(used_r, CELL_MAX), min(used_i, CELL_MAX), min(used_o, CELL_MAX),
    used_r > 0 and bucket - newest_r or NO_USE, newest_i > 0 and bucket - newest_i or NO_USE,
    newest_o > 0 and bucket - newest_o or NO_USE, now % BUCKET_MS, reserve)
if results then return reply .. table.concat(results) .. sub(limits, name_at) end
if record then return reply end
return reply .. string.rep(DONE, operations) .. sub(limits, name_at)
