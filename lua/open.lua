#!lua
-- Opens a key in the account that it moves to, with the windows that were frozen where it comes from.
--
-- Guarantee: the key is opened once for each move, with all of its windows or not at all; whoever is late changes nothing.
-- Usage leaves its windows no earlier than it would have in the other account, and less than one bucket later; where the
-- accounts are on two servers, also by the time between the reading of the other account's clock and this call.
-- KEYS  1 rl:{TAG}:policy   hash of the account that the key enters
--       2 rl:{TAG}:shared   hash: the account's clock
--       3 rl:{TAG}:key:KID  hash of the key's windows; of a key that becomes its own account: KEYS[2] once more
-- ARGV  1 KID
--       2 id        of the move
--       3 revision  of the key's policy: higher than that of the key's last opening here
--       4 version   5 body   of the key's policy, or, of a key that becomes its own account, of the account's
--                   An empty body opens nothing, and lets nobody open the key by this move from now on
--       6 name      of the key in the account's index of names; empty: it has none
--       7 clock     the other account's field `c`; empty if it has none
--       8 time      of the other account, in ms; 0 = its server is this one, whose clock tells it
--       9 now       this server's clock, in ms (0 = as it is; tests set it)
--       10 windows  packed: per window of the policy c6 id, I4 width of a bucket in ms, I2 W
--       11..        fields and values, in turn, of the hash with the frozen windows
-- Reply two values, a code and JSON.
--       The code: 1 the key is open now; for an empty body, nobody can open it by this move any more. Nothing was written:
--       2 the key is here, or has been here since this move; 0 nobody may open it by this move; 3 there is no such account.
--       The JSON, for 1 and 2 with a body, else empty: `id` and `revision` as given; `shift_ms`, how much later this
--       account's clock is than the other's (never too little); `opened_ms`, this account's time.
-- Cost  some 8 calls, and one for each field of an earlier stay that is still there; O(buckets in use): 0.1 ms for a full
--       window whose buckets keep their numbers, else 0.5 ms

local call, sunpack, spack, floor = redis.call, struct.unpack, struct.pack, math.floor
local max, min, sub = math.max, math.min, string.sub
local GROUP, RING, MANY = 24, 32, 5 -- with more cells than MANY, a group gets sums
local META_FORMAT = '<I5I5I5I5I5I6I7I7I4I7I7'
local CELL_FORMAT, CELL_SIZE = { [0] = '<I4I4I4', '<I4I7I7' }, { [0] = 12, 18 }
local NARROW_MAX, REQUESTS_MAX = 4294967295, 4294967295
local TICK_MS, TTL_STEP, TTL_SLACK_MS, RECORD_TTL_MS = 100, 100, 30000, 100000 -- as in decide_paths.lua

local kid, id, revision, version, body, name = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
local is_own = KEYS[3] == KEYS[2] -- the key becomes its own account
local version_field, body_field = kid, 'k:' .. kid
if is_own then version_field, body_field = 'version', 'account' end

local found = call('HMGET', KEYS[1], 'version', version_field, 'o:' .. kid)
local opened = found[3] and cjson.decode(found[3])
if opened and opened.id == id then
    if opened.is_closed then return { 0, '' } end
    return { 2, found[3] }
end
-- Revisions rise: with a later one, the key was here after this move.
local was_here = found[2] or opened and opened.revision >= revision
if body == '' then
    if was_here then return { 2, '' } end
    call('HSET', KEYS[1], 'o:' .. kid, cjson.encode({ id = id, revision = revision, is_closed = true }))
    return { 1, '' }
end
if not was_here and not is_own and not found[1] then return { 3, '' } end

-- ---- the two clocks ------------------------------------------------------------------------------------------------------
local clock_ms, source_ms = tonumber(ARGV[9]), tonumber(ARGV[8])
if clock_ms == 0 then
    local time = call('TIME')
    clock_ms = time[1] * 1000 + floor(time[2] / 1000)
end
local function account_time(clock)
    if not clock or clock == '' then return clock_ms end
    local last_ms, skew_ms = sunpack('<I6I6', clock)
    return max(clock_ms + skew_ms, last_ms)
end
local now = account_time(call('HGET', KEYS[2], 'c'))
if source_ms == 0 then source_ms = account_time(ARGV[7]) end
local shift_ms = now - source_ms
local told = string.format('{"id":"%s","revision":%.0f,"shift_ms":%.0f,"opened_ms":%.0f}', id, revision, shift_ms, now)
if was_here then return { 2, told } end

-- ---- the windows ---------------------------------------------------------------------------------------------------------
local frozen = {}
for i = 11, #ARGV, 2 do frozen[ARGV[i]] = ARGV[i + 1] end
local fields, size, ttl_ms = {}, 0, 0

local function copy(window, head, newest) -- as it is: its buckets keep their numbers
    for g = floor(head / GROUP), floor(newest / GROUP) do
        local field = window .. string.char(g % RING)
        if frozen[field] then fields[size + 1], fields[size + 2], size = field, frozen[field], size + 2 end
    end
    fields[size + 1], fields[size + 2], size = window, frozen[window], size + 2
end

