-- Writes down that a session is in a room, and announces its user if that is the first of its sessions there.
--
-- KEYS[1] the room's hash, KEYS[2] the hash of the bucket's rooms
-- ARGV[1] room, ARGV[2] user, ARGV[3] session, ARGV[4] device, ARGV[5] node
-- ARGV[6] channel and ARGV[7] payload of the announcement; '' for none
--
-- Returns 1 if the user came, else 0.
local time = redis.call('TIME')
local entered = time[1] * 1000 + math.floor(time[2] / 1000)
local raw = redis.call('HGET', KEYS[1], ARGV[2])
local stays = {}
if raw then
  -- What cannot be read is nobody's stay.
  local whole, read = pcall(cmsgpack.unpack, raw)
  stays = whole and type(read) == 'table' and read or {}
end
local first = #stays == 0
local at = #stays + 1
for i = 1, #stays, 4 do
  if stays[i] == ARGV[3] then
    at = i
  end
end
stays[at], stays[at + 1], stays[at + 2], stays[at + 3] = ARGV[3], ARGV[4], ARGV[5], entered
redis.call('HSET', KEYS[1], ARGV[2], cmsgpack.pack(stays))
if not first then
  return 0
end
redis.call('HSET', KEYS[2], ARGV[1], redis.call('HLEN', KEYS[1]))
if ARGV[6] ~= '' then
  redis.call('PUBLISH', ARGV[6], ARGV[7])
end
return 1
