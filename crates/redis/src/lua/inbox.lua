-- What the scripts on one inbox share; it stands before each of them. See inbox.rs for what is stored.
--
-- KEYS[1] the place's hash, KEYS[2] the inbox, KEYS[3] what is known about it, KEYS[4] what expires before something older
--
-- What is known: `bytes` that wait; `last` serial given out; `latest` moment at which any message expires; `aged` and
-- `timed`, when the oldest message expires and the first of those that expire before an older one, both lower bounds;
-- `kept`, until when the keys are. Moments are Unix ms; 0 for none.
local MARK = 2
-- An empty inbox is kept for this long, so that serials go on growing while the clock of Redis is set right.
local EMPTY_KEPT_MS = 60 * 60 * 1000
-- Most messages that one call looks at for having expired.
local EXPIRED_MAX = 256

-- Asked once; a script has one moment.
local now
local function now_ms()
  if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return now
end

-- Why `claim` does not hold the place for `session`, or nil and its row if it does.
local function refusal(session, claim)
  local raw = redis.call('HGET', KEYS[1], session)
  if not raw then
    return 'absent'
  end
  local whole, row = pcall(cmsgpack.unpack, raw)
  if not whole or type(row) ~= 'table' or row[1] == MARK or row[2] ~= claim then
    return 'displaced'
  end
  return nil, row
end

local known
local function inbox()
  if not known then
    local raw = redis.call('HMGET', KEYS[3], 'bytes', 'last', 'latest', 'aged', 'timed', 'kept')
    known = {
      bytes = tonumber(raw[1]) or 0,
      last = raw[2] or '0-0',
      latest = tonumber(raw[3]) or 0,
      aged = tonumber(raw[4]) or 0,
      timed = tonumber(raw[5]) or 0,
      kept = tonumber(raw[6]) or 0,
    }
  end
  return known
end

local function remember()
  redis.call('HSET', KEYS[3], 'bytes', known.bytes, 'last', known.last, 'latest', known.latest, 'aged', known.aged,
    'timed', known.timed, 'kept', known.kept)
end

-- Keeps the keys until a moment, in Unix ms.
local function keep_until(moment)
  known.kept = moment
  remember()
  for i = 2, known.timed > 0 and 4 or 3 do
    redis.call('PEXPIREAT', KEYS[i], moment)
  end
end

-- Deletes one message. Returns whether it was there.
local function delete(serial)
  local found = redis.call('XRANGE', KEYS[2], serial, serial)[1]
  if not found then
    return false
  end
  redis.call('XDEL', KEYS[2], serial)
  local box = inbox()
  box.bytes = math.max(0, box.bytes - #found[2][4])
  return true
end

-- After something was deleted.
local function deleted()
  if redis.call('XLEN', KEYS[2]) == 0 then
    if known.timed > 0 then
      redis.call('DEL', KEYS[4])
    end
    known.bytes, known.latest, known.aged, known.timed = 0, 0, 0, 0
    keep_until(now_ms() + EMPTY_KEPT_MS)
  else
    remember()
  end
end

-- Deletes what has expired, from the oldest on and those that expire before something older. Returns how many.
local function expire()
  local gone, looked = 0, false
  if inbox().timed > 0 and known.timed <= now_ms() then
    looked = true
    local due = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now_ms(), 'LIMIT', 0, EXPIRED_MAX)
    for _, serial in ipairs(due) do
      redis.call('ZREM', KEYS[4], serial)
      if delete(serial) then
        gone = gone + 1
      end
    end
    local first = redis.call('ZRANGE', KEYS[4], 0, 0, 'WITHSCORES')
    known.timed = tonumber(first[2]) or 0
  end
  if known.aged > 0 and known.aged <= now_ms() then
    looked = true
    known.aged = 0
    for _ = 1, EXPIRED_MAX do
      local oldest = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
      if not oldest then
        break
      end
      local expires = tonumber(oldest[2][2]) or 0
      known.aged = expires
      if expires > now_ms() then
        break
      end
      redis.call('XDEL', KEYS[2], oldest[1])
      known.bytes = math.max(0, known.bytes - #oldest[2][4])
      gone = gone + 1
    end
  end
  if gone > 0 then
    deleted()
  elseif looked then
    remember()
  end
  return gone
end

