//! The node: what it is made of, who may come in, and its life from the first pulse to the last. What its sessions do
//! is in `seating` and `rooms`.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tidegate_core::broker::{Broker, PulseError, Subscriber};
use tidegate_core::registry::Vitals;
use tidegate_core::request::Request;
use tidegate_core::{DisconnectReason, ErrorCode, Namespace, OfflineStore, SessionRegistry};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::acknowledgements::Acknowledgements;
use crate::audit;
use crate::auth::{Identity, NameLimits};
use crate::clock::{Clock, unix_ms};
use crate::engines::Engines;
use crate::hub::Hub;
use crate::inbound::Inbound;
use crate::interest::Interest;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::origin::Origins;
use crate::outbox::{Outbox, Terms};
use crate::peer::{Addresses, Place};
use crate::peers;
use crate::pulse::Pulse;
use crate::questions::Questions;
use crate::reactor::{Reactor, Waiting};
use crate::registrar::Registrar;
use crate::session::Rule;
use crate::takeover::Takeovers;
use crate::timer::Timer;
use crate::trace::Traces;

/// Why a node could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Metrics could not be registered: a defect.
    #[error("failed to register metrics")]
    Metrics(#[from] prometheus::Error),
    /// There is no descriptor left to wait for sockets with.
    #[error("failed to make an epoll")]
    Reactor(#[source] std::io::Error),
    /// Another live process has this node id.
    #[error(transparent)]
    Pulse(#[from] PulseError),
    /// No pulse came back in time.
    #[error("no pulse came back through the broker within {0:?}")]
    Silent(Duration),
}

/// A handle on a running node. Cheap to clone.
#[derive(Clone)]
pub struct Node(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) interest: Arc<Interest>,
    pub(crate) timer: Arc<Timer>,
    pub(crate) engines: Engines,
    pub(crate) reactor: Arc<Reactor>,
    pub(crate) origins: Origins,
    pub(crate) terms: Arc<Terms>,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) registry: Arc<dyn SessionRegistry>,
    pub(crate) offline: Arc<dyn OfflineStore>,
    pub(crate) registrar: Arc<Registrar>,
    pub(crate) takeovers: Arc<Takeovers>,
    pub(crate) questions: Arc<Questions>,
    pub(crate) acknowledgements: Acknowledgements,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) traces: Option<Arc<Traces>>,
    rules: Vec<Arc<Rule>>,
    addresses: Addresses,
    open: Arc<AtomicUsize>,
    pub(crate) draining: AtomicBool,
    /// Stops accepting, once no connection is left.
    pub(crate) closing: CancellationToken,
    /// Stops the node's own tasks.
    stopped: CancellationToken,
    /// The node's own tasks.
    tasks: TaskTracker,
    /// Engine.IO connections.
    pub(crate) connections: TaskTracker,
    /// HTTP connections and upgrades under way.
    pub(crate) requests: TaskTracker,
    fatal: watch::Sender<Option<PulseError>>,
}

/// A node whose broker is still to come.
pub struct Joining {
    options: Options,
    clock: Clock,
    metrics: Arc<Metrics>,
    hub: Arc<Hub>,
    pulse: Arc<Pulse>,
    takeovers: Arc<Takeovers>,
    questions: Arc<Questions>,
    requests: (mpsc::Sender<Request>, mpsc::Receiver<Request>),
    traces: Option<Arc<Traces>>,
    node: Arc<OnceLock<Weak<Inner>>>,
}

