#!lua
-- Declares what a credential led to again, which the store has lost, unless it was deleted: a plain key's limits, or the
-- way to the key's account. Or leaves the mark of a deletion again.
--
-- Guarantee: existing limits and ways stay as they are; a key that was deleted on purpose stays deleted.
-- KEYS  1 rl:{cid}:limits    string of a plain key, or hash of a credential of a key of an account
--       2 rl:{cid}:deleted   exists if the credential's key was deleted on purpose
--       3 rl:{cid}:declared  only for a plain key
-- ARGV  1 limits  of a plain key, packed, see README.md of this folder. It may have one more argument:
--       2 declared  the value of KEYS 3, to be written with the limits if there is none; empty or left out: none
-- or    1 empty
--       2 TAG     of the key's account; empty: the key was deleted, see 4
--       3 TAG     of an account that doesn't have the key: if the credential leads there, it is lost, too; empty: none
--       4 KID     of the key, if the credential isn't its first; else empty. Of a deleted key: the value of its mark
-- Reply of a plain key: 1 the key exists (again), 0 it was deleted
--       else: 0 it was deleted, 1 it leads to the account from now on, 2 it did so before, 3 it is a plain key, or leads to
--       another account or key; then this server's clock in ms; for 0 the value of the mark
-- Cost  2 or 3 calls, 3 or 4 for a key of an account

local limits, mark = ARGV[1], redis.call('GET', KEYS[2])
if limits ~= '' then
    local declared = ARGV[2] or ''
    if mark then return 0 end
    if redis.call('SET', KEYS[1], limits, 'NX') and declared ~= '' then redis.call('SET', KEYS[3], declared, 'NX') end
    return 1
end

local tag, stale, kid = ARGV[2], ARGV[3], ARGV[4] or ''
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if mark then return { 0, now_ms, mark } end
local found = redis.pcall('HMGET', KEYS[1], 'account', 'tag', 'kid') -- an error table for a plain key
if found.err then return { 3, now_ms } end
local account, further, of_key = unpack(found)
local leads_to, is_first = account or further, kid == ''
if tag == '' then
    if leads_to then return { 3, now_ms } end
    redis.call('SET', KEYS[2], kid)
    return { 0, now_ms, kid }
end
if is_first and further or not is_first and (account or further and of_key ~= kid) then return { 3, now_ms } end
if leads_to == tag then return { 2, now_ms } end
if leads_to and leads_to ~= stale then return { 3, now_ms } end
if is_first then redis.call('HSET', KEYS[1], 'account', tag) else redis.call('HSET', KEYS[1], 'tag', tag, 'kid', kid) end
return { 1, now_ms }
