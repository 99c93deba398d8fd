-- Merge fetched parts into a record, and end the leases. The later value of a part wins.
-- KEYS  record, leases, then the pairs of each id
-- ARGV  process id; milliseconds for which the record is usable; Unix seconds before which parts are too old;
--       1 if the user is unknown; number of fields; each field and its value; number of leases; fields of the leases;
--       error word ('' for success); milliseconds for which a failure is reported; number of ids (from the third of
--       KEYS on) whose pairs list this record
-- Saves nothing if one of the ids was forgotten ("!") during the call.
-- A value begins with the time of its fetch, as eight bytes. The field "m" has the time of the record, whether the user
-- is unknown, and the ids.
local record_key, leases_key = KEYS[1], KEYS[2]
local process_id, usable_milliseconds, horizon = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local is_unknown, field_count = ARGV[4] == '1', tonumber(ARGV[5])
local leases_at = 6 + 2 * field_count
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
        moments[field] = at
        latest = math.max(latest, at)
        if field == 'm' then
            was_unknown = string.sub(stored[index + 1], 9, 9) == '?'
        elseif at < horizon then
            redis.call('HDEL', record_key, field)
        end
    end
    if is_unknown or was_unknown then
        if fetched_at(ARGV[7]) < latest then return end
        redis.call('DEL', record_key)
        moments = {}
    end
    for index = 6, leases_at - 1, 2 do
        local field, value = ARGV[index], ARGV[index + 1]
        if fetched_at(value) >= (moments[field] or -1) then redis.call('HSET', record_key, field, value) end
    end
    extend_expiry(record_key)
    for index = 3, 2 + listed_count do
        redis.call('SADD', KEYS[index], string.sub(record_key, -32))
        extend_expiry(KEYS[index])
    end
end

if field_count > 0 then merge_fields() end

local clock = redis.call('TIME')
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
