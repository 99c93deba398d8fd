-- Book a place in the quota: the first free moment, unless that is too late. The arithmetic of proxy/amplitude/rate_limiter.py's Ledger.
-- KEYS  places (by the moment they are free again), bursts (by their moment), pace (hash)
-- ARGV  id, calls a minute, how many may burst, seconds between even calls, latest (seconds from now),
--       seconds for which the place is held at most, epoch the caller knows, milliseconds until idle keys expire
-- Returns {1 or 0 (booked), seconds until the first free moment, 1 or 0 (even), seconds for which all stand back},
--         or {-1} when the caller knows another epoch: it must enroll first.
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local pace = redis.call('HMGET', KEYS[3], 'epoch', 'closed_until', 'next_even')
-- Each of the keys has a mark, since Redis may lose any of them, to eviction or to an older state of its own.
local whole = redis.call('ZSCORE', KEYS[1], 'mark') and redis.call('ZSCORE', KEYS[2], 'mark')
if not whole or not pace[1] or pace[1] ~= ARGV[7] then return {-1} end

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - 60)
local closed_until, next_even = tonumber(pace[2] or 0), tonumber(pace[3] or 0)
local at, even = math.max(now, closed_until), 1
local excess = redis.call('ZCARD', KEYS[1]) - ARGV[2]  -- this call more, the mark less
if excess > 0 then
    at = math.max(at, tonumber(redis.call('ZRANGE', KEYS[1], excess - 1, excess - 1, 'WITHSCORES')[2] or 'inf'))
end
if next_even > at then
    if redis.call('ZCOUNT', KEYS[2], '(' .. string.format('%.6f', at - 60), '(+inf') < tonumber(ARGV[3]) then
        even = 0
    else
        at = next_even
    end
end

local wait = at - now
local booked = 0
if wait <= math.max(tonumber(ARGV[5]), 0) then
    booked = 1
    redis.call('ZADD', KEYS[1], string.format('%.6f', at + ARGV[6]), ARGV[1])
    if even == 1 then
        redis.call('HSET', KEYS[3], 'next_even', string.format('%.6f', at + ARGV[4]))
    else
        redis.call('ZADD', KEYS[2], string.format('%.6f', at), ARGV[1])
    end
    for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[8]) end
end
return {booked, string.format('%.6f', math.min(wait, 1000000)), even, string.format('%.6f', math.max(0, closed_until - now))}
