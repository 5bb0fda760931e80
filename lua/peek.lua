#!lua flags=no-writes
-- Reads a key's limits and the buckets that count now; writes nothing, so a replica may run it.
--
-- KEYS  1 rl:{kid}:limits   2 rl:{kid}:window   3 rl:{kid}:past
-- ARGV  1 W, the window's length in buckets   2 clock in ms (0 = this server's; tests set it)
-- Reply nil if there is no such key, else: time in ms, the limits as stored, and the buckets in use as one string of
--       I8 bucket, I4 requests, I4 input, I4 output each (little endian, in no order). The usage is their sum: the running
--       sums of `decide.lua` are not read, so that tests can compare the two.
-- Cost  4 calls, O(buckets in use): some 100 µs for a full window.

local sunpack, spack, floor = struct.unpack, struct.pack, math.floor
local BUCKET_MS, GROUP, RING = 100, 24, 32

local limits = redis.call('GET', KEYS[1])
if not limits then return false end

local now = tonumber(ARGV[2])
if now == 0 then
    local time = redis.call('TIME')
    now = time[1] * 1000 + floor(time[2] / 1000)
end

local newest, buckets = 0, {}
local meta = redis.call('HGET', KEYS[2], 'm')
if meta then
    local _, skew_ms, r, t, o
    _, newest, _, _, _, _, _, skew_ms, r, t, o = sunpack('<I6I6I6I6I6I6I6I6I4I4I4', meta)
    now = math.max(now + skew_ms, newest * BUCKET_MS)
    if r + t + o > 0 then buckets[1] = { newest, spack('<I4I4I4', r, t, o) } end
    local newest_group = floor(newest / GROUP)
    local stored = redis.call('HGETALL', KEYS[3])
    for i = 1, #stored, 2 do
        local field, value = tonumber(stored[i]), stored[i + 1]
        if field then
            local first = (newest_group - (newest_group - field) % RING) * GROUP
            local mask, at = sunpack('<I3', value)
            for bucket = first, first + GROUP - 1 do
                if mask % 2 == 1 then
                    buckets[#buckets + 1] = { bucket, string.sub(value, at, at + 11) }
                    at = at + 12
                end
                mask = floor(mask / 2)
            end
        end
    end
end

local oldest, counting = floor(now / BUCKET_MS) - tonumber(ARGV[1]), {}
for _, cell in ipairs(buckets) do
    if cell[1] >= oldest then counting[#counting + 1] = spack('<I8', cell[1]) .. cell[2] end
end
return { now, limits, table.concat(counting) }
