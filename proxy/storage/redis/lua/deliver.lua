-- Record the events that Braze accepted.
-- KEYS: the key of each event
local milliseconds = ARGV[1] -- until a key expires

for _, key in ipairs(KEYS) do redis.call('SET', key, '1', 'PX', milliseconds) end
