//! The registry port: which sessions of a user live, on which node, and who had to go for whom.
//!
//! A *place* is one user in one namespace. Every session of an identified user claims its user's place before its
//! CONNECT is answered. A claim is one atomic step: it applies the policy, marks whoever must go as displaced and
//! tells their nodes. It is named by a random id that all later steps compare, so that a loser cannot undo a winner,
//! and ordered by its epoch.
//!
//! Sessions belong to an incarnation of a node. What keeps them is that incarnation's lease, which the pulse renews
//! ([`Broker::pulse`](crate::Broker::pulse)), so that ten thousand sessions cost no more to keep than one. When the
//! lease ends, any other node takes over what is left ([`SessionRegistry::tend`]).

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::ids::{ClaimId, Incarnation, Namespace, NodeId, Room, SessionId};
use crate::publication::Publication;

/// What a node needs from the thing that remembers sessions for the whole cluster.
///
/// One per node and incarnation. The contract, which one test suite holds every implementation to:
/// - For one place, claims, checks, releases and kicks happen one after the other, each whole or not at all.
/// - Whoever is displaced or kicked is marked so in the step that displaces, and its node is told on its own channel
///   ([`Subscriber::evict`](crate::Subscriber::evict)) in that step: an eviction is heard before the echo of every
///   pulse that is sent after it.
/// - The mark stays until the loser's node releases the session, for a day at least if it never does and may come back: a
///   session that was displaced while nobody could reach its node is found displaced whenever it is checked, also when
///   its winner has left meanwhile, and when its node was taken for dead.
/// - Whoever lost a place less than its node's `fence_after` ago is told again for every claim of that place, and listed as
///   displaced by it: its winner may have stopped waiting.
/// - A step that names a claim does nothing to a session that another claim holds.
/// - Every list is taken in as few round trips as it takes, and one after the other.
pub trait SessionRegistry: Send + Sync + 'static {
    /// Claims a place. Claiming again with the same id changes nothing and gives the same answer.
    fn claim(&self, claim: Claim) -> BoxFuture<'static, Result<Claimed, ClaimError>>;

    /// Whether each of `held` still holds its place, in their order. One that is gone, because the registry lost it or
    /// a reaper forgot it, has lost its place to newer claims if the policy sets them against it, and is marked so.
    /// Otherwise it is put back with its old epoch when `restore` is set, and displaces every older one.
    fn check(&self, held: Vec<Claim>, restore: bool) -> BoxFuture<'static, Result<Vec<Verdict>, Error>>;

    /// Forgets sessions that ended, their marks included.
    fn release(&self, gone: Vec<Gone>) -> BoxFuture<'static, Result<(), Error>>;

    /// Ends the sessions of a place, or of one device of it: marks them as kicked and tells their nodes, who confirm
    /// to `confirm`. Returns them.
    fn kick(
        &self,
        place: Place,
        device: Option<Arc<str>>,
        confirm: ClaimId,
    ) -> BoxFuture<'static, Result<Vec<Row>, Error>>;

    /// Writes down what has changed about sessions since their claim. Of a stale claim, nothing.
    fn refresh(&self, changed: Vec<Refresh>) -> BoxFuture<'static, Result<(), Error>>;

    /// The live sessions of each place, the oldest claim first.
    fn find(&self, places: Vec<Place>) -> BoxFuture<'static, Result<Vec<Vec<Row>>, Error>>;

    /// Writes down that sessions are in rooms. When it is the first of its user there and `announce` is given, what
    /// that makes is published in the same step, so that it happens once.
    fn enter(&self, stays: Vec<Stay>, announce: Option<Announce>) -> BoxFuture<'static, Result<(), Error>>;

    /// Writes down that sessions left rooms, and announces it likewise when it was the last of its user there.
    fn depart(&self, stays: Vec<Stay>, announce: Announce) -> BoxFuture<'static, Result<(), Error>>;

    /// Who is in a room, session by session; see [`Page`].
    fn members(
        &self,
        namespace: Namespace,
        room: Room,
        page: Page,
    ) -> BoxFuture<'static, Result<Listed<Stay>, Error>>;

    /// The rooms with a member, and how many users each has; see [`Page`].
    fn rooms(&self, namespace: Namespace, page: Page) -> BoxFuture<'static, Result<Listed<Occupied>, Error>>;

    /// The incarnations that hold a lease.
    fn nodes(&self) -> BoxFuture<'static, Result<Vec<NodeRow>, Error>>;

    /// What the registry knows of this very incarnation. Asked after a time of deafness, once the lease has been
    /// renewed: an incarnation that was taken for dead meanwhile must not go on as if nothing had happened.
    fn own(&self) -> BoxFuture<'static, Result<Own, Error>>;

    /// Everything the registry holds in the name of this incarnation, to be compared with what really lives here.
    fn held(&self) -> BoxFuture<'static, Result<Vec<Gone>, Error>>;

    /// Every stay that the registry may hold in the name of this incarnation, likewise.
    fn stays(&self) -> BoxFuture<'static, Result<Vec<Stay>, Error>>;

    /// Writes this incarnation into the list of nodes and, when `reap` is set, takes over what dead ones left: their
    /// sessions are forgotten, their stays announced as over, each by one node of all. A node sets `reap` only when it
    /// has itself been fresh for as long as a lease lives. Called every `lease_renew`.
    fn tend(&self, reap: Option<Announce>) -> BoxFuture<'static, Result<Tended, Error>>;

    /// Gives up what is left in the name of this incarnation when its node stops in good order.
    fn close(&self) -> BoxFuture<'static, ()>;
}

