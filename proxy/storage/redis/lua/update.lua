-- Merge new updates of users into the stored updates, and announce them to all processes. Later values win.
-- KEYS  announcements, then for each user: updates, the time at which the user was forgotten
-- ARGV  milliseconds for which updates are kept; Unix seconds before which updates are too old; checksums to announce;
--       milliseconds for which an announcement is kept; maximum bytes and maximum fields per user; maximum bytes to
--       unpack; then the packed new updates of each user
-- Returns the number of processed users; the positions (from 1) of users who were forgotten after their updates; and
-- the positions of users whose updates would be too large
-- The packed form of each field and value begins with the sizes of both. A value begins with its time, as eight bytes.
-- If the sender's clock was ahead, the byte 255 and the lead, as eight bytes, follow.
-- The field "f" is the time before which no property counts. A field "s..." is a set of properties: a line for each
-- name, and in the value a line for each name. The previous version wrote a field "p..." per property.
local announcements_key = KEYS[1]
local kept_milliseconds, horizon, checksums, announced_milliseconds = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local max_bytes, max_fields, max_unpacked = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
-- Comparing a property takes as long as unpacking this many bytes.
local PROPERTY_COST = 60
local PROPERTY, SET, CLOCK_AHEAD = 112, 115, 255

local function moment(value) return #value >= 8 and struct.unpack('>d', value) or -1 end

-- Returns the packed time of a value, including the lead, and the content.
local function split(value)
    local start = #value >= 17 and string.byte(value, 9) == CLOCK_AHEAD and 17 or 8
    return string.sub(value, 1, start), string.sub(value, start + 1)
end

local function arrived_at(value)
    local start = split(value)
    return moment(value) - (#start == 17 and struct.unpack('>d', start, 10) or 0)
end

-- Not by string.gmatch, which takes quadratic time on a text without a line end.
local function lines(text)
    local list, start = {}, 1
    local line_end = string.find(text, '\n', 1, true)
    while line_end do
        list[#list + 1] = string.sub(text, start, line_end - 1)
        start = line_end + 1
        line_end = string.find(text, '\n', start, true)
    end
    return list
end

local function joined(list) return table.concat(list, '\n') .. '\n' end

-- Compares bytes as Python does, because Lua's own comparison depends on the locale.
local function is_later(value, other)
    local at, other_at = moment(value), moment(other)
    if at ~= other_at then return at > other_at end
    for index = 9, math.min(#value, #other) do
        local byte, other_byte = string.byte(value, index), string.byte(other, index)
        if byte ~= other_byte then return byte > other_byte end
    end
    return #value > #other
end

local function later(field, value, other)
    if value == other then return value end
    if string.byte(field) ~= SET or moment(value) ~= moment(other) then
        return is_later(other, value) and other or value
    end
    local start, content = split(value)
    local other_start, other_content = split(other)
    if start ~= other_start then return is_later(other, value) and other or value end
    local list, other_list = lines(content), lines(other_content)
    for index, line in ipairs(list) do
        local other_line = other_list[index] or ''
        if is_later(start .. other_line, start .. line) then list[index] = other_line end
    end
    return start .. joined(list)
end

-- Merges `packed` into `values`. Returns the number of fields, or of fields that arrived after `after` if given.
local function unpack_into(values, packed, after)
    local at, last, count = 1, #packed, 0
    while at + 7 <= last do
        local size, length = struct.unpack('>I4I4', packed, at)
        local field = string.sub(packed, at + 8, at + 7 + size)
        local value = string.sub(packed, at + 8 + size, at + 7 + size + length)
        if string.byte(field) == PROPERTY and not string.find(field, '[%c"\\]') then
            field, value = 's"' .. string.sub(field, 2) .. '"\n', value .. '\n'
        end
        if not after or arrived_at(value) > after then
            count = count + 1
            values[field] = values[field] and later(field, values[field], value) or value
        end
        at = at + 8 + size + length
    end
    return count
end

-- Removes properties from sets in `values` if another set has a later value. Returns the number of compared properties.
local function keep_each_property_once(values)
    local sets, latest, count = {}, {}, 0
    for field, value in pairs(values) do
        if string.byte(field) == SET then
            local start, content = split(value)
            sets[#sets + 1] = {field = field, start = start, content = content}
        end
    end
    if #sets < 2 then return 0 end
    table.sort(sets, function(set, other) return is_later(set.start, other.start) end)
    for _, set in ipairs(sets) do
        local names, list, content = {}, {}, lines(set.content)
        for place, name in ipairs(lines(string.sub(set.field, 2))) do
            local line, other, index = content[place] or '', latest[name], #names + 1
            if not other then
                names[index], list[index] = name, line
                latest[name] = {start = set.start, list = list, index = index}
            elseif other.start == set.start and is_later(set.start .. line, set.start .. other.list[other.index]) then
                other.list[other.index] = line
            end
            count = count + 1
        end
        set.names, set.list = names, list
    end
    for _, set in ipairs(sets) do values[set.field] = nil end
    for _, set in ipairs(sets) do
        if #set.names > 0 then values['s' .. joined(set.names)] = set.start .. joined(set.list) end
    end
    return count
end

local forgotten, too_large, unpacked, processed = {}, {}, 0, 0
for user = 1, #ARGV - 7 do
    if unpacked > max_unpacked then break end
    processed = user
    local updates_key, forgotten_key, packed = KEYS[2 * user], KEYS[2 * user + 1], ARGV[7 + user]
    local stored, forgotten_at = redis.call('GET', updates_key), tonumber(redis.call('GET', forgotten_key) or '')
    -- Another program wrote a larger value, which would block Redis for too long.
    if stored and #stored > max_bytes then stored = false end
    local field_count, new_count = 0, 1
    if stored or forgotten_at then
        unpacked = unpacked + #(stored or '') + #packed
        local values, remaining = {}, {}
        unpack_into(values, stored or '')
        new_count = unpack_into(values, packed, forgotten_at)
        local floor = values['f'] and moment(values['f']) or -1
        for field, value in pairs(values) do
            local at, kind = moment(value), string.byte(field)
            if at < horizon or (at < floor and (kind == SET or kind == PROPERTY)) then values[field] = nil end
        end
        unpacked = unpacked + PROPERTY_COST * keep_each_property_once(values)
        for field, value in pairs(values) do
            field_count = field_count + (string.byte(field) == SET and select(2, string.gsub(field, '\n', '\n')) or 1)
            remaining[#remaining + 1] = struct.pack('>I4I4', #field, #value) .. field .. value
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
return {processed, forgotten, too_large}
