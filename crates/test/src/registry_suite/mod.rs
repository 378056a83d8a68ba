//! The registry port's contract, as tests that every implementation has to pass.

pub mod checks;
pub mod claims;
pub mod nodes;
pub mod presence;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tidegate_core::offline::Quotas;
use tidegate_core::registry::{
    Announce, By, Change, Claim, Claimed, EvictReason, Evicted, Eviction, Gone, OnDuplicate, Place, Policy,
    Row, SessionRegistry, Stay, Transport, Verdict, Vitals,
};
use tidegate_core::{
    Broker, ClaimId, Flags, Incarnation, Namespace, NodeId, OfflineStore, Publication, Room, Rooms,
    SessionId, Topic,
};
use tidegate_msgpack::write;

use crate::broker_suite::{Event, Recorder, publish};

pub use crate::broker_suite::PATIENCE;

/// How long the leases of the suite live: longer than any test.
pub const LEASE_TTL: Duration = Duration::from_secs(600);

/// Names with everything that a key, a pattern, a tag or a delimiter could stumble over.
pub const ODD_NAMES: [&str; 16] = [
    " ",
    "a b",
    "#",
    "a#b",
    "{}",
    "{a}",
    "}{",
    "a|b",
    "|",
    "%",
    "%7C",
    "a%b",
    "*?[a-c]",
    "\\\"'\r\n\t",
    "\u{0}\u{7f}",
    "日本語🚪e\u{301}",
];

/// Nodes that share the registry under test.
pub trait Cluster: Sync {
    /// Joins a node. Names may repeat once their node is gone. It fences itself after [`fence_after`] of its name,
    /// and holds no lease before its first pulse.
    fn join(&self, name: &str) -> impl Future<Output = Node> + Send;

    /// Joins a node, writes it into the list of nodes and sees to it that it holds no lease, though it lives on.
    fn join_lapsed(&self, name: &str) -> impl Future<Output = Node> + Send;

    /// Ends a node as if its process was killed. Its lease is over when this resolves.
    fn crash(&self, node: Node) -> impl Future<Output = ()> + Send;

    /// The registry forgets every session, and perhaps everything else.
    fn lose_everything(&self) -> impl Future<Output = ()> + Send;
}

/// Makes offline stores of one node; clones make the same.
#[derive(Clone)]
pub struct Stores(pub Arc<dyn Fn(Quotas) -> Arc<dyn OfflineStore> + Send + Sync>);

/// One node: its ports, and what they told it.
#[derive(Clone)]
pub struct Node {
    /// What joins it to the others.
    pub broker: Arc<dyn Broker>,
    /// The registry under test.
    pub registry: Arc<dyn SessionRegistry>,
    /// Gives an offline store beside it that is held to these quotas.
    pub stores: Stores,
    /// Everything it was told.
    pub recorder: Arc<Recorder>,
    /// What it is called.
    pub node: NodeId,
    /// Which run of it.
    pub incarnation: Incarnation,
}

impl Node {
    /// Pulses, and waits for the echo: every eviction of before has been told then.
    ///
    /// # Panics
    /// When the pulse fails, or does not come back.
    pub async fn pulse(&self) {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        self.broker.pulse(number, LEASE_TTL, Vitals::default()).await.expect("the node holds its id");
        let echo = |event: &Event| matches!(event, Event::Pulse(echo, _) if *echo == number);
        self.recorder.until(format!("pulse {number}"), |events| events.iter().any(echo)).await;
    }

    /// Claims, and gives the claim with its epoch.
    ///
    /// # Panics
    /// When the claim is refused.
    pub async fn claim(&self, claim: Claim) -> (Claim, Claimed) {
        let claimed = self.registry.claim(claim.clone()).await.expect("nobody is in the way");
        assert_eq!(claimed.settling, Duration::ZERO, "this registry lost nothing");
        (Claim { epoch: claimed.epoch, ..claim }, claimed)
    }