/// One user in one namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The namespace.
    pub namespace: Namespace,
    /// The user.
    pub user: Arc<str>,
}

/// How many sessions of a place may live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// One of each device.
    #[default]
    PerDevice,
    /// This many of all devices together; at least one.
    Max(u32),
    /// Any number.
    Unlimited,
}

/// What becomes of a claim that would be one too many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDuplicate {
    /// The oldest goes.
    #[default]
    Replace,
    /// The newcomer is refused, unless the node of whoever is in its way is dead.
    Reject,
}

/// A session that wants, or has, a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Whose.
    pub place: Place,
    /// The session.
    pub session: SessionId,
    /// What the claim is called. Its node makes it up, so that it can take back a claim whose answer got lost.
    pub id: ClaimId,
    /// Orders the claims of a place. 0 for one that is yet to be made.
    pub epoch: u64,
    /// The device.
    pub device: Arc<str>,
    /// The transport, as a label value.
    pub transport: Transport,
    /// How many may live beside it.
    pub policy: Policy,
    /// What happens when that is too many.
    pub on_duplicate: OnDuplicate,
    /// The session that the same client had and lost, if this claim is made by a client that comes back by itself. It may be
    /// displaced whatever the policy says, like one that was claimed to resume the same session (whose answer the client may
    /// not have got), and before anybody else; of others only those whose nodes are dead: the newcomer is refused as with
    /// [`OnDuplicate::Reject`], so that a client that was displaced unheard does not take the place back from whoever has
    /// come since.
    pub resumes: Option<SessionId>,
    /// Whether it is ready for durable messages. A check makes it so that the registry has lost only that; see
    /// [`OfflineStore::open`](crate::OfflineStore::open).
    pub ready: bool,
}

/// What a session speaks over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// HTTP long-polling.
    Polling,
    /// WebSocket.
    WebSocket,
}

impl Transport {
    /// The word in answers and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Polling => "polling",
            Self::WebSocket => "websocket",
        }
    }

    /// What the word means.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Polling, Self::WebSocket].into_iter().find(|transport| transport.as_str() == word)
    }
}

/// A claim that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The epoch of the claim, which is about the Unix time in milliseconds.
    pub epoch: u64,
    /// Who must be silent before the newcomer is answered.
    pub displaced: Vec<Displaced>,
    /// The newcomer is not answered for this long in any case: the registry may have lost claims that others act on.
    pub settling: Duration,
}

/// A session that lost its place. Its node was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Displaced {
    /// The session.
    pub session: SessionId,
    /// Where it lives.
    pub node: NodeId,
    /// How long after the claim its node may still act for it if it does not confirm.
    pub fence_after: Duration,
}

/// What became of a session, as the registry sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds its place.
    Held,
    /// It was gone, and holds its place again.
    Restored,
    /// It is gone, nobody came in its place, and it was not to be put back.
    Absent,
    /// It lost its place.
    Evicted(Evicted),
}

/// Why a session lost its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evicted {
    /// The reason.
    pub reason: EvictReason,
    /// Who came in its place, if somebody did.
    pub by: Option<By>,
}

/// Why a session is ended in its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictReason {
    /// A newer session took its place.
    Replaced,
    /// Somebody with the right to do so ended it.
    Kicked,
    /// Its token expired.
    Expired,
}

