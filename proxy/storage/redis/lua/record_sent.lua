-- Merge accepted attributes of users into the state of sent values. An older time never replaces a newer one.
-- KEYS  the state, then for each user the time at which the user was forgotten
-- ARGV  the key of the digests; the owner, or nothing to keep the owner; 1 to replace another owner; then for each user
--       the field and the packed attributes
-- Returns the key of the state's digests, or nil if the state has another owner. With nil, or another key than the one
-- in ARGV, nothing was stored
-- The packed form of each attribute: the length of its name, in two bytes; the name; the digest and the time, in eight
-- bytes each.
local state_key, digest_key, owner, replaces = KEYS[1], ARGV[1], ARGV[2], ARGV[3] == '1'
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
local stored_owner = redis.call('HGET', state_key, 'owner')
if owner ~= '' and stored_owner and stored_owner ~= owner and not replaces then return nil end
if not stored_key then redis.call('HSET', state_key, 'key', digest_key) end
if owner ~= '' then redis.call('HSET', state_key, 'owner', owner) end
for user = 1, #KEYS - 1 do
    local field, accepted = ARGV[2 * user + 2], ARGV[2 * user + 3]
    local attributes, remaining = {}, {}
    unpack_into(attributes, redis.call('HGET', state_key, field) or '')
    unpack_into(attributes, accepted, tonumber(redis.call('GET', KEYS[user + 1]) or ''))
    for _, attribute in pairs(attributes) do remaining[#remaining + 1] = attribute.packed end
    if #remaining > 0 then redis.call('HSET', state_key, field, table.concat(remaining)) end
end
return digest_key
