-- Deletes acknowledged messages, if the claim of whoever acknowledges holds the place.
--
-- ARGV[1] session, ARGV[2] claim, ARGV[3...] serials
--
-- Returns how many were there, or -1 if the claim holds no place.
if refusal(ARGV[1], ARGV[2]) then
  return -1
end
local settled = 0
for i = 3, #ARGV do
  if delete(ARGV[i]) then
    settled = settled + 1
    if known.timed > 0 then
      redis.call('ZREM', KEYS[4], ARGV[i])
    end
  end
end
if settled > 0 then
  deleted()
end
return settled