impl EvictReason {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Replaced, Self::Kicked, Self::Expired];

    /// The word in events and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Replaced => "replaced",
            Self::Kicked => "kicked",
            Self::Expired => "expired",
        }
    }

    /// What the word means.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == word)
    }
}

/// Who took a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    /// Its device.
    pub device: Arc<str>,
    /// Its node.
    pub node: NodeId,
    /// When, in Unix milliseconds: the epoch of its claim.
    pub ts: u64,
}

/// A node is told that one of its sessions lost its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// The session's namespace.
    pub namespace: Namespace,
    /// The session.
    pub session: SessionId,
    /// The claim that lost.
    pub claim: ClaimId,
    /// Why.
    pub evicted: Evicted,
    /// Who waits to hear that the session is silent: a node, and what it calls its wait.
    pub confirm: (NodeId, ClaimId),
}

/// A session that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Whose it was.
    pub place: Place,
    /// The session.
    pub session: SessionId,
    /// Its claim.
    pub claim: ClaimId,
}

/// What has changed about a session since its claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refresh {
    /// Whose it is.
    pub place: Place,
    /// The session.
    pub session: SessionId,
    /// Its claim.
    pub claim: ClaimId,
    /// Its transport now.
    pub transport: Transport,
    /// When it last gave a sign of life, in Unix milliseconds.
    pub seen_at_ms: u64,
}

/// A live session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The session.
    pub session: SessionId,
    /// Its claim.
    pub claim: ClaimId,
    /// The epoch of its claim, which is when it connected, in Unix milliseconds.
    pub epoch: u64,
    /// Its device.
    pub device: Arc<str>,
    /// Its node.
    pub node: NodeId,
    /// That run of its node.
    pub incarnation: Incarnation,
    /// Its transport.
    pub transport: Transport,
    /// Its last known sign of life, in Unix milliseconds.
    pub seen_at_ms: u64,
}

/// A session of a user in a room.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stay {
    /// The namespace.
    pub namespace: Namespace,
    /// The room.
    pub room: Room,
    /// The user.
    pub user: Arc<str>,
    /// The device.
    pub device: Arc<str>,
    /// The session.
    pub session: SessionId,
    /// Its node.
    pub node: NodeId,
}

/// What is published when a user comes to a room or leaves it. A plain function, since a reaper announces for others.
#[derive(Clone, Copy, Debug)]
pub struct Announce(pub fn(&Change<'_>) -> Publication);

/// A user came to a room, or left it.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// Whether it came.
    pub joined: bool,
    /// The stay that began or ended it.
    pub stay: &'a Stay,
}

/// Which part of a long list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Where the page before ended, as [`Listed::next`] said; none for the first.
    pub after: Option<String>,
    /// About how many at most: a page may be somewhat longer, and shorter without being the last.
    pub limit: usize,
}

/// One page of a list that changes while it is read. What is there all along is on one page or another; what comes or
/// goes meanwhile may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Where the next one begins; none after the last.
    pub next: Option<String>,
}

/// A room with members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupied {
    /// The room.
    pub room: Room,
    /// How many users are in it.
    pub users: u64,
}

/// How a node is, as it says itself with every pulse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    /// Open Engine.IO connections.
    pub connections: u64,
    /// Live sessions.
    pub sessions: u64,
    /// Whether it is going away.
    pub draining: bool,
    /// Its version.
    pub version: Arc<str>,
}

/// A node that holds its lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// What it is called.
    pub node: NodeId,
    /// Which run of it.
    pub incarnation: Incarnation,
    /// Since when, in Unix milliseconds by its own clock.
    pub started_at_ms: u64,
    /// How it was when it last pulsed.
    pub vitals: Vitals,
}

/// What the registry knows of an incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// It is in the list of nodes.
    Listed,
    /// It is not: the registry lost it, or it is new.
    Unknown,
    /// Another node took it for dead and took over what it had, or is about to.
    Reaped,
}

/// What [`SessionRegistry::tend`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tended {
    /// Dead incarnations that this call finished with.
    pub nodes: usize,
    /// Their sessions.
    pub sessions: usize,
}

/// The registry cannot be reached, or not in time: the outcome is unknown. It passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("session registry unavailable")]
pub struct Error;

/// Why a claim was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// The policy keeps those that are there.
    #[error("the place is taken")]
    Taken,
    /// As above.
    #[error(transparent)]
    Unavailable(#[from] Error),
}
