//! tidegate-msgpack.
