-- Merge accepted attributes of users into the state of sent values. An older time never replaces a newer one.
-- KEYS  the state, then for each user the time at which the user was forgotten
-- ARGV  the key of the digests; the owner, or nothing to keep the owner; then for each user the field and the packed
--       attributes
-- Returns the key of the state's digests. If it differs from the key in ARGV, the script stored nothing.
-- The packed form of each attribute: the length of its name, in two bytes; the name; the digest and the time, in eight
-- bytes each.
local state_key, digest_key, owner = KEYS[1], ARGV[1], ARGV[2]
local TAIL = 16

local function unpack_into(attributes, packed, forgotten_at)
    local place = 1
    while place + 1 <= #packed do
        local last = place + 1 + struct.unpack('>H', packed, place) + TAIL
        if last > #packed then return end
        local name, at = string.sub(packed, place + 2, last - TAIL), struct.unpack('>d', packed, last - 7)
        local known = attributes[name]
        if not (known and known.at > at) and not (forgotten_at and at <= forgotten_at) then
            attributes[name] = {at = at, packed = string.sub(packed, place, last)}
        end
        place = last + 1
    end
end

local stored_key = redis.call('HGET', state_key, 'key')
if stored_key and stored_key ~= digest_key then return stored_key end
if not stored_key then redis.call('HSET', state_key, 'key', digest_key) end
if owner ~= '' then redis.call('HSET', state_key, 'owner', owner) end
for user = 1, #KEYS - 1 do
    local field, accepted = ARGV[2 * user + 1], ARGV[2 * user + 2]
    local attributes, remaining = {}, {}
    unpack_into(attributes, redis.call('HGET', state_key, field) or '')
    unpack_into(attributes, accepted, tonumber(redis.call('GET', KEYS[user + 1]) or ''))
    for _, attribute in pairs(attributes) do remaining[#remaining + 1] = attribute.packed end
    if #remaining > 0 then redis.call('HSET', state_key, field, table.concat(remaining)) end
end
return digest_key
