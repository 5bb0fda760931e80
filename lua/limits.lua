#!lua flags=no-writes
-- Reads a key's limits, or the account it belongs to, and the time; also for a key that can't be decided while its slot moves.
--
-- Guarantee: names one key, so that a server that has only some of the API key's values replies, or redirects.
-- KEYS  1 rl:{kid}:limits   string, of a plain key; hash, of a key of an account
-- Reply nil if there is no such key. For a plain key: the limits as stored, this server's clock in ms. For a key of an
--       account: an empty string, the clock, the account's hash tag.
-- Cost  2 calls, 3 for a key of an account

local limits = redis.pcall('GET', KEYS[1])
if not limits then return false end
local tag
if type(limits) == 'table' then limits, tag = '', redis.call('HGET', KEYS[1], 'account') end
local time = redis.call('TIME')
return { limits, time[1] * 1000 + math.floor(time[2] / 1000), tag }
