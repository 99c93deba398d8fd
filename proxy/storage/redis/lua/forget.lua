#!lua flags=allow-oom
-- Delete every record with one of these ids, block data that was requested earlier, and notify all processes.
-- KEYS  announcements, then for each id: its pairs, the record of the id alone, the updates, the time of forgetting
-- ARGV  prefix of record keys; milliseconds for which data requested earlier may arrive; milliseconds for which the
--       announcement is kept; milliseconds for which older updates may arrive; then the digests of the ids
-- Returns the digests of the pairs that had a record or updates
local announcements_key, record_prefix = KEYS[1], ARGV[1]
local blocked_milliseconds, announced_milliseconds, remembered_milliseconds = ARGV[2], ARGV[3], ARGV[4]
local clock = redis.call('TIME')
local moment = clock[1] * 1000000 + clock[2]
local last = redis.call('ZREVRANGE', announcements_key, 0, 0, 'WITHSCORES')[2]
if last and tonumber(last) >= moment then moment = tonumber(last) + 1 end
local score = string.format('%.0f', moment)
local horizon = string.format('%.0f', moment - announced_milliseconds * 1000)
redis.call('ZREMRANGEBYSCORE', announcements_key, '-inf', horizon)
local deleted = {}
local function delete(record_key, ...)
    if redis.call('DEL', record_key, ...) > 0 then
        deleted[#deleted + 1] = string.sub(record_key, #record_prefix + 1)
    end
end
for index = 2, #KEYS, 4 do
    local pairs_key, record_key, updates_key, forgotten_key = unpack(KEYS, index, index + 3)
    for _, pair in ipairs(redis.call('SMEMBERS', pairs_key)) do delete(record_prefix .. pair) end
    delete(record_key, updates_key)
    redis.call('DEL', pairs_key)
    redis.call('SADD', pairs_key, '!')
    redis.call('PEXPIRE', pairs_key, blocked_milliseconds)
    redis.call('ZADD', announcements_key, score, ARGV[4 + (index + 2) / 4])
    redis.call('SET', forgotten_key, string.format('%.6f', moment / 1000000), 'PX', remembered_milliseconds)
end
redis.call('PEXPIRE', announcements_key, announced_milliseconds)
return deleted
