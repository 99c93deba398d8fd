-- Delete the current snapshot of a cohort.
-- KEYS  index
-- ARGV  cohort id, prefix of the keys with pieces
-- Returns 1 if a snapshot existed
local suffix = string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '', '^%S+ (%S+)$')
if not suffix then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('UNLINK', ARGV[2] .. suffix)
return 1
