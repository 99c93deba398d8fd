#!lua flags=allow-oom
-- Register a process as a user of the quota, and store the slots that the process holds.
-- Returns {ids of the processes, epoch, seconds until the end of the pause, time of Redis in seconds, number of held
-- slots, seconds since a process last refused a call}.
-- The process that detects a step of the clock of Redis begins a new epoch, which moves all slots by the step. Then each
-- process reports its slots again, measured with its own clock, because the clock of the first process may be wrong.
-- A process that cannot measure the step, because it has just started, detects a clock that was set back by the
-- registrations of the other processes.
local slots = KEYS[1] -- sorted set: reservation ids by the time when the slot becomes free
local bursts = KEYS[2] -- sorted set: reservation ids of the burst by reserved time
local pacing = KEYS[3] -- hash: epoch, closed_until (the end of the pause), next_even, refused_at
local processes = KEYS[4] -- sorted set: process ids by the end of their registration
local process_id = ARGV[1]
local counted_for = tonumber(ARGV[2]) -- seconds until the registration ends
local settle = tonumber(ARGV[3]) -- seconds in which the other processes report their slots
local uncertain = ARGV[4] == '1' -- whether Redis may lack slots of the process
local idle_milliseconds = ARGV[5] -- until unused keys expire
local refused_for = tonumber(ARGV[6]) -- seconds since the process last refused a call
local pause = tonumber(ARGV[7]) -- seconds
local known_epoch = ARGV[8] -- the epoch in which the process registered before
local step = tonumber(ARGV[9]) -- seconds by which the clock of Redis was stepped since then
local held_for = tonumber(ARGV[10]) -- maximum seconds until a slot becomes free
local first_slot = 11 -- pairs from this index on: reservation id, seconds until the slot becomes free

local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local epoch = redis.call('HGET', pacing, 'epoch')
local paused_until = tonumber(redis.call('HGET', pacing, 'closed_until') or 0)
local last_registration = (redis.call('ZRANGE', processes, -1, -1, 'WITHSCORES')[2] or 0) - counted_for
if epoch ~= known_epoch and now < last_registration - 1 then
    step, known_epoch = now - last_registration, epoch
end
if step ~= 0 and epoch == known_epoch then
    paused_until = paused_until + math.min(step, 0)
    for _, key in ipairs({slots, bursts}) do
        local stepped = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
        for index = 1, #stepped, 2 do
            local moved = string.format('%.6f', math.min(stepped[index + 1] + step, now + held_for))
            if stepped[index] ~= 'mark' then redis.call('ZADD', key, moved, stepped[index]) end
        end
    end
    redis.call('DEL', pacing, processes)
    epoch = false
end
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
local refused_at = math.max(tonumber(redis.call('HGET', pacing, 'refused_at') or 0), now - refused_for)
refused_at = math.min(refused_at, now) -- the clock of Redis may have been set back
redis.call('HSET', pacing, 'closed_until', string.format('%.6f', paused_until), 'refused_at', string.format('%.6f', refused_at))
for index = first_slot, #ARGV, 2 do
    redis.call('ZADD', slots, string.format('%.6f', now + ARGV[index + 1]), ARGV[index])
end
redis.call('ZREMRANGEBYSCORE', processes, '-inf', now)
redis.call('ZADD', processes, string.format('%.6f', now + counted_for), process_id)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, idle_milliseconds) end
return {
    redis.call('ZRANGE', processes, 0, -1),
    epoch,
    string.format('%.6f', math.max(0, paused_until - now)),
    string.format('%.6f', now),
    redis.call('ZCOUNT', slots, '(' .. string.format('%.6f', now), '(+inf'), -- without the mark
    string.format('%.6f', now - refused_at),
}
