//! tidegate-test.

pub mod broker_suite;
pub mod cluster;
pub mod lying;
pub mod monitor;
pub mod offline_suite;
pub mod redis_server;
pub mod registry_suite;
pub mod sentinels;
pub mod wire;
