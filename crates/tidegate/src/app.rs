//! From a configuration to running nodes, and back: bind, join, serve, wait, drain.
//!
//! Architecture Invariant: this file is where port implementations are picked; nothing else in the process knows
//! whether a node's broker is memory or Redis.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::select_all;
use tidegate_core::broker::PulseError;
use tidegate_core::memory::Exchange;
use tidegate_core::{Broker, Incarnation, NodeId, Subscriber};
use tidegate_gateway::glob::Glob;
use tidegate_gateway::namespaces::{NamespaceRule, Namespaces, Operations};
use tidegate_gateway::{
    DrainOptions, EngineOptions, Joining, Limits, Node, Options, PulseOptions, ServerOptions, StartError,
};
use tidegate_redis::{ConnectError, RedisBroker};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, Status};
use crate::config::{Config, PORT_STEP};
use crate::exit::Exit;

/// Connections the kernel completes before they are accepted. Clients of a node that died all come back at once;
/// the kernel caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// How long a node without Redis may take to hear its first pulse: nothing it waits for is outside the process.
const MEMORY_START_MAX: Duration = Duration::from_secs(10);

/// What a drain may take beyond its own timeout, to give the lease back and end the tasks.
const DRAIN_MARGIN: Duration = Duration::from_secs(3);

/// What publications may wait for Redis in total, in bytes: two seconds at 4 MB/s, more than a node fans out.
const PUBLISH_QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Why the process ends other than as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port cannot be had.
    #[error("{key}: cannot listen on {address}: {fault}")]
    Listen {
        /// The setting that names the port.
        key: &'static str,
        /// The address of the node in question.
        address: SocketAddr,
        /// Why not.
        fault: std::io::Error,
    },
    /// Redis cannot be used.
    #[error(transparent)]
    Redis(#[from] ConnectError),
    /// A node did not start.
    #[error("node {node}: {fault}")]
    Start {
        /// Which.
        node: NodeId,
        /// Why not.
        fault: StartError,
    },
    /// A node lost its name to another live process.
    #[error("server.node_id: node {node}: {fault}")]
    Displaced {
        /// Which.
        node: NodeId,
        /// What it was told.
        fault: PulseError,
    },
    /// The system does not let the process handle signals.
    #[error("cannot handle signals: {0}")]
    Signals(#[source] std::io::Error),
}

impl Error {
    /// The code to exit with, by who must act.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Listen { .. }
            | Self::Redis(ConnectError::Url { .. })
            | Self::Start { fault: StartError::Pulse(PulseError::Conflict { .. }), .. }
            | Self::Displaced { .. } => Exit::Usage,
            Self::Redis(_) | Self::Start { fault: StartError::Pulse(_) | StartError::Silent(_), .. } => {
                Exit::Unavailable
            }
            Self::Start { .. } | Self::Signals(_) => Exit::Defect,
        }
    }
}

/// Runs all nodes of the process until a signal has stopped them.
///
/// # Errors
/// When they cannot be started, or one loses its name. What was running has been drained by then.
pub async fn run(config: &Config) -> Result<(), Error> {
    let mut signals = Signals::install()?;
    warn_about(config);
    let mut app = App::bind(config).await?;
    let started = tokio::select! {
        started = app.start(config) => started,
        () = signals.next() => Ok(()),
    };
    let ended = match started {
        Ok(()) if app.is_running() => app.until_told(&mut signals).await,
        other => other,
    };
    tokio::select! {
        () = app.drain(config.drain.timeout) => ended,
        () = signals.next() => {
            tracing::warn!("told to stop a second time");
            Exit::Done.at_once()
        }
    }
}

/// The nodes of the process and what serves them.
struct App {
    seats: Vec<Seat>,
    /// One task a port, each ending when its node has drained or when `stop` is cancelled. If one fails the process
    /// does, since tasks fail by panic only.
    tasks: TaskTracker,
    /// Stops the admin ports, which outlive the drain so that readiness can be seen to be red.
    stop: CancellationToken,
}

/// One node's place: its name, its ports, and the node once it has started.
struct Seat {
    id: NodeId,
    listen: SocketAddr,
    admin: SocketAddr,
    listener: Option<TcpListener>,
    node: Arc<Started>,
}

/// The node of a seat, as the admin port sees it: it answers before there is one.
#[derive(Default)]
struct Started(OnceLock<Node>);

