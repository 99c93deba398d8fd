-- Make an uploaded snapshot the current snapshot of its cohort, unless the current snapshot is newer.
-- KEYS  index, pieces of the new snapshot
-- ARGV  cohort id; time of the snapshot (Unix seconds); suffix of the key with the pieces; prefix of all such keys;
--       seconds after the time for which a snapshot is kept; 1 to keep any entry of the cohort
-- Returns the time of the snapshot; false if the current snapshot is newer; '' if Redis lost pieces of the new snapshot
-- A time later than the clock of Redis counts as now: the clock of the sender may be ahead.
-- An entry of the index is '<time> <suffix>', or '<time> -' if the snapshot was removed at that time.
local index_key, pieces_key = KEYS[1], KEYS[2]
local cohort_id, as_of, suffix, prefix, usable_seconds, only_missing = unpack(ARGV)
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
if tonumber(as_of) > now then as_of = string.format('%.6f', now) end
local index = redis.call('HGETALL', index_key)
local current_as_of, current_suffix
for place = 1, #index, 2 do
    local entry_as_of, entry_suffix = string.match(index[place + 1], '^(%S+) (%S+)$')
    if tonumber(entry_as_of) + usable_seconds <= now then
        redis.call('HDEL', index_key, index[place])
    elseif index[place] == cohort_id then
        current_as_of, current_suffix = tonumber(entry_as_of), entry_suffix
    end
end
-- A time in the future comes from a wrong clock.
local newer = current_suffix and current_suffix ~= '-' and current_as_of > tonumber(as_of) and current_as_of <= now
if newer or (current_suffix and only_missing == '1') then
    redis.call('DEL', pieces_key)
    return false
end
-- The upload begins with field 0. So if Redis lost its data during the upload, field 0 is missing.
if not redis.call('HGET', pieces_key, '0') then
    redis.call('DEL', pieces_key)
    return ''
end
local kept_milliseconds = math.max(1, math.floor((as_of + usable_seconds - now) * 1000))
redis.call('PEXPIRE', pieces_key, kept_milliseconds)
redis.call('HSET', index_key, cohort_id, as_of .. ' ' .. suffix)
if redis.call('PTTL', index_key) < kept_milliseconds then redis.call('PEXPIRE', index_key, kept_milliseconds) end
if current_suffix then redis.call('DEL', prefix .. current_suffix) end
return as_of
