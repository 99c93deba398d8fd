-- Merge new updates about users into those that are kept, later values winning, and announce them to all processes.
-- KEYS  announcements, then for each user: updates, when the user was forgotten
-- ARGV  milliseconds that updates are kept, Unix seconds before which they are too old, checksums to announce,
--       milliseconds that an announcement is kept, largest number of bytes and of fields per user, bytes to unpack at
--       most, then for each user the new updates, packed
-- Returns the number of users that were processed; the places, from 1, of those whose updates are older than the moment
-- they were forgotten; and the places of those of whom there would be too much
-- Packed are fields and values, each behind the sizes of both. A value begins with its moment, as eight bytes. If the
-- sender's clock was ahead, the byte 255 and the lead, as eight bytes, follow.
-- The field "f" is the moment before which no property ("p...") counts.
local announcements_key = KEYS[1]
local kept_milliseconds, horizon, checksums, announced_milliseconds = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local max_bytes, max_fields, max_unpacked = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local PROPERTY, CLOCK_AHEAD = 112, 255

local function moment(value) return #value >= 8 and struct.unpack('>d', value) or -1 end

local function arrived_at(value)
    local at = moment(value)
    if #value >= 17 and string.byte(value, 9) == CLOCK_AHEAD then at = at - struct.unpack('>d', value, 10) end
    return at
end

-- Compares bytes as Python does; Lua's own comparison depends on the locale.
local function is_later(value, other)
    local at, other_at = moment(value), moment(other)
    if at ~= other_at then return at > other_at end
    for index = 9, math.min(#value, #other) do
        local byte, other_byte = string.byte(value, index), string.byte(other, index)
        if byte ~= other_byte then return byte > other_byte end
    end
    return #value > #other
end

-- Merges `packed` into `values` and `pieces`; returns how many of its fields arrived after `after`, if that is given.
local function unpack_into(values, pieces, packed, after)
    local at, last, count = 1, #packed, 0
    while at + 7 <= last do
        local size, length = struct.unpack('>I4I4', packed, at)
        local stop = at + 7 + size + length
        local field = string.sub(packed, at + 8, at + 7 + size)
        local value = string.sub(packed, at + 8 + size, stop)
        local old = values[field]
        if not after or arrived_at(value) > after then
            count = count + 1
            if not old or (old ~= value and is_later(value, old)) then
                values[field], pieces[field] = value, string.sub(packed, at, stop)
            end
        end
        at = stop + 1
    end
    return count
end

local forgotten, too_large, unpacked, done = {}, {}, 0, 0
for user = 1, #ARGV - 7 do
    if unpacked > max_unpacked then break end
    done = user
    local updates_key, forgotten_key, packed = KEYS[2 * user], KEYS[2 * user + 1], ARGV[7 + user]
    local stored, forgotten_at = redis.call('GET', updates_key), tonumber(redis.call('GET', forgotten_key) or '')
    -- A larger value was written by another program, and would block Redis for long.
    if stored and #stored > max_bytes then stored = false end
    local field_count, new_count = 0, 1
    if stored or forgotten_at then
        unpacked = unpacked + #(stored or '') + #packed
        local values, pieces, remaining = {}, {}, {}
        unpack_into(values, pieces, stored or '')
        new_count = unpack_into(values, pieces, packed, forgotten_at)
        local floor = values['f'] and moment(values['f']) or -1
        for field, value in pairs(values) do
            local at = moment(value)
            if at >= horizon and (at >= floor or string.byte(field) ~= PROPERTY) then
                field_count = field_count + 1
                remaining[field_count] = pieces[field]
            end
        end
        packed = table.concat(remaining)
    end
    if new_count == 0 or #packed == 0 then
        forgotten[#forgotten + 1] = user
    elseif #packed > max_bytes or field_count > max_fields then
        too_large[#too_large + 1] = user
    else
        redis.call('SET', updates_key, packed, 'PX', kept_milliseconds)
    end
end

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local last = redis.call('ZREVRANGE', announcements_key, 0, 0, 'WITHSCORES')[2]
if last and tonumber(last) >= now then now = tonumber(last) + 1 end
local score = string.format('%.0f', now)
local announced_since = string.format('%.0f', now - announced_milliseconds * 1000)
redis.call('ZREMRANGEBYSCORE', announcements_key, '-inf', announced_since)
redis.call('ZADD', announcements_key, score, score .. ' ' .. checksums)
redis.call('PEXPIRE', announcements_key, announced_milliseconds)
return {done, forgotten, too_large}
