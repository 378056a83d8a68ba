//! A small Socket.IO client for tests and load. It speaks Engine.IO v4 and Socket.IO v5, over TLS or not, to any
//! server, and knows nothing of Tidegate beyond what goes over that wire.
//!
//! Two ways in:
//! - [`Client`] behaves as the official client does: polling first and then the upgrade (or either transport
//!   alone), several namespaces on one transport, acknowledgements, heartbeat, reconnection. Everything a
//!   client does runs in one task that [`Client::close`] waits for.
//! - [`raw::Connection`] is one WebSocket and one namespace without a task, a timer or a buffer of its own, for
//!   programs that hold thousands of them; [`plain::Connection`] is the same for the plain protocol of Tidegate's `/ws`, and
//!   [`poll::Connection`] a session that polls over a single TCP connection.
//!
//! Layout: `value` is what an event carries; `stream` is TCP or TLS, `http` and `websocket` are the bare transports; `polling`, `opening`
//! and `engine` make an Engine.IO session of them, upgrade and heartbeat included; `session` is the client's task
//! and `namespace` one of its namespaces; `client` and `socket` are its handles; `inbox` receives what a gateway keeps for
//! users who are away.
//!
//! Absent on purpose: compression, the authorities that the system trusts, connection state recovery and a buffer for events emitted while
//! disconnected. Emitting then is an error, so that a test sees it.

mod client;
mod endpoint;
mod engine;
mod error;
mod http;
pub mod inbox;
mod namespace;
mod opening;
mod options;
pub mod plain;
pub mod poll;
mod polling;
pub mod raw;
mod session;
mod socket;
mod stream;
mod value;
mod websocket;

pub use client::Client;
pub use error::{Error, Reason};
pub use options::{Options, Reconnect, Transports, Trust};
pub use socket::{AckHandle, Event, Signal, Socket};
pub use tidegate_protocol::socketio::Parser;
pub use value::Value;
pub use value::wire::ValueError;
