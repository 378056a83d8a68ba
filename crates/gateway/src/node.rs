//! The node: the verbs that connections use, and its life from the first pulse to the last.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tidegate_core::broker::{self, Broker, Done, PulseError, Subscriber};
use tidegate_core::{DisconnectReason, ErrorCode, MessageId, Namespace, Publication, Room, SessionId, Topic};
use tidegate_msgpack::write;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{Identity, NameLimits};
use crate::clock::{Clock, unix_ms};
use crate::engines::Engines;
use crate::hub::{Hub, Joined};
use crate::inbound::Inbound;
use crate::interest::{self, Interest};
use crate::message::Message;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::origin::Origins;
use crate::outbox::{Outbox, PendingJoin};
use crate::peer::{Addresses, Place};
use crate::pulse::Pulse;
use crate::reply::{Refusal, Reply};
use crate::session::{Membership, Rule, Session};
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
    pulse: Arc<Pulse>,
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
        Ok(Self { options, clock: Clock::start(), metrics, hub: Arc::new(Hub::new(shards)), pulse })
    }

    /// Where the broker delivers.
    #[must_use]
    pub fn subscriber(&self) -> Arc<dyn Subscriber> {
        Arc::new(Inbound {
            hub: Arc::clone(&self.hub),
            pulse: Arc::clone(&self.pulse),
            metrics: Arc::clone(&self.metrics),
        })
    }

    /// Starts the node's tasks and resolves once its first pulse has come back, within `limit`. A lease that a process
    /// of the same id left behind when it crashed is waited for beyond that.
    ///
    /// # Errors
    /// When another live process holds the node id, or no pulse comes back in time. Nothing is left running.
    pub async fn start(self, broker: Arc<dyn Broker>, limit: Duration) -> Result<Node, StartError> {
        let Self { options, clock, metrics, hub, pulse } = self;
        let rules = options
            .namespaces
            .rules()
            .iter()
            .map(|rule| {
                Arc::new(Rule {
                    operations: rule.operations,
                    metrics: Arc::new(metrics.namespace(&rule.pattern.to_string())),
                })
            })
            .collect();
        let inner = Arc::new(Inner {
            origins: Origins::new(&options.server.allowed_origins),
            addresses: Addresses::new(options.limits.connections_per_ip_max),
            clock,
            metrics,
            hub,
            interest: Arc::new(Interest::new()),
            timer: Arc::new(Timer::new(clock)),
            engines: Engines::new(),
            broker,
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
        inner.spawn_tasks();
        let node = Node(inner);
        let mut fatal = node.0.fatal.subscribe();
        let started = loop {
            tokio::select! {
                () = node.0.pulse.first_echo() => break Ok(()),
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
    fn spawn_tasks(self: &Arc<Self>) {
        for shard in 0..self.hub.shards() {
            let (hub, metrics, stopped) =
                (Arc::clone(&self.hub), Arc::clone(&self.metrics), self.stopped.clone());
            self.tasks.spawn(hub.run_shard(shard, metrics, stopped));
        }
        let (timer, stopped) = (Arc::clone(&self.timer), self.stopped.clone());
        self.tasks.spawn(async move { timer.run(stopped).await });
        let (interest, broker, stopped) =
            (Arc::clone(&self.interest), Arc::clone(&self.broker), self.stopped.clone());
        self.tasks.spawn(async move { interest.run(broker, stopped).await });
        let (inner, stopped) = (Arc::clone(self), self.stopped.clone());
        self.tasks.spawn(async move {
            let broker = Arc::clone(&inner.broker);
            if let Err(conflict) = inner.pulse.run(broker, stopped).await {
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

    /// Subscribes to what a session of `namespace` must hear beside its rooms: the namespace and itself. Resolves
    /// when both are confirmed; the memberships are the session's from then on.
    pub(crate) fn subscribe_session(
        &self,
        namespace: &Namespace,
        id: SessionId,
    ) -> impl Future<Output = Result<[Membership; 2], broker::Error>> + Send + use<> {
        let own = interest::room(namespace, &Room::from(id.as_str()));
        let topics = [Topic::Namespace(namespace.clone()), own];
        let both = topics.map(|topic| {
            let (confirmed, confirmation) = oneshot::channel();
            let membership = Membership::new(&self.interest, topic.clone());
            self.interest.join(topic, |outcome| {
                // Nobody listens any more when the connection ended meanwhile.
                let _ = confirmed.send(outcome);
            });
            (membership, confirmation)
        });
        async move {
            let [(namespace, namespace_confirmed), (own, own_confirmed)] = both;
            namespace_confirmed.await.unwrap_or(Err(broker::Error::Closed))?;
            own_confirmed.await.unwrap_or(Err(broker::Error::Closed))?;
            Ok([namespace, own])
        }
    }

    /// Seats a session and sends `connected` before anything else can reach it.
    pub(crate) fn connect(
        &self,
        shard: u32,
        outbox: &Arc<Outbox>,
        parser: Parser,
        connected: &Message,
        new: NewSession,
    ) -> Session {
        let NewSession { id, namespace, rule, identity, memberships } = new;
        let seat = outbox
            .push_after(connected, || self.hub.insert(shard, id, &namespace, &rule.metrics, outbox, parser));
        memberships.into_iter().for_each(Membership::keep);
        rule.metrics.sessions.inc();
        Session { id, namespace, rule, seat, identity }
    }

    /// Ends a session: it leaves its rooms and is no receiver any more.
    pub(crate) fn disconnect(&self, session: &Session, reason: DisconnectReason) {
        for room in self.hub.remove(session.seat, session.id) {
            self.left(session, &room);
        }
        self.interest.leave(&Topic::Namespace(session.namespace.clone()));
        self.interest.leave(&interest::room(&session.namespace, &session.own_room()));
        session.rule.metrics.sessions.dec();
        self.metrics.disconnected(reason);
        tracing::debug!(session = %session.id, namespace = %session.namespace, %reason, "session ended");
    }

    fn left(&self, session: &Session, room: &Room) {
        if self.interest.leave(&interest::room(&session.namespace, room)) {
            session.rule.metrics.rooms.dec();
        }
    }

    /// Makes the session a member of `room` and answers once what is published from then on will arrive.
    /// Until then the connection holds back what its client sent behind the join.
    pub(crate) fn join(self: &Arc<Self>, session: &Session, room: Room, reply: Reply) {
        if self.pulse.check(Instant::now()).is_err() {
            // A subscription that was confirmed once proves nothing now.
            return reply.refuse(&unavailable());
        }
        let pending = PendingJoin::new(&reply.outbox);
        let topic = interest::room(&session.namespace, &room);
        let rooms_max = self.options.limits.rooms_per_session_max;
        match self.hub.join(session.seat, session.id, &room, rooms_max) {
            Joined::Gone => {}
            Joined::Full => reply.refuse(&Refusal::new(
                ErrorCode::TooLarge,
                format!("a session may be in at most {rooms_max} rooms (limits.rooms_per_session_max)"),
            )),
            Joined::Already => {
                let (node, seat, id) = (Arc::clone(self), session.seat, session.id);
                self.interest.confirm(&topic, move |outcome| {
                    // The join that was still under way may have failed, and have been taken back.
                    match outcome {
                        Ok(()) if node.hub.is_member(seat, id, &room) => reply.ok(),
                        _ => reply.refuse(&unavailable()),
                    }
                    drop(pending);
                });
            }
            Joined::New => {
                let (node, seat, id) = (Arc::clone(self), session.seat, session.id);
                let rule = Arc::clone(&session.rule);
                let undo = topic.clone();
                let first = self.interest.join(topic, move |outcome| {
                    match outcome {
                        Ok(()) => reply.ok(),
                        Err(_) => {
                            if node.hub.leave(seat, id, &room) && node.interest.leave(&undo) {
                                rule.metrics.rooms.dec();
                            }
                            reply.refuse(&unavailable());
                        }
                    }
                    drop(pending);
                });
                if first {
                    session.rule.metrics.rooms.inc();
                }
            }
        }
    }

    pub(crate) fn leave(&self, session: &Session, room: &Room, reply: Reply) {
        if self.hub.leave(session.seat, session.id, room) {
            self.left(session, room);
        }
        reply.ok();
    }

    /// Hands a publication to the broker and answers when it has been taken.
    pub(crate) fn publish(&self, publication: Publication, id: MessageId, reply: Reply) {
        self.broker.publish(
            publication,
            Done::call(move |outcome| match outcome {
                Ok(()) => reply.ok_with(1, |out| {
                    write::str(out, "id");
                    write::str(out, id.as_str());
                }),
                Err(_) => reply.refuse(&unavailable()),
            }),
        );
    }
}

/// What becomes a session once it is seated.
pub(crate) struct NewSession {
    pub(crate) id: SessionId,
    pub(crate) namespace: Namespace,
    pub(crate) rule: Arc<Rule>,
    pub(crate) identity: Identity,
    pub(crate) memberships: [Membership; 2],
}

fn unavailable() -> Refusal {
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
        self.0.broker.close().await;
    }
}
