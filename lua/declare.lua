#!lua
-- Writes or deletes the policy of an account or of one of its keys, unless somebody else has changed it meanwhile.
--
-- Guarantee: no two keys of an account get one name; a key that has moved to another account stays away.
-- KEYS  1 rl:{TAG}:policy   hash
-- ARGV  1 the KID of a key; empty: the account itself
--       2 the version that is stored, as far as the caller knows: 8 bytes; empty = none; * = any or none; ! = none, and none
--         was deleted: for a node that takes the policy for lost
--       3 the new version: 8 bytes; empty = delete the policy. An account is deleted with its keys
--       4 the new body
--       5 the key's name, for the index of names; empty or left out: it has none
--       6 the key's name as stored before, which leaves the index; empty or left out: none does
--       7 JSON to keep of a deleted policy; empty or left out: nothing is kept. A new body takes away what was kept
--       8 the forward mark of a key that has moved away, as far as the caller knows: it may come back over that one
--       9 the version of the account as far as the caller knows, for a key that depends on it; empty or left out: any
-- Reply 1 done; nothing was written: 0 another version is stored, 2 another key of the account has the name, 3 the key has
--       moved to another account, and left a forward mark, 4 it was deleted (for ! alone)
-- Cost  3 calls, one or two more for names; O(keys) to delete an account

local call = redis.call
local kid, expected, version, body = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local name, former, tombstone, forward = ARGV[5] or '', ARGV[6] or '', ARGV[7] or '', ARGV[8] or ''
local account = ARGV[9] or ''
local version_field, body_field, moved = kid, 'k:' .. kid, kid
if kid == '' then
    version_field, body_field = 'version', 'account'
    moved = string.match(KEYS[1], '{(.-)}') -- of a key that is an account of its own, its kid
end

local found = call('HMGET', KEYS[1], version_field, 'f:' .. moved, 'n:' .. name, 'x:' .. kid, 'version')
if found[2] and found[2] ~= forward then return 3 end
if expected == '!' then
    if found[4] then return 4 end
    expected = ''
end
if expected ~= '*' and (found[1] or '') ~= expected or account ~= '' and found[5] ~= account then return 0 end

if version ~= '' then
    local other = name ~= '' and found[3]
    if other and other ~= kid and call('HGET', KEYS[1], other) then return 2 end
    call('HSET', KEYS[1], version_field, version, body_field, body)
    if name ~= '' then call('HSET', KEYS[1], 'n:' .. name, kid) end
    call('HDEL', KEYS[1], 'x:' .. kid, 'f:' .. moved)
elseif kid ~= '' then
    call('HDEL', KEYS[1], version_field, body_field)
else
    local fields, gone = call('HGETALL', KEYS[1]), {}
    for i = 1, #fields, 2 do
        local kind = string.sub(fields[i], 1, 2)
        if kind ~= 'x:' and kind ~= 'f:' and kind ~= 'o:' then gone[#gone + 1] = fields[i] end
    end
    for i = 1, #gone, 1000 do call('HDEL', KEYS[1], unpack(gone, i, math.min(i + 999, #gone))) end
end
if former ~= '' and (former ~= name or version == '') and call('HGET', KEYS[1], 'n:' .. former) == kid then
    call('HDEL', KEYS[1], 'n:' .. former)
end
if version == '' and tombstone ~= '' then call('HSET', KEYS[1], 'x:' .. kid, tombstone) end
return 1
