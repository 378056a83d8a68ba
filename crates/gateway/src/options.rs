//! What one node is told at its start. Every value has been checked by whoever read the configuration.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_core::offline::Quotas;
use tidegate_core::{Incarnation, NodeId};

use crate::auth::Authenticator;
use crate::namespaces::Namespaces;
use crate::peer::Network;
use crate::tls::Credentials;
use crate::trace::Tracer;

/// Everything a node needs to know.
pub struct Options {
    /// What the node is called in the cluster.
    pub node: NodeId,
    /// This run of it.
    pub incarnation: Incarnation,
    /// Engine.IO.
    pub engine: EngineOptions,
    /// The client port.
    pub server: ServerOptions,
    /// Bounds per connection and per session.
    pub limits: Limits,
    /// Who may connect.
    pub auth: Authenticator,
    /// Which namespaces exist and what may be done there.
    pub namespaces: Namespaces,
    /// The pulse through the broker.
    pub pulse: PulseOptions,
    /// Durable messages.
    pub offline: OfflineOptions,
    /// How the node goes away.
    pub drain: DrainOptions,
    /// Who is told what things took, if anybody is.
    pub tracer: Option<Arc<dyn Tracer>>,
    /// Label of `tidegate_build_info`.
    pub version: String,
    /// Label of `tidegate_build_info`.
    pub revision: String,
}

/// Engine.IO's timing and bounds.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Path prefix, with both slashes.
    pub path: String,
    /// From one ping's answer to the next ping.
    pub ping_interval: Duration,
    /// How long an answer may take.
    pub ping_timeout: Duration,
    /// How long a transport may stay without a namespace at its beginning.
    pub connect_timeout: Duration,
    /// How long an upgrade may take.
    pub upgrade_timeout: Duration,
    /// Largest message and largest polling body, in bytes.
    pub payload_bytes_max: usize,
    /// Whether long-polling is offered.
    pub polling: bool,
    /// Whether WebSocket is offered.
    pub websocket: bool,
}

/// The client port's rules.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Origins that may use the node from a browser; `*` is any, none is the same host only.
    pub allowed_origins: Vec<String>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
    /// Most connections of clients.
    pub connections_max: usize,
    /// Certificate and key, where clients speak TLS. Then nothing else is understood on the port.
    pub tls: Option<Credentials>,
    /// What `/` shows: an HTML page. Without one it is 404.
    pub page: Option<Bytes>,
}

/// Bounds per connection and per session.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most bytes that wait for one connection.
    pub outbox_bytes_max: usize,
    /// Most rooms one session may be in.
    pub rooms_per_session_max: usize,
    /// Longest room, user, device or event name in bytes.
    pub name_bytes_max: usize,
    /// Sustained events a second of one connection; 0 is no limit.
    pub events_per_second_max: u32,
    /// Events of one connection at once.
    pub events_burst: u32,
    /// Most connections of one address; 0 is no limit.
    pub connections_per_ip_max: usize,
}

/// The pulse's timing. `3 x interval < fence_after < lease_ttl`, `3 x lease_renew <= lease_ttl`.
#[derive(Clone, Debug)]
pub struct PulseOptions {
    /// From one pulse to the next.
    pub interval: Duration,
    /// How long an echo lets the node act.
    pub fence_after: Duration,
    /// How long the node's lease outlives its last renewal.
    pub lease_ttl: Duration,
    /// How often the node looks for dead nodes to take over from, and tends what it has in the registry.
    pub lease_renew: Duration,
    /// How long what arrives while the node is deaf may be held.
    pub hold: Duration,
}

/// Durable messages.
#[derive(Clone, Debug)]
pub struct OfflineOptions {
    /// Largest `data` of one message, in bytes of its MessagePack form.
    pub message_bytes_max: usize,
    /// Most unacknowledged messages of one session; half of `outbox_bytes_max` bounds them, too.
    pub window: usize,
    /// What the store holds senders and inboxes to, so that refusals can name it.
    pub quotas: Quotas,
}

/// How a node goes away.
#[derive(Clone, Debug)]
pub struct DrainOptions {
    /// The whole of it.
    pub timeout: Duration,
    /// Closed connections a second; 0 spreads them evenly over the timeout.
    pub connections_per_second: u32,
}
