-- Marks the sessions of a place, or of one device of it, as kicked, and tells their nodes.
--
-- ARGV[5] the device, if ARGV[6] is '1'
--
-- Returns { session, row, ... } of those kicked.
local rows = survey()
local told = {}
for _, found in ipairs(rows) do
  if ARGV[6] ~= '1' or found.value[4] == ARGV[5] then
    evict(found, KICKED)
    table.insert(told, found.session)
    table.insert(told, found.raw)
  end
end
return told
