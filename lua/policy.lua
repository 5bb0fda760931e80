#!lua flags=no-writes
-- Reads the policies of an account and of some of its keys, and what is left of those that were deleted or have moved away;
-- writes nothing.
--
-- Guarantee: all that is read is of one moment.
-- KEYS  1 rl:{TAG}:policy   hash
-- ARGV  the KID of each key that is asked for (none: the account's alone)
-- Reply this server's clock in ms; of the account: version, body, JSON kept of it when it was deleted; then of each key:
--       version, body, forward mark, JSON kept of it when it was deleted. Each is nil if it isn't there: without a
--       version there is no such account or key
-- Cost  2 calls

local fields = { 'version', 'account', 'x:' }
for i, kid in ipairs(ARGV) do
    local at = 4 * i
    fields[at], fields[at + 1], fields[at + 2], fields[at + 3] = kid, 'k:' .. kid, 'f:' .. kid, 'x:' .. kid
end
local reply = redis.call('HMGET', KEYS[1], unpack(fields))
local time = redis.call('TIME')
table.insert(reply, 1, time[1] * 1000 + math.floor(time[2] / 1000))
return reply
