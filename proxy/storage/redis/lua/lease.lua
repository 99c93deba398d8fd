-- Read a user's record and what was pushed, and take the lease of those parts that nobody else fetches just now.
-- KEYS  record, lease, what was pushed about the user (where the pair has one)
-- ARGV  who asks, milliseconds for which a lease lasts, then the parts' fields
-- Returns {record as HGETALL gives it, for each part: 1 granted, 0 leased to another, or the word of its failure, what was
-- pushed or false}
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local outcomes = {}
local took = false
for index = 3, #ARGV do
    local lease = redis.call('HGET', KEYS[2], ARGV[index])
    local until_, whose = string.match(lease or '', '^(%d+) (.*)$')
    if not until_ or tonumber(until_) <= now or whose == ARGV[1] then
        redis.call('HSET', KEYS[2], ARGV[index], string.format('%.0f', now + ARGV[2]) .. ' ' .. ARGV[1])
        took = true
        outcomes[#outcomes + 1] = 1
    elseif string.sub(whose, 1, 1) == '!' then
        outcomes[#outcomes + 1] = string.sub(whose, 2)
    else
        outcomes[#outcomes + 1] = 0
    end
end
if took then redis.call('PEXPIRE', KEYS[2], ARGV[2]) end
return {redis.call('HGETALL', KEYS[1]), outcomes, KEYS[3] and redis.call('GET', KEYS[3]) or false}
