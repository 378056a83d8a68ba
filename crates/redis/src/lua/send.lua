-- Stores a message, unless it has been stored before or the inbox is full, and tells the nodes of whoever is ready.
--
-- KEYS[5] the idempotency key, if there is one
-- ARGV[1] what stands before a node's id in the name of its channel, ARGV[2] the namespace
-- ARGV[3] the message, ARGV[4] how long it waits, in ms, ARGV[5] '1' if that is less than others do
-- ARGV[6] most messages, ARGV[7] most bytes, ARGV[8] how long messages wait at most, in ms
-- ARGV[9] how long an idempotency key is remembered, in ms
-- ARGV[10] '1' to write something in any case, so that whoever waits for replicas waits for what was there, too
-- ARGV[11] most bytes of a message that nodes are told along with its arrival
--
-- Returns { 'live' or 'stored' or 'duplicate', serial, how many expired }, or { 'full', 'messages' or 'bytes', how many
-- expired }.
if KEYS[5] then
  local first = redis.call('GET', KEYS[5])
  if first then
    if ARGV[10] == '1' then
      redis.call('SET', KEYS[5], first, 'KEEPTTL')
    end
    return { 'duplicate', first, 0 }
  end
end

local expired = expire()
local weight = #ARGV[3]
if redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[6]) then
  return { 'full', 'messages', expired }
end
if inbox().bytes + weight > tonumber(ARGV[7]) then
  return { 'full', 'bytes', expired }
end

local before, ttl = known.last, tonumber(ARGV[4])
local expires = now_ms() + ttl
local serial = redis.call('XADD', KEYS[2], '*', 'x', string.format('%.0f', expires), 'm', ARGV[3])
local kept = tonumber(ARGV[8]) + EMPTY_KEPT_MS
if ARGV[5] == '1' then
  redis.call('ZADD', KEYS[4], expires, serial)
  redis.call('PEXPIRE', KEYS[4], kept)
  known.timed = known.timed == 0 and expires or math.min(known.timed, expires)
end
known.aged = known.aged == 0 and expires or math.min(known.aged, expires)
known.bytes, known.last = known.bytes + weight, serial
remember()
redis.call('PEXPIRE', KEYS[2], kept)
redis.call('PEXPIRE', KEYS[3], kept)
if KEYS[5] then
  redis.call('SET', KEYS[5], serial, 'PX', ARGV[9])
end

local nodes, sessions = {}, {}
local flat = redis.call('HGETALL', KEYS[1])
for i = 1, #flat, 2 do
  local whole, row = pcall(cmsgpack.unpack, flat[i + 1])
  if whole and type(row) == 'table' and (row[1] == 4 or row[1] == 5) and type(row[5]) == 'string' then
    if not sessions[row[5]] then
      sessions[row[5]] = {}
      table.insert(nodes, row[5])
    end
    table.insert(sessions[row[5]], flat[i])
  end
end
for _, node in ipairs(nodes) do
  local message = { namespace = ARGV[2], sessions = sessions[node], before = before, serial = serial }
  if weight <= tonumber(ARGV[11]) then
    message.message = ARGV[3]
  end
  redis.call('PUBLISH', ARGV[1] .. node .. '}:ch', cmsgpack.pack({ v = 1, kind = { Arrived = message } }))
end
return { #nodes > 0 and 'live' or 'stored', serial, expired }
