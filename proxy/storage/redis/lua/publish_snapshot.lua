-- Make an uploaded snapshot the current snapshot of its cohort, unless the current snapshot is newer.
-- KEYS  index, pieces of the new snapshot, announcements of forgotten ids
-- ARGV  cohort id; time of the snapshot (Unix seconds); suffix of the key with the pieces; prefix of all such keys;
--       milliseconds for which the snapshot is kept; time of the snapshot in microseconds
-- Returns the time of the snapshot, or false if the current snapshot is newer or the pieces have expired
-- A time later than the clock of Redis counts as now: the clock of the sender may be ahead.
-- Leaves out users who were forgotten after the time of the snapshot.
-- An entry of the index is '<time> <suffix>'. A piece has 8 bytes per member. Its field is the first byte of the members.
local index_key, pieces_key, forgotten_key = KEYS[1], KEYS[2], KEYS[3]
local cohort_id, as_of, suffix, prefix, kept_milliseconds, since = unpack(ARGV)
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
if tonumber(as_of) > now then as_of, since = string.format('%.6f', now), string.format('%.0f', now * 1000000) end
local current_as_of, current_suffix = string.match(redis.call('HGET', index_key, cohort_id) or '', '^(%S+) (%S+)$')
if current_as_of and tonumber(current_as_of) > tonumber(as_of) then
    redis.call('UNLINK', pieces_key)
    return false
end
if redis.call('EXISTS', pieces_key) == 0 then return false end
for _, digest in ipairs(redis.call('ZRANGEBYSCORE', forgotten_key, '(' .. since, '+inf')) do
    local field = tostring(tonumber(string.sub(digest, 1, 2), 16))
    local member = string.gsub(string.sub(digest, 1, 16), '..', function(hex) return string.char(tonumber(hex, 16)) end)
    local piece = redis.call('HGET', pieces_key, field)
    local place = string.find(piece, member, 1, true)
    while place and place % 8 ~= 1 do place = string.find(piece, member, place + 1, true) end
    if place then
        redis.call('HSET', pieces_key, field, string.sub(piece, 1, place - 1) .. string.sub(piece, place + 8))
    end
end
redis.call('PEXPIRE', pieces_key, kept_milliseconds)
redis.call('HSET', index_key, cohort_id, as_of .. ' ' .. suffix)
if redis.call('PTTL', index_key) < tonumber(kept_milliseconds) then
    redis.call('PEXPIRE', index_key, kept_milliseconds)
end
if current_suffix then redis.call('UNLINK', prefix .. current_suffix) end
return as_of
