-- Deletes acknowledged messages, if the claim of whoever acknowledges holds the place.
--
-- ARGV[1] session, ARGV[2] claim, ARGV[3...] serials
--
-- Returns how many were there, -1 if the session lost its place, -2 if it is not known.
local why = refusal(ARGV[1], ARGV[2])
if why then
  return why == 'displaced' and -1 or -2
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
