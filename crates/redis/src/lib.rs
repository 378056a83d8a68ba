//! The cluster's ports on Redis.
//!
//! [`RedisBroker`] carries publications between nodes over Redis Pub/Sub, in the channels and the payloads of
//! `@socket.io/redis-adapter`, so that Node servers and emitters take part. Every key and channel that Tidegate
//! uses stands in the `keys` module, in one table.
//!
//! - `adapter`: the wire of `@socket.io/redis-adapter` and `@socket.io/redis-emitter`.
//! - `requests`: what the adapter's servers ask of each other, on the same wire.
//! - `url`: which URLs can be used, and how much of one is shown.
//! - `server`: where Redis is and how a connection to it is made, `sentinel` who knows where it is; `commands`: the connection for commands.
//! - `line`: the connection for publications and subscriptions, whose wire, `resp`, is our own; `stream`: its socket, over
//!   TLS or not.
//! - `outbound`: the queue of publications.
//! - `subscriptions`: the wanted topics, and the line that is subscribed to them.
//! - `inbound`: what that line brings, on its way to the subscriber.
//! - `lease`: the node's lease and its pulse; `lua/`: one atomic verb a file.
//! - `node_message`: what nodes say on their own channels.
//! - `registry`: the session registry; `places`: the sessions of users; `presence`: who is in which room; `nodes`: the
//!   list of nodes; `reaper`: taking over from dead ones.
//! - `offline`: the offline store; `inbox`: what it holds for a message; `replication`: the connections of writes that wait
//!   for replicas.
//! - `row`, `index`, `packed`: the forms in which these are stored; `scripts`: how they get there.
//! - `settling`: how long claims wait after Redis may have lost some.
//!
//! Architecture Invariant: this crate knows neither the gateway nor sockets, reads no environment, and delivers a
//! node's own publications by the same road as everybody else's.

pub mod adapter;
mod broker;
mod commands;
mod inbound;
mod inbox;
mod index;
mod keys;
mod lease;
mod line;
mod node_message;
mod nodes;
mod offline;
mod options;
mod outbound;
mod packed;
mod places;
mod presence;
mod reaper;
mod registry;
mod replication;
pub mod requests;
pub mod resp;
mod row;
mod scripts;
mod sentinel;
mod server;
mod settling;
mod stream;
mod subscriptions;
mod url;

pub use broker::RedisBroker;
pub use options::{ConnectError, Options};
pub use stream::check_authorities;
pub use url::{check_url, masked};
