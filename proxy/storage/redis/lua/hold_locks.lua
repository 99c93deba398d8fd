#!lua flags=allow-oom
-- Take, extend or release locks that expire.
-- KEYS  the locks
-- ARGV  the holder; milliseconds for which to hold the locks, or 0 to release them
-- Returns for each lock 1 if the holder had the lock or has it now, and 0 if another holder has it
local holder, milliseconds = ARGV[1], tonumber(ARGV[2])
local results = {}
for place, lock_key in ipairs(KEYS) do
    local current = redis.call('GET', lock_key)
    if current and current ~= holder then
        results[place] = 0
    else
        results[place] = 1
        if milliseconds > 0 then
            redis.call('SET', lock_key, holder, 'PX', milliseconds)
        elseif current then
            redis.call('DEL', lock_key)
        end
    end
end
return results
