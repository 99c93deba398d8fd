-- Say that a process is there, write back what it sent, and count the processes.
-- KEYS  places, bursts, pace, processes
-- ARGV  process id, seconds for which a process counts after this, seconds to settle, 1 if Redis may not know what
--       it sent, milliseconds until idle keys expire, seconds to stand back, then pairs: id, seconds until its place is free
-- Returns {processes, epoch, seconds for which all stand back}
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local epoch = redis.call('HGET', KEYS[3], 'epoch')
local closed_until = tonumber(redis.call('HGET', KEYS[3], 'closed_until') or 0)
local settle = false
local whole = redis.call('ZSCORE', KEYS[1], 'mark') and redis.call('ZSCORE', KEYS[2], 'mark')
if not epoch or not whole then
    -- A new book: nobody is booked before all who may have sent something have had time to write it back.
    epoch = clock[1] .. '.' .. clock[2]
    redis.call('HSET', KEYS[3], 'epoch', epoch)
    redis.call('ZADD', KEYS[1], '+inf', 'mark')
    redis.call('ZADD', KEYS[2], '+inf', 'mark')
    settle = true
elseif ARGV[4] == '1' then
    settle = true
end
if settle then closed_until = math.max(closed_until, now + ARGV[3]) end
closed_until = math.max(closed_until, now + ARGV[6])
redis.call('HSET', KEYS[3], 'closed_until', string.format('%.6f', closed_until))
for index = 7, #ARGV, 2 do
    redis.call('ZADD', KEYS[1], 'GT', string.format('%.6f', now + ARGV[index + 1]), ARGV[index])
end
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now)
redis.call('ZADD', KEYS[4], string.format('%.6f', now + ARGV[2]), ARGV[1])
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[5]) end
return {redis.call('ZCARD', KEYS[4]), epoch, string.format('%.6f', math.max(0, closed_until - now))}
