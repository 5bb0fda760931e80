#!lua
-- Makes a plain key, or one that isn't there, an account of its own that goes on with the window of the plain key.
--
-- Guarantee: a request is decided by the plain limits and window or by the account's, which hold the same usage; so none is
-- admitted beyond a limit that both have. Settles of requests that were admitted before find no record any more.
-- KEYS  1 rl:{kid}:limits   2 rl:{kid}:window   3 rl:{kid}:past   of the plain key
--       4 rl:{kid}:policy   5 rl:{kid}:shared   of the account; what is left of a former one in the policy goes
--       6 rl:{kid}:deleted  exists if the key was deleted on purpose
--       7 rl:{kid}:declared the record of what was declared of the plain key; from now on the policy has it
-- ARGV  1 TAG      of the account: the kid
--       2 version  3 body   of the account's policy
--       4 id       of the account's window of a minute; empty: it has none
--       5 clock    in ms (0 = this server's; tests set it)
--       6 limits   of the plain key as far as the caller knows, packed; empty: there is no plain key
-- Reply 1 done; nothing was written: 0 the key is an account of its own already, 2 it has other plain limits now
-- Cost  O(buckets in use): some 200 µs for a full window

local call, sunpack, spack, floor = redis.call, struct.unpack, struct.pack, math.floor
local BUCKET_MS, WIDTH, GROUP, RING = 100, 600, 24, 32
local MANY = 5 -- with more cells than these, a group gets sums
local TTL_MS = (WIDTH + 1) * BUCKET_MS + 30000
local KIND = '\0' -- cells of 12 bytes, as a plain key's

local tag, version, body, id, clock_ms, limits = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6]

local pointed = redis.pcall('HGET', KEYS[1], 'account') -- an error table for a plain key
if pointed == tag then return 0 end
local is_plain = type(pointed) == 'table'
if (is_plain and call('GET', KEYS[1]) or '') ~= limits then return 2 end

if clock_ms == 0 then
    local time = call('TIME')
    clock_ms = time[1] * 1000 + floor(time[2] / 1000)
end

local function convert(meta)
    local _, newest, skew_ms, cell
    _, newest, _, _, _, _, _, skew_ms, cell = sunpack('<I6I6I6I6I6I6I6I6c12', meta)
    local now = math.max(clock_ms + skew_ms, newest * BUCKET_MS)
    call('HSET', KEYS[5], 'c', spack('<I6I6', now - now % BUCKET_MS, now - clock_ms))
    local oldest = floor(now / BUCKET_MS) - WIDTH
    if newest < oldest or id == '' then return end

    -- Only what still counts is taken over, and all sums are made anew from it.
    local newest_group = floor(newest / GROUP)
    local fields, groups = call('HGETALL', KEYS[3]), {}
    for i = 1, #fields, 2 do
        local field = tonumber(fields[i]) -- nil: the anchor
        if field then groups[newest_group - (newest_group - field) % RING] = fields[i + 1] end
    end
    local head, newest_r, newest_i, newest_o, used_r, used_i, used_o = newest, 0, 0, 0, 0, 0, 0
    local function count(bucket, packed)
        local r, i, o = sunpack('<I4I4I4', packed)
        used_r, used_i, used_o = used_r + r, used_i + i, used_o + o
        if r > 0 then newest_r = bucket end
        if i > 0 then newest_i = bucket end
        if o > 0 then newest_o = bucket end
        head = math.min(head, bucket)
        return r, i, o
    end
    for g = floor(oldest / GROUP), newest_group do
        local value = groups[g]
        if value then
            local mask, at = sunpack('<I3', value)
            local kept, cells = 0, {}
            local sum_r, sum_i, sum_o = 0, 0, 0
            for place = 0, GROUP - 1 do
                if mask % 2 == 1 then
                    local bucket, packed = g * GROUP + place, string.sub(value, at, at + 11)
                    at = at + 12
                    if bucket >= oldest then
                        local r, i, o = count(bucket, packed)
                        sum_r, sum_i, sum_o = sum_r + r, sum_i + i, sum_o + o
                        kept, cells[#cells + 1] = kept + 2 ^ place, packed
                    end
                end
                mask = floor(mask / 2)
            end
            if #cells > 0 then
                local has_sums = #cells > MANY and g < newest_group
                local sums = has_sums and spack('<I7I7I7', sum_r, sum_i, sum_o) or ''
                call('HSET', KEYS[5], id .. string.char(g % RING), spack('<I3', kept) .. KIND .. table.concat(cells) .. sums)
            end
        end
    end
    local r, i, o = count(newest, cell)
    call('HSET', KEYS[5], id, spack('<I5I5I5I5I5I6I7I7I4I7I7', head, newest, newest_r, newest_i, newest_o,
        used_r, used_i, used_o, r, i, o))
end

if is_plain then
    local meta = call('HGET', KEYS[2], 'm')
    if meta then
        convert(meta)
        call('PEXPIRE', KEYS[5], TTL_MS, 'NX')
        call('PEXPIRE', KEYS[5], TTL_MS, 'GT')
    end
    call('DEL', KEYS[1], KEYS[2], KEYS[3])
end
call('HSET', KEYS[1], 'account', tag)
call('HSET', KEYS[4], 'version', version, 'account', body)
call('HDEL', KEYS[4], 'x:', 'f:' .. tag)
call('DEL', KEYS[6], KEYS[7])
return 1
