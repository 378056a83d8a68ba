//! The broker port on Redis.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use redis::RedisError;
use tidegate_core::broker::{ANSWER_REFUSED, Done, Error, PulseError};
use tidegate_core::offline::Quotas;
use tidegate_core::registry::Vitals;
use tidegate_core::{
    Answer, Asker, Broker, ClaimId, Namespace, NodeId, OfflineStore, Publication, Request, SessionId,
    SessionRegistry, Subscriber, Topic, ids,
};
use tidegate_msgpack::write;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::adapter::Envelope;
use crate::commands::{self, CommandLink};
use crate::inbound::Standing;
use crate::keys::Keys;
use crate::lease::Lease;
use crate::node_message::NodeMessage;
use crate::offline::{Inboxes, Offline};
use crate::options::{ConnectError, Options};
use crate::outbound::Outbound;
use crate::registry::{Learned, Port, Registry};
use crate::replication::Replication;
use crate::requests;
use crate::server::{Backoff, Server, Session, check_version};
use crate::settling::{self, Settling};
use crate::subscriptions::{Progress, SubscriptionLink, Subscriptions};

/// Joins nodes over Redis Pub/Sub.
///
/// Two connections are kept: one for commands, one for publications and subscriptions. Both are replaced whenever they break, with
/// growing pauses, for as long as the broker lives; the [`Subscriber`] is told. [`Broker::close`] must be called to
/// end the broker's tasks, which hold the subscriber; dropping it ends them, too, but waits for nothing.
pub struct RedisBroker {
    server: Arc<Server>,
    keys: Keys,
    node: NodeId,
    /// What this process calls itself in envelopes, as MessagePack.
    uid: Vec<u8>,
    outbound: Arc<Outbound>,
    subscriptions: Arc<Subscriptions>,
    lease: Arc<Lease>,
    registry: Arc<Registry>,
    sessions: watch::Receiver<Option<Session>>,
    /// Weak, since the subscriber usually owns the broker.
    subscriber: Weak<dyn Subscriber>,
    command_timeout: Duration,
    tasks: TaskTracker,
    /// Cancelled with the broker, so that no task outlives it.
    cancel: CancellationToken,
    _cancel_on_drop: DropGuard,
}

