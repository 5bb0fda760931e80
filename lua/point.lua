#!lua
-- Points the digest of a credential to its key, so that nodes look for the key's limits there; or takes that way away.
--
-- Guarantee: a digest that leads to a key, or led there until the key was deleted, never leads to another key. A key is
-- found throughout: its plain limits or its former account, until it is pointed.
-- KEYS  1 rl:{cid}:limits   string of a plain key, or hash that leads to a key of an account
--       2 rl:{cid}:deleted  the mark that the credential was taken away on purpose
-- ARGV  1 TAG   of the key's account; empty: take the way to KID away, if KID left its mark here
--       2 KID   of the key
--       3 new   1: point only a digest that leads nowhere, or there already, and was not revoked; 0: any of KID's
-- Reply 1 done, 0 the digest isn't KID's, or must not be taken by the rules above: nothing was written
-- Cost  2 calls, one to three more to write

local cid, tag, kid, is_new = string.match(KEYS[1], '{(.-)}'), ARGV[1], ARGV[2], ARGV[3] == '1'

local found = redis.pcall('HMGET', KEYS[1], 'account', 'tag', 'kid')
local is_plain = found.err ~= nil
local led_to = not is_plain and (found[1] or found[2])
local owner = (is_plain or found[1]) and cid or found[3]
local mark = redis.call('GET', KEYS[2])
local marked = mark and string.gsub(mark, '^revoked:', '')
if marked == '' then marked = cid end -- the mark of an earlier version

if tag == '' then
    if owner ~= kid or marked ~= kid then return 0 end
    redis.call('DEL', KEYS[1])
    return 1
end

if owner and owner ~= kid or marked and marked ~= kid then return 0 end
if is_new and (is_plain or led_to and led_to ~= tag or mark and mark ~= marked and mark ~= '') then return 0 end
if is_plain then redis.call('DEL', KEYS[1]) end
if kid == cid then redis.call('HSET', KEYS[1], 'account', tag)
else redis.call('HSET', KEYS[1], 'tag', tag, 'kid', kid) end
if mark then redis.call('DEL', KEYS[2]) end
return 1