impl App {
    /// Binds every port and answers on the admin ports, not ready yet.
    async fn bind(config: &Config) -> Result<Self, Error> {
        let mut app = Self { seats: Vec::new(), tasks: TaskTracker::new(), stop: CancellationToken::new() };
        for index in 0..config.nodes {
            let listener = bind("server.listen", config.server.listen, index)?;
            let admin = bind("server.admin_listen", config.server.admin_listen, index)?;
            let seat = Seat {
                id: node_id(config, index),
                listen: local_address(&listener, config.server.listen),
                admin: local_address(&admin, config.server.admin_listen),
                listener: Some(listener),
                node: Arc::default(),
            };
            let status: Arc<dyn Status> = Arc::clone(&seat.node) as _;
            app.tasks.spawn(admin::serve(admin, admin::router(status), app.stop.clone()));
            app.seats.push(seat);
        }
        Ok(app)
    }

    /// Joins every node to its broker and opens its client port.
    async fn start(&mut self, config: &Config) -> Result<(), Error> {
        let exchange = Exchange::new();
        for seat in &mut self.seats {
            let node = join(config, &seat.id, &exchange).await?;
            if let Some(listener) = seat.listener.take() {
                let serving = node.clone();
                self.tasks.spawn(async move { serving.serve(listener).await });
            }
            // The seat is filled once, here.
            let _ = seat.node.0.set(node);
            tracing::info!(node = %seat.id, listen = %seat.listen, admin = %seat.admin, "ready");
        }
        Ok(())
    }

    fn is_running(&self) -> bool {
        self.seats.iter().all(|seat| seat.node.0.get().is_some())
    }

    /// Waits for a signal, or for a node that may not go on.
    async fn until_told(&self, signals: &mut Signals) -> Result<(), Error> {
        let fatal = self.nodes().map(|(id, node)| {
            Box::pin(async move { Error::Displaced { fault: node.fatal().await, node: id } })
        });
        // Not tasks: they wait as long as this call does, and end with it.
        let fatal = select_all(fatal);
        tokio::select! {
            () = signals.next() => Ok(()),
            (displaced, ..) = fatal => Err(displaced),
        }
    }

    /// Drains all nodes side by side, then closes the admin ports.
    async fn drain(&self, timeout: Duration) {
        let drains = TaskTracker::new();
        for (_, node) in self.nodes() {
            drains.spawn(async move { node.drain().await });
        }
        drains.close();
        let limit = timeout + DRAIN_MARGIN;
        if tokio::time::timeout(limit, drains.wait()).await.is_err() {
            tracing::warn!(?limit, "the drain did not end in time");
        }
        self.stop.cancel();
        self.tasks.close();
        // A stranger that holds an admin connection open must not hold the process.
        let _ = tokio::time::timeout(DRAIN_MARGIN, self.tasks.wait()).await;
    }

    fn nodes(&self) -> impl Iterator<Item = (NodeId, Node)> {
        self.seats.iter().filter_map(|seat| Some((seat.id.clone(), seat.node.0.get()?.clone())))
    }
}

impl Status for Started {
    fn readiness(&self) -> Result<(), Vec<String>> {
        self.0.get().map_or_else(|| Err(vec!["starting".to_owned()]), Node::readiness)
    }

    fn metrics(&self) -> String {
        let text = self.0.get().map(Node::metrics_text).transpose();
        text.unwrap_or_else(|fault| {
            tracing::error!(%fault, "metrics cannot be written");
            None
        })
        .unwrap_or_default()
    }
}

/// Starts one node, on Redis when there is a URL, else on the exchange.
async fn join(config: &Config, id: &NodeId, exchange: &Exchange) -> Result<Node, Error> {
    let incarnation = Incarnation::random();
    let failed = |fault| Error::Start { node: id.clone(), fault };
    let joining =
        Joining::new(node_options(config, id.clone(), incarnation.clone()), shards()).map_err(failed)?;
    let (broker, limit) = broker(config, id, incarnation, exchange, joining.subscriber()).await?;
    joining.start(broker, limit).await.map_err(failed)
}

