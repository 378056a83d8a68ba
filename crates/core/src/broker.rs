//! The broker port: how a publication reaches every interested node.

use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::ids::{ClaimId, Namespace, NodeId, RequestId, SessionId};
use crate::offline::Arrival;
use crate::publication::{Publication, Topic};
use crate::registry::{Eviction, Vitals};
use crate::request::{Answer, Asker, Request};

/// What a node needs from the thing that joins it to the others.
///
/// The contract, which one test suite holds every implementation to:
/// - A publication reaches the publisher's own node by the same road as every other node.
/// - What one caller publishes, one call after the other, arrives at each subscribed node in that order.
///   Publications of different topics included.
/// - Requests and answers are publications in all of this: they keep one order with them, and reach the own node, too.
/// - Delivery is at most once. Whoever was subscribed, without a break, from before the call until after `done`
///   was told `Ok` gets it exactly once.
/// - After [`Broker::subscribe`] has resolved with `Ok`, everything published on the topic anywhere arrives, until
///   [`Subscriber::lost`] says otherwise.
pub trait Broker: Send + Sync + 'static {
    /// Hands a publication over. The call never blocks and never waits; `done` is told the outcome exactly once,
    /// perhaps before the call returns, from a task of the broker's. It must not block.
    ///
    /// While the backend cannot be reached, publications are held in order up to a bound in bytes and a time, then
    /// refused with [`Error::Unavailable`].
    fn publish(&self, publication: Publication, done: Done);

    /// Resolves once the broker can take more without refusing for lack of room. Publishers that can wait, such as
    /// a connection's reader, wait here before they take more from their peer.
    fn ready(&self) -> Option<BoxFuture<'static, ()>>;

    /// Subscribes to all of `topics` in as few round trips as it takes and resolves once every one is confirmed.
    /// Topics that are subscribed already are confirmed again at no cost. A broker that loses its connection
    /// restores every subscription by itself before it says [`Subscriber::whole`].
    fn subscribe(&self, topics: Vec<Topic>) -> BoxFuture<'static, Result<(), Error>>;

    /// Gives up `topics`. Publications already on their way may still arrive. While disconnected it only forgets.
    fn unsubscribe(&self, topics: Vec<Topic>) -> BoxFuture<'static, Result<(), Error>>;

    /// Asks the servers of the request's namespace: all that are subscribed to [`Topic::Requests`], this node included
    /// if it is. If it has an [`Asker`], of which only the id is looked at, each of them answers what
    /// [`Ask`](crate::Ask) says. What comes is told through [`Subscriber::answered`], if [`Topic::Answers`] is
    /// subscribed. `done` and outages are as in [`Broker::publish`].
    fn request(&self, request: Request, done: Done);

    /// Answers a request of `namespace` that was told through [`Subscriber::request`]; what the asker does not expect
    /// ([`Asker::expects`]) is not sent. An answer that finds no room, or no way within the broker's command timeout,
    /// is counted through [`Subscriber::dropped`]: who asks does not wait for ever, either.
    fn answer(&self, to: &Asker, namespace: &Namespace, answer: Answer);

    /// How many servers are subscribed to [`Topic::Requests`] of `namespace` now, and so will answer. One that is
    /// dead and not yet noticed counts, too: who asks waits with a limit.
    fn listeners(&self, namespace: Namespace) -> BoxFuture<'static, Result<usize, Error>>;

    /// One beat of the pulse: renews the node's lease for `lease_ttl` and, in the same step, publishes `number` on
    /// the node's own channel, from where it comes back through [`Subscriber::pulse`]. `vitals` are written into
    /// the lease.
    fn pulse(
        &self,
        number: u64,
        lease_ttl: Duration,
        vitals: Vitals,
    ) -> BoxFuture<'static, Result<(), PulseError>>;

    /// Tells the node that waits under the name `claim` that `session` is silent from now on. It is not tried again:
    /// a node that does not hear it waits no longer than the fence.
    fn confirm(&self, to: NodeId, claim: ClaimId, session: SessionId);

    /// Gives the lease back and disconnects. Publications accepted before are flushed first, within the broker's
    /// own command timeout.
    fn close(&self) -> BoxFuture<'static, ()>;
}

