-- Tell that a call has ended, or how long all are to stand back, or both.
-- KEYS  places, pace     ARGV  id ('' for none), seconds until its place is free, seconds to stand back, milliseconds until idle
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
if ARGV[1] ~= '' then
    redis.call('ZADD', KEYS[1], string.format('%.6f', now + ARGV[2]), ARGV[1])
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
local closed_until = tonumber(redis.call('HGET', KEYS[2], 'closed_until') or 0)
if now + ARGV[3] > closed_until and tonumber(ARGV[3]) > 0 then
    closed_until = now + ARGV[3]
    redis.call('HSET', KEYS[2], 'closed_until', string.format('%.6f', closed_until))
    redis.call('PEXPIRE', KEYS[2], ARGV[4])
end
return string.format('%.6f', math.max(0, closed_until - now))
