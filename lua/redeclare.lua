#!lua
-- Declares a key again that the store has lost, unless it was deleted: a plain key's limits, or the way to its account.
--
-- Guarantee: existing limits stay as they are; a key that `keys delete` has deleted stays deleted.
-- KEYS  1 rl:{kid}:limits   string of a plain key, or hash of a key of an account
--       2 rl:{kid}:deleted  exists if the key was deleted on purpose
-- ARGV  1 limits  packed, see README.md of this folder; empty for a key of an account, which has two more arguments:
--       2 TAG     of its account
--       3 TAG     of an account that doesn't have the key: if the key leads there, it is lost, too; empty: none
-- Reply of a plain key: 1 the key exists (again), 0 it was deleted
--       of a key of an account: 0 it was deleted, 1 it leads to the account from now on, 2 it did so before,
--       3 it is a plain key, or leads to another account; then this server's clock in ms
-- Cost  2 calls, 3 or 4 for a key of an account

local tag, stale = ARGV[2], ARGV[3]
if not tag then
    if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
    redis.call('SET', KEYS[1], ARGV[1], 'NX')
    return 1
end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('EXISTS', KEYS[2]) == 1 then return { 0, now_ms } end
local found = redis.pcall('HGET', KEYS[1], 'account') -- an error table for a plain key
if found == tag then return { 2, now_ms } end
if found and found ~= stale then return { 3, now_ms } end
redis.call('HSET', KEYS[1], 'account', tag)
return { 1, now_ms }