/// Where a broker delivers. One per node, called from the broker's tasks, in order, never concurrently with itself
/// for one topic. Implementations must return at once.
pub trait Subscriber: Send + Sync + 'static {
    /// A publication of a subscribed topic, or one that crossed with its unsubscription.
    fn publication(&self, publication: Publication);

    /// A request to the servers of a subscribed namespace. One that has an asker is to be answered
    /// ([`Broker::answer`]), also when there is nothing to tell: whoever asked counts.
    fn request(&self, request: Request);

    /// An answer to a request, perhaps one of another node: only `id` says so. `from` is the node that answers, none
    /// if it is a server of another kind.
    fn answered(&self, id: RequestId, from: Option<NodeId>, answer: Answer);

    /// The subscription is whole: every wanted topic is confirmed on one unbroken connection, numbered
    /// `generation`. Numbers only grow.
    fn whole(&self, generation: u64);

    /// The subscription broke, or something that should have been delivered had to be dropped. What is published
    /// from now on may be missed until [`Subscriber::whole`] is told again.
    fn lost(&self);

    /// A pulse came back, on the subscription `generation`.
    fn pulse(&self, number: u64, generation: u64);

    /// A session of this node lost its place. Told in one order with [`Subscriber::pulse`]: an eviction that happened
    /// before a pulse was sent is told before the pulse.
    fn evict(&self, eviction: Eviction);

    /// A message was stored for sessions of this node that are ready for it. Told in one order with the rest of this
    /// node's own channel.
    fn arrived(&self, arrival: Arrival);

    /// A session that another node was told to silence is silent; `claim` is what this node calls its wait.
    fn confirmed(&self, claim: ClaimId, session: SessionId);

    /// A publication arrived that cannot be delivered, and was dropped; `reason` is a label value.
    fn dropped(&self, reason: &'static str);

    /// One command of the broker's took `elapsed`; `command` is a label value such as `publish`.
    fn observe(&self, command: &'static str, elapsed: Duration);

    /// Whether the connection for commands is up.
    fn link(&self, up: bool);
}

/// Under which reason [`Subscriber::dropped`] counts an answer that could not be sent.
pub const ANSWER_REFUSED: &str = "answer_refused";

/// Told the outcome of one [`Broker::publish`] or [`Broker::request`], exactly once.
#[expect(clippy::type_complexity, reason = "a boxed callback; a name of its own would say no more")]
pub struct Done(Option<Box<dyn FnOnce(Result<(), Error>) + Send>>);

impl Done {
    /// Calls `then` with the outcome.
    #[must_use]
    pub fn call(then: impl FnOnce(Result<(), Error>) + Send + 'static) -> Self {
        Self(Some(Box::new(then)))
    }

    /// Nobody waits.
    #[must_use]
    pub const fn nobody() -> Self {
        Self(None)
    }

    /// Tells the outcome.
    pub fn tell(mut self, outcome: Result<(), Error>) {
        if let Some(then) = self.0.take() {
            then(outcome);
        }
    }
}

impl Drop for Done {
    /// A broker that goes away with publications in its queue must not leave their publishers without an answer.
    fn drop(&mut self) {
        if let Some(then) = self.0.take() {
            then(Err(Error::Unavailable));
        }
    }
}

/// Why the broker could not do as asked. All of it is for the operator and passes; clients see `unavailable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No connection, none in time, or one that broke under way: the outcome is unknown.
    #[error("broker unavailable")]
    Unavailable,
    /// The broker was closed.
    #[error("broker closed")]
    Closed,
}

/// Why a pulse failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PulseError {
    /// As above.
    #[error("broker unavailable")]
    Unavailable,
    /// Another process holds the lease of this node id. If it renews the lease it is alive, and this one must stop.
    #[error("node id is held by another live node (incarnation {incarnation})")]
    Conflict {
        /// The other's incarnation.
        incarnation: String,
        /// How long its lease lasts if it is not renewed.
        lease_left: Duration,
    },
}
