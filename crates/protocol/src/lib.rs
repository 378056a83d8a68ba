//! tidegate-protocol.
