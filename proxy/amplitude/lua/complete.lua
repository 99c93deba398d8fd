#!lua flags=allow-oom
-- Report the end of a call, a pause, or both. Returns the seconds until the end of the pause.
local slots = KEYS[1] -- sorted set: reservation ids by the time when the slot becomes free
local pacing = KEYS[2] -- hash: epoch, closed_until (the end of the pause), next_even
local id = ARGV[1] -- '' to report only a pause
local free_in = tonumber(ARGV[2]) -- seconds until the slot is free
local pause = tonumber(ARGV[3]) -- seconds
local idle_milliseconds = ARGV[4] -- until unused keys expire
local earliest_now = tonumber(ARGV[5]) -- limit of `now` if the clock was not set back

local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
if id ~= '' then
    redis.call('ZADD', slots, string.format('%.6f', now + free_in), id)
    redis.call('PEXPIRE', slots, idle_milliseconds)
end
local paused_until = tonumber(redis.call('HGET', pacing, 'closed_until') or 0)
if now < earliest_now then paused_until = 0 end -- the next registration corrects the stored time
if pause > 0 and now + pause > paused_until then
    paused_until = now + pause
    redis.call('HSET', pacing, 'closed_until', string.format('%.6f', paused_until))
    redis.call('PEXPIRE', pacing, idle_milliseconds)
end
return string.format('%.6f', math.max(0, paused_until - now))
