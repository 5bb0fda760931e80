#!lua
-- Decides a batch of operations on one API key: admit, settle, charge.
--
-- Guarantee: the operations are decided in order, each as if it had come alone; all of them or, on an error, none take
-- effect; a batch sent again under its number (retry after a lost reply) is answered from the record, never applied twice.
-- The window counts the buckets b-W .. b of 100 ms, b being the current one, so that everything admitted in the last
-- W*100 ms counts and nothing older than (W+1)*100 ms does.
--
-- KEYS  1 rl:{kid}:limits   hash, read: rpm, input_tpm, output_tpm, output_reserve, name
--       2 rl:{kid}:window   hash: the counters (layout in README.md of this folder)
--       3 rl:{kid}:nodes    hash: node -> its last batch's number and verdicts
-- ARGV  1 node    id of the calling process, new at each start
--       2 batch   packed, little endian: I8 number (rises with every batch of the node), I1 1 = sent before,
--                 I2 W, I8 clock in ms (0 = this server's; tests set it), then per operation I1 kind and 4 × i8:
--                   1 admit   input, output, choices, -        reserves output + choices × output_reserve
--                   2 settle  bucket, input, output, -         gives back tokens of an earlier admit (negative: adds)
--                   3 charge  bucket, requests, input, output  counts what was admitted elsewhere, limit or not
-- Reply packed, little endian: I1 state (0 decided, 1 answered from the record, 2 number too old, 3 no such key);
--       for 0 and 1 also: I8 time in ms, then for requests/input/output 3 × I4 limits, 3 × I4 used after the batch,
--       3 × I2 age in buckets of the newest use (65535 = none), I1 ms since the current bucket began; I4
--       output_reserve; per operation I1 verdict, I4 retry in ms; where one was rejected, the key's name. Verdict
--       0 = done; 1, 2, 3 = rejected, that dimension frees last; 5, 6, 7 = can never fit, that dimension.
--       From the record come verdicts, time and output_reserve; all else is as it is now.
-- Cost  amortized O(1) per operation: 5 or 6 calls a batch, 2 more when the bucket changes. What is rejected writes
--       nothing: a rejection is one more call where the oldest bucket frees enough, and none where only the newest does;
--       between these it reads on from the oldest: the few oldest groups as a rule, all of them (121) at most.
--
-- Everything is read and decided first and written at the end: a script is not rolled back. What only some batches need
-- (expiry, older buckets, retry times) is made on first use: defining a function costs as much as a small call.

local call, sunpack, spack, floor, max, min = redis.call, struct.unpack, struct.pack, math.floor, math.max, math.min

local ADMIT, SETTLE = 1, 2
local NEVER = 4 -- added to the dimension
local BUCKET_MS, GROUP, RING = 100, 5, 128 -- a group's field is group % RING; a window spans at most 121 groups
local META = 'm'
local META_FORMAT = '<I6I6I6I6I6I6I6I6I4I4I4'
local CELL_FORMAT = '<I4I4I4'
local CELL_MAX = 4294967295
local TTL_SLACK_MS = 30000
local TTL_STEP = 100 -- buckets between two refreshes of the time to live
local NO_USE = 65535
local OPERATION_SIZE = 33
local DONE = '\0\0\0\0\0'

local node, batch = ARGV[1], ARGV[2]
local number, resent, width, clock_ms, at = sunpack('<I8I1I2I8', batch)

local conf = call('HMGET', KEYS[1], 'rpm', 'input_tpm', 'output_tpm', 'output_reserve')
if not conf[1] then return '\3' end
local limit_r, limit_i, limit_o, reserve = tonumber(conf[1]), tonumber(conf[2]), tonumber(conf[3]), tonumber(conf[4])

local record = call('HGET', KEYS[3], node)
local recorded, record_ms, record_reserve, verdicts_at
if record then
    recorded, record_ms, record_reserve, verdicts_at = sunpack('<I8I6I4', record)
    if number < recorded then return '\2' end
end

if clock_ms == 0 then
    local time = call('TIME')
    clock_ms = time[1] * 1000 + floor(time[2] / 1000)
end

-- ---- the window: sums, and the newest bucket in use (the cell); older buckets are in groups -----------------------------
local now, skew_ms = clock_ms, 0 -- now: the window's clock, which is the server's, held where that steps back
local head = 0 -- no bucket before this one is in use
local newest, newest_i, newest_o = 0, 0, 0 -- newest bucket in use, with input, with output; 0 = none
local used_r, used_i, used_o = 0, 0, 0
local cell_r, cell_i, cell_o = 0, 0, 0
local stepped -- the stored meta with what the clock has stepped back by, where that is news
local newest_group = -1 -- as stored: a field f is that of the one group g in newest_group-127 .. newest_group with g % 128 = f
local stored = call('HGET', KEYS[2], META)
if stored then
    head, newest, newest_i, newest_o, used_r, used_i, used_o, skew_ms, cell_r, cell_i, cell_o = sunpack(META_FORMAT, stored)
    now = clock_ms + skew_ms
    if now < newest * BUCKET_MS then
        -- The clock stepped back. Time goes on from the newest bucket instead: history stays in the window (never over the
        -- limit) and leaves it within one window's length (never blocked for longer).
        -- That has to be kept even if nothing is counted: else time would stand still until the clock has caught up.
        now = newest * BUCKET_MS
        skew_ms = now - clock_ms
        stepped = string.sub(stored, 1, 42) .. spack('<I6', skew_ms) .. string.sub(stored, 49)
    end
    newest_group = floor(newest / GROUP)
end
local bucket = floor(now / BUCKET_MS)
local oldest = bucket - width -- the oldest bucket that counts
local previous = newest
local wiped = false -- nothing of what is stored counts any more
local emptied = false -- a settle took the last tokens of one kind from the newest bucket that had any

-- ---- older buckets: made on first use -----------------------------------------------------------------------------------
local flushed_group, flushed_value -- the former cell appended to its group, where that could be done without decoding
local older
local function open_older()
    local band, lshift, byte = bit.band, bit.lshift, string.byte
    local cells_format = { CELL_FORMAT }
    for n = 2, GROUP do cells_format[n] = cells_format[n - 1] .. 'I4I4I4' end
    local raw = {} -- group -> value, or false
    local cells = {} -- group -> { r, i, o of its first bucket, … }, decoded; then raw[group] is out of date
    local dirty, is_dirty = {}, {}
    local all_read = false
    local frees -- see open_frees; nil also when older buckets have changed since

    local function touch(g)
        if not is_dirty[g] then
            is_dirty[g] = true
            dirty[#dirty + 1] = g
        end
    end

    local function read(g)
        local value = raw[g]
        if value == nil then
            value = not wiped and not all_read and g <= newest_group and call('HGET', KEYS[2], g % RING)
            raw[g] = value
        end
        return value
    end

    local function read_all() -- one call for all groups of the window
        if all_read or wiped or not stored then return end
        local stored_fields = call('HGETALL', KEYS[2])
        for i = 1, #stored_fields, 2 do
            local field = tonumber(stored_fields[i])
            if field then
                local g = newest_group - (newest_group - field) % RING
                if raw[g] == nil then raw[g] = stored_fields[i + 1] end
            end
        end
        all_read = true
    end

    local function decoded(g)
        local list = cells[g]
        if not list then
            local value = read(g)
            list = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
            if value then
                local mask, from = byte(value), 2
                for i = 0, GROUP - 1 do
                    if band(mask, lshift(1, i)) ~= 0 then
                        list[i * 3 + 1], list[i * 3 + 2], list[i * 3 + 3], from = sunpack(CELL_FORMAT, value, from)
                    end
                end
            end
            cells[g] = list
        end
        return list
    end

    local function encoded(g)
        local list, mask, packed, size = cells[g], 0, {}, 0
        if not list then return raw[g] end
        for i = 1, GROUP * 3, 3 do
            local r, t, o = list[i], list[i + 1], list[i + 2]
            if r + t + o > 0 then
                mask = mask + lshift(1, (i - 1) / 3)
                packed[size + 1], packed[size + 2], packed[size + 3] = r, t, o
                size = size + 3
            end
        end
        return size > 0 and string.char(mask) .. spack(cells_format[size / 3], unpack(packed, 1, size))
    end

    local function total(g) -- requests, input, output of a whole group
        local list, r, t, o = cells[g], 0, 0, 0
        if list then
            for i = 1, GROUP * 3, 3 do r, t, o = r + list[i], t + list[i + 1], o + list[i + 2] end
            return r, t, o
        end
        local value = read(g)
        if not value then return 0, 0, 0 end
        if #value == 1 + 12 * GROUP then -- a full one at once: retry times may read all of them
            local r1, t1, o1, r2, t2, o2, r3, t3, o3, r4, t4, o4, r5, t5, o5 = sunpack(cells_format[GROUP], value, 2)
            return r1 + r2 + r3 + r4 + r5, t1 + t2 + t3 + t4 + t5, o1 + o2 + o3 + o4 + o5
        end
        for from = 2, #value, 12 do
            local r1, t1, o1 = sunpack(CELL_FORMAT, value, from)
            r, t, o = r + r1, t + t1, o + o1
        end
        return r, t, o
    end

    local function advance(k) -- bucket k becomes the newest; the former cell goes to its group
        if newest > 0 then
            local g, j = floor(newest / GROUP), (newest % GROUP) * 3
            local list = decoded(g)
            list[j + 1], list[j + 2], list[j + 3] = cell_r, cell_i, cell_o
            touch(g)
            frees = nil
        else
            head = k
        end
        newest, cell_r, cell_i, cell_o = k, 0, 0, 0
    end

    local function add(k, r, t, o) -- to bucket k, within 0 .. CELL_MAX each; what is added counts in the sums
        local list, j
        if k > newest then advance(k) end
        if k == newest then
            list, j = { cell_r, cell_i, cell_o }, 0
        else
            local g = floor(k / GROUP)
            list, j = decoded(g), (k % GROUP) * 3
            touch(g)
            frees = nil
            if k < head then head = k end
        end
        local new_r = max(min(list[j + 1] + r, CELL_MAX), 0)
        local new_i, new_o = max(min(list[j + 2] + t, CELL_MAX), 0), max(min(list[j + 3] + o, CELL_MAX), 0)
        used_r, used_i, used_o = used_r + new_r - list[j + 1], used_i + new_i - list[j + 2], used_o + new_o - list[j + 3]
        list[j + 1], list[j + 2], list[j + 3] = new_r, new_i, new_o
        if k == newest then cell_r, cell_i, cell_o = new_r, new_i, new_o end
        if new_i > 0 then newest_i = max(newest_i, k) elseif k == newest_i then emptied = true end
        if new_o > 0 then newest_o = max(newest_o, k) elseif k == newest_o then emptied = true end
    end

    local function newest_with(dimension, k) -- the newest bucket in use in that dimension, k at the latest; 0 = none
        if k == newest and select(dimension, cell_r, cell_i, cell_o) > 0 then return k end
        if select(dimension, used_r, used_i, used_o) == 0 then return 0 end
        local first = floor(k / GROUP)
        for g = first, floor(head / GROUP), -1 do
            if g == first - 2 then read_all() end
            if select(dimension, total(g)) > 0 then
                local list = decoded(g)
                for i = GROUP - 1, 0, -1 do
                    if list[i * 3 + dimension] > 0 then return g * GROUP + i end
                end
            end
        end
    end

    local function expire() -- each bucket is subtracted once, when it leaves the window
        -- `head` ends on the oldest bucket still in use, so that gaps are walked over once, too.
        local first = floor(head / GROUP)
        head = newest
        for g = first, newest_group do
            -- A long gap since the last decision: one call for all is cheaper than one for each.
            if g == first + 4 then read_all() end
            if read(g) then
                local list = decoded(g)
                for i = 0, GROUP - 1 do
                    local j = i * 3
                    local r, t, o = list[j + 1], list[j + 2], list[j + 3]
                    if r + t + o > 0 then
                        if g * GROUP + i >= oldest then
                            head = g * GROUP + i
                            break
                        end
                        used_r, used_i, used_o = used_r - r, used_i - t, used_o - o
                        list[j + 1], list[j + 2], list[j + 3] = 0, 0, 0
                        touch(g)
                    end
                end
                if head < newest then break end
            end
        end
        if newest_i < oldest then newest_i = 0 end
        if newest_o < oldest then newest_o = 0 end
    end

    local function open_frees() -- sums per group from `head` on, read as far as needed
        local first, size, sums_r, sums_i, sums_o = floor(head / GROUP), 0, {}, {}, {}
        local sums, last = { sums_r, sums_i, sums_o }, floor(newest / GROUP)

        frees = function(dimension, excess) -- the first bucket with whose leaving `excess` is free; -1 if it is free now
            if excess <= 0 then return -1 end
            local sum = sums[dimension]
            while (sum[size] or 0) < excess do
                if first + size > last then return newest end -- what is in no group is in the cell
                if size == 10 then read_all() end -- costs as much as some 45 groups one by one
                local r, t, o = total(first + size)
                if size > 0 then r, t, o = r + sums_r[size], t + sums_i[size], o + sums_o[size] end
                size = size + 1
                sums_r[size], sums_i[size], sums_o[size] = r, t, o
            end
            local low, high = 1, size
            while low < high do
                local middle = floor((low + high) / 2)
                if sum[middle] >= excess then high = middle else low = middle + 1 end
            end
            local list, left = decoded(first + low - 1), excess - (sum[low - 1] or 0)
            for i = 0, GROUP - 1 do
                left = left - list[i * 3 + dimension]
                if left <= 0 then return (first + low - 1) * GROUP + i end
            end
        end
    end

    local function rejected(input, output) -- verdict, and ms until the earliest bucket in which it would be admitted
        if not frees then open_frees() end
        local last, dimension = frees(1, used_r + 1 - limit_r), 1
        local k = frees(2, used_i + input - limit_i)
        if k > last then last, dimension = k, 2 end
        k = frees(3, used_o + output - limit_o)
        if k > last then last, dimension = k, 3 end
        return dimension, max((last + width + 1) * BUCKET_MS - now, 0)
    end

    if flushed_group then
        raw[flushed_group] = flushed_value
        touch(flushed_group)
    end
    older = { decoded = decoded, encoded = encoded, advance = advance, add = add, expire = expire, rejected = rejected,
        newest_with = newest_with, dirty = dirty }
end

if stored and head < oldest then
    if newest < oldest then
        wiped = true
        head, newest, newest_i, newest_o, newest_group = 0, 0, 0, 0, -1
        used_r, used_i, used_o, cell_r, cell_i, cell_o = 0, 0, 0, 0, 0, 0
    else
        open_older()
        older.expire()
    end
end

local state, decided_ms = 0, now
local changed, counted = false, false -- something to remember under this number; something that entered the window
local any_rejected = false
local first_r, first_i, first_o -- what is in bucket `head`, the first of its group, once a rejection has read it
local verdicts, results = {}, {}

if recorded == number then
    -- ---- a batch decided before: the same verdicts, with the window as it is now ----------------------------------------
    state, decided_ms, reserve, resent = 1, record_ms, record_reserve, 0
    for i = 1, (#batch - at + 1) / OPERATION_SIZE do
        local kind, input, output, choices
        kind, input, output, choices, at = sunpack('<I1i8i8i8', batch, at)
        at = at + 8
        local verdict, retry_ms = string.byte(record, verdicts_at + i - 1), 0
        if verdict > 0 then any_rejected = true end
        if verdict > 0 and verdict < NEVER then
            if not older then open_older() end
            retry_ms = select(2, older.rejected(input, output + choices * reserve))
        end
        results[i] = spack('<I1I4', verdict, retry_ms)
    end
else
    -- ---- deciding -------------------------------------------------------------------------------------------------------
    for i = 1, (#batch - at + 1) / OPERATION_SIZE do
        local kind, a, b, c, d
        kind, a, b, c, d, at = sunpack('<I1i8i8i8i8', batch, at)
        local verdict, result = 0, DONE
        if kind == ADMIT then
            local output = b + c * reserve
            if used_r < limit_r and used_i + a <= limit_i and used_o + output <= limit_o then
                if newest < bucket then
                    if older or newest == 0 then
                        if not older then open_older() end
                        older.advance(bucket)
                    else -- the same without decoding: the cell is the last of its group
                        local bit_, cells = 2 ^ (newest % GROUP), spack(CELL_FORMAT, cell_r, cell_i, cell_o)
                        flushed_group = floor(newest / GROUP)
                        local value = call('HGET', KEYS[2], flushed_group % RING)
                        flushed_value = value and string.char(string.byte(value) + bit_) .. string.sub(value, 2) .. cells
                            or string.char(bit_) .. cells
                        newest, cell_r, cell_i, cell_o = bucket, 0, 0, 0
                    end
                end
                cell_r, cell_i, cell_o = cell_r + 1, cell_i + a, cell_o + output
                used_r, used_i, used_o = used_r + 1, used_i + a, used_o + output
                if a > 0 then newest_i = bucket end
                if output > 0 then newest_o = bucket end
                changed, counted = true, true
            else
                local retry_ms = 0
                any_rejected = true
                if limit_r < 1 then verdict = NEVER + 1
                elseif a > limit_i then verdict = NEVER + 2
                elseif output > limit_o then verdict = NEVER + 3
                else
                    local last
                    if not older then
                        -- The usual answers, found without the machinery: -1 where nothing is missing; the newest bucket
                        -- where all others together don't free enough; the oldest where it does alone.
                        local over_r, over_i, over_o = used_r + 1 - limit_r, used_i + a - limit_i, used_o + output - limit_o
                        if not first_r and head < newest then
                            local value = call('HGET', KEYS[2], floor(head / GROUP) % RING)
                            first_r, first_i, first_o = 0, 0, 0 -- where it was the cell until this batch
                            if value then first_r, first_i, first_o = sunpack(CELL_FORMAT, value, 2) end
                        end
                        last = over_r <= 0 and -1 or over_r > used_r - cell_r and newest or over_r <= first_r and head
                        local last_i = over_i <= 0 and -1 or over_i > used_i - cell_i and newest or over_i <= first_i and head
                        local last_o = over_o <= 0 and -1 or over_o > used_o - cell_o and newest or over_o <= first_o and head
                        verdict = 1
                        if not (last and last_i and last_o) then last = nil
                        else
                            if last_i > last then last, verdict = last_i, 2 end
                            if last_o > last then last, verdict = last_o, 3 end
                        end
                    end
                    if last then retry_ms = (last + width + 1) * BUCKET_MS - now
                    else
                        if not older then open_older() end
                        verdict, retry_ms = older.rejected(a, output)
                    end
                end
                result = spack('<I1I4', verdict, retry_ms)
            end
        elseif kind == SETTLE then
            -- Nothing to do where its bucket has left the window, or nothing was admitted in it.
            if a == newest and cell_r > 0 and b >= 0 and c >= 0 then -- the common case, without the machinery
                local input, output = min(b, cell_i), min(c, cell_o)
                cell_i, cell_o, used_i, used_o = cell_i - input, cell_o - output, used_i - input, used_o - output
                if cell_i == 0 and newest_i == newest or cell_o == 0 and newest_o == newest then emptied = true end
                changed = true
            elseif a >= oldest and a >= head and a <= newest then
                if not older then open_older() end
                if (a == newest and cell_r or older.decoded(floor(a / GROUP))[(a % GROUP) * 3 + 1]) > 0 then
                    older.add(a, 0, -b, -c)
                    changed = true
                end
            end
        elseif min(a, bucket) >= oldest and b + c + d > 0 then
            if not older then open_older() end
            older.add(min(a, bucket), b, c, d)
            changed, counted = true, true
        end
        verdicts[i], results[i] = verdict, result
    end
end

local newest_r = newest
if emptied or cell_r == 0 and used_r > 0 then -- or only tokens were charged to the newest bucket
    if not older then open_older() end
    newest_r = older.newest_with(1, newest)
    newest_i, newest_o = older.newest_with(2, newest_i), older.newest_with(3, newest_o)
end

-- ---- writing ------------------------------------------------------------------------------------------------------------
local ttl_ms = width * BUCKET_MS + TTL_SLACK_MS
if changed or resent == 1 then
    if call('HSET', KEYS[3], node, spack('<I8I6I4', number, now, reserve) .. string.char(unpack(verdicts))) == 1 then
        -- A node's first batch on this key: forget the nodes whose batches can't matter any more.
        local all = call('HGETALL', KEYS[3])
        for i = 1, #all, 2 do
            local _, seen_ms = sunpack('<I8I6', all[i + 1])
            if seen_ms < now - 2 * ttl_ms then call('HDEL', KEYS[3], all[i]) end
        end
        call('PEXPIRE', KEYS[3], ttl_ms)
    end
end
if state == 0 and (changed or (older and #older.dirty > 0)) then
    if wiped then call('DEL', KEYS[2]) end
    if newest > 0 then
        local meta = spack(META_FORMAT, head, newest, newest_i, newest_o, used_r, used_i, used_o, skew_ms, cell_r, cell_i, cell_o)
        if older then
            local fields, size = { META, meta }, 2
            for i = 1, #older.dirty do
                local g = older.dirty[i]
                local value = older.encoded(g)
                if value then
                    fields[size + 1], fields[size + 2] = g % RING, value
                    size = size + 2
                else
                    call('HDEL', KEYS[2], g % RING) -- before the HSET: a new group may take its field
                end
            end
            call('HSET', KEYS[2], unpack(fields, 1, size))
        elseif flushed_group then
            call('HSET', KEYS[2], META, meta, flushed_group % RING, flushed_value)
        else
            call('HSET', KEYS[2], META, meta)
        end
    end
    if counted and (wiped or not stored or floor(bucket / TTL_STEP) ~= floor(previous / TTL_STEP)) then
        call('PEXPIRE', KEYS[2], ttl_ms)
        call('PEXPIRE', KEYS[3], ttl_ms)
    end
elseif stepped then
    call('HSET', KEYS[2], META, stepped)
end

if any_rejected then results[#results + 1] = call('HGET', KEYS[1], 'name') or '' end
return spack('<I1I8I4I4I4I4I4I4I2I2I2I1I4', state, decided_ms, limit_r, limit_i, limit_o,
    min(used_r, CELL_MAX), min(used_i, CELL_MAX), min(used_o, CELL_MAX),
    used_r > 0 and bucket - newest_r or NO_USE, newest_i > 0 and bucket - newest_i or NO_USE,
    newest_o > 0 and bucket - newest_o or NO_USE, now % BUCKET_MS, reserve) .. table.concat(results)
