-- Give a place back that no call was sent for.
-- KEYS  places, bursts, pace     ARGV  id, 1 or 0 (even), seconds between even calls, the booked moment (seconds from now)
local clock = redis.call('TIME')
local at = clock[1] + clock[2] / 1000000 + ARGV[4]
redis.call('ZREM', KEYS[1], ARGV[1])
if ARGV[2] == '0' then
    redis.call('ZREM', KEYS[2], ARGV[1])
else
    -- Only the last even place can be given back: those after it stand where they stand.
    local next_even = tonumber(redis.call('HGET', KEYS[3], 'next_even') or 0)
    if math.abs(next_even - at - ARGV[3]) < ARGV[3] / 2 then
        redis.call('HSET', KEYS[3], 'next_even', string.format('%.6f', math.max(at, 0)))
    end
end
