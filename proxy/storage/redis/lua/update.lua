-- Merge what was pushed about users into what was, the later word winning, and tell all processes of whom.
-- KEYS  told, then for each user: what was pushed, when the id was forgotten
-- ARGV  milliseconds for which a push is of use, moment before which nothing is of any, what the others are told,
--       milliseconds for which they can hear of it, bytes and fields that are kept of one user at most, bytes that are
--       unpacked at once, then for each user: what is pushed, packed
-- Returns how many users were seen to, the places, counted from 1, of those of whom nothing is kept because all was said
-- before they were forgotten, and of those of whom it would be too much.
-- Packed are fields and values, each behind its size and the other's; a value begins with its moment, as eight bytes.
-- Behind the moment of a clock that was ahead stand the byte 255 and, as eight bytes, by how much.
-- The field "f" is the moment before which no property ("p...") has a say.
local horizon, most_bytes, most_fields = tonumber(ARGV[2]), tonumber(ARGV[5]), tonumber(ARGV[6])
local enough_bytes = tonumber(ARGV[7])
local function moment(value) return #value >= 8 and struct.unpack('>d', value) or -1 end

local function came(value)
    local at = moment(value)
    if #value >= 17 and string.byte(value, 9) == 255 then at = at - struct.unpack('>d', value, 10) end
    return at
end

-- As Python compares bytes; Lua's own way depends on the machine's language.
local function later(one, other)
    local its, others = moment(one), moment(other)
    if its ~= others then return its > others end
    for index = 9, math.min(#one, #other) do
        local byte, otherbyte = string.byte(one, index), string.byte(other, index)
        if byte ~= otherbyte then return byte > otherbyte end
    end
    return #one > #other
end

-- Returns how many fields were said after the moment `after`, where there is one.
local function unpack_into(values, pieces, packed, after)
    local at, last, count = 1, #packed, 0
    while at + 7 <= last do
        local size, length = struct.unpack('>I4I4', packed, at)
        local stop = at + 7 + size + length
        local field = string.sub(packed, at + 8, at + 7 + size)
        local value = string.sub(packed, at + 8 + size, stop)
        local old = values[field]
        if not after or came(value) > after then
            count = count + 1
            if not old or (old ~= value and later(value, old)) then
                values[field], pieces[field] = value, string.sub(packed, at, stop)
            end
        end
        at = stop + 1
    end
    return count
end

local barred, large, unpacked, done = {}, {}, 0, 0
for user = 1, #ARGV - 7 do
    if unpacked > enough_bytes then break end
    done = user
    local key, merged = KEYS[2 * user], ARGV[7 + user]
    local kept, forgotten = redis.call('GET', key), tonumber(redis.call('GET', KEYS[2 * user + 1]) or '')
    -- What is larger than all that is kept is none of ours, and would take Redis from everybody for long.
    if kept and #kept > most_bytes then kept = false end
    local count, new = 0, 1
    if kept or forgotten then
        unpacked = unpacked + #(kept or '') + #merged
        local values, pieces, left = {}, {}, {}
        unpack_into(values, pieces, kept or '')
        new = unpack_into(values, pieces, merged, forgotten)
        local floor = values['f'] and moment(values['f']) or -1
        for field, value in pairs(values) do
            local at = moment(value)
            if at >= horizon and (at >= floor or string.byte(field) ~= 112) then
                count = count + 1
                left[count] = pieces[field]
            end
        end
        merged = table.concat(left)
    end
    if new == 0 or #merged == 0 then
        barred[#barred + 1] = user
    elseif #merged > most_bytes or count > most_fields then
        large[#large + 1] = user
    else
        redis.call('SET', key, merged, 'PX', ARGV[1])
    end
end
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
if last and tonumber(last) >= now then now = tonumber(last) + 1 end
local text = string.format('%.0f', now)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - ARGV[4] * 1000))
redis.call('ZADD', KEYS[1], text, text .. ' ' .. ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {done, barred, large}
