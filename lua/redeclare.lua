#!lua
-- Declares a key again that the store has lost, unless it was deleted.
--
-- Guarantee: limits that are there stay as they are; a key that `keys delete` has deleted stays deleted.
-- KEYS  1 rl:{kid}:limits   string
--       2 rl:{kid}:deleted  there where the key was deleted
-- ARGV  1 limits  packed, see README.md of this folder
-- Reply 1 the key is there (again), 0 it was deleted
-- Cost  2 calls

if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return 1
