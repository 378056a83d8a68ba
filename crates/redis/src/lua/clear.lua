-- Deletes all messages of an inbox. Returns how many there were.
expire()
local count = redis.call('XLEN', KEYS[2])
if count > 0 then
  redis.call('XTRIM', KEYS[2], 'MAXLEN', 0)
  inbox()
  deleted()
end
return count
