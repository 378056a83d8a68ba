//! tidegate-test.

pub mod broker_suite;
pub mod redis_server;
