#!lua flags=allow-oom
-- Take, extend or release a lock that expires.
-- KEYS  the lock
-- ARGV  the holder; milliseconds for which to hold the lock, or 0 to release it
-- Returns 1 if the holder had the lock or has it now, and 0 if another holder has it
local lock_key, holder, milliseconds = KEYS[1], ARGV[1], tonumber(ARGV[2])
local current = redis.call('GET', lock_key)
if current and current ~= holder then return 0 end
if milliseconds > 0 then
    redis.call('SET', lock_key, holder, 'PX', milliseconds)
else
    redis.call('DEL', lock_key)
end
return 1
