//! From a configuration to running nodes, and back: bind, join, listen, serve, wait, drain.

mod build;
mod control;
mod otlp;
mod ports;
mod renewal;
mod signals;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join_all, select_all};
use tidegate_console::NodePorts;
use tidegate_core::NodeId;
use tidegate_core::broker::PulseError;
use tidegate_core::memory::Exchange;
use tidegate_gateway::{Node, StartError};
use tidegate_redis::ConnectError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::control::Controlled;
pub(crate) use self::otlp::check_endpoint as check_otlp_endpoint;
use self::ports::Port;
use self::signals::Signals;
use crate::admin::{self, Control, Status};
use crate::config::Config;
use crate::exit::Exit;
use crate::log::Name;

/// What a drain may take beyond its own timeout, to give the lease back and end the tasks.
const DRAIN_MARGIN: Duration = Duration::from_secs(3);

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
    /// Spans cannot be sent as the environment has it.
    #[error("log.otlp_endpoint: {0}")]
    Otlp(String),
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
            | Self::Otlp(_)
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

/// Runs all nodes of the process until a signal has stopped them. If it is one, `name` is told what it is called.
///
/// # Errors
/// When they cannot be started, or one loses its name. What was running has been drained by then.
pub async fn run(config: &Config, name: &Name) -> Result<(), Error> {
    let mut signals = Signals::install().map_err(Error::Signals)?;
    warn_about(config);
    let mut app = App::bind(config).await?;
    if let [seat] = &app.seats[..] {
        name.set(seat.id.as_str());
    }
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
    /// The client port, until the node is ready.
    port: Option<Port>,
    node: Arc<Started>,
}

/// The node of a seat, as the admin port sees it: it answers before there is one.
#[derive(Default)]
struct Started {
    node: OnceLock<Node>,
    told_to_drain: CancellationToken,
}

impl App {
    /// Binds every port, so that one that is taken is known at once, and answers on the admin ports. Connections to
    /// the client ports are refused: a client that is refused tries another node, one in a backlog waits.
    async fn bind(config: &Config) -> Result<Self, Error> {
        let mut app = Self { seats: Vec::new(), tasks: TaskTracker::new(), stop: CancellationToken::new() };
        for index in 0..config.nodes {
            let client = ports::bind("server.listen", config.server.listen, index)?;
            let admin = ports::bind("server.admin_listen", config.server.admin_listen, index)?;
            let seat = Seat {
                id: build::node_id(config, index),
                listen: client.address,
                admin: admin.address,
                port: Some(client),
                node: Arc::default(),
            };
            let status: Arc<dyn Status> = Arc::clone(&seat.node) as _;
            let router = admin::router(status, build::admin_options(config));
            app.tasks.spawn(admin::serve(admin.listen()?, router, app.stop.clone()));
            app.seats.push(seat);
        }
        Ok(app)
    }

    /// Joins every node to its broker and opens its client port.
    async fn start(&mut self, config: &Config) -> Result<(), Error> {
        let exchange = Exchange::new();
        let page = config.dev.then(|| self.console());
        let spans = match &config.log.otlp_endpoint {
            None => None,
            Some(endpoint) => {
                let (spans, export) = otlp::open(endpoint).map_err(Error::Otlp)?;
                self.tasks.spawn(export.run(self.stop.clone()));
                Some(spans)
            }
        };
        for seat in &mut self.seats {
            let tracer = spans.as_ref().map(|spans| spans.of(&seat.id));
            let node = build::join(config, &seat.id, &exchange, page.clone(), tracer).await?;
            let listener = seat.port.take().map(Port::listen).transpose();
            // The seat is filled once, here, and also when its port is lost: the node has to be drained.
            let _ = seat.node.node.set(node.clone());
            if let Some(listener) = listener? {
                self.tasks.spawn(async move { node.serve(listener).await });
            }
            let tls = config.server.tls.is_some();
            tracing::info!(node = %seat.id, listen = %seat.listen, tls, admin = %seat.admin, "ready");
        }
        if let Some(tls) = &config.server.tls {
            let nodes = self.nodes().map(|(_, node)| node).collect();
            self.tasks.spawn(renewal::watch(tls.clone(), nodes, self.stop.clone()));
        }
        Ok(())
    }

    /// The page on which all nodes of the process are seen.
    fn console(&self) -> Bytes {
        let ports = |seat: &Seat| NodePorts {
            name: seat.id.to_string(),
            client: seat.listen.port(),
            admin: seat.admin.port(),
        };
        let nodes: Vec<_> = self.seats.iter().map(ports).collect();
        tidegate_console::page(&nodes).into()
    }

    fn is_running(&self) -> bool {
        self.seats.iter().all(|seat| seat.node.node.get().is_some())
    }

    /// Waits for a signal, for a node that may not go on, or until every node was drained through the API.
    async fn until_told(&self, signals: &mut Signals) -> Result<(), Error> {
        let fatal = self.nodes().map(|(id, node)| {
            Box::pin(async move { Error::Displaced { fault: node.fatal().await, node: id } })
        });
        // Not tasks: they wait as long as this call does, and end with it.
        let fatal = select_all(fatal);
        let drained = join_all(self.seats.iter().map(async |seat| {
            seat.node.told_to_drain.cancelled().await;
            if let Some(node) = seat.node.node.get() {
                node.drain().await;
            }
        }));
        tokio::select! {
            () = signals.next() => Ok(()),
            _ = drained => Ok(()),
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
        self.seats.iter().filter_map(|seat| Some((seat.id.clone(), seat.node.node.get()?.clone())))
    }
}

impl Status for Started {
    fn readiness(&self) -> Result<(), Vec<String>> {
        self.node.get().map_or_else(|| Err(vec!["starting".to_owned()]), Node::readiness)
    }

    fn metrics(&self) -> String {
        let text = self.node.get().map(Node::metrics_text).transpose();
        text.unwrap_or_else(|fault| {
            tracing::error!(%fault, "metrics cannot be written");
            None
        })
        .unwrap_or_default()
    }

    fn control(&self) -> Option<Arc<dyn Control>> {
        let (node, told_to_drain) = (self.node.get()?.clone(), self.told_to_drain.clone());
        Some(Arc::new(Controlled { node, told_to_drain }))
    }
}

fn warn_about(config: &Config) {
    if config.redis.is_none() && config.nodes == 1 && !config.dev {
        tracing::warn!("redis.url is not set: this node runs alone, and other nodes will not hear from it");
    }
    if config.auth.has_short_secret() {
        tracing::warn!("auth.jwt.secret has fewer than 32 bytes: it can be guessed from any token");
    }
    let wanted = config.server.connections_max;
    match rlimit::increase_nofile_limit(u64::MAX) {
        // Nobody develops with that many clients.
        Ok(_) if config.dev => {}
        Ok(files) if usize::try_from(files).is_ok_and(|files| files >= wanted) => {}
        Ok(files) => tracing::warn!(
            files,
            connections_max = wanted,
            "the hard limit of open files is below server.connections_max: raise it (ulimit -Hn) or lower the setting"
        ),
        Err(fault) => tracing::warn!(%fault, "the limit of open files cannot be raised"),
    }
}
