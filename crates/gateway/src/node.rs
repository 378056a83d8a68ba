//! The node: the verbs that connections use, and its life from the first pulse to the last.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tidegate_core::broker::{Broker, Done, PulseError, Subscriber};
use tidegate_core::registry::{Evicted, Eviction, Refresh, Vitals};
use tidegate_core::request::Request;
use tidegate_core::{
    ClaimId, DisconnectReason, ErrorCode, MessageId, Namespace, NodeId, Publication, Room, SessionRegistry,
};
use tidegate_msgpack::write;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::acknowledgements::Acknowledgements;
use crate::audit;
use crate::auth::{Identity, NameLimits};
use crate::clock::{Clock, unix_ms};
use crate::engines::Engines;
use crate::enrolment::{Enrolled, Entrant, Tenure};
use crate::hub::{Hub, Joined};
use crate::inbound::Inbound;
use crate::interest::{self, Interest};
use crate::message::Message;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::origin::Origins;
use crate::outbox::{Outbox, PendingJoin};
use crate::peer::{Addresses, Place};
use crate::peers;
use crate::pulse::Pulse;
use crate::questions::Questions;
use crate::registrar::Registrar;
use crate::reply::{Refusal, Reply};
use crate::session::{Deed, Membership, Parts, Rule, Session};
use crate::takeover::{Takeover, Takeovers};
use crate::timer::Timer;
use tidegate_protocol::socketio::Parser;

