-- Takes one attempt out of a sender's minute, if its claim holds its place.
--
-- KEYS[1] the sender's place, KEYS[2] its attempts
-- ARGV[1] session, ARGV[2] claim, ARGV[3] most attempts a minute, 0 for any number
--
-- Returns { 'ok' }, { 'limited', ms until the next minute }, { 'absent' } or { 'displaced' }.
local raw = redis.call('HGET', KEYS[1], ARGV[1])
if not raw then
  return { 'absent' }
end
local whole, row = pcall(cmsgpack.unpack, raw)
if not whole or type(row) ~= 'table' or row[1] == 2 or row[2] ~= ARGV[2] then
  return { 'displaced' }
end
local max = tonumber(ARGV[3])
if max == 0 then
  return { 'ok' }
end
local attempts = redis.call('INCR', KEYS[2])
local left = redis.call('PTTL', KEYS[2])
if attempts == 1 or left < 0 then
  left = 60000
  redis.call('PEXPIRE', KEYS[2], left)
end
if attempts > max then
  return { 'limited', left }
end
return { 'ok' }
