#!lua
-- Ends a move in the account that the key has left: deletes its frozen windows; the forward mark now says how they were
-- moved.
--
-- Guarantee: nothing is written unless the mark is still that of this move.
-- KEYS  1 rl:{TAG}:policy   hash of the account that the key has left
--       2 rl:{TAG}:key:KID  hash of the key's windows; of a key that was its own account: rl:{KID}:shared
-- ARGV  1 KID   2 id of the move
--       3 mark  the new mark, a JSON object
-- Reply 1 done, 0 the mark is another one's, or gone: nothing was written
-- Cost  3 calls; of a key that was its own account, one more for each field of its windows

local kid, id, mark = ARGV[1], ARGV[2], ARGV[3]
local found = redis.call('HGET', KEYS[1], 'f:' .. kid)
if not found or cjson.decode(found).id ~= id then return 0 end
redis.call('HSET', KEYS[1], 'f:' .. kid, mark)
if KEYS[1] ~= 'rl:{' .. kid .. '}:policy' then redis.call('DEL', KEYS[2])
else
    for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do -- its clock and the nodes' records stay
        if #field == 6 or #field == 7 then redis.call('HDEL', KEYS[2], field) end
    end
end
return 1
