#!lua
-- Writes the policy of an account or of one of its keys, unless somebody else has changed it meanwhile.
--
-- KEYS  1 rl:{TAG}:policy   hash
-- ARGV  1 the KID of a key; empty: the account itself
--       2 the version that is stored, as far as the caller knows: 8 bytes; empty = none; * = any or none
--       3 the new version: 8 bytes; empty = delete it. An account is deleted with its keys
--       4 the new body
-- Reply 1 done, 0 another version is stored: nothing was written
-- Cost  2 calls

local kid, expected, version, body = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local version_field, body_field = kid, 'k:' .. kid
if kid == '' then version_field, body_field = 'version', 'account' end

if expected ~= '*' and (redis.call('HGET', KEYS[1], version_field) or '') ~= expected then return 0 end
if version ~= '' then redis.call('HSET', KEYS[1], version_field, version, body_field, body)
elseif kid == '' then redis.call('DEL', KEYS[1])
else redis.call('HDEL', KEYS[1], version_field, body_field) end
return 1
