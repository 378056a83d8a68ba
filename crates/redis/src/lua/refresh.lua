-- Writes down what has changed about a session, if its claim holds the place.
--
-- KEYS[1] the place's hash
-- ARGV[1] session, ARGV[2] claim, ARGV[3] kind, ARGV[4] last sign of life in Unix ms, ARGV[5] how long to keep the place, in ms
--
-- Returns 1 if it did, else 0.
local raw = redis.call('HGET', KEYS[1], ARGV[1])
if not raw then
  return 0
end
local whole, row = pcall(cmsgpack.unpack, raw)
if not whole or type(row) ~= 'table' or type(row[1]) ~= 'number' or row[1] == 2 or row[2] ~= ARGV[2]
  or type(row[3]) ~= 'number' then
  return 0
end
-- Ready stays ready.
row[1] = tonumber(ARGV[3]) + (row[1] >= 4 and 4 or 0)
row[8] = math.max(0, tonumber(ARGV[4]) - row[3])
redis.call('HSET', KEYS[1], ARGV[1], cmsgpack.pack(row))
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return 1
