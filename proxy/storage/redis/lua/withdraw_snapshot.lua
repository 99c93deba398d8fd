#!lua flags=allow-oom
-- Delete the current snapshot of a cohort, and record the removal, because processes keep a snapshot without an entry.
-- KEYS  index
-- ARGV  cohort id, prefix of the keys with pieces, seconds after the time of a snapshot for which it is kept
-- Returns 1 if a snapshot existed
local index_key = KEYS[1]
local cohort_id, prefix, usable_seconds = unpack(ARGV)
local suffix = string.match(redis.call('HGET', index_key, cohort_id) or '', '^%S+ (%S+)$') or '-'
local clock = redis.call('TIME')
redis.call('HSET', index_key, cohort_id, clock[1] .. ' -')
if redis.call('PTTL', index_key) < usable_seconds * 1000 then
    redis.call('PEXPIRE', index_key, math.ceil(usable_seconds * 1000))
end
if suffix == '-' then return 0 end
return redis.call('DEL', prefix .. suffix)
