//! The configuration: every key is described once in [`schema`], the layers are put together in [`settings`], and
//! this file turns them into the typed [`Config`] or into all the faults at once.

mod auth;
mod check;
mod fault;
mod key;
mod manual;
mod namespace;
mod relations;
pub mod schema;
mod settings;
mod tls;
mod value;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tidegate_core::NodeId;
use tidegate_core::offline::Quotas;
use tidegate_gateway::tls::Credentials;

pub use auth::Auth;
pub use fault::{Fault, Origin};
pub use key::{Check, Key, Kind, Mask, Preset};
pub use manual::manual;
pub use namespace::Namespace;

use settings::Settings;
use value::Value;

/// Ports of one node and the next differ by this under `--nodes`.
pub const PORT_STEP: u16 = 10;

/// Where settings come from, beside the built-in defaults. Nothing else is looked at, so tests can inject it all.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The text of the file; empty without one.
    pub file: String,
    /// The environment; a value that is not UTF-8 is `None`.
    pub environment: Vec<(String, Option<String>)>,
    /// Keys set by flags: the key, the flag, the text.
    pub flags: Vec<(&'static str, &'static str, String)>,
    /// Whether the defaults are those of `--dev`.
    pub dev: bool,
    /// How many nodes share the process.
    pub nodes: u16,
}

/// A configuration without faults.
#[derive(Debug)]
pub struct Config {
    /// How many nodes share the process, at least one.
    pub nodes: u16,
    /// Whether this is a development node.
    pub dev: bool,
    /// `[server]`
    pub server: Server,
    /// `[engine]`
    pub engine: Engine,
    /// `[redis]`; none without a URL.
    pub redis: Option<Redis>,
    /// How long a client waits for the broker, with Redis or without.
    pub command_timeout: Duration,
    /// `[cluster]` and `[sessions]`
    pub cluster: Cluster,
    /// `[auth]`
    pub auth: Auth,
    /// `[namespaces]`, in the order of the file.
    pub namespaces: Vec<Namespace>,
    /// `[offline]`
    pub offline: Offline,
    /// `[limits]`
    pub limits: Limits,
    /// `[admin]`
    pub admin: Admin,
    /// `[drain]`
    pub drain: Drain,
    /// `[log]`
    pub log: Log,
    settings: Settings,
}

/// `[server]`
#[derive(Clone, Debug)]
pub struct Server {
    /// The client port of the first node.
    pub listen: SocketAddr,
    /// The admin port of the first node.
    pub admin_listen: SocketAddr,
    /// The id that was given.
    pub node_id: Option<NodeId>,
    /// Origins; `*` is any.
    pub allowed_origins: Vec<String>,
    /// Addresses and networks, checked.
    pub trusted_proxies: Vec<String>,
    /// Most connections.
    pub connections_max: usize,
    /// What the client port shows over TLS, if it speaks it.
    pub tls: Option<Tls>,
}

/// `[server.tls]`
#[derive(Clone, Debug)]
pub struct Tls {
    /// What the files held.
    pub credentials: Credentials,
    /// The certificates.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// `[engine]`
#[derive(Clone, Debug)]
pub struct Engine {
    /// With both slashes.
    pub path: String,
    /// Between a pong and the next ping.
    pub ping_interval: Duration,
    /// For a pong.
    pub ping_timeout: Duration,
    /// For the first namespace.
    pub connect_timeout: Duration,
    /// For the upgrade.
    pub upgrade_timeout: Duration,
    /// Largest message.
    pub payload_bytes_max: usize,
    /// Whether polling is offered.
    pub polling: bool,
    /// Whether WebSocket is offered.
    pub websocket: bool,
}

/// `[redis]`. No `Debug`: the URL may hold a password.
#[derive(Clone)]
pub struct Redis {
    /// With its password.
    pub url: String,
    /// The authorities whose certificates are believed, in PEM.
    pub tls_ca: Option<Vec<u8>>,
    /// Of our own keys.
    pub prefix: String,
    /// Of the adapter's channels.
    pub adapter_prefix: String,
    /// At start.
    pub connect_timeout: Duration,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").field("url", &tidegate_redis::masked(&self.url)).finish_non_exhaustive()
    }
}

