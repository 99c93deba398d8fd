-- Merge what was pushed about users into what was, the later word winning, and tell all processes of whom.
-- KEYS  told, then for each user: what was pushed, the pairs of the id
-- ARGV  milliseconds for which a push is of use, moment before which nothing is of any, what the others are told,
--       milliseconds for which they can hear of it, then for each user: what is pushed, packed
-- Returns the places, counted from 1, of those of whom nothing is kept, because they were forgotten ("!") just now.
-- Packed are fields and values, each behind its size and the other's; a value begins with its moment, as eight bytes.
-- The field "f" is the moment before which no property ("p...") has a say.
local horizon = tonumber(ARGV[2])
local function moment(value) return #value >= 8 and struct.unpack('>d', value) or -1 end

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

local function unpack_into(values, pieces, packed)
    local at, last = 1, #packed
    while at + 7 <= last do
        local size, length = struct.unpack('>I4I4', packed, at)
        local stop = at + 7 + size + length
        local field = string.sub(packed, at + 8, at + 7 + size)
        local value = string.sub(packed, at + 8 + size, stop)
        local old = values[field]
        if not old or (old ~= value and later(value, old)) then
            values[field], pieces[field] = value, string.sub(packed, at, stop)
        end
        at = stop + 1
    end
end

local barred = {}
for user = 1, #ARGV - 4 do
    local key = KEYS[2 * user]
    if redis.call('SISMEMBER', KEYS[2 * user + 1], '!') == 1 then
        barred[#barred + 1] = user
    else
        local merged = ARGV[4 + user]
        local kept = redis.call('GET', key)
        if kept then
            local values, pieces, left, count = {}, {}, {}, 0
            unpack_into(values, pieces, kept)
            unpack_into(values, pieces, merged)
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
return barred
