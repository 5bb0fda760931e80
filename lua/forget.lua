#!lua
-- Deletes the windows of a key or an account that was deleted; clock and records stay.
--
-- Guarantee: windows of a key or an account that is there (again) stay.
-- KEYS  1 rl:{TAG}:policy   hash
--       2 rl:{TAG}:key:KID of a key of an account, or rl:{TAG}:shared of an account, also of a flat key: hash
-- ARGV  1 the KID of a key of an account; empty: the account itself
-- Reply 1 done, 0 it is there
-- Cost  2 calls; for an account, O(fields of the shared hash)

local call, kid = redis.call, ARGV[1]
if call('HEXISTS', KEYS[1], kid == '' and 'version' or kid) == 1 then return 0 end
if kid ~= '' then
    call('DEL', KEYS[2])
    return 1
end
-- Nodes' records would be taken for lost without what they stand for if they went; they end by themselves.
local fields, windows = call('HKEYS', KEYS[2]), {}
for i = 1, #fields do
    local length = #fields[i]
    if length == 6 or length == 7 then windows[#windows + 1] = fields[i] end -- a window's id, with a letter for a group
end
for i = 1, #windows, 1000 do call('HDEL', KEYS[2], unpack(windows, i, math.min(i + 999, #windows))) end
return 1
