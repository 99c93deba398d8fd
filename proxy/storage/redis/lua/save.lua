-- Merge what was fetched into a user's record, the later word winning, and give the leases back.
-- KEYS  record, lease, then the pairs of each of the ids
-- ARGV  who fetched, milliseconds for which the record is of use, moment before which a part is of none,
--       1 if the user is unknown, number of fields fetched, those fields and values in pairs, number of leases,
--       fields of those leases, word of their failure ('' for none), milliseconds for which others hear of it, number
--       of ids among whose pairs this one is to be found (the first of KEYS)
-- Nothing is kept of an id that was forgotten ("!") while this was on its way.
-- A value begins with the moment at which it was said, as eight bytes. The field "m" is of the record itself: it says
-- when, whether the user is unknown, and the ids.
local function said(value) return value and #value >= 8 and struct.unpack('>d', value) or -1 end

local fields = tonumber(ARGV[5])
local leases = 6 + 2 * fields
for index = 3, #KEYS do
    if redis.call('SISMEMBER', KEYS[index], '!') == 1 then fields = 0 end
end
if fields > 0 then
    local kept = redis.call('HGETALL', KEYS[1])
    local latest, unknown, old = -1, false, {}
    for index = 1, #kept, 2 do
        local field, at = kept[index], said(kept[index + 1])
        old[field] = at
        latest = math.max(latest, at)
        if field == 'm' then
            unknown = string.sub(kept[index + 1], 9, 9) == '?'
        elseif at < tonumber(ARGV[3]) then
            redis.call('HDEL', KEYS[1], field)
        end
    end
    local news = said(ARGV[7])
    if (ARGV[4] == '1' or unknown) and news < latest then
        fields = 0
    elseif ARGV[4] == '1' or unknown then
        redis.call('DEL', KEYS[1])
        old = {}
    end
    for index = 6, 5 + 2 * fields, 2 do
        if said(ARGV[index + 1]) >= (old[ARGV[index]] or -1) then
            redis.call('HSET', KEYS[1], ARGV[index], ARGV[index + 1])
        end
    end
    if fields > 0 then
        -- What was fetched ahead of a send may be of use for longer than what is fetched now.
        if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
        for index = 3, 2 + ARGV[#ARGV] do
            redis.call('SADD', KEYS[index], string.sub(KEYS[1], -32))
            if redis.call('PTTL', KEYS[index]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[index], ARGV[2]) end
        end
    end
end

local count = tonumber(ARGV[leases])
local word = ARGV[leases + count + 1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
for index = leases + 1, leases + count do
    local whose = string.match(redis.call('HGET', KEYS[2], ARGV[index]) or '', '^%d+ (.*)$')
    if whose == ARGV[1] then
        if word == '' then
            redis.call('HDEL', KEYS[2], ARGV[index])
        else
            local told = string.format('%.0f', now + ARGV[leases + count + 2])
            redis.call('HSET', KEYS[2], ARGV[index], told .. ' !' .. word)
        end
    end
end
