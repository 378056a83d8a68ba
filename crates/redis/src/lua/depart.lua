-- Writes down that a session left a room, and announces that its user left if that was the last of its sessions there.
--
-- KEYS[1] the room's hash, KEYS[2] the hash of the bucket's rooms
-- ARGV[1] room, ARGV[2] user, ARGV[3] session
-- ARGV[4] when whoever asks took over from the session's node, in Unix ms, or '' if that is the node itself
-- ARGV[5] channel and ARGV[6] payload of the announcement; '' for none
--
-- Returns 1 if the user left, 3 if the session entered since ARGV[4], else 0.
local raw = redis.call('HGET', KEYS[1], ARGV[2])
if not raw then
  return 0
end
local whole, stays = pcall(cmsgpack.unpack, raw)
if not whole or type(stays) ~= 'table' then
  -- What cannot be read is nobody's stay.
  stays = {}
end
local left = {}
for i = 1, #stays, 4 do
  if stays[i] ~= ARGV[3] then
    for j = i, i + 3 do
      table.insert(left, stays[j])
    end
  elseif ARGV[4] ~= '' and (tonumber(stays[i + 3]) or 0) >= tonumber(ARGV[4]) then
    return 3
  end
end
if #left == #stays and #left > 0 then
  return 0
end
if #left > 0 then
  redis.call('HSET', KEYS[1], ARGV[2], cmsgpack.pack(left))
  return 0
end
redis.call('HDEL', KEYS[1], ARGV[2])
local users = redis.call('HLEN', KEYS[1])
if users == 0 then
  redis.call('HDEL', KEYS[2], ARGV[1])
else
  redis.call('HSET', KEYS[2], ARGV[1], users)
end
if ARGV[5] ~= '' then
  redis.call('PUBLISH', ARGV[5], ARGV[6])
end
return 1
