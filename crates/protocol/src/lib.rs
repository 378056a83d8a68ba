//! The client's wire, without any input or output of its own.
//!
//! Bytes go in, packets come out, and the other way round. Nothing here waits, reads a clock, opens a socket or
//! knows a user, a room or Redis; state machines that depend on time take `now` as an argument. So the server,
//! the client and the fuzzers drive the same code by hand.
//!
//! - [`websocket`]: RFC 6455 frames.
//! - [`engineio`]: Engine.IO v4: packets, polling payloads, the handshake, the heartbeat, the upgrade.
//! - [`socketio`]: Socket.IO v5 packets for both parsers, the default one and `socket.io-msgpack-parser`.
//! - [`plain`]: the plain protocol, JSON or MessagePack.
//! - [`value`]: event data on its way between JSON, MessagePack clients and the form used inside.
//!
//! Event data has one form everywhere inside Tidegate, the *wire form*: one MessagePack array
//! `[event, arguments...]` as `@socket.io/redis-adapter` writes it (bytes are bin, dates are the timestamp
//! extension, nothing is undefined). It is transcoded as a stream, never through a tree of values, and relayed
//! byte for byte where sender and receiver agree.

pub mod engineio;
pub mod plain;
pub mod socketio;
pub mod value;
pub mod websocket;
