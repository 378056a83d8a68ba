-- Deletes the node's lease if this incarnation holds it.
--
-- KEYS[1] the lease
-- ARGV[1] incarnation
--
-- Returns 1 if the lease was deleted, else 0.
if redis.call('HGET', KEYS[1], 'incarnation') == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
