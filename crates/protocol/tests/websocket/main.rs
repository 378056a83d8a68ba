//! The frame reader: every rule of RFC 6455 it holds peers to, any cut of the input, and another implementation as
//! its judge.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cuts;
mod differential;
mod frames;
mod rules;
