//! tidegate-gateway.