async fn broker(
    config: &Config,
    id: &NodeId,
    incarnation: Incarnation,
    exchange: &Exchange,
    subscriber: Arc<dyn Subscriber>,
) -> Result<(Arc<dyn Broker>, Duration), Error> {
    let Some(redis) = &config.redis else {
        return Ok((exchange.join(id.clone(), subscriber), MEMORY_START_MAX));
    };
    let options = tidegate_redis::Options {
        url: redis.url.clone(),
        prefix: redis.prefix.clone(),
        adapter_prefix: redis.adapter_prefix.clone(),
        connect_timeout: redis.connect_timeout,
        command_timeout: config.command_timeout,
        publish_queue_bytes_max: PUBLISH_QUEUE_BYTES_MAX,
        fence_after: config.cluster.fence_after,
        node: id.clone(),
        incarnation,
    };
    let broker: Arc<dyn Broker> = RedisBroker::connect(options, subscriber).await?;
    Ok((broker, redis.connect_timeout))
}

fn node_options(config: &Config, node: NodeId, incarnation: Incarnation) -> Options {
    let (engine, server, limits) = (&config.engine, &config.server, &config.limits);
    Options {
        node,
        incarnation,
        engine: EngineOptions {
            path: engine.path.clone(),
            ping_interval: engine.ping_interval,
            ping_timeout: engine.ping_timeout,
            connect_timeout: engine.connect_timeout,
            upgrade_timeout: engine.upgrade_timeout,
            payload_bytes_max: engine.payload_bytes_max,
            polling: engine.polling,
            websocket: engine.websocket,
        },
        server: ServerOptions {
            allowed_origins: server.allowed_origins.clone(),
            trusted_proxies: server
                .trusted_proxies
                .iter()
                .map(|network| network.parse().expect("the configuration checks networks"))
                .collect(),
            connections_max: server.connections_max,
        },
        limits: Limits {
            outbox_bytes_max: limits.outbox_bytes_max,
            rooms_per_session_max: limits.rooms_per_session_max,
            name_bytes_max: limits.name_bytes_max,
            events_per_second_max: limits.events_per_second_max,
            events_burst: limits.events_burst,
            connections_per_ip_max: limits.connections_per_ip_max,
        },
        auth: config.auth.authenticator(),
        namespaces: namespaces(config),
        pulse: PulseOptions {
            interval: config.cluster.pulse_interval,
            fence_after: config.cluster.fence_after,
            lease_ttl: config.cluster.lease_ttl,
        },
        drain: DrainOptions {
            timeout: config.drain.timeout,
            connections_per_second: config.drain.connections_per_second,
        },
        command_timeout: config.command_timeout,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: option_env!("TIDEGATE_REVISION").unwrap_or("unknown").to_owned(),
    }
}

fn namespaces(config: &Config) -> Namespaces {
    let rules = config
        .namespaces
        .iter()
        .map(|namespace| NamespaceRule {
            pattern: Glob::parse(&namespace.pattern),
            operations: Operations::of(&namespace.operations),
        })
        .collect();
    Namespaces::new(rules, config.dev)
}

/// One shard a worker thread, so that a fan-out can keep all of them busy.
fn shards() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The name of node `index`: the given one, numbered where several share the process.
fn node_id(config: &Config, index: u16) -> NodeId {
    match &config.server.node_id {
        None => NodeId::random(),
        Some(id) if config.nodes == 1 => id.clone(),
        Some(id) => {
            NodeId::parse(&format!("{id}-{index}")).expect("the configuration leaves room for the number")
        }
    }
}

fn bind(key: &'static str, first: SocketAddr, index: u16) -> Result<TcpListener, Error> {
    let mut address = first;
    if first.port() != 0 {
        address.set_port(first.port() + index * PORT_STEP);
    }
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restart must not wait for the last connections of the process before it.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|fault| Error::Listen { key, address, fault })
}

fn local_address(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}

fn warn_about(config: &Config) {
    if config.redis.is_none() && config.nodes == 1 && !config.dev {
        tracing::warn!("redis.url is not set: this node runs alone, and other nodes will not hear from it");
    }
    if config.auth.has_short_secret() {
        tracing::warn!("auth.jwt.secret has fewer than 32 bytes: it can be guessed from any token");
    }
    // Raising the limit takes a system call that safe Rust does not offer here, so the operator is told instead.
    if let Some(files) = open_files_max()
        && files < config.server.connections_max
    {
        let wanted = config.server.connections_max;
        tracing::warn!(
            files,
            connections_max = wanted,
            "the limit of open files is below server.connections_max: raise it (ulimit -n) or lower the setting"
        );
    }
}

/// The soft limit of open files of this process.
fn open_files_max() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// SIGTERM and SIGINT, which mean the same here.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn install() -> Result<Self, Error> {
        let install = |kind| signal(kind).map_err(Error::Signals);
        Ok(Self {
            terminate: install(SignalKind::terminate())?,
            interrupt: install(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
