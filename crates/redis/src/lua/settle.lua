-- Deletes acknowledged messages, if the claim of whoever acknowledges holds the place.
--
-- ARGV[1] session, ARGV[2] claim, ARGV[3...] serials
--
-- Returns how many were there, -1 if the session lost its place, -2 if it is not known.
local why = refusal(ARGV[1], ARGV[2])
if why then
  return why == 'displaced' and -1 or -2
end
local there, weight, seen = {}, 0, {}
for i = 3, #ARGV do
  local serial = ARGV[i]
  local found = not seen[serial] and redis.call('XRANGE', KEYS[2], serial, serial)[1]
  seen[serial] = true
  if found then
    table.insert(there, serial)
    weight = weight + #found[2][4]
  end
end
if #there > 0 then
  redis.call('XDEL', KEYS[2], unpack(there))
  if inbox().timed > 0 then
    redis.call('ZREM', KEYS[4], unpack(there))
  end
  known.bytes = math.max(0, known.bytes - weight)
  deleted()
end
return #there
