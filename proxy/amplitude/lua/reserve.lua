#!lua flags=allow-oom
-- Reserve the first free slot of the quota, unless the slot is later than `latest`.
-- SlidingWindow.first and take in proxy/amplitude/sliding_window.py have the same algorithm. A test compares both.
-- Returns {1 if reserved, else 0; seconds until the first free slot; 1 for an evenly spaced call, 0 for the burst;
-- seconds until the end of the pause}, or {-1} if the process must register first: `epoch` is outdated, or the clock of
-- Redis was stepped.
local slots = KEYS[1] -- sorted set: reservation ids by the time when the slot becomes free
local bursts = KEYS[2] -- sorted set: reservation ids of the burst by reserved time
local pacing = KEYS[3] -- hash: epoch, closed_until (the end of the pause), next_even
local id = ARGV[1]
local per_minute = tonumber(ARGV[2])
local burst = tonumber(ARGV[3]) -- maximum number of burst calls in a minute
local interval = tonumber(ARGV[4]) -- seconds between even calls
local latest = tonumber(ARGV[5]) -- seconds from now
local held_for = tonumber(ARGV[6]) -- seconds from the reserved time until the slot becomes free if the call does not complete earlier
local epoch = ARGV[7] -- the epoch in which the process registered
local idle_milliseconds = ARGV[8] -- until unused keys expire
local earliest_now, latest_now = tonumber(ARGV[9]), tonumber(ARGV[10]) -- limits of `now` if the clock was not stepped

local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local state = redis.call('HMGET', pacing, 'epoch', 'closed_until', 'next_even')
-- Each sorted set has the member 'mark', because Redis may lose any key by eviction or by restoring an older state.
local complete = redis.call('ZSCORE', slots, 'mark') and redis.call('ZSCORE', bursts, 'mark')
if not complete or not state[1] or state[1] ~= epoch then return {-1} end
if now < earliest_now or now > latest_now then return {-1} end

redis.call('ZREMRANGEBYSCORE', slots, '-inf', now)
redis.call('ZREMRANGEBYSCORE', bursts, '-inf', now - 60)
local paused_until, next_even = tonumber(state[2] or 0), tonumber(state[3] or 0)
local at, even = math.max(now, paused_until), 1
local excess = redis.call('ZCARD', slots) - per_minute -- includes this call, excludes the mark
if excess > 0 then
    at = math.max(at, tonumber(redis.call('ZRANGE', slots, excess - 1, excess - 1, 'WITHSCORES')[2] or 'inf'))
end
if next_even > at then
    if redis.call('ZCOUNT', bursts, '(' .. string.format('%.6f', at - 60), '(+inf') < burst then
        even = 0
    else
        at = next_even
    end
end

local wait = at - now
local reserved = 0
if wait <= math.max(latest, 0) then
    reserved = 1
    redis.call('ZADD', slots, string.format('%.6f', at + held_for), id)
    if even == 1 then
        redis.call('HSET', pacing, 'next_even', string.format('%.6f', at + interval))
    else
        redis.call('ZADD', bursts, string.format('%.6f', at), id)
    end
    for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, idle_milliseconds) end
end
return {reserved, string.format('%.6f', math.min(wait, 1000000)), even, string.format('%.6f', math.max(0, paused_until - now))}
