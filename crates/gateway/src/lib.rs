//! One node of the gateway: it terminates clients' connections, keeps their sessions and rooms, and meets the other
//! nodes through a broker.
//!
//! A node is built from [`Options`] and a [`Broker`](tidegate_core::Broker), and neither reads the environment nor
//! handles signals: whoever owns the process does. Two nodes fit in one process.
//!
//! Layout, from the socket inwards: `socket` (TCP, over TLS or not, whose certificate is `tls`), `accept` and `transport` (HTTP, polling, WebSocket), `connection` (one client's
//! life) and `dialect` (what it speaks), `operation` and `auth` (what it may ask for), `enrolment` and `takeover` (what a CONNECT waits for), `node` with
//! `seating`, `rooms` and `offline` (the verbs), `inbox` (a session's durable messages), `hub` (sessions and rooms, and the fan-out), `outbox` (the way back out). Beside them
//! `interest`, `pulse`, `audit`, `registrar`, `peers` and `timer`, which each are one task.
//!
//! Architecture Invariant: connection -> node -> hub -> outbox, never back.

mod accept;
mod acknowledgements;
mod audit;
pub mod auth;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod bucket;
mod clock;
mod connection;
pub mod control;
mod dialect;
mod drain;
mod engines;
mod enrolment;
#[cfg(test)]
mod fencing;
pub mod glob;
mod hub;
mod inbound;
mod inbox;
mod interest;
mod letterbox;
mod message;
mod metrics;
pub mod namespaces;
mod node;
pub mod offline;
mod operation;
mod options;
mod origin;
mod outbox;
mod peer;
mod peers;
mod presence;
mod pulse;
mod questions;
mod reactor;
mod registrar;
mod reply;
#[cfg(test)]
mod rig;
mod rooms;
mod seating;
mod session;
mod socket;
mod takeover;
mod timer;
pub mod tls;
pub mod trace;
mod transport;

pub use node::{Joining, Node, StartError};
pub use options::{
    DrainOptions, EngineOptions, Limits, OfflineOptions, Options, PulseOptions, ServerOptions,
};
pub use peer::{InvalidNetwork, Network};
