#!lua
-- Announces a node and counts those that are there.
--
-- Guarantee: each node that announced itself within the last OLDEST ms counts once; others are forgotten.
-- KEYS  1 rl:{nodes}   hash: a node's id -> when it last announced itself, ms of this server's clock
-- ARGV  1 node    id of the calling process, new at each start
--       2 here    1, or 0 when this node is leaving
--       3 oldest  in ms: how old an announcement counts
-- Reply the number of nodes, this one included
-- Cost  O(nodes): 4 calls, one more where any is forgotten

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local node, leaves, oldest = ARGV[1], ARGV[2] == '0', now - tonumber(ARGV[3])
if leaves then redis.call('HDEL', KEYS[1], node) else redis.call('HSET', KEYS[1], node, now) end
local all, gone, count = redis.call('HGETALL', KEYS[1]), {}, 0
for i = 1, #all, 2 do
    -- A time far ahead is that of a clock which has stepped back since.
    local seen = tonumber(all[i + 1])
    if seen < oldest or seen > now + tonumber(ARGV[3]) then gone[#gone + 1] = all[i] else count = count + 1 end
end
if #gone > 0 then redis.call('HDEL', KEYS[1], unpack(gone)) end
redis.call('PEXPIRE', KEYS[1], tonumber(ARGV[3]) * 2)
return count
