#!lua
-- Decides a batch of operations of one account: admits, settles and charges, each on the windows of its own path.
--
-- Guarantee: an admit is counted in every window of its path, or in none. The operations take effect in order, each as if
-- it had come alone; on an error none does. A batch sent again under its number (retry after a lost reply) is answered
-- from the record, never applied twice. At bucket b a window counts the buckets b-W .. b: everything admitted in the last
-- W buckets' time counts and nothing older than W+1 buckets does.
--
-- KEYS  1 rl:{TAG}:policy     hash, read: the versions of the account's policy and of its keys' policies
--       2 rl:{TAG}:shared     hash: the clock, nodes' records, the windows of account and teams
--       3.. rl:{TAG}:key:KID  hashes: the windows of one key each (layouts in README.md of this folder)
-- ARGV  1 node   8 bytes, the calling process, new at each start        3.. the KID of each of KEYS 3..
--       2 batch  packed, little endian: I8 number (rises with every batch of the node), I1 flags: 1 = sent before,
--                I8 the lowest number that the node's record can have, by this script's last reply (0 = none),
--                I8 clock in ms (0 = this server's; tests set it), c8 version of the account's policy that the call was
--                made under, I1 paths, I2 settles and charges, I2 admits; then
--                per KEYS 3..  c8 version of the key's policy
--                per KEYS 2..  I1 windows, and each window: c6 id, I4 width of a bucket in ms, I2 W, 4 × I7 limits of
--                              requests, input, output and input + output (2^53-1 = none). Numbered 1.. over all hashes
--                per path      I1 which of KEYS 3.. its key is (1 = KEYS[3], 0 = none), I1 windows, I6 when its
--                              credential ends, by this server's clock in ms (0 = never), I1 number of each window (none
--                              twice)
--                per settle (2) or charge (3), before all admits: I1 kind, I1 path (from 1), I6 time in ms of the
--                              admission, 3 × i8 requests, input, output: a settle gives them back (negative: adds), a
--                              charge counts them, limit or not. Policies' versions don't matter to either
--                per admit     I1 path, I8 input, I8 output, as reserved
-- Reply packed, little endian: I1 state (0 decided, 1 answered from the record, 2 number too old, 3 no such account,
--       4 the store has lost what it had counted: nothing was decided; then I8 number of the node's record, 0 = none);
--       for 0 and 1 also: I8 time in ms (1: of the recorded decision), I8 number of the node's record after this batch;
--       if 8 was added to the state: I2 number of the settles and charges whose key has moved away (one that is just
--       missing may have been lost, and comes back to its windows), so that they were counted in the windows of account and teams alone, and I2 each of them (from 1); then
--       per window its meta after the batch as it is stored (zero bytes: nothing counts); and if an admit was not
--       admitted: per admit I1 verdict, I1 window, I5 retry in ms, then per policy found old: I1 which (0 = the account's,
--       1 = that of KEYS[3]'s key), I4 length, body.
--       Verdicts: 0 admitted; 1 to 4 rejected by requests, input, output, input + output of the window that frees last;
--       9 to 12 the same, but more than the limit named; 16 made under an old policy; 17 no such key in the account; 18
--       its credential has ended.
--       A need of 0 fits always. A reply from the record has that batch's verdicts and windows; all else is as it is now.
-- Cost  amortized O(1) per operation and window. One read per hash and one write per hash that changes, TIME; per window
--       one more read when its bucket changes, when its oldest bucket leaves, and for each settle of an earlier bucket. (In
--       the usual call one per hash, for all windows whose buckets change or leave.)
--       A rejection reads one group of buckets if the oldest bucket frees enough, none if only the newest does, all in
--       three calls if need be, mostly of one window on the path, and writes nothing but the buckets that have left and the
--       clock.
--
-- Everything is read and decided first and written at the end: a script is not rolled back. Groups of buckets are changed
-- in their packed form. Windows are flat arrays, admits in a row on one path are checked against the least room on it, and
-- there are few functions: a variable that a function shares with the rest costs whenever the function is made, in each call.

local call, sunpack, spack, floor, max, min = redis.call, struct.unpack, struct.pack, math.floor, math.max, math.min
local sub, byte, char = string.sub, string.byte, string.char

local ADMIT, SETTLE, CHARGE = 1, 2, 3
local NEVER, OLD_POLICY, UNKNOWN_KEY, ENDED = 8, 16, 17, 18 -- verdicts; NEVER is added to the unit
local TICK_MS, GROUP, RING = 100, 24, 32 -- a group's field ends on char(group % RING); a window spans at most 26 groups
local HEADER_FORMAT, WINDOW_FORMAT, WINDOW_SIZE = '<I8I1I8I8c8I1I2I2', '<I4I2I7I7I7I7', 40
local PATH_FORMAT, OTHER_FORMAT, ADMIT_FORMAT = '<I1I1I6', '<I1I1I6i8i8i8', '<I1I8I8'
local CLOCK, CLOCK_FORMAT, NODES = 'c', '<I6I6', 'n'
local RECORD_FORMAT, VERDICTS_AT = '<I8I6', 15
local META_FORMAT, META_SIZE, USED_AT = '<I5I5I5I5I5I6I7I7I4I7I7', 63, 26
local GROUP_FORMAT, CELLS_AT = '<I3I1', 5 -- mask of the buckets that have a cell, kind
local SUMS_FORMAT, SUMS_SIZE = '<I7I7I7', 21 -- of a group of six cells and more
local REQUESTS_MAX, NARROW_MAX, AMOUNT_MAX = 4294967295, 4294967295, 9007199254740991 -- of a cell; of a window
local TTL_SLACK_MS, RECORD_LIFE_MS, RECORD_STEP_MS = 30000, 90000, 10000
local TTL_STEP = 100 -- buckets between two refreshes of the time to live
local ADMITTED = '\0\0\0\0\0\0\0'
local FIELDS_MAX, NODES_READ = 4000, 1000 -- in one call: unpack fails at 8,000

-- The slots of a window. Those with three or four units are also used as the slot before the first, plus the unit.
local ID, KEY, BUCKET_MS, WIDTH, LIMIT_R, LIMIT_I, LIMIT_O, LIMIT_T = 1, 2, 3, 4, 5, 6, 7, 8
local META, BUCKET = 9, 10 -- as stored, or false; the current bucket
local HEAD, NEWEST, NEWEST_R, NEWEST_I, NEWEST_O = 11, 12, 13, 14, 15 -- the oldest and the newest bucket in use; 0 = none
local USED_R, USED_I, USED_O, CELL_R, CELL_I, CELL_O = 16, 17, 18, 19, 20, 21 -- the sums; the newest bucket in use
local READABLE = 22 -- the newest bucket when the window was read, which tells the groups that fields belong to; 0 = none
local GROUPS, TOUCHED = 23, 24 -- group -> value (false = none), of groups read or changed; group -> true, of those changed
local CHANGED = 25
local SUMS, EMPTIED, GONE_FROM, GONE_TO = 26, 27, 28, 29 -- seldom needed: not made with the others, so nil
local LIMIT, USED, CELL = LIMIT_R - 1, USED_R - 1, CELL_R - 1

local node, batch = ARGV[1], ARGV[2]
local number, flags, expected, clock_ms, version, path_count, other_count, admit_count, at = sunpack(HEADER_FORMAT, batch)
local key_count = #KEYS - 2
local versions_at = at
at = at + 8 * key_count

-- ---- reading: one call per hash ------------------------------------------------------------------------------------------
local policies = call('HMGET', KEYS[1], 'version', unpack(ARGV, 3))
-- A key that was its own account, and has moved to another one, leaves the mark that says so: it is decided there.
local has_left = not policies[1] and call('HEXISTS', KEYS[1], 'f:' .. string.match(KEYS[1], '{(.*)}')) == 1
if not policies[1] and not has_left then return '\3' end

-- By number of a window: its id and its meta. By number of a hash (1: KEYS[2]): the number of its last window.
local ids = {
    false, false, false, false, false, false, false, false, false, false, false, false,
    false, false, false, false, false, false, false, false, false, false, false, false,
} -- of a usual batch: growing a table costs more
local metas = {
    false, false, false, false, false, false, false, false, false, false, false, false,
    false, false, false, false, false, false, false, false, false, false, false, false,
}
local lasts, window_count = { [0] = 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }, 0
local windows_at = at -- window k of hash h is at windows_at + h + (k - 1) * WINDOW_SIZE: a byte begins each hash
local clock, record
for h = 1, key_count + 1 do
    local key, first, skip, found = KEYS[h + 1], window_count + 1, 0, nil
    window_count = window_count + byte(batch, at)
    lasts[h] = window_count
    at = at + 1
    for k = first, window_count do
        ids[k] = sub(batch, at, at + 5)
        at = at + WINDOW_SIZE
    end
    if h == 1 then
        found, skip = call('HMGET', key, CLOCK, node, unpack(ids, 1, window_count)), 2
        clock, record = found[1], found[2]
    elseif first <= window_count then found = call('HMGET', key, unpack(ids, first, window_count)) end
    skip = skip - first + 1
    for k = first, window_count do metas[k] = found[skip + k] end
end

local recorded, record_ms = 0, 0
local replayed = false -- this batch was decided before
if record then
    recorded, record_ms = sunpack(RECORD_FORMAT, record)
    if number < recorded then return '\2' end
    replayed = number == recorded
end
if recorded < expected then return '\4' .. spack('<I8', recorded) end

-- ---- time: one clock for all windows, which never goes back --------------------------------------------------------------
if clock_ms == 0 then
    local time = call('TIME')
    clock_ms = time[1] * 1000 + floor(time[2] / 1000)
end
local last_ms, skew_ms, stepped = 0, 0, false
if clock then last_ms, skew_ms = sunpack(CLOCK_FORMAT, clock) end
local now, tick_ms = clock_ms + skew_ms, last_ms

local function prolong(key, ttl_ms) -- a hash has windows of several lengths: the longest counts; NX where it has no life yet
    if redis.call('PEXPIRE', key, ttl_ms, 'GT') == 0 then redis.call('PEXPIRE', key, ttl_ms, 'NX') end
end

-- ---- groups of older buckets, packed -------------------------------------------------------------------------------------
local function shape(kind) -- format and size of the cells of a group of that kind
    if kind == 0 then return '<I4I4I4', 12 end
    return '<I4I7I7', 18
end

local function cell_at(mask, nth, size) -- where the cell of the group's nth bucket (from 0) is, or belongs, in its value
    local bit_ = 2 ^ nth
    local from, before = 5, mask % bit_
    if before == bit_ - 1 then return from + nth * size end -- in a busy window all before it are in use
    while before > 0 do
        local odd = before % 2
        from, before = from + odd * size, (before - odd) / 2
    end
    return from
end

local function widen(cells) -- the cells of a group of kind 0 as those of kind 1
    local wide, from = {}, 1
    for i = 1, #cells / 12 do
        local r, t, o
        r, t, o, from = struct.unpack('<I4I4I4', cells, from)
        wide[i] = struct.pack('<I4I7I7', r, t, o)
    end
    return table.concat(wide)
end

local function leave(value, g, head, oldest) -- what leaves with the buckets before `oldest`, and the group's next one in use
    local mask, kind = struct.unpack('<I3I1', value)
    local format, size = shape(kind)
    local b = math.max(head, g * 24)
    local from, bit_ = cell_at(mask, b % 24, size), 2 ^ (b % 24)
    if (g + 1) * 24 <= oldest and from == 5 and (#value - 4) % size > 0 then -- all at once
        local r, i, o = struct.unpack('<I7I7I7', value, #value - 20)
        return r, i, o, nil
    end
    local sum_r, sum_i, sum_o = 0, 0, 0
    while mask >= bit_ do
        if mask % (2 * bit_) >= bit_ then
            if b >= oldest then return sum_r, sum_i, sum_o, b end
            local r, i, o
            r, i, o, from = struct.unpack(format, value, from)
            sum_r, sum_i, sum_o = sum_r + r, sum_i + i, sum_o + o
        end
        b, bit_ = b + 1, bit_ * 2
    end
    return sum_r, sum_i, sum_o, nil
end

local function append(value, newest, into, r, i, o) -- the cell of the former newest bucket goes to the end of its group
    local bit_, kind = 2 ^ (newest % 24), (i > 4294967295 or o > 4294967295) and 1 or 0
    local mask, cells = bit_, ''
    if value then
        local before, has_kind = struct.unpack('<I3I1', value)
        mask, cells = before + bit_, string.sub(value, 5)
        if has_kind < kind then cells = widen(cells) else kind = has_kind end
    end
    local format, size = shape(kind)
    cells = cells .. struct.pack(format, r, i, o)
    if #cells >= 6 * size and math.floor(into / 24) > math.floor(newest / 24) then -- the group is complete
        local sum_r, sum_i, sum_o, from = 0, 0, 0, 1
        for _ = 1, #cells / size do
            r, i, o, from = struct.unpack(format, cells, from)
            sum_r, sum_i, sum_o = sum_r + r, sum_i + i, sum_o + o
        end
        cells = cells .. struct.pack('<I7I7I7', sum_r, sum_i, sum_o)
    end
    return struct.pack('<I3I1', mask, kind) .. cells
end

-- ---- the usual call: admits on one path, which all fit in windows that are in use ----------------------------------------
-- It is decided here, each window in locals: below, an access to a window's table takes as long as ten. If anything is not
-- as expected, nothing has been changed yet, and the general rules decide.
local new_last_ms = now - now % TICK_MS
if clock and new_last_ms >= last_ms and path_count == 1 and other_count == 0
    and record and not replayed and version == policies[1] then
    local of_key, count, ends_ms, numbers_at = sunpack(PATH_FORMAT, batch, at)
    local from, add_i, add_o = versions_at + 8 * (of_key - 1), 0, 0
    -- A path has no window twice: one of as many windows as the batch has all of them.
    local fits = admit_count > 0 and count > 0 and count == window_count and (ends_ms == 0 or ends_ms > clock_ms)
        and (of_key == 0 or policies[of_key + 1] == sub(batch, from, from + 7))
    from = numbers_at + count
    for _ = 1, admit_count do
        local _, input, output, after = sunpack(ADMIT_FORMAT, batch, from)
        add_i, add_o, from = add_i + input, add_o + output, after
    end
    local bucket, of_ms = 0, 0
    local writes, sizes, leavers, ttls_ms = { false, false }, { false, false }, { false, false }, { 0, 0 }
    if floor(now / RECORD_STEP_MS) ~= floor(last_ms / RECORD_STEP_MS) then ttls_ms[1] = RECORD_LIFE_MS + RECORD_STEP_MS end
    local told = { false, false, false, false, false, false, false, false }
    -- Where buckets may change, a first look: whatever has no room needs no groups. Those that are needed are read at once.
    local groups_of = { false, false }
    for h = 1, fits and new_last_ms > last_ms and key_count + 1 or 0 do
        local fields, size = { false, false, false, false, false, false, false, false, false, false, false, false }, 0
        for k = lasts[h - 1] + 1, lasts[h] do
            local meta = metas[k]
            fits = meta
            if not fits then break end
            local bucket_ms, width, limit_r, limit_i, limit_o, limit_t =
                sunpack(WINDOW_FORMAT, batch, windows_at + h + (k - 1) * WINDOW_SIZE + 6)
            local head, newest = sunpack('<I5I5', meta)
            if bucket_ms ~= of_ms then bucket, of_ms = floor(now / bucket_ms), bucket_ms end
            local oldest, id = bucket - width, ids[k]
            if newest < bucket then fields[size + 1], size = id .. char(floor(newest / GROUP) % RING), size + 1 end
            if head < oldest then
                local g = floor(head / GROUP)
                fields[size + 1], fields[size + 2], size = id .. char(g % RING), id .. char((g + 1) % RING), size + 2
            else
                local used_r, used_i, used_o = sunpack('<I6I7I7', meta, USED_AT)
                fits = used_r < limit_r and (used_i + add_i <= limit_i or add_i == 0)
                    and (used_o + add_o <= limit_o or add_o == 0)
                    and (used_i + used_o + add_i + add_o <= limit_t or add_i + add_o == 0)
            end
            if not fits then break end
        end
        if not fits then break end
        groups_of[h] = size > 0 and { fields, size }
    end
    for h = 1, fits and key_count + 1 or 0 do
        local key, first, last = KEYS[h + 1], lasts[h - 1] + 1, lasts[h]
        local asked, groups, size, gone = groups_of[h], false, 0, nil
        if asked then groups = call('HMGET', key, unpack(asked[1], 1, asked[2])) end
        local fields, i = { false, false, false, false, false, false, false, false, false, false, false, false, false, false,
            false, false, false, false, false, false, false, false, false, false, false, false, false, false }, 0
        size = 0
        if h == 1 then
            fields[1], fields[2], size = node, spack(RECORD_FORMAT, number, now), 2
            if new_last_ms > last_ms then
                fields[3], fields[4], size = CLOCK, spack(CLOCK_FORMAT, new_last_ms, skew_ms), 4
            end
        end
        for k = first, last do
            local meta, id = metas[k], ids[k]
            fits = meta
            if not fits then break end
            local bucket_ms, width, limit_r, limit_i, limit_o, limit_t =
                sunpack(WINDOW_FORMAT, batch, windows_at + h + (k - 1) * WINDOW_SIZE + 6)
            local head, newest, newest_r, newest_i, newest_o, used_r, used_i, used_o, cell_r, cell_i, cell_o =
                sunpack(META_FORMAT, meta)
            if bucket_ms ~= of_ms then bucket, of_ms = floor(now / bucket_ms), bucket_ms end
            local oldest = bucket - width
            fits = newest <= bucket and (newest == bucket and head >= oldest or groups)
            if not fits then break end
            if newest < bucket then -- another begins
                if floor(bucket / TTL_STEP) > floor(newest / TTL_STEP) then
                    local life_ms = (width + 1 + TTL_STEP) * bucket_ms + TTL_SLACK_MS
                    ttls_ms[1], ttls_ms[h] = max(ttls_ms[1], life_ms), max(ttls_ms[h] or 0, life_ms)
                end
                local g = floor(newest / GROUP)
                fields[size + 1] = id .. char(g % RING)
                fields[size + 2] = append(groups[i + 1], newest, bucket, cell_r, cell_i, cell_o)
                i, size, newest, cell_r, cell_i, cell_o = i + 1, size + 2, bucket, 0, 0, 0
            end
            if head < oldest then -- some leave: of two groups at most, where others stay
                local g = floor(head / GROUP)
                local value, following = groups[i + 1], groups[i + 2]
                fits = value
                if not fits then break end
                i = i + 2
                local r, t, o, stays = leave(value, g, head, oldest)
                used_r, used_i, used_o = used_r - r, used_i - t, used_o - o
                if not stays then
                    gone = gone or {}
                    gone[#gone + 1] = id .. char(g % RING)
                    fits = following
                    if not fits then break end
                    r, t, o, stays = leave(following, g + 1, head, oldest)
                    used_r, used_i, used_o = used_r - r, used_i - t, used_o - o
                    fits = stays
                    if not fits then break end
                end
                head = stays
                if newest_i < oldest then newest_i = 0 end
                if newest_o < oldest then newest_o = 0 end
            end
            newest_r = bucket
            if add_i > 0 then newest_i = bucket end
            if add_o > 0 then newest_o = bucket end
            used_r, used_i, used_o = used_r + admit_count, used_i + add_i, used_o + add_o
            cell_r, cell_i, cell_o = cell_r + admit_count, cell_i + add_i, cell_o + add_o
            fits = cell_r <= REQUESTS_MAX and used_r <= limit_r and (used_i <= limit_i or add_i == 0)
                and (used_o <= limit_o or add_o == 0) and (used_i + used_o <= limit_t or add_i + add_o == 0)
            if not fits then break end
            meta = spack(META_FORMAT, head, newest, newest_r, newest_i, newest_o, used_r, used_i, used_o,
                cell_r, cell_i, cell_o)
            told[k], fields[size + 1], fields[size + 2], size = meta, id, meta, size + 2
        end
        if not fits then break end
        writes[h], sizes[h], leavers[h] = fields, size, gone or false
    end
    if fits then
        for h = 1, key_count + 1 do
            if leavers[h] then call('HDEL', KEYS[h + 1], unpack(leavers[h])) end
            if sizes[h] > 0 then call('HSET', KEYS[h + 1], unpack(writes[h], 1, sizes[h])) end
            if ttls_ms[h] > 0 then prolong(KEYS[h + 1], ttls_ms[h]) end
        end
        return spack('<I1I8I8', 0, now, number) .. table.concat(told, '', 1, window_count)
    end
end

-- ---- windows -------------------------------------------------------------------------------------------------------------
local windows = {
    false, false, false, false, false, false, false, false, false, false, false, false,
    false, false, false, false, false, false, false, false, false, false, false, false,
}
local latest_ms = 0 -- the beginning of the newest bucket of all windows
for h = 1, key_count + 1 do
    local key = KEYS[h + 1]
    for k = lasts[h - 1] + 1, lasts[h] do
        local bucket_ms, width, limit_r, limit_i, limit_o, limit_t =
            sunpack(WINDOW_FORMAT, batch, windows_at + h + (k - 1) * WINDOW_SIZE + 6)
        local meta = metas[k]
        if meta then
            local head, newest, newest_r, newest_i, newest_o, used_r, used_i, used_o, cell_r, cell_i, cell_o =
                sunpack(META_FORMAT, meta)
            if newest * bucket_ms > latest_ms then latest_ms = newest * bucket_ms end
            windows[k] = {
                ids[k], key, bucket_ms, width, limit_r, limit_i, limit_o, limit_t, meta, 0,
                head, newest, newest_r, newest_i, newest_o, used_r, used_i, used_o, cell_r, cell_i, cell_o, newest,
                false, false, false,
            }
        else
            windows[k] = {
                ids[k], key, bucket_ms, width, limit_r, limit_i, limit_o, limit_t, false, 0,
                0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, false, false, false,
            }
        end
    end
end

if now < last_ms or now < latest_ms then
    -- The clock stepped back. Time goes on from where it was: history stays in the windows (never over a limit) and leaves
    -- them within their length (never blocked for longer). The skew has to be stored even if nothing is counted: else time
    -- would stand still until the clock has caught up.
    now = max(last_ms, latest_ms)
    skew_ms, stepped = now - clock_ms, true
end
last_ms = now - now % TICK_MS

-- ---- groups of older buckets: read as needed -----------------------------------------------------------------------------
local function read(w, g) -- a group's value
    local groups = w[GROUPS]
    if not groups then
        groups = {}
        w[GROUPS], w[TOUCHED] = groups, {}
    end
    local value = groups[g]
    if value == nil then
        value = g <= floor(w[READABLE] / 24) and redis.call('HGET', w[KEY], w[ID] .. string.char(g % 32))
        groups[g] = value
    end
    return value
end

local function read_all(w) -- in one call; for when a third group is needed: most that is searched lies in two or in many
    local groups, fields, missing, size = w[GROUPS], {}, {}, 0
    for g = floor(w[HEAD] / 24), floor(w[READABLE] / 24) do
        if groups[g] == nil then
            size = size + 1
            fields[size], missing[size] = w[ID] .. string.char(g % 32), g
        end
    end
    if size == 0 then return end
    local found = redis.call('HMGET', w[KEY], unpack(fields, 1, size))
    for i = 1, size do groups[missing[i]] = found[i] end
end

-- ---- what has left -------------------------------------------------------------------------------------------------------
local expired = false
local bucket, of_ms = 0, 0
for k = 1, window_count do
    local w = windows[k]
    if w[BUCKET_MS] ~= of_ms then
        of_ms = w[BUCKET_MS]
        bucket = floor(now / of_ms)
    end
    local oldest, newest, head = bucket - w[WIDTH], w[NEWEST], w[HEAD]
    w[BUCKET] = bucket
    if newest > 0 and newest < oldest then
        -- Nothing counts any more. The groups are deleted when something is counted, without being read.
        w[GONE_FROM], w[GONE_TO], w[META] = floor(head / GROUP), floor(newest / GROUP), false
        for slot = HEAD, READABLE do w[slot] = 0 end
    elseif head < oldest and newest > 0 then
        -- Each bucket is subtracted once, when it leaves the window. The head ends on the oldest bucket still in use, so that
        -- each gap is walked once, too. Cells before the head stay in its group until all of the group has left.
        local used_r, used_i, used_o = w[USED_R], w[USED_I], w[USED_O]
        local first, stays = floor(head / GROUP), nil
        for g = first, floor(newest / GROUP) do
            if g == first + 2 then read_all(w) end
            local value = read(w, g)
            if value then
                local r, i, o
                r, i, o, stays = leave(value, g, head, oldest)
                used_r, used_i, used_o = used_r - r, used_i - i, used_o - o
                if stays then break end
                w[GROUPS][g], w[TOUCHED][g] = false, true
            end
        end
        head = stays or newest
        w[HEAD], w[USED_R], w[USED_I], w[USED_O] = head, used_r, used_i, used_o
        if w[NEWEST_R] < oldest then w[NEWEST_R] = 0 end
        if w[NEWEST_I] < oldest then w[NEWEST_I] = 0 end
        if w[NEWEST_O] < oldest then w[NEWEST_O] = 0 end
        w[CHANGED], expired = true, true
    end
end

-- ---- paths ---------------------------------------------------------------------------------------------------------------
-- A path: the verdict on the policies it was made under and on its end, which of KEYS 3.. is its key (0 where the account's
-- policy is old), where the batch has the numbers of its windows, and the windows.
local VERDICT, WHOSE, NUMBERS, FIRST = 1, 2, 3, 4
local paths = { false, false, false, false }
local of_gone -- path -> for settles and charges, if its key has moved away: the same without the key's own windows
for p = 1, path_count do
    local k, count, ends_ms, numbers_at = sunpack(PATH_FORMAT, batch, at)
    at = numbers_at + count
    local path = { 0, k, numbers_at, byte(batch, numbers_at, at - 1) }
    for j = FIRST, count + FIRST - 1 do path[j] = windows[path[j]] end
    if has_left
        or other_count > 0 and k > 0 and not policies[k + 1] and call('HEXISTS', KEYS[1], 'f:' .. ARGV[k + 2]) == 1 then
        local left = { 0, 0, 0 }
        for j = FIRST, has_left and 0 or #path do
            if path[j][KEY] == KEYS[2] then left[#left + 1] = path[j] end
        end
        of_gone = of_gone or {}
        of_gone[p] = left
    end
    if has_left then path[VERDICT] = UNKNOWN_KEY
    elseif version ~= policies[1] then path[VERDICT], path[WHOSE] = OLD_POLICY, 0
    elseif k > 0 then
        local of_key, from = policies[k + 1], versions_at + 8 * (k - 1)
        if not of_key then path[VERDICT] = UNKNOWN_KEY
        elseif of_key ~= sub(batch, from, from + 7) then path[VERDICT] = OLD_POLICY end
    end
    if ends_ms > 0 and ends_ms <= clock_ms and path[VERDICT] == 0 then path[VERDICT] = ENDED end
    paths[p] = path
end

-- ---- deciding ------------------------------------------------------------------------------------------------------------
local changed = false -- something was counted: it has to be recorded under this number
local verdicts, places, retries -- per admit, as soon as one is not admitted
local waits, wait_count = nil, 0 -- per limit in the way of an admit: which admit, window, unit, how much is missing
local longest -- per admit not admitted: when all has left of the window in the way that takes longest, in ms
local told_old -- which policies were found old
local skipped, skipped_count = nil, 0 -- the numbers of settles and charges whose key has moved away
local current, path = 0, nil -- the path of the last admit
local room_r, room_i, room_o, room_t = 0, 0, 0, 0 -- the least room of all its windows
local row_r, row_i, row_o = 0, 0, 0 -- admitted on it in a row, but not counted yet
local operations = other_count + admit_count

for i = 1, operations + 1 do
    local kind, p, time_ms, requests, input, output = ADMIT, 0, 0, 0, 0, 0
    if i <= other_count then kind, p, time_ms, requests, input, output, at = sunpack(OTHER_FORMAT, batch, at)
    elseif i <= operations then p, input, output, at = sunpack(ADMIT_FORMAT, batch, at) end

    if p == current and room_r > 0 and input <= room_i and output <= room_o and input + output <= room_t then
        row_r, row_i, row_o = row_r + 1, row_i + input, row_o + output
        room_r, room_i, room_o, room_t = room_r - 1, room_i - input, room_o - output, room_t - input - output
    else
        -- Count: a settle or charge at once, admits when their row ends.
        local counted
        local add_r, add_i, add_o = row_r, row_i, row_o
        if kind ~= ADMIT then
            counted = not replayed and (kind == SETTLE or requests ~= 0 or input ~= 0 or output ~= 0) and paths[p]
            add_r, add_i, add_o = requests, input, output
            if kind == SETTLE then add_r, add_i, add_o = -requests, -input, -output end
            if of_gone and of_gone[p] then
                skipped = skipped or {}
                skipped_count = skipped_count + 1
                skipped[skipped_count] = spack('<I2', i)
                counted = counted and of_gone[p]
            end
        elseif row_r > 0 then
            counted = path
            row_r, row_i, row_o = 0, 0, 0
        end
        for j = FIRST, counted and #counted or 0 do
            local w = counted[j]
            local into, newest = w[BUCKET], w[NEWEST]
            if kind ~= ADMIT then
                local current_bucket, oldest = into, into - w[WIDTH]
                into = floor(time_ms / w[BUCKET_MS])
                if kind == CHARGE then into = min(into, current_bucket)
                elseif into < w[HEAD] or into > newest then into = 0 end
                if into < oldest then into = 0 end
            end

            if into > newest then -- it becomes the newest; the former newest goes to the end of its group
                if newest == 0 then w[HEAD] = into
                else
                    local g = floor(newest / GROUP)
                    local value = read(w, g)
                    w[GROUPS][g], w[TOUCHED][g] = append(value, newest, into, w[CELL_R], w[CELL_I], w[CELL_O]), true
                end
                w[NEWEST], w[CELL_R], w[CELL_I], w[CELL_O] = into, 0, 0, 0
                newest = into
            end

            if kind == ADMIT then
                local r, cell_r = add_r, w[CELL_R]
                if cell_r + r > REQUESTS_MAX then r = REQUESTS_MAX - cell_r end
                w[CELL_R], w[CELL_I], w[CELL_O] = cell_r + r, w[CELL_I] + add_i, w[CELL_O] + add_o
                w[USED_R], w[USED_I], w[USED_O] = w[USED_R] + r, w[USED_I] + add_i, w[USED_O] + add_o
                w[NEWEST_R], w[CHANGED], changed = into, true, true
                if add_i > 0 then w[NEWEST_I] = into end
                if add_o > 0 then w[NEWEST_O] = into end
            elseif into > 0 then
                local old_r, old_i, old_o = w[CELL_R], w[CELL_I], w[CELL_O]
                local g, value, mask, kind_of_group, from, bit_, is_present
                local format, size = '<I4I4I4', 12
                if into < newest then
                    g, bit_, mask, kind_of_group, from = floor(into / GROUP), 2 ^ (into % GROUP), 0, 0, CELLS_AT
                    value = read(w, g)
                    if value then
                        mask, kind_of_group = sunpack(GROUP_FORMAT, value)
                        format, size = shape(kind_of_group)
                        from = cell_at(mask, into % GROUP, size)
                    end
                    is_present = mask % (2 * bit_) >= bit_
                    old_r, old_i, old_o = 0, 0, 0
                    if is_present then old_r, old_i, old_o = sunpack(format, value, from) end
                end
                if kind == CHARGE or old_r > 0 then -- nothing to settle if nothing was admitted
                    local r = max(min(add_r, REQUESTS_MAX - old_r), -old_r)
                    local t = max(min(add_i, AMOUNT_MAX - w[USED_I]), -old_i)
                    local o = max(min(add_o, AMOUNT_MAX - w[USED_O]), -old_o)
                    local new_r, new_i, new_o = old_r + r, old_i + t, old_o + o
                    w[USED_R], w[USED_I], w[USED_O] = w[USED_R] + r, w[USED_I] + t, w[USED_O] + o
                    if into == newest then w[CELL_R], w[CELL_I], w[CELL_O] = new_r, new_i, new_o
                    else
                        local before, after = '', ''
                        if value then
                            before, after = sub(value, CELLS_AT, from - 1), sub(value, is_present and from + size or from)
                        end
                        local sums = ''
                        if #after % size > 0 then
                            local sum_r, sum_i, sum_o = sunpack(SUMS_FORMAT, after, #after - SUMS_SIZE + 1)
                            after = sub(after, 1, -SUMS_SIZE - 1)
                            sums = spack(SUMS_FORMAT, sum_r + r, sum_i + t, sum_o + o)
                        end
                        if kind_of_group == 0 and (new_i > NARROW_MAX or new_o > NARROW_MAX) then
                            before, after, kind_of_group = widen(before), widen(after), 1
                            format = shape(1)
                        end
                        w[GROUPS][g] = spack(GROUP_FORMAT, is_present and mask or mask + bit_, kind_of_group)
                            .. before .. spack(format, new_r, new_i, new_o) .. after .. sums
                        w[TOUCHED][g], w[HEAD] = true, min(w[HEAD], into)
                    end
                    if new_r > 0 then w[NEWEST_R] = max(w[NEWEST_R], into) elseif into == w[NEWEST_R] then w[EMPTIED] = true end
                    if new_i > 0 then w[NEWEST_I] = max(w[NEWEST_I], into) elseif into == w[NEWEST_I] then w[EMPTIED] = true end
                    if new_o > 0 then w[NEWEST_O] = max(w[NEWEST_O], into) elseif into == w[NEWEST_O] then w[EMPTIED] = true end
                    w[CHANGED], changed = true, true
                end
            end
        end

        if i > other_count and i <= operations then
            local on = paths[p]
            local verdict, which = on[VERDICT], 0
            if replayed then
                local from = VERDICTS_AT + 2 * (i - other_count - 1)
                verdict = byte(record, from) or 0
                which = byte(record, from + 1) or 0
            elseif verdict == 0 then
                if p ~= current then
                    current, path = p, on
                    room_r, room_i, room_o, room_t = math.huge, math.huge, math.huge, math.huge
                    for j = FIRST, #path do
                        local w = path[j]
                        local used_i, used_o = w[USED_I], w[USED_O]
                        local r, both = w[LIMIT_R] - w[USED_R], w[LIMIT_T] - used_i - used_o
                        local t, o = w[LIMIT_I] - used_i, w[LIMIT_O] - used_o
                        if r < room_r then room_r = r end
                        if t < room_i then room_i = t end
                        if o < room_o then room_o = o end
                        if both < room_t then room_t = both end
                    end
                end
                -- What isn't needed fits, even where more than the limit is used.
                if room_r > 0 and (input <= room_i or input == 0) and (output <= room_o or output == 0)
                    and (input + output <= room_t or input + output == 0) then
                    row_r, row_i, row_o = 1, input, output
                    room_r, room_i, room_o, room_t = room_r - 1, room_i - input, room_o - output, room_t - input - output
                else verdict = 1 end -- or another unit: see below
            end
            if verdict > 0 and verdict < NEVER then
                local smallest
                for j = FIRST, #on do
                    local w = on[j]
                    for unit = 1, 4 do
                        local need = unit == 1 and 1 or unit == 2 and input or unit == 3 and output or input + output
                        local limit = w[LIMIT + unit]
                        local over = (unit < 4 and w[USED + unit] or w[USED_I] + w[USED_O]) + need - limit
                        if need > limit and not replayed then -- it would never fit: the smallest such limit is named
                            if not smallest or limit < smallest then
                                smallest, verdict, which = limit, NEVER + unit, byte(batch, on[NUMBERS] + j - FIRST)
                            end
                        elseif over > 0 and need > 0 and not smallest then
                            wait_count = wait_count + 1
                            waits = waits or {}
                            local until_ms = (w[NEWEST] + w[WIDTH] + 1) * w[BUCKET_MS] -- when all of it has left
                            waits[wait_count] = { i - other_count, w, unit, over, byte(batch, on[NUMBERS] + j - FIRST), until_ms }
                            longest = longest or {}
                            longest[i - other_count] = max(longest[i - other_count] or 0, until_ms)
                        end
                    end
                end
            elseif verdict == OLD_POLICY and on[VERDICT] == OLD_POLICY then
                told_old = told_old or {}
                told_old[on[WHOSE]] = true
            end
            if verdict > 0 then
                if not verdicts then verdicts, places, retries = {}, {}, {} end
                verdicts[i - other_count], places[i - other_count], retries[i - other_count] = verdict, which, 0
            end
        end
    end
end

-- ---- retry times: the latest time at which one of the limits in the way has room for it alone ----------------------------
-- They are found after all admits, because these changed none of the buckets before the one that a rejection waits for.
-- A day's window frees later than a minute's nearly always: the windows that can take longest are searched first, and those
-- not at all that have left before the time found. `named`: per admit, the one of `waits` that is named.
local named = {}
for n = 1, 2 * wait_count do
    local is_second = n > wait_count
    n = is_second and n - wait_count or n
    local wait = waits[n]
    local i, w, unit, over, until_ms = wait[1], wait[2], wait[3], wait[4], wait[6]
    local is_searched = verdicts[i] < NEVER and is_second ~= (until_ms == longest[i]) and until_ms - now >= retries[i]
    local head, last = w[HEAD], w[NEWEST] -- last: the bucket whose leaving frees enough
    local before_newest = unit < 4 and w[USED + unit] - w[CELL + unit] or w[USED_I] + w[USED_O] - w[CELL_I] - w[CELL_O]
    if is_searched and over <= before_newest then
        local first, newest_group = floor(head / GROUP), floor(last / GROUP)
        local value = read(w, first)
        local mask, kind_of_group, from, head_at, r, t, o, format, size_of_cell = 0, 0, 0, 0, 0, 0, 0
        if value then
            mask, kind_of_group = sunpack(GROUP_FORMAT, value)
            format, size_of_cell = shape(kind_of_group)
            head_at = cell_at(mask, head % GROUP, size_of_cell)
            r, t, o = sunpack(format, value, head_at)
        end
        if over <= (unit == 1 and r or unit == 2 and t or unit == 3 and o or t + o) then last = head
        else
            local sums = w[SUMS] -- over the first groups, by unit; kept for the rejections that follow
            if not sums then
                sums = { { [0] = 0 }, { [0] = 0 }, { [0] = 0 }, { [0] = 0 } }
                w[SUMS] = sums
            end
            local sum, size = sums[unit], #sums[1]
            while sum[size] < over and first + size <= newest_group do
                if size == 2 then read_all(w) end
                value = read(w, first + size)
                local sum_r, sum_i, sum_o = 0, 0, 0
                if value then
                    mask, kind_of_group, from = sunpack(GROUP_FORMAT, value)
                    format, size_of_cell = shape(kind_of_group)
                    local sums_size = (#value - CELLS_AT + 1) % size_of_cell > 0 and SUMS_SIZE or 0
                    if size == 0 then from = head_at end
                    if sums_size > 0 and from == CELLS_AT then
                        sum_r, sum_i, sum_o = sunpack(SUMS_FORMAT, value, #value - SUMS_SIZE + 1)
                    else
                        while from <= #value - sums_size do
                            r, t, o, from = sunpack(format, value, from)
                            sum_r, sum_i, sum_o = sum_r + r, sum_i + t, sum_o + o
                        end
                    end
                end
                sum_r, sum_i, sum_o = sum_r + sums[1][size], sum_i + sums[2][size], sum_o + sums[3][size]
                size = size + 1
                sums[1][size], sums[2][size], sums[3][size], sums[4][size] = sum_r, sum_i, sum_o, sum_i + sum_o
            end
            local g = 1
            while g < size and sum[g] < over do g = g + 1 end
            local left, b = over - sum[g - 1], (first + g - 1) * GROUP
            value, mask = read(w, first + g - 1), 0
            if value then
                mask, kind_of_group, from = sunpack(GROUP_FORMAT, value)
                format = shape(kind_of_group)
                if g == 1 then
                    mask, b, from = floor(mask / 2 ^ (head % GROUP)), head, head_at
                end
            end
            while left > 0 and mask > 0 do
                if mask % 2 == 1 then
                    r, t, o, from = sunpack(format, value, from)
                    left = left - (unit == 1 and r or unit == 2 and t or unit == 3 and o or t + o)
                    last = b
                end
                mask, b = (mask - mask % 2) / 2, b + 1
            end
        end
    end
    local retry_ms = (last + w[WIDTH] + 1) * w[BUCKET_MS] - now
    if is_searched and (retry_ms > retries[i] or retry_ms == retries[i] and n < (named[i] or 0)) then
        if not replayed then verdicts[i], places[i] = unit, wait[5] end
        retries[i], named[i] = retry_ms, n
    end
end

-- ---- the newest bucket of each counter, where settles have emptied it ----------------------------------------------------
for k = 1, window_count do
    local w = windows[k]
    for counter = 1, w[EMPTIED] and 3 or 0 do
        local newest, first = w[NEWEST + counter], floor(w[HEAD] / GROUP)
        if w[USED + counter] == 0 then newest = 0
        elseif newest < w[NEWEST] or w[CELL + counter] == 0 then
            local from_group, found = floor(newest / GROUP), nil
            for g = from_group, first, -1 do
                if g == from_group - 2 then read_all(w) end
                local value = read(w, g)
                if value then
                    local mask, kind_of_group, from = sunpack(GROUP_FORMAT, value)
                    local b, format = g * GROUP, shape(kind_of_group)
                    while mask > 0 do
                        if mask % 2 == 1 then
                            local cell = { sunpack(format, value, from) }
                            from = cell[4]
                            if cell[counter] > 0 then found = b end
                        end
                        mask, b = (mask - mask % 2) / 2, b + 1
                    end
                end
                if found then break end
            end
            newest = found or 0
        end
        w[NEWEST + counter] = newest
    end
end

-- ---- writing: one call per hash ------------------------------------------------------------------------------------------
local is_recorded = not replayed and (changed or flags == 1)
if is_recorded and not record then
    -- A node's first record: forget the nodes whose batches no longer matter. Others may have counted in longer windows
    -- than this batch names: the hash outlives all of them, so a record is kept for two thirds of its longest window.
    local names = call('HGET', KEYS[2], NODES) or ''
    local life_ms = max(RECORD_LIFE_MS, call('PTTL', KEYS[2]))
    for k = 1, window_count do life_ms = max(life_ms, (windows[k][WIDTH] + 1) * windows[k][BUCKET_MS] + TTL_SLACK_MS) end
    local kept = { node }
    for first = 1, #names, NODES_READ * #node do
        local some = {}
        for from = first, min(#names, first + NODES_READ * #node - 1), #node do
            some[#some + 1] = sub(names, from, from + #node - 1)
        end
        for i, other in ipairs(call('HMGET', KEYS[2], unpack(some))) do
            local seen_ms = 0
            if other then seen_ms = select(2, sunpack(RECORD_FORMAT, other)) end
            if some[i] ~= node then
                if seen_ms >= now - 2 * life_ms then kept[#kept + 1] = some[i]
                elseif other then call('HDEL', KEYS[2], some[i]) end
            end
        end
    end
    call('HSET', KEYS[2], NODES, table.concat(kept))
end
local fields = { false, false, false, false, false, false, false, false, false, false, false, false, false, false }
local shared_ttl_ms = 0
local k = 1
for h = 2, key_count + 2 do
    local key, size, ttl_ms = KEYS[h], 0, 0
    if h == 2 then
        if replayed then
            -- The record is written again, so that a following WAIT for replicas covers the batch, too.
            fields[1], fields[2], size = node, record, 2
        elseif is_recorded then
            local kept = spack(RECORD_FORMAT, number, now)
            if verdicts or skipped then
                local both = {}
                for i = 1, admit_count do both[i] = string.char(verdicts and verdicts[i] or 0, places and places[i] or 0) end
                kept = kept .. table.concat(both)
            end
            if skipped then kept = kept .. table.concat(skipped) end
            recorded = number
            fields[1], fields[2], size = node, kept, 2
            if floor(now / RECORD_STEP_MS) ~= floor(tick_ms / RECORD_STEP_MS) then
                shared_ttl_ms = RECORD_LIFE_MS + RECORD_STEP_MS
            end
        end
        if stepped or not replayed and (changed or expired) and last_ms > tick_ms then
            fields[size + 1], fields[size + 2], size = CLOCK, spack(CLOCK_FORMAT, last_ms, skew_ms), size + 2
            if not clock then shared_ttl_ms = RECORD_LIFE_MS + RECORD_STEP_MS end
        end
    end
    while k <= window_count do
        local w = windows[k]
        if w[KEY] ~= key then break end
        local meta = w[META]
        if w[CHANGED] then
            meta = spack(META_FORMAT, unpack(w, HEAD, CELL_O))
            if not replayed then
                local id, groups, gone, gone_size = w[ID], w[GROUPS], nil, 0
                fields[size + 1], fields[size + 2], size = id, meta, size + 2
                if w[GONE_FROM] then
                    gone = {}
                    for g = w[GONE_FROM], w[GONE_TO] do
                        gone_size = gone_size + 1
                        gone[gone_size] = id .. string.char(g % RING)
                    end
                end
                if groups then
                    for g in pairs(w[TOUCHED]) do
                        local value, field = groups[g], id .. char(g % RING)
                        if value then fields[size + 1], fields[size + 2], size = field, value, size + 2
                        else
                            gone, gone_size = gone or {}, gone_size + 1
                            gone[gone_size] = field
                        end
                    end
                end
                if gone then call('HDEL', key, unpack(gone, 1, gone_size)) end -- first, because a new group may take the field
                local bucket, before = w[BUCKET], w[READABLE]
                -- Without a clock the shared hash is new, and its records stand for what is counted in a key's hash, too.
                if changed and (not clock or bucket > before and floor(bucket / TTL_STEP) > floor(before / TTL_STEP)) then
                    local life_ms = (w[WIDTH] + 1 + TTL_STEP) * w[BUCKET_MS] + TTL_SLACK_MS
                    ttl_ms, shared_ttl_ms = max(ttl_ms, life_ms), max(shared_ttl_ms, life_ms)
                end
                if size > FIELDS_MAX then
                    call('HSET', key, unpack(fields, 1, size))
                    size = 0
                end
            end
        end
        windows[k] = meta or string.rep('\0', META_SIZE)
        k = k + 1
    end
    if size > 0 then call('HSET', key, unpack(fields, 1, size)) end
    if ttl_ms > 0 and h > 2 then prolong(key, ttl_ms) end
end
if shared_ttl_ms > 0 then prolong(KEYS[2], shared_ttl_ms) end

local list = ''
if replayed then list = sub(record, VERDICTS_AT + 2 * admit_count)
elseif skipped then list = table.concat(skipped) end
local state = replayed and 1 or 0
if list ~= '' then state, list = state + 8, spack('<I2', #list / 2) .. list end
local reply = spack('<I1I8I8', state, replayed and record_ms or now, recorded) .. list
    .. table.concat(windows, '', 1, window_count)
if not verdicts then return reply end
local results = {}
for i = 1, admit_count do
    results[i] = verdicts[i] and spack('<I1I1I5', verdicts[i], places[i], retries[i]) or ADMITTED
end
reply = reply .. table.concat(results)
for k = 0, told_old and key_count or -1 do
    if told_old[k] then
        local body = call('HGET', KEYS[1], k == 0 and 'account' or 'k:' .. ARGV[k + 2]) or ''
        reply = reply .. spack('<I1I4', k, #body) .. body
    end
end
return reply
