#!lua flags=no-writes
-- Reads what a credential leads to, a plain key's limits or the key's account, and the time; also while its slot moves.
--
-- Guarantee: names one key, so that a server that has only some of the API key's values replies, or redirects.
-- KEYS  1 rl:{cid}:limits   string, of a plain key; hash, of a credential of a key of an account
-- Reply nil if there is no such credential. For a plain key: the limits as stored, this server's clock in ms. For a key of
--       an account: an empty string, the clock, the account's hash tag, the key's KID. A hash that is neither: an empty
--       string and the clock alone.
-- Cost  2 calls, 3 for a key of an account

local limits = redis.pcall('GET', KEYS[1])
if not limits then return false end
local tag, kid
if type(limits) == 'table' then
    local account, further, of_key = unpack(redis.call('HMGET', KEYS[1], 'account', 'tag', 'kid'))
    if account then tag, kid = account, string.match(KEYS[1], '{(.-)}') -- the first credential: its digest is the KID
    elseif further and of_key then tag, kid = further, of_key end
    limits = ''
end
local time = redis.call('TIME')
return { limits, time[1] * 1000 + math.floor(time[2] / 1000), tag, kid }
