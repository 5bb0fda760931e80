#!lua flags=no-writes
-- Reads a key's limits, and the time, for a key that can't be decided while its slot moves.
--
-- Guarantee: names one key, so that a server that has only some of the API key's values replies, or redirects.
-- KEYS  1 rl:{kid}:limits   string
-- Reply nil if there is no such key, else: the limits as stored, this server's clock in ms
-- Cost  2 calls

local limits = redis.call('GET', KEYS[1])
if not limits then return false end
local time = redis.call('TIME')
return { limits, time[1] * 1000 + math.floor(time[2] / 1000) }
