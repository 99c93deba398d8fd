#!lua flags=allow-oom
-- Remove a snapshot from the index if Redis has evicted its pieces. A process that has the snapshot publishes it again.
-- KEYS  index, pieces of the snapshot
-- ARGV  cohort id, suffix of the key with the pieces
local index_key, pieces_key = KEYS[1], KEYS[2]
local cohort_id, suffix = unpack(ARGV)
local current = string.match(redis.call('HGET', index_key, cohort_id) or '', '^%S+ (%S+)$')
if current == suffix and not redis.call('HGET', pieces_key, '0') then redis.call('HDEL', index_key, cohort_id) end
