-- Read a user's record and updates, and lease the parts that no other process fetches.
-- KEYS  record, leases, updates of the user (if the identity has a user id)
-- ARGV  process id, duration of a lease in milliseconds, fields of the parts
-- Returns {record as from HGETALL; for each part 1 (leased), 0 (leased by another process) or the error word of a
-- failed call; updates or false}
-- A lease is '<end in milliseconds> <process id, or ! and the error word>'.
local record_key, leases_key, updates_key = KEYS[1], KEYS[2], KEYS[3]
local process_id, lease_milliseconds = ARGV[1], tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local outcomes = {}
local leased = false
for index = 3, #ARGV do
    local field = ARGV[index]
    local ends_at, holder = string.match(redis.call('HGET', leases_key, field) or '', '^(%d+) (.*)$')
    -- A lease that lasts longer than any lease dates from before the clock of Redis was set back.
    local is_over = not ends_at or tonumber(ends_at) <= now or tonumber(ends_at) > now + lease_milliseconds
    if is_over or holder == process_id then
        redis.call('HSET', leases_key, field, string.format('%.0f', now + lease_milliseconds) .. ' ' .. process_id)
        leased = true
        outcomes[#outcomes + 1] = 1
    elseif string.sub(holder, 1, 1) == '!' then
        outcomes[#outcomes + 1] = string.sub(holder, 2)
    else
        outcomes[#outcomes + 1] = 0
    end
end
if leased then redis.call('PEXPIRE', leases_key, lease_milliseconds) end
return {redis.call('HGETALL', record_key), outcomes, updates_key and redis.call('GET', updates_key) or false}
