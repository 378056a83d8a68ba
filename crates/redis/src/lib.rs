//! tidegate-redis.
