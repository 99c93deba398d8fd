-- Record the events that Braze accepted.
-- KEYS  the key of each event
-- ARGV  milliseconds until the keys expire
local milliseconds = ARGV[1]

for _, key in ipairs(KEYS) do redis.call('SET', key, '1', 'PX', milliseconds) end
