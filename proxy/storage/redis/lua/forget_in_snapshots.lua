#!lua flags=allow-oom
-- Remove users from all current snapshots.
-- KEYS  index
-- ARGV  prefix of the keys with pieces, then the digests of the ids
-- A piece has 8 bytes per member. The name of its field is the first byte of its members, as a decimal number.
local index, prefix = redis.call('HGETALL', KEYS[1]), ARGV[1]
for entry = 2, #index, 2 do
    local pieces_key = prefix .. string.match(index[entry], '%S+$')
    for number = 2, #ARGV do
        local field = tostring(tonumber(string.sub(ARGV[number], 1, 2), 16))
        local member = string.gsub(string.sub(ARGV[number], 1, 16), '..', function(hex)
            return string.char(tonumber(hex, 16))
        end)
        local piece = redis.call('HGET', pieces_key, field) or ''
        local place = string.find(piece, member, 1, true)
        while place and place % 8 ~= 1 do place = string.find(piece, member, place + 1, true) end
        if place then
            redis.call('HSET', pieces_key, field, string.sub(piece, 1, place - 1) .. string.sub(piece, place + 8))
        end
    end
end
