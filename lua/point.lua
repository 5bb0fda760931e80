#!lua
-- Points an API key to its account, so that nodes look for its limits there.
--
-- Guarantee: a key is found throughout: its plain limits or its former account, until it is pointed.
-- KEYS  1 rl:{kid}:limits   string of a plain key, or hash of a key of an account
--       2 rl:{kid}:deleted  exists if the key was deleted on purpose
-- ARGV  1 TAG  of the account
-- Reply 1
-- Cost  3 calls, one more for a plain key

if type(redis.pcall('HGET', KEYS[1], 'account')) == 'table' then redis.call('DEL', KEYS[1]) end -- an error: a plain key
redis.call('HSET', KEYS[1], 'account', ARGV[1])
redis.call('DEL', KEYS[2])
return 1
