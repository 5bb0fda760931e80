#!lua flags=allow-oom
-- Announces a node and counts the live nodes; refuses a node whose storage format isn't theirs.
--
-- Guarantee: each node that announced itself within the last OLDEST ms is live and counts once; others are forgotten. Live
-- nodes use one storage format; a node of another one changes nothing. A server that is out of memory runs the script: it
-- takes some bytes per node, and just then the number of nodes is needed.
-- KEYS  1 rl:{nodes}          hash: a node's id -> when it last announced itself, ms of this server's clock
--       2 rl:{nodes}:format   string: the storage format of the live nodes
-- ARGV  1 node    id of the calling process, new at each start
--       2 here    1; 0 when this node is leaving; 2 when the caller isn't a node and only asks: nothing is written
--       3 oldest  the age in ms up to which an announcement counts
--       4 format  the storage format that the caller reads and writes
-- Reply the number of live nodes, this one included; or, as a string, the format of the others if it is another one
-- Cost  O(nodes): 6 calls, one more if any node is forgotten

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local node, here, oldest_ms, format = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local all, gone, others = redis.call('HGETALL', KEYS[1]), {}, 0
for i = 1, #all, 2 do
    -- A time far ahead was written before the clock stepped back.
    local seen = tonumber(all[i + 1])
    if all[i] == node then -- counted below
    elseif seen < now - oldest_ms or seen > now + oldest_ms then gone[#gone + 1] = all[i]
    else others = others + 1
    end
end
-- The oldest versions announce no number: they use format 1.
local used = redis.call('GET', KEYS[2]) or '1'
if here ~= '0' and others > 0 and used ~= format then return used end
if here == '2' then return others end
if #gone > 0 then redis.call('HDEL', KEYS[1], unpack(gone)) end
if here == '0' then
    redis.call('HDEL', KEYS[1], node)
    if others == 0 then redis.call('DEL', KEYS[2]) end
    return others
end
redis.call('HSET', KEYS[1], node, now)
redis.call('SET', KEYS[2], format, 'PX', 2 * oldest_ms)
redis.call('PEXPIRE', KEYS[1], 2 * oldest_ms)
return others + 1
