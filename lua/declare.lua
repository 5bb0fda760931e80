#!lua
-- Writes or deletes the policy of an account, or of one of its keys, if it is still the expected one.
--
-- Guarantee: of two callers that read the same version one writes; the other reads again.
-- KEYS  1 rl:{TAG}:policy   hash
-- ARGV  1 kid       of the key; empty for the account
--       2 expected  the version that must be stored; empty: none; *: any or none
--       3 version   of the new policy; empty: delete it, and with the account all its keys' policies
--       4 body      of the new policy
-- Reply 1 done, 0 another version is stored
-- Cost  2 calls

local kid, expected, version, body = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local version_field = kid == '' and 'version' or kid
local body_field = kid == '' and 'account' or 'k:' .. kid
if expected ~= '*' and (redis.call('HGET', KEYS[1], version_field) or '') ~= expected then return 0 end
if version ~= '' then redis.call('HSET', KEYS[1], version_field, version, body_field, body)
elseif kid == '' then redis.call('DEL', KEYS[1])
else redis.call('HDEL', KEYS[1], version_field, body_field)
end
return 1
