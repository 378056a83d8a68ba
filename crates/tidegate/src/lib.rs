//! The process around a node: it reads the configuration, picks the implementations of the ports, handles signals,
//! and turns what happened into an exit code.
//!
//! Layout: `cli` is the command line; `config` the settings; `app` takes a configuration to running nodes and back;
//! `admin` is the admin port; `log` the log; `token` and `healthcheck` are commands of their own; `exit` the codes.
//!
//! Architecture Invariant: only this crate reads the environment, handles signals and picks port implementations;
//! it knows nothing of the clients' wire.

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod exit;
pub mod healthcheck;
pub mod log;
pub mod token;