local function move(window, by, current, oldest) -- each bucket becomes a later one, the current one at the latest
    local head, newest, _, _, _, _, _, _, cell_r, cell_i, cell_o = sunpack(META_FORMAT, frozen[window])
    local groups, firsts, pending, r, i, o = {}, {}, 0, 0, 0, 0
    local new_head, newest_r, newest_i, newest_o, used_r, used_i, used_o = 0, 0, 0, 0, 0, 0, 0
    local function keep(into_groups)
        if r + i + o == 0 then return end
        if new_head == 0 then new_head = pending end
        if r > 0 then newest_r = pending end
        if i > 0 then newest_i = pending end
        if o > 0 then newest_o = pending end
        used_r, used_i, used_o = used_r + r, used_i + i, used_o + o
        if not into_groups then return end
        local g = floor(pending / GROUP)
        local group = groups[g]
        if not group then
            group = { mask = 0, kind = 0 }
            groups[g], firsts[#firsts + 1] = group, g
        end
        group.mask = group.mask + 2 ^ (pending % GROUP)
        if i > NARROW_MAX or o > NARROW_MAX then group.kind = 1 end
        group[#group + 1] = { r, i, o }
    end
    local function add(bucket, new_r, new_i, new_o)
        bucket = min(bucket + by, current)
        if bucket < oldest or new_r + new_i + new_o == 0 then return end
        if bucket ~= pending then
            keep(true)
            pending, r, i, o = bucket, 0, 0, 0
        end
        r, i, o = min(r + new_r, REQUESTS_MAX), i + new_i, o + new_o
    end
    for g = floor(head / GROUP), floor(newest / GROUP) do
        local value = frozen[window .. string.char(g % RING)]
        local mask, kind, from = 0, 0, 0
        if value then mask, kind, from = sunpack('<I3I1', value) end
        local bucket = g * GROUP
        while mask > 0 do
            if mask % 2 == 1 then
                local cell_r_, cell_i_, cell_o_
                cell_r_, cell_i_, cell_o_, from = sunpack(CELL_FORMAT[kind], value, from)
                if bucket >= head then add(bucket, cell_r_, cell_i_, cell_o_) end
            end
            mask, bucket = floor(mask / 2), bucket + 1
        end
    end
    add(newest, cell_r, cell_i, cell_o)
    keep(false) -- the newest has its cell in the meta
    if used_r + used_i + used_o == 0 then return end
    for _, g in ipairs(firsts) do
        local group, cells = groups[g], {}
        local sum_r, sum_i, sum_o = 0, 0, 0
        for n, cell in ipairs(group) do
            cells[n] = spack(CELL_FORMAT[group.kind], cell[1], cell[2], cell[3])
            sum_r, sum_i, sum_o = sum_r + cell[1], sum_i + cell[2], sum_o + cell[3]
        end
        local sums = #group > MANY and g < floor(pending / GROUP) and spack('<I7I7I7', sum_r, sum_i, sum_o) or ''
        fields[size + 1] = window .. string.char(g % RING)
        fields[size + 2] = spack('<I3I1', group.mask, group.kind) .. table.concat(cells) .. sums
        size = size + 2
    end
    fields[size + 1] = window
    fields[size + 2] = spack(META_FORMAT, new_head, pending, newest_r, newest_i, newest_o, used_r, used_i, used_o, r, i, o)
    size = size + 2
end

local at = 1
while at <= #ARGV[10] do
    local window, bucket_ms, width
    window, bucket_ms, width, at = sunpack('<c6I4I2', ARGV[10], at)
    if frozen[window] then
        local head, newest = sunpack('<I5I5', frozen[window])
        local by, current = math.ceil(shift_ms / bucket_ms), floor(now / bucket_ms)
        local oldest = current - width
        local before = size
        if newest > 0 and newest + by >= oldest then
            if by == 0 and newest <= current then copy(window, head, newest) else move(window, by, current, oldest) end
        end
        if size > before then ttl_ms = max(ttl_ms, (width + 1 + TTL_STEP) * bucket_ms + TTL_SLACK_MS) end
    end
end

-- ---- writing -------------------------------------------------------------------------------------------------------------
local function prolong(key, life_ms)
    if call('PEXPIRE', key, life_ms, 'GT') == 0 then call('PEXPIRE', key, life_ms, 'NX') end
end

-- Windows that are here are those of an earlier stay: the key took what they held along.
if is_own then
    for _, field in ipairs(call('HKEYS', KEYS[3])) do
        if #field == 6 or #field == 7 then call('HDEL', KEYS[3], field) end
    end
else call('DEL', KEYS[3]) end
if size > 0 then
    for first = 1, size, 4000 do call('HSET', KEYS[3], unpack(fields, first, min(first + 3999, size))) end
    prolong(KEYS[3], ttl_ms)
    -- The clock never goes back before what the windows hold.
    call('HSET', KEYS[2], 'c', spack('<I6I6', now - now % TICK_MS, now - clock_ms))
    prolong(KEYS[2], max(ttl_ms, RECORD_TTL_MS))
end
call('HDEL', KEYS[1], 'f:' .. kid, 'x:' .. kid)
call('HSET', KEYS[1], version_field, version, body_field, body, 'o:' .. kid, told)
if name ~= '' then call('HSETNX', KEYS[1], 'n:' .. name, kid) end
return { 1, told }
