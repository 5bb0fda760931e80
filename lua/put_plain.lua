#!lua
-- Writes the limits of a plain key, and the record of what keys files declared of it, unless either was changed meanwhile.
--
-- Guarantee: both are written or none. A digest that leads to a key of an account, or was another key's, stays that.
-- KEYS  1 rl:{kid}:limits    string of a plain key, or hash that leads to a key of an account
--       2 rl:{kid}:deleted   the mark that the key was deleted on purpose
--       3 rl:{kid}:declared  the record of declarations
-- ARGV  1 the limits that are stored, as far as the caller knows; empty = none; * = any or none
--       2 the record that is stored, as far as the caller knows; empty = none; * = any or none
--       3 the new limits, packed; empty: they stay as they are
--       4 the new record; empty: it stays as it is
--       5 back  1: a deleted key comes back, and its mark goes; 0: it stays deleted
-- Reply 1 done; nothing was written: 0 something else is stored, or the key was deleted, 2 the key is one of an account, or
--       a further credential, 3 the digest was another key's credential
-- Cost  3 calls, and one per value that is written or deleted

local limits, record, new_limits, new_record, back = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1'

local stored = redis.pcall('GET', KEYS[1])
if type(stored) == 'table' then -- an error: of another type
    local way = redis.pcall('HMGET', KEYS[1], 'account', 'tag')
    if way[1] or way[2] then return 2 end
    stored = false -- damaged
end
local mark, found = redis.call('GET', KEYS[2]), redis.call('GET', KEYS[3]) or ''
if mark then
    local owner = string.gsub(mark, '^revoked:', '')
    if owner ~= '' and owner ~= string.match(KEYS[1], '{(.-)}') then return 3 end
    if not back then return 0 end
end
if limits ~= '*' and (stored or '') ~= limits or record ~= '*' and found ~= record then return 0 end
if new_limits ~= '' then redis.call('SET', KEYS[1], new_limits) end
if new_record ~= '' then redis.call('SET', KEYS[3], new_record) end
if mark then redis.call('DEL', KEYS[2]) end
return 1
