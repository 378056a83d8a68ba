-- What the scripts on one place share; it stands before each of them. See row.rs for rows and marks.
--
-- KEYS[1] the place's hash
-- ARGV[1] what stands before a node's id in the name of its channel
-- ARGV[2] the namespace
-- ARGV[3] the node that asks, ARGV[4] the claim: both get to hear that a displaced session is silent
local MARK, REPLACED, KICKED = 2, 0, 1
-- Of rows, and of those that are ready for durable messages.
local KINDS = { [0] = true, [1] = true, [MARK] = true, [4] = true, [5] = true }
local REASONS = { [REPLACED] = 'replaced', [KICKED] = 'kicked' }
local KEPT_MS = 24 * 60 * 60 * 1000

-- Asked once; a script has one moment.
local now
local function now_ms()
  if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return now
end

-- The array in one field, or nil for one that cannot be read, which is passed over and expires.
local function read(raw)
  local whole, value = pcall(cmsgpack.unpack, raw)
  if not whole or type(value) ~= 'table' or not KINDS[value[1]] then
    return nil
  end
  local node, fence, at, by = value[5], value[7], 0, value[11]
  if value[1] == MARK then
    node, fence, at = value[4], value[5], value[7]
  end
  if type(value[2]) ~= 'string' or type(value[3]) ~= 'number' or type(value[4]) ~= 'string'
    or type(node) ~= 'string' or type(fence) ~= 'number' or type(at) ~= 'number'
    or value[1] == MARK and by and type(by) ~= 'number' then
    return nil
  end
  return value
end

local function older(a, b)
  local left, right = a.value[3], b.value[3]
  return left < right or left == right and a.session < b.session
end

-- The rows but `mine`, in any order, then the marks, and the latest epoch there is. Marks that nobody has come back for
-- in all the time that a place is kept go.
local function survey(mine)
  local rows, marks, latest = {}, {}, 0
  local expired = now_ms() - KEPT_MS
  local flat = redis.call('HGETALL', KEYS[1])
  for i = 1, #flat, 2 do
    local value = read(flat[i + 1])
    if value then
      latest = math.max(latest, value[3], value[1] == MARK and value[11] or 0)
      local found = { session = flat[i], value = value, raw = flat[i + 1] }
      if value[1] == MARK and value[7] < expired then
        redis.call('HDEL', KEYS[1], flat[i])
      elseif value[1] == MARK then
        table.insert(marks, found)
      elseif flat[i] ~= mine then
        table.insert(rows, found)
      end
    end
  end
  return rows, marks, latest
end

-- The rows that share what the policy ('device', 'any' or a number) allows so many of, oldest first, and that number.
local function rivals(rows, policy, device)
  if policy == 'any' then
    return {}, 1
  elseif policy ~= 'device' then
    table.sort(rows, older)
    return rows, tonumber(policy)
  end
  local same = {}
  for _, found in ipairs(rows) do
    if found.value[4] == device then
      table.insert(same, found)
    end
  end
  table.sort(same, older)
  return same, 1
end

-- The mark of a row that loses its place now. `by` is the row of whoever came in its place, or nil.
local function mark_of(row, reason, by)
  local mark = { MARK, row[2], row[3], row[5], row[7], reason, now_ms() }
  if by then
    mark[8], mark[9], mark[10], mark[11] = by[2], by[4], by[5], by[3]
  end
  return mark
end

-- Tells the node of a marked session.
local function tell(session, mark)
  local message = {
    namespace = ARGV[2],
    session = session,
    claim = mark[2],
    reason = REASONS[mark[6]],
    confirm_node = ARGV[3],
    confirm_claim = ARGV[4],
  }
  if mark[8] then
    message.by = { device = mark[9], node = mark[10], ts = mark[11] }
  end
  redis.call('PUBLISH', ARGV[1] .. mark[4] .. '}:ch', cmsgpack.pack({ v = 1, kind = { Evict = message } }))
end

-- Turns a row into a mark and tells its node.
local function evict(loser, reason, by)
  local mark = mark_of(loser.value, reason, by)
  redis.call('HSET', KEYS[1], loser.session, cmsgpack.pack(mark))
  tell(loser.session, mark)
end

-- Whether the session of a mark may still act, if its node has heard nothing since.
local function may_act(mark)
  return now_ms() < mark[7] + mark[5]
end

local function keep()
  redis.call('PEXPIRE', KEYS[1], KEPT_MS)
end

