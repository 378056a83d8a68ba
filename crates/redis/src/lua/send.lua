-- Stores a message, unless it has been stored before or the inbox is full, and tells the nodes of whoever is ready.
--
-- KEYS[5] the idempotency key, if there is one
-- ARGV[1] what stands before a node's id in the name of its channel, ARGV[2] the namespace
-- ARGV[3] the message, ARGV[4] how long it waits, in ms
-- ARGV[5] most messages, ARGV[6] most bytes
-- ARGV[7] how long an idempotency key is remembered, in ms
-- ARGV[8] '1' to write something in any case, so that whoever waits for replicas waits for what was there, too
-- ARGV[9] most bytes of a message that nodes are told along with its arrival
--
-- Returns { 'live' or 'stored' or 'duplicate', serial, how many expired, how many wait now, their bytes }, or { 'full',
-- 'messages' or 'bytes', how many expired }.
-- Most sessions that one word to a node names.
local SESSIONS_MAX = 128

if KEYS[5] then
  local first = redis.call('GET', KEYS[5])
  if first then
    if ARGV[8] == '1' then
      redis.call('SET', KEYS[5], first, 'KEEPTTL')
    end
    return { 'duplicate', first, 0, 0, 0 }
  end
end

local expired = expire()
local weight = #ARGV[3]
local count = redis.call('XLEN', KEYS[2])
if count >= tonumber(ARGV[5]) then
  return { 'full', 'messages', expired }
end
if inbox().bytes + weight > tonumber(ARGV[6]) then
  return { 'full', 'bytes', expired }
end

local before = known.last
local expires = now_ms() + tonumber(ARGV[4])
local serial = redis.call('XADD', KEYS[2], '*', 'x', string.format('%.0f', expires), 'm', ARGV[3])
if expires < known.latest then
  redis.call('ZADD', KEYS[4], expires, serial)
  known.timed = known.timed == 0 and expires or math.min(known.timed, expires)
end
known.aged = known.aged == 0 and expires or math.min(known.aged, expires)
known.latest = math.max(known.latest, expires)
known.bytes, known.last = known.bytes + weight, serial
if known.latest + EMPTY_KEPT_MS > known.kept or expires < known.latest then
  -- Somewhat longer, so that not every message has to say so.
  keep_until(math.max(known.kept, known.latest + 2 * EMPTY_KEPT_MS))
else
  remember()
end
if KEYS[5] then
  redis.call('SET', KEYS[5], serial, 'PX', ARGV[7])
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
  -- A few at a time: what a node has waiting for it is bounded by number.
  for i = 1, #sessions[node], SESSIONS_MAX do
    local message = { namespace = ARGV[2], sessions = {}, before = before, serial = serial }
    for j = i, math.min(#sessions[node], i + SESSIONS_MAX - 1) do
      table.insert(message.sessions, sessions[node][j])
    end
    if weight <= tonumber(ARGV[9]) then
      message.message = ARGV[3]
    end
    redis.call('PUBLISH', ARGV[1] .. node .. '}:ch', cmsgpack.pack({ v = 1, kind = { Arrived = message } }))
  end
end
return { #nodes > 0 and 'live' or 'stored', serial, expired, count + 1, known.bytes }