/// `[cluster]` and `[sessions]`
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Between pulses.
    pub pulse_interval: Duration,
    /// Without an echo.
    pub fence_after: Duration,
    /// Of a node's lease.
    pub lease_ttl: Duration,
    /// Between looks at the leases of others.
    pub lease_renew: Duration,
}

/// `[offline]`
#[derive(Clone, Debug)]
pub struct Offline {
    /// Of senders and inboxes.
    pub quotas: Quotas,
    /// Largest message.
    pub message_bytes_max: usize,
    /// Unacknowledged messages of a session.
    pub window: usize,
}

/// `[limits]`
#[derive(Clone, Debug)]
pub struct Limits {
    /// Per connection.
    pub outbox_bytes_max: usize,
    /// Per session.
    pub rooms_per_session_max: usize,
    /// Per name.
    pub name_bytes_max: usize,
    /// Per connection; 0 is no limit.
    pub events_per_second_max: u32,
    /// Per connection.
    pub events_burst: u32,
    /// Per address; 0 is no limit.
    pub connections_per_ip_max: usize,
}

/// `[admin]`. No `Debug`: the keys are secret.
#[derive(Clone)]
pub struct Admin {
    /// Each opens the whole HTTP API.
    pub api_keys: Vec<String>,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("api_keys", &self.api_keys.len()).finish()
    }
}

/// `[drain]`
#[derive(Clone, Debug)]
pub struct Drain {
    /// All of it.
    pub timeout: Duration,
    /// 0 is spread evenly.
    pub connections_per_second: u32,
}

/// `[log]`
#[derive(Clone, Debug)]
pub struct Log {
    /// A level or a filter.
    pub level: String,
    /// JSON, one object a line; else for people.
    pub json: bool,
    /// Where spans go.
    pub otlp_endpoint: Option<String>,
}

impl Config {
    /// Puts the sources together.
    ///
    /// # Errors
    /// Every fault there is, in the order file, environment, flags, and then what only shows between keys.
    pub fn load(sources: &Sources) -> Result<Self, Vec<Fault>> {
        let mut settings = Settings::read(sources);
        let auth = auth::read(&mut settings);
        let tls = tls::read(&mut settings);
        let authorities = tls::read_authorities(&mut settings);
        // Five seconds are plenty for a client that has its token at hand, and short for one that has none.
        let connect_timeout_ms = if matches!(auth, Some(Auth::Jwt(_))) { 5_000 } else { 45_000 };
        settings.derive("engine.connect_timeout_ms", Value::Number(connect_timeout_ms));
        relations::check(&mut settings, sources.nodes);
        match auth {
            Some(auth) if settings.faults().is_empty() => {
                Ok(Self::of(settings, auth, tls, authorities, sources.nodes))
            }
            _ => Err(settings.faults().to_vec()),
        }
    }

    fn of(
        settings: Settings,
        auth: Auth,
        tls: Option<Tls>,
        authorities: Option<Vec<u8>>,
        nodes: u16,
    ) -> Self {
        let config = Self {
            nodes,
            dev: settings.is_dev(),
            server: Server::of(&settings, tls),
            engine: Engine::of(&settings),
            redis: Redis::of(&settings, authorities),
            command_timeout: milliseconds(&settings, "redis.command_timeout_ms"),
            cluster: Cluster::of(&settings),
            auth,
            namespaces: settings.namespaces().iter().map(Namespace::of).collect(),
            offline: Offline::of(&settings),
            limits: Limits::of(&settings),
            admin: Admin { api_keys: settings.list("admin.api_keys").to_vec() },
            drain: Drain::of(&settings),
            log: Log::of(&settings),
            settings,
        };
        debug_assert!(config.settings.unused().is_empty(), "without effect: {:?}", config.settings.unused());
        config
    }

    /// The configuration in effect as TOML, secrets masked.
    #[must_use]
    pub fn effective(&self) -> String {
        manual::effective(&self.settings)
    }
}

impl Server {
    fn of(settings: &Settings, tls: Option<Tls>) -> Self {
        Self {
            listen: address(settings, "server.listen"),
            admin_listen: address(settings, "server.admin_listen"),
            node_id: settings
                .text("server.node_id")
                .map(|id| NodeId::parse(id).expect("the schema checks the form of node ids")),
            allowed_origins: settings.list("server.allowed_origins").to_vec(),
            trusted_proxies: settings.list("server.trusted_proxies").to_vec(),
            connections_max: size(settings, "server.connections_max"),
            tls,
        }
    }
}

