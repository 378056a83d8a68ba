-- Marks a dead incarnation as being taken over, or renews the mark: one node at a time.
--
-- KEYS[1] the list of nodes; see nodes.rs for its entries
-- ARGV[1] the dead incarnation, ARGV[2] the one that takes over, ARGV[3] how long the mark holds, in ms
-- ARGV[4] how long one that was taken over stays listed, in ms; then it is looked at once more
-- ARGV[5] when the take-over began whose mark is to be renewed, in Unix ms, or '' to begin. One that is over, because
--         another has taken over or the incarnation has listed itself again, is not begun anew by that
--
-- Returns, if the take-over is this node's, when it began, in Unix ms, and 1 if that is now and nobody has touched
-- anything of the incarnation's yet, else 0. Returns nil if it is not.
local raw = redis.call('HGET', KEYS[1], ARGV[1])
if not raw then
  return nil
end
local entry = cmsgpack.unpack(raw)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local began, untouched = now, 0
if ARGV[5] ~= '' then
  if entry[4] ~= 1 or entry[7] ~= ARGV[2] or entry[5] ~= tonumber(ARGV[5]) then
    return nil
  end
  began = entry[5]
elseif entry[4] == 0 then
  if entry[3] > now then
    return nil
  end
  untouched = 1
elseif entry[4] == 1 then
  if entry[7] == ARGV[2] then
    began = entry[5]
  elseif entry[6] > now then
    return nil
  end
elseif entry[5] + tonumber(ARGV[4]) > now then
  return nil
end
entry[4], entry[5], entry[6], entry[7] = 1, began, now + tonumber(ARGV[3]), ARGV[2]
redis.call('HSET', KEYS[1], ARGV[1], cmsgpack.pack(entry))
return { began, untouched }
