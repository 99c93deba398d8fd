-- Merge fetched parts into a record, and end the leases. The later value of a part wins.
-- KEYS  record, leases, then the pairs of each id
-- ARGV  process id; milliseconds for which the record is usable; Unix seconds before which parts are too old; Unix
--       seconds after which a stored time is wrong; seconds by which the process may be ahead of this clock; 1 if the
--       user is unknown; number of fields; each field and its value; number of leases; fields of the leases; error word
--       ('' for success); milliseconds for which a failure is reported; number of ids (from the third of KEYS on)
--       whose pairs list this record
-- Saves nothing if one of the ids was forgotten ("!") during the call.
-- Returns the time of Redis, in seconds, if the record is later. Then nothing is saved and no lease ends.
-- A value begins with the time of its fetch, as eight bytes. The field "m" has the time of the record, whether the user
-- is unknown, and the ids.
local record_key, leases_key = KEYS[1], KEYS[2]
local process_id, usable_milliseconds, horizon = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local latest_possible, clock_error = tonumber(ARGV[4]), tonumber(ARGV[5])
local is_unknown, field_count = ARGV[6] == '1', tonumber(ARGV[7])
local leases_at = 8 + 2 * field_count
local lease_count = tonumber(ARGV[leases_at])
local error_word, failure_milliseconds = ARGV[leases_at + lease_count + 1], ARGV[leases_at + lease_count + 2]
local listed_count = tonumber(ARGV[#ARGV])

local function fetched_at(value) return value and #value >= 8 and struct.unpack('>d', value) or -1 end

local function extend_expiry(key)
    -- Warmed data may be usable for longer than the new data.
    if redis.call('PTTL', key) < usable_milliseconds then redis.call('PEXPIRE', key, usable_milliseconds) end
end

local function merge_fields()
    for index = 3, #KEYS do
        if redis.call('SISMEMBER', KEYS[index], '!') == 1 then return end
    end
    local stored = redis.call('HGETALL', record_key)
    local latest, was_unknown, moments = -1, false, {}
    for index = 1, #stored, 2 do
        local field, at = stored[index], fetched_at(stored[index + 1])
        -- A process whose clock is ahead wrote the field. The new data was fetched just now, so it is later.
        local is_wrong = at > latest_possible
        if is_wrong then at = -1 end
        moments[field] = at
        latest = math.max(latest, at)
        if field == 'm' then
            was_unknown = string.sub(stored[index + 1], 9, 9) == '?'
        elseif at < horizon and not is_wrong then
            redis.call('HDEL', record_key, field)
        end
    end
    if is_unknown or was_unknown then
        if fetched_at(ARGV[9]) < latest then return end
        redis.call('DEL', record_key)
        moments = {}
    end
    for index = 8, leases_at - 1, 2 do
        local field, value = ARGV[index], ARGV[index + 1]
        if fetched_at(value) >= (moments[field] or -1) then redis.call('HSET', record_key, field, value) end
    end
    extend_expiry(record_key)
    for index = 3, 2 + listed_count do
        redis.call('SADD', KEYS[index], string.sub(record_key, -32))
        extend_expiry(KEYS[index])
    end
end

local clock = redis.call('TIME')
if field_count > 0 then
    if fetched_at(ARGV[9]) > clock[1] + clock_error then return clock[1] .. string.format('.%06d', clock[2]) end
    merge_fields()
end

local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
for index = leases_at + 1, leases_at + lease_count do
    local field = ARGV[index]
    local holder = string.match(redis.call('HGET', leases_key, field) or '', '^%d+ (.*)$')
    if holder == process_id then
        if error_word == '' then
            redis.call('HDEL', leases_key, field)
        else
            local reported_until = string.format('%.0f', now + failure_milliseconds)
            redis.call('HSET', leases_key, field, reported_until .. ' !' .. error_word)
        end
    end
end