    /// Claims what nobody else has. The next claim has a later epoch, also where epochs are not needed and those of
    /// one millisecond may be the same.
    ///
    /// # Panics
    /// When somebody has, or the claim is refused.
    pub async fn hold(&self, claim: Claim) -> Claim {
        let (held, claimed) = self.claim(claim).await;
        assert_eq!(claimed.displaced, []);
        if held.policy == Policy::Unlimited {
            passed(held.epoch).await;
        }
        held
    }

    /// Looks at one session.
    ///
    /// # Panics
    /// When the registry is unavailable.
    pub async fn check(&self, held: &Claim, restore: bool) -> Verdict {
        let verdicts = self.registry.check(vec![held.clone()], restore).await;
        let [verdict] = verdicts.expect("the registry is up").try_into().expect("one verdict a session");
        verdict
    }

    /// Forgets one session.
    ///
    /// # Panics
    /// When the registry is unavailable.
    pub async fn release(&self, held: &Claim) {
        self.registry.release(vec![gone(held)]).await.expect("the registry is up");
    }

    /// The live sessions of a user of `/`, the oldest first.
    ///
    /// # Panics
    /// When the registry is unavailable.
    pub async fn find(&self, user: &str) -> Vec<Row> {
        let found = self.registry.find(vec![place(user)]).await;
        let [rows] = found.expect("the registry is up").try_into().expect("one list a place");
        rows
    }

    /// Their ids.
    ///
    /// # Panics
    /// When the registry is unavailable.
    pub async fn sessions(&self, user: &str) -> Vec<SessionId> {
        self.find(user).await.into_iter().map(|row| row.session).collect()
    }

    /// The evictions it was told of so far.
    #[must_use]
    pub fn evictions(&self) -> Vec<Eviction> {
        let evictions = self.recorder.events().into_iter().filter_map(|event| match event {
            Event::Evict(eviction) => Some(eviction),
            _ => None,
        });
        evictions.collect()
    }

    /// The same, once all of before have arrived.
    ///
    /// # Panics
    /// When a pulse does not come back.
    pub async fn told(&self) -> Vec<Eviction> {
        self.pulse().await;
        self.evictions()
    }

    /// The row that `held` has here.
    #[must_use]
    pub fn row(&self, held: &Claim) -> Row {
        Row {
            session: held.session,
            claim: held.id,
            epoch: held.epoch,
            device: Arc::clone(&held.device),
            node: self.node.clone(),
            incarnation: self.incarnation.clone(),
            transport: held.transport,
            seen_at_ms: held.epoch,
        }
    }

    /// What a session that lost to `winner`, which lives here, is told.
    #[must_use]
    pub fn replaces(&self, winner: &Claim) -> Evicted {
        let device = Arc::clone(&winner.device);
        let by = By { device, node: self.node.clone(), ts: winner.epoch };
        Evicted { reason: EvictReason::Replaced, by: Some(by) }
    }

    /// What the node of `loser` is told when it lost to `winner`, which lives here.
    #[must_use]
    pub fn evicts(&self, winner: &Claim, loser: &Claim) -> Eviction {
        Eviction {
            namespace: loser.place.namespace.clone(),
            session: loser.session,
            claim: loser.id,
            evicted: self.replaces(winner),
            confirm: (self.node.clone(), winner.id),
        }
    }

    /// A stay here, of the session of `held`.
    #[must_use]
    pub fn stay(&self, held: &Claim, room: &str) -> Stay {
        Stay {
            namespace: held.place.namespace.clone(),
            room: Room::from(room),
            user: Arc::clone(&held.place.user),
            device: Arc::clone(&held.device),
            session: held.session,
            node: self.node.clone(),
        }
    }

    /// Hears what is announced in rooms of `/`.
    ///
    /// # Panics
    /// When the broker is unavailable.
    pub async fn listen(&self, rooms: &[&str]) {
        let topic = |room: &&str| Topic::Room(Namespace::root(), Room::from(*room));
        self.broker.subscribe(rooms.iter().map(topic).collect()).await.expect("the broker is up");
    }