/// Why a node could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Metrics could not be registered: a defect.
    #[error("failed to register metrics")]
    Metrics(#[from] prometheus::Error),
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
    pub(crate) origins: Origins,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) registry: Arc<dyn SessionRegistry>,
    pub(crate) registrar: Arc<Registrar>,
    pub(crate) takeovers: Arc<Takeovers>,
    pub(crate) questions: Arc<Questions>,
    pub(crate) acknowledgements: Acknowledgements,
    pub(crate) pulse: Arc<Pulse>,
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
        let metrics = Arc::new(Metrics::new(&options.version, &options.revision)?);
        let pulse = Arc::new(Pulse::new(options.pulse.clone(), Arc::clone(&metrics)));
        Ok(Self {
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
        limit: Duration,
    ) -> Result<Node, StartError> {
        let Self { options, clock, metrics, hub, pulse, takeovers, questions, requests, node } = self;
        let rules = options
            .namespaces
            .rules()
            .iter()
            .map(|rule| {
                Arc::new(Rule {
                    operations: rule.operations,
                    policy: rule.policy,
                    on_duplicate: rule.on_duplicate,
                    presence: rule.presence,
                    metrics: Arc::new(metrics.namespace(&rule.pattern.to_string())),
                })
            })
            .collect();
        let inner = Arc::new(Inner {
            origins: Origins::new(&options.server.allowed_origins),
            addresses: Addresses::new(options.limits.connections_per_ip_max),
            clock,
            registrar: Arc::new(Registrar::new(Arc::clone(&metrics))),
            metrics,
            hub,
            interest: Arc::new(Interest::new()),
            timer: Arc::new(Timer::new(clock)),
            engines: Engines::new(),
            broker,
            registry,
            takeovers,
            questions,
            acknowledgements: Acknowledgements::default(),
            pulse,
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
        let (registrar, registry, stopped) =
            (Arc::clone(&self.registrar), Arc::clone(&self.registry), self.stopped.clone());
        self.tasks.spawn(async move { registrar.run(registry, stopped).await });
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
        self.options.namespaces.find(namespace).map(|index| Arc::clone(&self.rules[index]))
    }

    pub(crate) fn identify(
        &self,
        namespace: &Namespace,
        auth: Option<&[u8]>,
    ) -> Result<Identity, crate::auth::Refused> {
        let limits = NameLimits { name_bytes_max: self.options.limits.name_bytes_max };
        self.options.auth.identify(namespace.as_str(), auth, unix_ms(), &limits)
    }

    /// Seats a session and sends `connected` before anything else can reach it.
    pub(crate) fn connect(
        &self,
        shard: u32,
        outbox: &Arc<Outbox>,
        parser: Parser,
        connected: &Message,
        enrolled: Enrolled,
    ) -> Arc<Session> {
        let Enrolled { entrant, memberships, tenure, .. } = enrolled;
        let Entrant { id, namespace, rule, identity } = entrant;
        let holding = tenure.as_ref().map(|tenure| tenure.holding);
        let parts = Parts {
            id,
            namespace,
            rule,
            identity,
            parser,
            outbox: Arc::clone(outbox),
            holding,
            connected_at_ms: holding.map_or_else(unix_ms, |holding| holding.epoch),
        };
        let session =
            outbox.push_after(connected, || self.hub.insert(shard, |seat| Session::new(seat, parts)));
        memberships.into_iter().for_each(Membership::keep);
        session.rule.metrics.sessions.inc();
        // Displaced while it waited: it was told that it is connected, and now hears that it no longer is.
        if let Some((evicted, confirms)) = tenure.and_then(Tenure::keep).and_then(Takeover::finish) {
            for confirm in confirms {
                self.end(&session, evicted.clone(), Some(confirm));
            }
        }
        session
    }

    /// A session of this node lost its place.
    pub(crate) fn evict(&self, eviction: Eviction) {
        // In this order: a session is known by its claim first, then by its seat, and in between by both.
        if self.takeovers.evict(&eviction) {
            return;
        }
        let Eviction { session: id, claim, evicted, confirm, .. } = eviction;
        match self.hub.find(id) {
            Some(session) if session.holding.is_some_and(|holding| holding.claim == claim) => {
                self.end(&session, evicted, Some(confirm));
            }
            // It ended by itself, and is silent.
            _ => self.broker.confirm(confirm.0, confirm.1, id),
        }
    }

    /// Ends a session from outside its connection: it receives and does nothing from now on. Its connection tells the
    /// client why; whoever waits is told when everything it had begun is answered.
    pub(crate) fn end(&self, session: &Arc<Session>, evicted: Evicted, confirm: Option<(NodeId, ClaimId)>) {
        let reason = evicted.reason;
        if session.evict(evicted, confirm) {
            self.left_all(session, DisconnectReason::ServerNamespaceDisconnect);
            self.metrics.evicted(reason);
        }
        session.settle(&self.broker);
        session.outbox.wake_tick();
    }

    /// Ends a session for a reason of its connection's. One that has ended stays as it is.
    pub(crate) fn disconnect(&self, session: &Session, reason: DisconnectReason) {
        if session.finish() {
            self.left_all(session, reason);
        }
    }

    /// The session leaves its rooms and its place, and is no receiver any more.
    fn left_all(&self, session: &Session, reason: DisconnectReason) {
        for room in self.hub.remove(session.seat, session.id) {
            self.left(session, &room);
        }
        for topic in interest::of_session(&session.namespace, &session.own_room()) {
            self.interest.leave(&topic);
        }
        if let Some(gone) = session.gone() {
            self.registrar.release(gone);
        }
        session.rule.metrics.sessions.dec();
        self.metrics.disconnected(reason);
        tracing::debug!(session = %session.id, namespace = %session.namespace, %reason, "session ended");
    }

    /// Something about the session is to be told to the registry.
    pub(crate) fn refresh(&self, session: &Session) {
        let (Some(place), Some(holding)) = (session.place(), session.holding) else { return };
        self.registrar.refresh(Refresh {
            place,
            session: session.id,
            claim: holding.claim,
            transport: session.transport(),
            seen_at_ms: session.seen_at_ms.load(Ordering::Relaxed),
        });
    }

    fn left(&self, session: &Session, room: &Room) {
        if let Some(stay) = session.stay(room, &self.options.node) {
            self.registrar.depart(stay);
        }
        if self.interest.leave(&interest::room(&session.namespace, room)) {
            session.rule.metrics.rooms.dec();
        }
    }

    /// Makes the session a member of `room` and answers once what is published from then on will arrive and, where the
    /// namespace keeps presence, the cluster knows of it. Until then the connection holds back what its client sent
    /// behind the join.
    pub(crate) fn join(self: &Arc<Self>, session: &Arc<Session>, room: Room, reply: Reply) {
        let pending = PendingJoin::new(&session.outbox);
        let (node, of, named) = (Arc::clone(self), Arc::clone(session), room.clone());
        let rooms_max = self.options.limits.rooms_per_session_max;
        self.join_then(session, room, move |joined| {
            // Evicted meanwhile, it is acknowledged nothing any more.
            let Some(_deed) = of.begin(&node.broker) else { return };
            match joined {
                // The join that was still under way may have failed, or the session ended, and it was taken back.
                Ok(()) if node.hub.is_member(of.seat, of.id, &named) => reply.ok(),
                Ok(()) | Err(NotJoined::Unavailable) => reply.refuse(&unavailable()),
                Err(NotJoined::Full) => reply.refuse(&Refusal::new(
                    ErrorCode::TooLarge,
                    format!("a session may be in at most {rooms_max} rooms (limits.rooms_per_session_max)"),
                )),
                Err(NotJoined::Gone) => {}
            }
            drop(pending);
        });
    }

    /// Makes the session a member of `room`, and tells `then` when that holds.
    pub(crate) fn join_then(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: Room,
        then: impl FnOnce(Result<(), NotJoined>) + Send + 'static,
    ) {
        let topic = interest::room(&session.namespace, &room);
        let rooms_max = self.options.limits.rooms_per_session_max;
        match self.hub.join(session.seat, session.id, &room, rooms_max) {
            Joined::Gone => then(Err(NotJoined::Gone)),
            Joined::Full => then(Err(NotJoined::Full)),
            Joined::Already => {
                self.interest
                    .confirm(&topic, move |outcome| then(outcome.map_err(|_| NotJoined::Unavailable)));
            }
            Joined::New => {
                let (node, of) = (Arc::clone(self), Arc::clone(session));
                let first = self.interest.join(topic, move |outcome| {
                    if outcome.is_err() {
                        node.unjoin(&of, &room);
                        return then(Err(NotJoined::Unavailable));
                    }
                    let Some(stay) = of.stay(&room, &node.options.node) else { return then(Ok(())) };
                    let registrar = Arc::clone(&node.registrar);
                    registrar.enter(stay, move |outcome| {
                        if outcome.is_err() {
                            node.unjoin(&of, &room);
                        }
                        then(outcome.map_err(|_| NotJoined::Unavailable));
                    });
                });
                if first {
                    session.rule.metrics.rooms.inc();
                }
            }
        }
    }

    /// Takes a join back that did not come to hold.
    fn unjoin(&self, session: &Session, room: &Room) {
        if self.hub.leave(session.seat, session.id, room) {
            self.left(session, room);
        }
    }

    pub(crate) fn leave(&self, session: &Session, room: &Room) {
        if self.hub.leave(session.seat, session.id, room) {
            self.left(session, room);
        }
    }

    /// Hands a publication to the broker and answers when it has been taken. Whoever takes the session's place is
    /// answered only after that.
    pub(crate) fn publish(&self, deed: Deed, publication: Publication, id: MessageId, reply: Reply) {
        self.broker.publish(
            publication,
            Done::call(move |outcome| {
                match outcome {
                    Ok(()) => reply.ok_with(1, |out| {
                        write::str(out, "id");
                        write::str(out, id.as_str());
                    }),
                    Err(_) => reply.refuse(&unavailable()),
                }
                drop(deed);
            }),
        );
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

/// Why a join does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotJoined {
    /// The session is in as many rooms as it may be.
    Full,
    /// The session has ended.
    Gone,
    /// The broker or the registry cannot be reached.
    Unavailable,
}

pub(crate) fn unavailable() -> Refusal {
    Refusal::new(ErrorCode::Unavailable, "the broker cannot be reached; the outcome is unknown")
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
        self.0.metrics.text()
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
        self.0.broker.close().await;
    }
}