/// One connection's place under `connections_max` and `connections_per_ip_max`; given back when dropped.
pub(crate) struct Admitted {
    open: Arc<AtomicUsize>,
    _place: Option<Place>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Joining {
    /// Prepares a node. `shards` is the number of worker threads.
    ///
    /// # Errors
    /// When the metrics cannot be registered, which is a defect.
    pub fn new(options: Options, shards: usize) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::new(&options.version, &options.revision, options.node.as_str())?);
        metrics.offline_limits(&options.offline);
        let pulse = Arc::new(Pulse::new(options.pulse.clone(), Arc::clone(&metrics)));
        Ok(Self {
            traces: options.tracer.clone().map(Traces::new),
            options,
            clock: Clock::start(),
            metrics,
            hub: Arc::new(Hub::new(shards)),
            pulse,
            takeovers: Arc::default(),
            questions: Arc::default(),
            requests: mpsc::channel(peers::REQUESTS_MAX),
            node: Arc::default(),
        })
    }

    /// Where the broker delivers.
    #[must_use]
    pub fn subscriber(&self) -> Arc<dyn Subscriber> {
        Arc::new(Inbound {
            hub: Arc::clone(&self.hub),
            pulse: Arc::clone(&self.pulse),
            metrics: Arc::clone(&self.metrics),
            takeovers: Arc::clone(&self.takeovers),
            questions: Arc::clone(&self.questions),
            requests: self.requests.0.clone(),
            traces: self.traces.clone(),
            node: Arc::clone(&self.node),
        })
    }

    /// Starts the node's tasks and resolves once its first pulse has come back, within `limit`. A lease that a process
    /// of the same id left behind when it crashed is waited for beyond that.
    ///
    /// # Errors
    /// When another live process holds the node id, or no pulse comes back in time. Nothing is left running.
    pub async fn start(
        self,
        broker: Arc<dyn Broker>,
        registry: Arc<dyn SessionRegistry>,
        offline: Arc<dyn OfflineStore>,
        limit: Duration,
    ) -> Result<Node, StartError> {
        let Self { options, clock, metrics, hub, pulse, takeovers, questions, requests, traces, node } = self;
        let rules = options
            .namespaces
            .rules()
            .iter()
            .map(|rule| {
                Arc::new(Rule {
                    // Of a pattern, what stands here is not used.
                    namespace: Namespace::named(&rule.pattern.to_string()),
                    operations: rule.operations,
                    policy: rule.policy,
                    on_duplicate: rule.on_duplicate,
                    presence: rule.presence,
                    offline: rule.offline,
                    metrics: Arc::new(metrics.namespace(&rule.pattern.to_string())),
                })
            })
            .collect();
        let reactor = Reactor::new().and_then(|(reactor, poll)| Ok((reactor, Waiting::new(poll)?)));
        let (reactor, waiting) = match reactor {
            Ok(reactor) => reactor,
            Err(error) => {
                broker.close().await;
                return Err(StartError::Reactor(error));
            }
        };
        let inner = Arc::new(Inner {
            origins: Origins::new(&options.server.allowed_origins, options.server.tls.is_some()),
            terms: Terms::new(options.limits.outbox_bytes_max, Arc::clone(&metrics), Arc::clone(&reactor)),
            addresses: Addresses::new(options.limits.connections_per_ip_max),
            clock,
            registrar: Arc::new(Registrar::new(Arc::clone(&metrics))),
            metrics,
            hub,
            interest: Arc::new(Interest::new()),
            timer: Arc::new(Timer::new(clock)),
            engines: Engines::new(),
            reactor: Arc::clone(&reactor),
            broker,
            registry,
            offline,
            takeovers,
            questions,
            acknowledgements: Acknowledgements::default(),
            pulse,
            traces,
            rules,
            options,
            open: Arc::default(),
            draining: AtomicBool::new(false),
            closing: CancellationToken::new(),
            stopped: CancellationToken::new(),
            tasks: TaskTracker::new(),
            connections: TaskTracker::new(),
            requests: TaskTracker::new(),
            fatal: watch::Sender::new(None),
        });
        // Nobody else fills it.
        let _ = node.set(Arc::downgrade(&inner));
        inner.spawn_tasks(requests.1);
        // Of no use without connections, so that it ends behind them.
        inner.tasks.spawn(reactor.run(waiting, inner.stopped.clone()));
        let node = Node(inner);
        let mut fatal = node.0.fatal.subscribe();
        let started = loop {
            tokio::select! {
                () = node.0.pulse.acting() => break Ok(()),
                _ = fatal.wait_for(Option::is_some) => {
                    break Err(node.0.fatal.borrow().clone().unwrap_or(PulseError::Unavailable).into());
                }
                // A predecessor that crashed is waited for as long as its lease lasts, which is bounded.
                () = tokio::time::sleep(limit) => if !node.0.pulse.is_waiting(Instant::now(), limit) {
                    break Err(StartError::Silent(limit));
                }
            }
        };
        if started.is_err() {
            node.stop().await;
        }
        started.map(|()| node)
    }
}

impl Inner {
    fn spawn_tasks(self: &Arc<Self>, requests: mpsc::Receiver<Request>) {
        for shard in 0..self.hub.shards() {
            let (hub, metrics, stopped) =
                (Arc::clone(&self.hub), Arc::clone(&self.metrics), self.stopped.clone());
            self.tasks.spawn(hub.run_shard(shard, Arc::clone(&self.pulse), metrics, stopped));
        }
        let (timer, stopped) = (Arc::clone(&self.timer), self.stopped.clone());
        self.tasks.spawn(async move { timer.run(stopped).await });
        let (interest, broker, stopped) =
            (Arc::clone(&self.interest), Arc::clone(&self.broker), self.stopped.clone());
        self.tasks.spawn(async move { interest.run(broker, stopped).await });
        let (registrar, registry, offline, hub, stopped) = (
            Arc::clone(&self.registrar),
            Arc::clone(&self.registry),
            Arc::clone(&self.offline),
            Arc::clone(&self.hub),
            self.stopped.clone(),
        );
        self.tasks.spawn(async move {
            registrar.run(registry, offline, |stay| hub.is_in(stay.session, &stay.room), stopped).await;
        });
        self.tasks.spawn(peers::run(Arc::clone(self), requests, self.stopped.clone()));
        self.tasks.spawn(audit::run(Arc::clone(self), self.stopped.clone()));
        let (inner, stopped) = (Arc::clone(self), self.stopped.clone());
        self.tasks.spawn(async move {
            let broker = Arc::clone(&inner.broker);
            if let Err(conflict) = inner.pulse.run(broker, || inner.vitals(), stopped).await {
                inner.fatal.send_replace(Some(conflict));
            }
        });
    }