impl RedisBroker {
    /// Connects, and resolves once both connections are up and the subscription is whole. It takes no lease: the
    /// first pulse does. `subscriber` may be called from now on.
    ///
    /// # Errors
    /// At once when the URL or the prefix cannot be used, or the server is too old; when nothing usable answers within
    /// `connect_timeout`, with the reason of the last attempt.
    pub async fn connect(
        options: Options,
        subscriber: Arc<dyn Subscriber>,
    ) -> Result<Arc<Self>, ConnectError> {
        let deadline = Instant::now() + options.connect_timeout;
        if options.prefix.contains(['{', '}']) {
            return Err(ConnectError::Prefix { prefix: options.prefix });
        }
        let server = Arc::new(Server::parse(&options)?);
        let mut first = first_session(&server, &options, deadline).await?;
        let run_id = settling::run_id(&mut first.connection, options.pulse_timeout()).await;
        let learned = Arc::new(Learned::new(Settling::new(run_id, options.fence_after, Instant::now())));

        // As long as the adapter's own, and of the same characters.
        let name = &ids::random_token()[..6];
        let keys = Keys::new(&options.prefix, &options.adapter_prefix).of_process(name);
        let node_channel = keys.node_channel(&options.node);
        let mut uid = Vec::new();
        write::str(&mut uid, name);
        let outbound = Arc::new(Outbound::new(options.publish_queue_bytes_max, options.command_timeout));
        let subscriptions = Arc::new(Subscriptions::new(options.command_timeout));
        let standing = Arc::new(Standing::new(Arc::clone(&subscriber)));
        let (sessions, sessions_seen) = watch::channel(Some(first.clone()));
        subscriber.link(true);
        let (progress, mut progressed) = watch::channel(Progress::Connecting);

        let tasks = TaskTracker::new();
        let cancel = CancellationToken::new();
        // Keeps the command connection up. It ends only when cancelled: an outage is what it is there for.
        let command_link = CommandLink {
            server: Arc::clone(&server),
            sessions,
            subscriber: Arc::clone(&subscriber),
            ping_timeout: options.pulse_timeout(),
            learned: Arc::clone(&learned),
            outbound: Arc::clone(&outbound),
        };
        tasks.spawn(command_link.run(first, cancel.clone()));
        // Refuses publications as their time runs out. It ends only when cancelled.
        tasks.spawn(Arc::clone(&outbound).run(cancel.clone()));
        // Keeps the subscription whole, and with it the way for publications. It ends only when cancelled, as above; so
        // does what it spawns here to read the connection, or when that breaks.
        let subscription_link = SubscriptionLink {
            server: Arc::clone(&server),
            subscriptions: Arc::clone(&subscriptions),
            standing,
            outbound: Arc::clone(&outbound),
            tasks: tasks.clone(),
            subscriber: Arc::clone(&subscriber),
            keys: keys.clone(),
            node_channel: node_channel.clone(),
            incarnation: options.incarnation.clone(),
            learned: Arc::clone(&learned),
            command_timeout: options.command_timeout,
            ping_timeout: options.pulse_timeout(),
            progress,
        };
        tasks.spawn(subscription_link.run(cancel.clone()));
        tasks.close();

        let registry = Registry::new(
            &options,
            &keys,
            &uid,
            sessions_seen.clone(),
            Arc::downgrade(&subscriber),
            Arc::clone(&learned),
        );
        let lease = Lease::new(
            &options,
            &keys,
            sessions_seen.clone(),
            Arc::clone(&outbound),
            Arc::downgrade(&subscriber),
            learned,
        );
        let broker = Arc::new(Self {
            server: Arc::clone(&server),
            keys,
            node: options.node.clone(),
            uid,
            outbound,
            subscriptions,
            lease: Arc::new(lease),
            registry: Arc::new(registry),
            sessions: sessions_seen,
            subscriber: Arc::downgrade(&subscriber),
            command_timeout: options.command_timeout,
            tasks,
            _cancel_on_drop: cancel.clone().drop_guard(),
            cancel,
        });
        let whole = progressed.wait_for(|progress| *progress == Progress::Whole);
        if let Ok(Ok(_)) = tokio::time::timeout_at(deadline, whole).await {
            tracing::info!(redis = server.masked(), node = %options.node, "connected to redis");
            return Ok(broker);
        }
        let reason = match &*progressed.borrow() {
            Progress::Failed(reason) => reason.clone(),
            _ => "the subscription was not confirmed".to_owned(),
        };
        broker.cancel.cancel();
        broker.tasks.wait().await;
        Err(ConnectError::Unreachable {
            url: server.masked().to_owned(),
            timeout: options.connect_timeout,
            reason,
        })
    }

    /// The registry on the same server, over the same connection for commands. It is of use until the broker is
    /// closed, and after that refuses everything.
    #[must_use]
    pub fn registry(&self) -> Arc<dyn SessionRegistry> {
        Arc::new(Port(Arc::clone(&self.registry)))
    }

    /// The offline store on the same server, likewise. What waits for replicas has a pool of connections of its own.
    #[must_use]
    pub fn offline(&self, quotas: Quotas) -> Arc<dyn OfflineStore> {
        let replication = (quotas.wait_replicas > 0)
            .then(|| Replication::new(Arc::clone(&self.server), self.sessions.clone(), self.command_timeout));
        Arc::new(Offline(Arc::new(Inboxes::new(Arc::clone(&self.registry), quotas, replication))))
    }
}

async fn first_session(
    server: &Server,
    options: &Options,
    deadline: Instant,
) -> Result<Session, ConnectError> {
    let mut backoff = Backoff::default();
    let mut reason = "no attempt was finished".to_owned();
    let attempts = async {
        loop {
            tokio::time::sleep(backoff.next()).await;
            let attempt = async {
                let mut session = commands::open(server).await?;
                let supported = check_version(&mut session.connection).await?;
                Ok::<_, RedisError>((session, supported))
            };
            match attempt.await {
                Ok((session, Ok(()))) => return Ok(session),
                Ok((_, Err(found))) => {
                    return Err(ConnectError::Version { url: server.masked().to_owned(), found });
                }
                Err(error) => {
                    tracing::debug!(redis = server.masked(), %error, "failed to connect");
                    reason = error.to_string();
                }
            }
        }
    };
    match tokio::time::timeout_at(deadline, attempts).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ConnectError::Unreachable {
            url: server.masked().to_owned(),
            timeout: options.connect_timeout,
            reason,
        }),
    }
}