impl Engine {
    fn of(settings: &Settings) -> Self {
        let offers =
            |transport: &str| settings.list("engine.transports").iter().any(|item| item == transport);
        Self {
            path: text(settings, "engine.path"),
            ping_interval: milliseconds(settings, "engine.ping_interval_ms"),
            ping_timeout: milliseconds(settings, "engine.ping_timeout_ms"),
            connect_timeout: milliseconds(settings, "engine.connect_timeout_ms"),
            upgrade_timeout: milliseconds(settings, "engine.upgrade_timeout_ms"),
            payload_bytes_max: size(settings, "engine.payload_bytes_max"),
            polling: offers("polling"),
            websocket: offers("websocket"),
        }
    }
}

impl Redis {
    fn of(settings: &Settings, tls_ca: Option<Vec<u8>>) -> Option<Self> {
        let (prefix, adapter_prefix) =
            (text(settings, "redis.prefix"), text(settings, "redis.adapter_prefix"));
        let connect_timeout = milliseconds(settings, "redis.connect_timeout_ms");
        let url = settings.text("redis.url")?.to_owned();
        Some(Self { url, tls_ca, prefix, adapter_prefix, connect_timeout })
    }
}

impl Cluster {
    fn of(settings: &Settings) -> Self {
        Self {
            pulse_interval: milliseconds(settings, "cluster.pulse_interval_ms"),
            fence_after: milliseconds(settings, "cluster.fence_after_ms"),
            lease_ttl: milliseconds(settings, "sessions.lease_ttl_ms"),
            lease_renew: milliseconds(settings, "sessions.lease_renew_ms"),
        }
    }
}

impl Offline {
    fn of(settings: &Settings) -> Self {
        Self {
            quotas: Quotas {
                messages_max: settings.number("offline.messages_max"),
                bytes_max: settings.number("offline.bytes_max"),
                age_max: milliseconds(settings, "offline.age_max_ms"),
                id_ttl: milliseconds(settings, "offline.id_ttl_ms"),
                sender_per_minute_max: settings.number("offline.sender_per_minute_max"),
                wait_replicas: count(settings, "offline.wait_replicas"),
            },
            message_bytes_max: size(settings, "offline.message_bytes_max"),
            window: size(settings, "offline.window"),
        }
    }
}

impl Limits {
    fn of(settings: &Settings) -> Self {
        Self {
            outbox_bytes_max: size(settings, "limits.outbox_bytes_max"),
            rooms_per_session_max: size(settings, "limits.rooms_per_session_max"),
            name_bytes_max: size(settings, "limits.name_bytes_max"),
            events_per_second_max: count(settings, "limits.events_per_second_max"),
            events_burst: count(settings, "limits.events_burst"),
            connections_per_ip_max: size(settings, "limits.connections_per_ip_max"),
        }
    }
}

impl Drain {
    fn of(settings: &Settings) -> Self {
        Self {
            timeout: milliseconds(settings, "drain.timeout_ms"),
            connections_per_second: count(settings, "drain.connections_per_second"),
        }
    }
}

impl Log {
    fn of(settings: &Settings) -> Self {
        Self {
            level: text(settings, "log.level"),
            json: text(settings, "log.format") == "json",
            otlp_endpoint: settings.text("log.otlp_endpoint").map(str::to_owned),
        }
    }
}

fn milliseconds(settings: &Settings, path: &'static str) -> Duration {
    Duration::from_millis(settings.number(path))
}

fn size(settings: &Settings, path: &'static str) -> usize {
    usize::try_from(settings.number(path)).expect("the schema's bounds fit")
}

fn count(settings: &Settings, path: &'static str) -> u32 {
    u32::try_from(settings.number(path)).expect("the schema's bounds fit")
}

fn text(settings: &Settings, path: &'static str) -> String {
    settings.text(path).expect("the schema gives it a default").to_owned()
}

fn address(settings: &Settings, path: &'static str) -> SocketAddr {
    text(settings, path).parse().expect("the schema checks addresses")
}

#[cfg(test)]
mod tests;
