#!lua
-- Declares a key again that the store has lost, unless it was deleted.
--
-- Guarantee: existing limits stay as they are; a key that `keys delete` has deleted stays deleted.
-- KEYS  1 rl:{kid}:limits   string
--       2 rl:{kid}:deleted  exists if the key was deleted on purpose
-- ARGV  1 limits  packed, see README.md of this folder
-- Reply 1 the key exists (again), 0 it was deleted
-- Cost  2 calls

if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return 1
