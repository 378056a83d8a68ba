-- One beat: renews the node's lease and publishes the pulse, in one step, so that a server that
-- refuses writes cannot let a pulse through.
--
-- KEYS[1] the lease
-- ARGV[1] incarnation, ARGV[2] fence_after_ms, ARGV[3] started_at, ARGV[4] lease_ttl_ms,
-- ARGV[5] the node's channel, ARGV[6] the message
-- ARGV[7] connections, ARGV[8] sessions, ARGV[9] draining, ARGV[10] version
--
-- Returns nil, or if another incarnation holds the lease, that incarnation and the lease's time to live
-- in ms.
local holder = redis.call('HGET', KEYS[1], 'incarnation')
if holder and holder ~= ARGV[1] then
  return { holder, redis.call('PTTL', KEYS[1]) }
end
redis.call('HSET', KEYS[1], 'incarnation', ARGV[1], 'fence_after_ms', ARGV[2], 'started_at', ARGV[3],
  'connections', ARGV[7], 'sessions', ARGV[8], 'draining', ARGV[9], 'version', ARGV[10])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PUBLISH', ARGV[5], ARGV[6])
return nil
