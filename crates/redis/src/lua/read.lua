-- The next messages of an inbox, if the reader's claim holds its place.
--
-- ARGV[1] session, ARGV[2] claim
-- ARGV[3] those behind this serial, ARGV[4] up to this one, or '' for all
-- ARGV[5] most messages, ARGV[6] most bytes, of which the first may take more
--
-- Returns { 'ok', everything up to here was read, 1 if there is more else 0, how many expired, serial, message, ... },
-- { 'absent' } or { 'displaced' }.
local why = refusal(ARGV[1], ARGV[2])
if why then
  return { why }
end
local expired = expire()
local count, bytes_max = tonumber(ARGV[5]), tonumber(ARGV[6])
local found = redis.call('XRANGE', KEYS[2], '(' .. ARGV[3], ARGV[4] == '' and '+' or ARGV[4], 'COUNT', count + 1)
local upto, more, bytes = ARGV[3], 0, 0
local told = { 'ok', upto, more, expired }
for i, entry in ipairs(found) do
  local message = entry[2][4]
  bytes = bytes + #message
  if i > count or i > 1 and bytes > bytes_max then
    more = 1
    break
  end
  upto = entry[1]
  -- What expires out of turn, because the time that messages wait was changed, is passed over.
  if (tonumber(entry[2][2]) or 0) > now_ms() then
    table.insert(told, entry[1])
    table.insert(told, message)
  end
end
if more == 0 then
  upto = ARGV[4] == '' and inbox().last or ARGV[4]
end
told[2], told[3] = upto, more
return told
