-- What the scripts on one place share; it stands before each of them. See row.rs for rows and marks.
--
-- KEYS[1] the place's hash
-- ARGV[1] what stands before a node's id in the name of its channel
-- ARGV[2] the namespace
-- ARGV[3] the node that asks, ARGV[4] the claim: both get to hear that a displaced session is silent
local MARK, REPLACED, KICKED = 2, 0, 1
local REASONS = { [REPLACED] = 'replaced', [KICKED] = 'kicked' }
local KEPT_MS = 24 * 60 * 60 * 1000

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The array in one field, or nil for one that cannot be read, which is passed over and expires.
local function read(raw)
  local whole, value = pcall(cmsgpack.unpack, raw)
  if whole and type(value) == 'table' and type(value[1]) == 'number' and value[1] <= MARK then
    return value
  end
  return nil
end

local function older(a, b)
  local left, right = a.value[3], b.value[3]
  return left < right or left == right and a.session < b.session
end

-- The rows but `mine`, oldest first, then the marks, and the latest epoch there is.
local function survey(mine)
  local rows, marks, latest = {}, {}, 0
  local flat = redis.call('HGETALL', KEYS[1])
  for i = 1, #flat, 2 do
    local value = read(flat[i + 1])
    if value then
      latest = math.max(latest, value[3], value[1] == MARK and value[10] or 0)
      local found = { session = flat[i], value = value, raw = flat[i + 1] }
      if value[1] == MARK then
        table.insert(marks, found)
      elseif flat[i] ~= mine then
        table.insert(rows, found)
      end
    end
  end
  table.sort(rows, older)
  return rows, marks, latest
end

-- The rows that share what the policy ('device', 'any' or a number) allows so many of, and that number.
local function rivals(rows, policy, device)
  if policy == 'any' then
    return {}, 1
  elseif policy ~= 'device' then
    return rows, tonumber(policy)
  end
  local same = {}
  for _, found in ipairs(rows) do
    if found.value[4] == device then
      table.insert(same, found)
    end
  end
  return same, 1
end

-- Turns a row into a mark and tells its node. `by` is the row of whoever came in its place, or nil.
local function evict(loser, reason, by)
  local row = loser.value
  local mark = { MARK, row[2], row[3], row[5], row[7], reason }
  local message = {
    namespace = ARGV[2],
    session = loser.session,
    claim = row[2],
    reason = REASONS[reason],
    confirm_node = ARGV[3],
    confirm_claim = ARGV[4],
  }
  if by then
    mark[7], mark[8], mark[9], mark[10] = by[2], by[4], by[5], by[3]
    message.by = { device = by[4], node = by[5], ts = by[3] }
  end
  redis.call('HSET', KEYS[1], loser.session, cmsgpack.pack(mark))
  redis.call('PUBLISH', ARGV[1] .. row[5] .. '}:ch', cmsgpack.pack({ v = 1, kind = { Evict = message } }))
end

local function keep()
  redis.call('PEXPIRE', KEYS[1], KEPT_MS)
end

