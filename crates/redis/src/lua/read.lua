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
-- Entries that are read at once.
local STEP = 4

local expired = expire()
local count, bytes_max = tonumber(ARGV[5]), tonumber(ARGV[6])
local stop = ARGV[4] == '' and '+' or ARGV[4]
local upto, more, seen, bytes = ARGV[3], 0, 0, 0
local told = { 'ok', upto, more, expired }
repeat
  -- A few at a time: they may be large, and what is over the limit is read for nothing.
  local found = redis.call('XRANGE', KEYS[2], '(' .. upto, stop, 'COUNT', STEP)
  for _, entry in ipairs(found) do
    local message = entry[2][4]
    seen, bytes = seen + 1, bytes + #message
    if seen > count or seen > 1 and bytes > bytes_max then
      more = 1
      break
    end
    upto = entry[1]
    -- One that is due and was not got to above.
    if (tonumber(entry[2][2]) or 0) > now_ms() then
      table.insert(told, entry[1])
      table.insert(told, message)
    end
  end
until more == 1 or #found < STEP
if more == 0 then
  upto = ARGV[4] == '' and inbox().last or ARGV[4]
end
told[2], told[3] = upto, more
return told
