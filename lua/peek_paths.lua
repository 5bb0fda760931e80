#!lua flags=no-writes
-- Reads what counts in windows of an account now; writes nothing, so a replica may run it.
--
-- KEYS  1 rl:{TAG}:policy   2 rl:{TAG}:shared   3.. rl:{TAG}:key:KID
-- ARGV  1 packed, little endian: I8 clock in ms (0 = this server's; tests set it), then per KEYS 2..: I1 windows, and
--         each: c6 id, I4 width of a bucket in ms, I2 W
--       2.. the KID of each of KEYS 3..
-- Reply nil if there is no such account, else: the version of its policy; for each KID the version of its policy, nil if
--       the account has no such key; and one string, little endian: I8 time in ms, per window 3 × I8 used, 3 × I5 newest
--       bucket in use of requests, input and output (0 = none). They are added up from the buckets: the running sums of
--       `decide_paths.lua` are not read, so that tests can compare the two.
-- Cost  2 calls and one per hash, 1 more per window; O(buckets in use): some 100 µs for each full window.

local sunpack, spack, floor, max = struct.unpack, struct.pack, math.floor, math.max
local sub = string.sub
local GROUP, RING = 24, 32
local CELL_FORMAT, CELL_SIZE = { [0] = '<I4I4I4', '<I4I7I7' }, { [0] = 12, 18 }

local policies = redis.call('HMGET', KEYS[1], 'version', unpack(ARGV, 2))
if not policies[1] then return false end

local asked = ARGV[1]
local clock_ms, at = sunpack('<I8', asked)
if clock_ms == 0 then
    local time = redis.call('TIME')
    clock_ms = time[1] * 1000 + floor(time[2] / 1000)
end

local now, last_ms, skew_ms = clock_ms, 0, 0 -- as in decide_paths.lua: the clock, which never goes back
local windows = {}
for h = 2, #KEYS do
    local ids, first = {}, #windows
    local count = string.byte(asked, at)
    at = at + 1
    for j = 1, count do
        local w = { key = KEYS[h] }
        w.id, w.bucket_ms, w.width, at = sunpack('<c6I4I2', asked, at)
        ids[j], windows[first + j] = w.id, w
    end
    if h == 2 then ids[count + 1] = 'c' end
    local found = #ids > 0 and redis.call('HMGET', KEYS[h], unpack(ids)) or {}
    if h == 2 and found[count + 1] then last_ms, skew_ms = sunpack('<I6I6', found[count + 1]) end
    for j = 1, count do windows[first + j].meta = found[j] end
end

now = max(clock_ms + skew_ms, last_ms)
for _, w in ipairs(windows) do
    if w.meta then
        local _, newest = sunpack('<I5I5', w.meta)
        now = max(now, newest * w.bucket_ms)
    end
end

local reply = { spack('<I8', now) }
for k, w in ipairs(windows) do
    local used, newest_in = { 0, 0, 0 }, { 0, 0, 0 }
    local oldest = floor(now / w.bucket_ms) - w.width
    local function add(bucket, ...)
        for counter = 1, bucket >= oldest and 3 or 0 do
            local amount = select(counter, ...)
            used[counter] = used[counter] + amount
            if amount > 0 then newest_in[counter] = max(newest_in[counter], bucket) end
        end
    end
    if w.meta then
        local head, newest, _, _, _, _, _, _, r, i, o = sunpack('<I5I5I5I5I5I6I7I7I4I7I7', w.meta)
        add(newest, r, i, o)
        local fields, first = {}, floor(head / GROUP)
        for g = first, floor(newest / GROUP) do fields[#fields + 1] = w.id .. string.char(g % RING) end
        for n, value in ipairs(redis.call('HMGET', w.key, unpack(fields))) do
            local mask, kind, from = 0, 0, 0
            if value then mask, kind, from = sunpack('<I3I1', value) end
            for bucket = (first + n - 1) * GROUP, (first + n) * GROUP - 1 do
                if mask % 2 == 1 then
                    add(bucket, sunpack(CELL_FORMAT[kind], value, from))
                    from = from + CELL_SIZE[kind]
                end
                mask = floor(mask / 2)
            end
        end
    end
    reply[k + 1] = spack('<I8I8I8I5I5I5', used[1], used[2], used[3], newest_in[1], newest_in[2], newest_in[3])
end
policies[#ARGV + 1] = table.concat(reply)
return policies
