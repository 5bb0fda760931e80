#!lua flags=no-writes
-- Reads all that the store has under the digest of a credential; writes nothing.
--
-- Guarantee: the three values are of one moment.
-- KEYS  1 rl:{cid}:limits    string of a plain key, or hash that leads to a key of an account
--       2 rl:{cid}:deleted   the mark that the credential was taken away on purpose
--       3 rl:{cid}:declared  what was declared of a plain key
-- Reply the mark, what was declared, the limits of a plain key; or, of a hash, nil and its fields account, tag and kid. Each
--       is nil if it isn't there
-- Cost  3 calls, one more for a hash

local limits = redis.pcall('GET', KEYS[1])
local mark, declared = redis.call('GET', KEYS[2]), redis.call('GET', KEYS[3])
if type(limits) ~= 'table' then return { mark, declared, limits } end -- else an error
local way = redis.pcall('HMGET', KEYS[1], 'account', 'tag', 'kid')
if way.err then return { mark, declared, false } end -- damaged
return { mark, declared, false, way[1], way[2], way[3] }