    /// All that was announced in `room` of `/` so far, which it listens to.
    ///
    /// # Panics
    /// When the broker is unavailable.
    pub async fn announced(&self, room: &str) -> Vec<Publication> {
        // Whatever was published before it arrives before it.
        let end = announcement(&Namespace::root(), &Room::from(room), ClaimId::random().as_str(), "");
        publish(&self.broker, end.clone()).await.expect("the broker is up");
        self.recorder.until_publication(&end).await;
        let mut publications = self.recorder.publications();
        publications.retain(|publication| publication.rooms == end.rooms && is_announcement(publication));
        publications
    }
}

/// A node with a lease, in the list of nodes.
///
/// # Panics
/// When it cannot be had.
pub async fn node(cluster: &impl Cluster, name: &str) -> Node {
    let node = cluster.join(name).await;
    node.pulse().await;
    node.registry.tend(None).await.expect("the registry is up");
    node
}

/// Two of them.
///
/// # Panics
/// As [`node`].
pub async fn pair(cluster: &impl Cluster) -> (Node, Node) {
    (node(cluster, "a").await, node(cluster, "b").await)
}

/// How long the node of this name may act without hearing from the cluster: every one a different while, and all
/// longer than a test.
#[must_use]
pub fn fence_after(name: &NodeId) -> Duration {
    let first = name.as_str().bytes().next().unwrap_or_default();
    Duration::from_secs(30) + Duration::from_millis(first.into())
}

/// A user of `/`.
#[must_use]
pub fn place(user: &str) -> Place {
    Place { namespace: Namespace::root(), user: user.into() }
}

/// A claim yet to be made: one session of each device may live, and the newest wins.
#[must_use]
pub fn claim(user: &str, device: &str) -> Claim {
    Claim {
        place: place(user),
        session: SessionId::random(),
        id: ClaimId::random(),
        epoch: 0,
        device: device.into(),
        transport: Transport::WebSocket,
        policy: Policy::PerDevice,
        on_duplicate: OnDuplicate::Replace,
        resumes: None,
        ready: false,
    }
}

/// The same with another policy.
#[must_use]
pub fn claim_as(user: &str, device: &str, policy: Policy, on_duplicate: OnDuplicate) -> Claim {
    Claim { policy, on_duplicate, ..claim(user, device) }
}

/// What is released of a claim.
#[must_use]
pub fn gone(held: &Claim) -> Gone {
    Gone { place: held.place.clone(), session: held.session, claim: held.id }
}

/// Another claim of the same session, which nobody made.
#[must_use]
pub fn stale(held: &Claim) -> Claim {
    Claim { id: ClaimId::random(), ..held.clone() }
}

/// Announces what changed, and nothing about who changed it: of several sessions any may be the first.
pub const ANNOUNCE: Announce = Announce(|change: &Change<'_>| {
    let word = if change.joined { "came" } else { "went" };
    announcement(&change.stay.namespace, &change.stay.room, word, &change.stay.user)
});

/// `user` came to a room of `/`.
#[must_use]
pub fn came(room: &str, user: &str) -> Publication {
    announcement(&Namespace::root(), &Room::from(room), "came", user)
}

/// `user` left a room of `/`.
#[must_use]
pub fn went(room: &str, user: &str) -> Publication {
    announcement(&Namespace::root(), &Room::from(room), "went", user)
}

fn announcement(namespace: &Namespace, room: &Room, word: &str, user: &str) -> Publication {
    let mut data = Vec::new();
    write::array(&mut data, 2);
    write::str(&mut data, word);
    write::str(&mut data, user);
    Publication {
        namespace: namespace.clone(),
        rooms: Rooms::from_iter([room.clone()]),
        except: Rooms::new(),
        flags: Flags::default(),
        data: data.into(),
    }
}

fn is_announcement(publication: &Publication) -> bool {
    [&b"\x92\xa4came"[..], b"\x92\xa4went"].iter().any(|head| publication.data.starts_with(head))
}

/// Waits until the clock has passed `epoch`. A registry that forgot it would otherwise give it out once more.
pub async fn passed(epoch: u64) {
    while unix_ms() <= epoch {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The Unix time in milliseconds.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
