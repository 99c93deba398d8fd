#!lua flags=allow-oom
-- Free a slot for which no call was sent. SlidingWindow.cancel in proxy/amplitude/sliding_window.py is equivalent.
local slots = KEYS[1] -- sorted set: reservation ids by the time when the slot becomes free
local bursts = KEYS[2] -- sorted set: reservation ids of the burst by reserved time
local pacing = KEYS[3] -- hash: epoch, closed_until, next_even
local id = ARGV[1]
local even = ARGV[2] == '1' -- '0' if the call is part of the burst
local interval = tonumber(ARGV[3]) -- seconds between even calls
local wait = tonumber(ARGV[4]) -- seconds from now until the reserved time; negative when it has passed

local clock = redis.call('TIME')
local at = clock[1] + clock[2] / 1000000 + wait
redis.call('ZREM', slots, id)
if not even then
    redis.call('ZREM', bursts, id)
else
    -- Only the last even slot can be reused, because later slots keep their time.
    local next_even = tonumber(redis.call('HGET', pacing, 'next_even') or 0)
    if math.abs(next_even - at - interval) < interval / 2 then
        redis.call('HSET', pacing, 'next_even', string.format('%.6f', math.max(at, 0)))
    end
end
