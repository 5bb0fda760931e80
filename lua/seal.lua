#!lua
-- Seals a key that is to move to another account: from now on this account decides nothing for it, and its own windows are
-- frozen. A forward mark says where the key goes, and holds all that anybody needs to finish the move.
--
-- Guarantee: the key is taken out and the mark is left at once, or nothing is written.
-- KEYS  1 rl:{TAG}:policy   hash of the account that the key leaves
--       2 rl:{TAG}:shared   hash, read: the account's clock
-- ARGV  1 KID
--       2 version  that is stored, as far as the caller knows: of the key's policy; of a key that is its own account: of the
--                  account's
--       3 name     of the key in the account's index of names; empty: it has none
--       4 mark     the mark: a JSON object, to which this script adds `time_ms`, the account's time
--       5 clock    in ms (0 = this server's; tests set it)
-- Reply 1 done, 0 another version is stored, or the key is not there: nothing was written
-- Cost  5 calls, one or two more for a key with a name

local kid, expected, name, mark, clock_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local version_field, body_field = kid, 'k:' .. kid
if KEYS[1] == 'rl:{' .. kid .. '}:policy' then version_field, body_field = 'version', 'account' end

if redis.call('HGET', KEYS[1], version_field) ~= expected then return 0 end
if clock_ms == 0 then
    local time = redis.call('TIME')
    clock_ms = time[1] * 1000 + math.floor(time[2] / 1000)
end
local clock, now = redis.call('HGET', KEYS[2], 'c'), clock_ms
if clock then
    local last_ms, skew_ms = struct.unpack('<I6I6', clock)
    now = math.max(clock_ms + skew_ms, last_ms)
end
if name ~= '' and redis.call('HGET', KEYS[1], 'n:' .. name) == kid then redis.call('HDEL', KEYS[1], 'n:' .. name) end
redis.call('HDEL', KEYS[1], version_field, body_field)
redis.call('HSET', KEYS[1], 'f:' .. kid, string.format('%s,"time_ms":%.0f}', string.sub(mark, 1, -2), now))
return 1
