-- Forget every pair that has one of these ids, keep nothing of what is on its way about them, and tell all processes.
-- KEYS  told, then for each id: its pairs, the record of it alone, what was pushed about it, when it was forgotten
-- ARGV  what a record's key begins with, milliseconds for which something asked before may land, milliseconds for which
--       a process may be away and still must hear of it, milliseconds for which what was said before may be pushed,
--       then the ids' names
-- Returns the digests of the pairs of which there was a record, or something pushed
local clock = redis.call('TIME')
local moment = clock[1] * 1000000 + clock[2]
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
if last and tonumber(last) >= moment then moment = tonumber(last) + 1 end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', moment - ARGV[3] * 1000))
local found = {}
local function gone(key, ...)
    if redis.call('DEL', key, ...) > 0 then found[#found + 1] = string.sub(key, #ARGV[1] + 1) end
end
for index = 2, #KEYS, 4 do
    for _, pair in ipairs(redis.call('SMEMBERS', KEYS[index])) do gone(ARGV[1] .. pair) end
    gone(KEYS[index + 1], KEYS[index + 2])
    redis.call('DEL', KEYS[index])
    redis.call('SADD', KEYS[index], '!')
    redis.call('PEXPIRE', KEYS[index], ARGV[2])
    redis.call('ZADD', KEYS[1], string.format('%.0f', moment), ARGV[4 + (index + 2) / 4])
    redis.call('SET', KEYS[index + 3], string.format('%.6f', moment / 1000000), 'PX', ARGV[4])
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return found