    /// Whether a handshake may be answered now.
    ///
    /// # Errors
    /// The code of the 503.
    pub(crate) fn admit(&self, address: IpAddr) -> Result<Admitted, ErrorCode> {
        let refuse = |reason, code| {
            self.metrics.refused(reason);
            Err(code)
        };
        if self.draining.load(Ordering::Acquire) {
            return refuse("draining", ErrorCode::Draining);
        }
        if self.pulse.check(Instant::now()).is_err() {
            return refuse("deaf", ErrorCode::Unavailable);
        }
        let max = self.options.server.connections_max;
        if self.open.fetch_add(1, Ordering::AcqRel) >= max {
            self.open.fetch_sub(1, Ordering::AcqRel);
            return refuse("connections_max", ErrorCode::Unavailable);
        }
        let mut admitted = Admitted { open: Arc::clone(&self.open), _place: None };
        match self.addresses.admit(address) {
            Ok(place) => {
                admitted._place = place;
                Ok(admitted)
            }
            Err(_) => refuse("connections_per_ip_max", ErrorCode::Unavailable),
        }
    }

    /// Starts the task of a connection. One that was admitted just before a drain began is closed with the others.
    pub(crate) fn spawn(
        &self,
        outbox: Arc<Outbox>,
        connection: impl Future<Output = DisconnectReason> + Send + 'static,
    ) {
        self.connections.spawn(connection);
        if self.draining.load(Ordering::Acquire) {
            outbox.close(DisconnectReason::ServerShuttingDown);
        }
    }

    /// Whether a session may begin now: the node neither drains nor is deaf.
    pub(crate) fn may_connect(&self) -> bool {
        !self.draining.load(Ordering::Acquire) && self.pulse.check(Instant::now()).is_ok()
    }

    /// The rule of a namespace, if the namespace exists.
    pub(crate) fn rule(&self, namespace: &Namespace) -> Option<Arc<Rule>> {
        let name = namespace.as_str();
        // A control character in the one part of a packet that is not JSON would pass for the separator of packets.
        if name.len() > self.options.limits.name_bytes_max || name.bytes().any(|byte| byte.is_ascii_control())
        {
            return None;
        }
        let rule = &self.rules[self.options.namespaces.find(namespace)?];
        Some(if rule.namespace == *namespace {
            Arc::clone(rule)
        } else {
            // A pattern's.
            Arc::new(Rule { namespace: namespace.clone(), ..Rule::clone(rule) })
        })
    }

    pub(crate) fn identify(
        &self,
        namespace: &Namespace,
        auth: Option<&[u8]>,
    ) -> Result<Identity, crate::auth::Refused> {
        let limits = NameLimits { name_bytes_max: self.options.limits.name_bytes_max };
        self.options.auth.identify(namespace.as_str(), auth, unix_ms(), &limits)
    }

    fn vitals(&self) -> Vitals {
        let sessions = self.rules.iter().map(|rule| rule.metrics.sessions.get()).sum::<i64>();
        Vitals {
            connections: u64::try_from(self.open.load(Ordering::Acquire)).unwrap_or(u64::MAX),
            sessions: u64::try_from(sessions).unwrap_or_default(),
            draining: self.draining.load(Ordering::Acquire),
            version: self.options.version.as_str().into(),
        }
    }
}

impl Node {
    /// Whether a message published now would be delivered.
    ///
    /// # Errors
    /// Every reason why not, for people.
    pub fn readiness(&self) -> Result<(), Vec<String>> {
        let mut reasons = Vec::new();
        if self.0.draining.load(Ordering::Acquire) {
            reasons.push("draining".to_owned());
        }
        if let Err(deaf) = self.0.pulse.check(Instant::now()) {
            reasons.push(deaf.as_str().to_owned());
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    /// The metrics in the Prometheus text format.
    ///
    /// # Errors
    /// When they cannot be encoded, which is a defect.
    pub fn metrics_text(&self) -> Result<String, prometheus::Error> {
        self.0.metrics.state(self.readiness().is_ok(), self.0.draining.load(Ordering::Acquire));
        self.0.metrics.text()
    }

    /// Counts a changed certificate of the client port, which could be used or not.
    pub fn certificate_renewed(&self, usable: bool) {
        self.0.metrics.tls_renewed(if usable { "ok" } else { "failed" });
    }

    /// Resolves when the node must stop because another live process has its id.
    pub async fn fatal(&self) -> PulseError {
        let mut fatal = self.0.fatal.subscribe();
        loop {
            // Cloned, since the watch's guard must not be held across an await.
            let error = fatal.borrow_and_update().clone();
            if let Some(error) = error {
                return error;
            }
            if fatal.changed().await.is_err() {
                // The sender lives as long as this handle.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Ends the node's own tasks and gives its lease back.
    pub(crate) async fn stop(&self) {
        self.0.draining.store(true, Ordering::Release);
        self.0.closing.cancel();
        self.0.stopped.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        self.0.registry.close().await;
        self.0.offline.close().await;
        self.0.broker.close().await;
    }
}
