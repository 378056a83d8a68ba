-- Makes a session ready for durable messages, if its claim holds its place.
--
-- ARGV[1] session, ARGV[2] claim
--
-- Returns { 'ok', the latest serial }, { 'absent' } or { 'displaced' }.
local why, row = refusal(ARGV[1], ARGV[2])
if why then
  return { why }
end
if row[1] < 4 then
  row[1] = row[1] + 4
  redis.call('HSET', KEYS[1], ARGV[1], cmsgpack.pack(row))
end
return { 'ok', inbox().last }
