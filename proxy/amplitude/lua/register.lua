#!lua flags=allow-oom
-- Register a process as a user of the quota, and store the slots that the process holds.
-- Returns {number of processes, epoch, seconds until the end of the pause}.
local slots = KEYS[1] -- sorted set: reservation ids by the time when the slot becomes free
local bursts = KEYS[2] -- sorted set: reservation ids of the burst by reserved time
local pacing = KEYS[3] -- hash: epoch, closed_until (the end of the pause), next_even
local processes = KEYS[4] -- sorted set: process ids by the end of their registration
local process_id = ARGV[1]
local counted_for = tonumber(ARGV[2]) -- seconds until the registration ends
local settle = tonumber(ARGV[3]) -- seconds in which the other processes report their slots
local uncertain = ARGV[4] == '1' -- whether Redis may lack slots of the process
local idle_milliseconds = ARGV[5] -- until unused keys expire
local pause = tonumber(ARGV[6]) -- seconds
local first_slot = 7 -- pairs from this index on: reservation id, seconds until the slot becomes free

local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local epoch = redis.call('HGET', pacing, 'epoch')
local paused_until = tonumber(redis.call('HGET', pacing, 'closed_until') or 0)
local complete = redis.call('ZSCORE', slots, 'mark') and redis.call('ZSCORE', bursts, 'mark')
local data_lost = not epoch or not complete
if data_lost then
    epoch = clock[1] .. '.' .. clock[2]
    redis.call('HSET', pacing, 'epoch', epoch)
    redis.call('ZADD', slots, '+inf', 'mark')
    redis.call('ZADD', bursts, '+inf', 'mark')
end
if data_lost or uncertain then
    -- No slot is reserved before all processes had time to report their slots.
    paused_until = math.max(paused_until, now + settle)
end
paused_until = math.max(paused_until, now + pause)
redis.call('HSET', pacing, 'closed_until', string.format('%.6f', paused_until))
for index = first_slot, #ARGV, 2 do
    redis.call('ZADD', slots, 'GT', string.format('%.6f', now + ARGV[index + 1]), ARGV[index])
end
redis.call('ZREMRANGEBYSCORE', processes, '-inf', now)
redis.call('ZADD', processes, string.format('%.6f', now + counted_for), process_id)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, idle_milliseconds) end
return {redis.call('ZCARD', processes), epoch, string.format('%.6f', math.max(0, paused_until - now))}
