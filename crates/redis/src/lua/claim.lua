-- Claims a place: marks and evicts whoever must go, and writes the newcomer's row, in one step.
--
-- ARGV[5] session, ARGV[6] kind, ARGV[7] device, ARGV[8] incarnation, ARGV[9] fence_after_ms
-- ARGV[10] 'device', 'any', or how many sessions may live here; ARGV[11] 'replace' or 'reject'
-- ARGV[12] with 'reject', the session that may be replaced all the same, since the newcomer's client had it, like any
-- other that was claimed by a client that had it: the answer to that may have been lost; or ''
-- ARGV[13...] with 'reject', the claims that may be, too, since their nodes are dead
--
-- Returns { epoch, session, node, fence_after_ms, ... } of those displaced, now or by others so shortly before that they
-- may act still; the same again for the same claim. With
-- 'reject', { 0, node, incarnation, claim, ... } of those that are in the way.
-- Where any number may live nobody is displaced, and a place may be large: it is not read.
local rows, marks, latest = {}, {}, 0
if ARGV[10] ~= 'any' then
  rows, marks, latest = survey(ARGV[5])
end

local function answer(epoch)
  local told = { epoch }
  for _, found in ipairs(marks) do
    if found.value[8] == ARGV[4] or may_act(found.value) then
      table.insert(told, found.session)
      table.insert(told, found.value[4])
      table.insert(told, found.value[5])
    end
  end
  return told
end

local mine = redis.call('HGET', KEYS[1], ARGV[5])
mine = mine and read(mine)
if mine and mine[2] == ARGV[4] then
  return answer(mine[3])
end

local same, allowed = rivals(rows, ARGV[10], ARGV[7])
local surplus = #same + 1 - allowed
if surplus > 0 and ARGV[11] == 'reject' then
  local dead = {}
  for i = 13, #ARGV do
    dead[ARGV[i]] = true
  end
  local replaceable, abandoned, in_the_way = {}, {}, { 0 }
  for _, found in ipairs(same) do
    local row = found.value
    if ARGV[12] ~= '' and (found.session == ARGV[12] or row[10] == ARGV[12]) then
      table.insert(replaceable, found)
    elseif dead[row[2]] then
      table.insert(abandoned, found)
    end
    table.insert(in_the_way, row[5])
    table.insert(in_the_way, row[6])
    table.insert(in_the_way, row[2])
  end
  -- One's own go first.
  for _, found in ipairs(abandoned) do
    table.insert(replaceable, found)
  end
  if #replaceable < surplus then
    return in_the_way
  end
  same = replaceable
end

local epoch = math.max(latest + 1, now_ms())
local row = { tonumber(ARGV[6]), ARGV[4], epoch, ARGV[7], ARGV[3], ARGV[8], tonumber(ARGV[9]), 0 }
if ARGV[12] ~= '' then
  row[9], row[10] = 0, ARGV[12]
end
local told = { epoch }
for i = 1, surplus do
  local loser = same[i]
  evict(loser, REPLACED, row)
  table.insert(told, loser.session)
  table.insert(told, loser.value[5])
  table.insert(told, loser.value[7])
end
-- Whoever lost its place here a moment ago may act still, and who displaced it may not wait for it any more.
for _, found in ipairs(marks) do
  if may_act(found.value) then
    tell(found.session, found.value)
    table.insert(told, found.session)
    table.insert(told, found.value[4])
    table.insert(told, found.value[5])
  end
end
redis.call('HSET', KEYS[1], ARGV[5], cmsgpack.pack(row))
keep()
return told
