-- Writes an incarnation into the list of nodes, unless it was taken for dead there and does not know it yet.
--
-- KEYS[1] the list of nodes; see nodes.rs for its entries
-- ARGV[1] incarnation, ARGV[2] node, ARGV[3] id of its subscription's connection, 0 if unknown
-- ARGV[4] for how long it may yet be without a lease, in ms, ARGV[5] '1' if the node knows whatever stands there
--
-- Returns 1 if it is listed, else 0.
local raw = redis.call('HGET', KEYS[1], ARGV[1])
if raw and ARGV[5] ~= '1' then
  local whole, entry = pcall(cmsgpack.unpack, raw)
  if whole and type(entry) == 'table' and entry[4] ~= 0 then
    return 0
  end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], cmsgpack.pack({ ARGV[2], tonumber(ARGV[3]), now + tonumber(ARGV[4]), 0 }))
return 1
