-- Forgets a session, or the mark it left, if it is of this claim.
--
-- KEYS[1] the place's hash
-- ARGV[1] session, ARGV[2] claim
-- ARGV[3] when whoever asks took over from the session's node, in Unix ms, or '' if that is the node itself
-- ARGV[4] '1' to leave a mark alone
--
-- Returns 1 for a session, 2 for a mark, 0 if there was neither; 3 if it is there and was claimed or vouched for since
-- ARGV[3].
local raw = redis.call('HGET', KEYS[1], ARGV[1])
if not raw then
  return 0
end
local whole, value = pcall(cmsgpack.unpack, raw)
if not whole or type(value) ~= 'table' or type(value[3]) ~= 'number' then
  redis.call('HDEL', KEYS[1], ARGV[1])
  return 0
end
if value[2] ~= ARGV[2] then
  return 0
end
local mark = value[1] == 2
if mark and ARGV[4] == '1' then
  -- Its node may yet come back and ask what has become of the session. It ages with the place.
  return 2
end
if not mark and ARGV[3] ~= '' and math.max(value[3], tonumber(value[9]) or 0) >= tonumber(ARGV[3]) then
  return 3
end
redis.call('HDEL', KEYS[1], ARGV[1])
return mark and 2 or 1
