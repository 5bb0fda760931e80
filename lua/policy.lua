#!lua flags=no-writes
-- Reads the policies of an account and of some of its keys, and the time.
--
-- KEYS  1 rl:{TAG}:policy   hash
-- ARGV  the kid of each key to read; none: the account alone
-- Reply nil if there is no such account, else: this server's clock in ms, the account's version and body, then for each
--       key its version and body, or false twice if the account has no such key
-- Cost  2 calls

local fields = { 'version', 'account' }
for _, kid in ipairs(ARGV) do
    fields[#fields + 1] = kid
    fields[#fields + 1] = 'k:' .. kid
end
local found = redis.call('HMGET', KEYS[1], unpack(fields))
if not found[1] then return false end
local time = redis.call('TIME')
table.insert(found, 1, time[1] * 1000 + math.floor(time[2] / 1000))
return found
