#!lua flags=no-writes
-- Reads the policies of an account and of some of its keys; writes nothing.
--
-- KEYS  1 rl:{TAG}:policy   hash
-- ARGV  the KID of each key that is asked for (none: the account's alone)
-- Reply nil if there is no such account, else: this server's clock in ms, version and body of the account's policy, then
--       for each key its version and its body, both nil if the account has no such key
-- Cost  2 calls

local fields = { 'version', 'account' }
for i, kid in ipairs(ARGV) do fields[2 * i + 1], fields[2 * i + 2] = kid, 'k:' .. kid end
local reply = redis.call('HMGET', KEYS[1], unpack(fields))
if not reply[1] then return false end
local time = redis.call('TIME')
table.insert(reply, 1, time[1] * 1000 + math.floor(time[2] / 1000))
return reply
