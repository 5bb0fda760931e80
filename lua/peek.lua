#!lua flags=no-writes
-- A key's limits and the buckets that count now; writes nothing, so a replica may answer it.
--
-- KEYS  1 rl:{kid}:limits   2 rl:{kid}:window
-- ARGV  1 W, the window's length in buckets   2 clock in ms (0 = this server's; tests set it)
-- Reply nil if there is no such key, else: time in ms, rpm, input_tpm, output_tpm, output_reserve, name, and the buckets
--       in use as one string of I8 bucket, I4 requests, I4 input, I4 output each (little endian, in no order). The usage
--       is their sum: the running sums of `decide.lua` are not read, so that the one can be held against the other.
-- Cost  3 calls, O(buckets in use): some 100 µs for a full window.

local sunpack, spack, floor = struct.unpack, struct.pack, math.floor
local BUCKET_MS, GROUP, RING = 100, 5, 128

local conf = redis.call('HMGET', KEYS[1], 'rpm', 'input_tpm', 'output_tpm', 'output_reserve', 'name')
if not conf[1] then return false end

local now = tonumber(ARGV[2])
if now == 0 then
    local time = redis.call('TIME')
    now = time[1] * 1000 + floor(time[2] / 1000)
end

local stored = redis.call('HGETALL', KEYS[2])
local groups, newest, buckets = {}, 0, {}
for i = 1, #stored, 2 do
    if stored[i] == 'm' then
        local _, skew_ms, r, t, o
        _, newest, _, _, _, _, _, skew_ms, r, t, o = sunpack('<I6I6I6I6I6I6I6I6I4I4I4', stored[i + 1])
        now = math.max(now + skew_ms, newest * BUCKET_MS)
        if newest >= floor(now / BUCKET_MS) - tonumber(ARGV[1]) and r + t + o > 0 then
            buckets[1] = spack('<I8I4I4I4', newest, r, t, o)
        end
    else
        groups[tonumber(stored[i])] = stored[i + 1]
    end
end

local oldest = floor(now / BUCKET_MS) - tonumber(ARGV[1])
local newest_group = floor(newest / GROUP)
for field, value in pairs(groups) do
    local group = newest_group - (newest_group - field) % RING
    local mask, at = string.byte(value), 2
    for i = 0, GROUP - 1 do
        if bit.band(mask, bit.lshift(1, i)) ~= 0 then
            local bucket = group * GROUP + i
            if bucket >= oldest then
                buckets[#buckets + 1] = spack('<I8', bucket) .. string.sub(value, at, at + 11)
            end
            at = at + 12
        end
    end
end
return { now, tonumber(conf[1]), tonumber(conf[2]), tonumber(conf[3]), tonumber(conf[4]), conf[5] or '', table.concat(buckets) }
