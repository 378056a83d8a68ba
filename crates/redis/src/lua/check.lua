-- Whether a claim still holds its place; with `restore`, puts it back if it is simply gone. One that is gone while newer
-- claims have what the policy allows has lost its place, and is marked so.
--
-- ARGV[5] session, ARGV[6] kind, ARGV[7] device, ARGV[8] incarnation, ARGV[9] fence_after_ms
-- ARGV[10] 'device', 'any', or how many sessions may live here
-- ARGV[11] epoch, ARGV[12] '1' to restore, ARGV[13] '1' to vouch for what is held or restored
--
-- Returns { 'held' }, { 'restored' }, { 'absent' }, or { 'evicted', reason [, device, node, epoch of the winner] }.
local restore = ARGV[12] == '1'
-- A node that was taken for dead says by this that the row is not to be cleared away for that any more.
local vouch = ARGV[13] == '1'
local mine = redis.call('HGET', KEYS[1], ARGV[5])
mine = mine and read(mine)

if mine then
  keep()
  if mine[1] == MARK then
    return { 'evicted', mine[6], mine[9], mine[10], mine[11] }
  elseif mine[2] ~= ARGV[4] then
    return { 'evicted', REPLACED, mine[4], mine[5], mine[3] }
  end
  -- Of what was lost, it may be only that the session is ready for durable messages.
  local readies = tonumber(ARGV[6]) >= 4 and mine[1] < 4
  if readies then
    mine[1] = mine[1] + 4
  end
  if vouch and not restore then
    mine[9] = now_ms()
  end
  if readies or vouch and not restore then
    redis.call('HSET', KEYS[1], ARGV[5], cmsgpack.pack(mine))
  end
  return { 'held' }
end

local epoch = tonumber(ARGV[11])
local row = { tonumber(ARGV[6]), ARGV[4], epoch, ARGV[7], ARGV[3], ARGV[8], tonumber(ARGV[9]), 0 }
if vouch then
  row[9] = now_ms()
end
-- Where any number may live nobody is displaced, and a place may be large: it is not read.
local rows = ARGV[10] == 'any' and {} or survey(ARGV[5])
local same, allowed = rivals(rows, ARGV[10], ARGV[7])
local newer = 0
for _, found in ipairs(same) do
  -- Of the same epoch, the one that is there stays: somebody has been told that it may.
  if found.value[3] >= epoch then
    newer = newer + 1
  end
end
if newer > 0 and newer >= allowed then
  -- Also for one that is not to be put back: its client must not come again in place of whoever came in its own.
  local by = same[#same].value
  redis.call('HSET', KEYS[1], ARGV[5], cmsgpack.pack(mark_of(row, REPLACED, by)))
  keep()
  return { 'evicted', REPLACED, by[4], by[5], by[3] }
end
if not restore then
  return { 'absent' }
end
for i = 1, #same + 1 - allowed do
  evict(same[i], REPLACED, row)
end
redis.call('HSET', KEYS[1], ARGV[5], cmsgpack.pack(row))
keep()
return { 'restored' }
