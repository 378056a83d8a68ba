-- What waits in an inbox: { count, bytes, how many expired }.
local expired = expire()
return { redis.call('XLEN', KEYS[2]), inbox().bytes, expired }
