-- Ends a take-over that is still this node's.
--
-- KEYS[1] the list of nodes; see nodes.rs for its entries
-- ARGV[1] the dead incarnation, ARGV[2] the one that took over
-- ARGV[3] 'reaped', 'alive' if its lease turned out to be there, or 'gone' to strike it off the list
--
-- Returns 1 if it did, else 0.
local raw = redis.call('HGET', KEYS[1], ARGV[1])
if not raw then
  return 0
end
local entry = cmsgpack.unpack(raw)
if entry[4] ~= 1 or entry[7] ~= ARGV[2] then
  return 0
end
if ARGV[3] == 'gone' then
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
local ended = { entry[1], entry[2], entry[3], 0 }
if ARGV[3] == 'reaped' then
  local time = redis.call('TIME')
  ended[4], ended[5] = 2, time[1] * 1000 + math.floor(time[2] / 1000)
end
redis.call('HSET', KEYS[1], ARGV[1], cmsgpack.pack(ended))
return 1