impl Broker for RedisBroker {
    fn publish(&self, publication: Publication, done: Done) {
        let channel = self.keys.topic_channel(&publication.topic());
        self.outbound.push(channel, Envelope::of(&publication, &self.uid).encode(), done);
    }

    fn ready(&self) -> Option<BoxFuture<'static, ()>> {
        self.outbound.ready()
    }

    fn subscribe(&self, topics: Vec<Topic>) -> BoxFuture<'static, Result<(), Error>> {
        self.subscriptions.subscribe(topics)
    }

    fn unsubscribe(&self, topics: Vec<Topic>) -> BoxFuture<'static, Result<(), Error>> {
        self.subscriptions.unsubscribe(topics)
    }

    fn request(&self, request: Request, done: Done) {
        let Request { namespace, asker, ask } = request;
        let id = asker.as_ref().map(|asker| &asker.id);
        let payload = requests::encode_request(self.keys.uid(), Some(&self.node), id, &ask);
        self.outbound.push(self.keys.topic_channel(&Topic::Requests(namespace)), payload, done);
    }

    fn answer(&self, to: &Asker, namespace: &Namespace, answer: Answer) {
        if !to.expects(&answer) {
            return;
        }
        let channel = match to {
            Asker { node: Some(_), uid: Some(uid), .. } => self.keys.answer_channel(namespace, uid),
            // Servers of other kinds hear them all, as they answer each other unless told otherwise; old ones have no
            // channel of their own.
            _ => self.keys.topic_channel(&Topic::Answers(namespace.clone())),
        };
        let payload = requests::encode_answer(&to.id, Some(&self.node), &answer);
        let subscriber = Weak::clone(&self.subscriber);
        let counted = Done::call(move |outcome| {
            if outcome.is_err()
                && let Some(subscriber) = subscriber.upgrade()
            {
                subscriber.dropped(ANSWER_REFUSED);
            }
        });
        self.outbound.push(channel, payload, counted);
    }

    fn listeners(&self, namespace: Namespace) -> BoxFuture<'static, Result<usize, Error>> {
        let session = self.sessions.borrow().clone();
        let channel = self.keys.topic_channel(&Topic::Requests(namespace));
        let timeout = self.command_timeout;
        async move {
            let mut session = session.ok_or(Error::Unavailable)?;
            let mut command = redis::cmd("PUBSUB");
            command.arg("NUMSUB").arg(channel);
            let counted = command.query_async::<(Vec<u8>, usize)>(&mut session.connection);
            tokio::select! {
                counted = tokio::time::timeout(timeout, counted) => match counted {
                    Ok(Ok((_, count))) => Ok(count),
                    _ => Err(Error::Unavailable),
                },
                () = session.broken.cancelled() => Err(Error::Unavailable),
            }
        }
        .boxed()
    }

    fn pulse(
        &self,
        number: u64,
        lease_ttl: Duration,
        vitals: Vitals,
    ) -> BoxFuture<'static, Result<(), PulseError>> {
        let lease = Arc::clone(&self.lease);
        async move { lease.pulse(number, lease_ttl, &vitals).await }.boxed()
    }

    fn confirm(&self, to: NodeId, claim: ClaimId, session: SessionId) {
        let message = NodeMessage::evicted(&claim, &session).encode();
        self.outbound.push(self.keys.node_channel(&to), message, Done::nobody());
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.outbound.close();
        self.subscriptions.close();
        let (outbound, lease) = (Arc::clone(&self.outbound), Arc::clone(&self.lease));
        let (tasks, cancel, timeout) = (self.tasks.clone(), self.cancel.clone(), self.command_timeout);
        async move {
            // What is not answered by then is refused when its task is cancelled.
            let _ = tokio::time::timeout(timeout, outbound.flushed()).await;
            lease.give_back().await;
            cancel.cancel();
            tasks.wait().await;
        }
        .boxed()
    }
}
