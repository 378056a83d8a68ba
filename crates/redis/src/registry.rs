//! The session registry on Redis: the port, and what its parts share.
//!
//! Everything goes over the command connection. What a node is about to hold is written into its index first
//! (`index`), then held (`places`, `presence`); so whoever takes over from it (`reaper`) finds everything.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use parking_lot::Mutex;
use tidegate_core::registry::{
    Announce, Claim, ClaimError, Claimed, Error, Gone, Listed, NodeRow, Occupied, Own, Page, Place, Refresh,
    Row, Stay, Tended, Verdict,
};
use tidegate_core::{ClaimId, Incarnation, Namespace, NodeId, Room, SessionRegistry, Subscriber};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::index;
use crate::keys::Keys;
use crate::options::Options;
use crate::scripts::{BATCH_MAX, Scripts};
use crate::server::Session;
use crate::settling::Settling;

/// What a lease is taken to live before the first pulse has said it: the documented default.
const LEASE_TTL_MS: u64 = 10_000;

/// What the broker's tasks learn and the registry needs.
pub(crate) struct Learned {
    /// When claims may again be missing.
    pub(crate) settling: Settling,
    /// The `lease_ttl` of the latest pulse, in ms.
    pub(crate) lease_ttl_ms: AtomicU64,
    /// The id of the subscription's connection; 0 while it is not known.
    pub(crate) subscription_client: AtomicU64,
}

impl Learned {
    pub(crate) fn new(settling: Settling) -> Self {
        Self { settling, lease_ttl_ms: AtomicU64::new(LEASE_TTL_MS), subscription_client: AtomicU64::new(0) }
    }
}

/// What the parts of the registry share.
pub(crate) struct Registry {
    pub(crate) scripts: Scripts,
    pub(crate) keys: Keys,
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) fence_after: Duration,
    /// What this process calls itself in envelopes, as MessagePack.
    pub(crate) uid: Vec<u8>,
    pub(crate) held_key: String,
    pub(crate) stays_key: String,
    pub(crate) learned: Arc<Learned>,
    /// Whether the node has been told by [`SessionRegistry::own`] that it was taken for dead, and has not been listed
    /// again since. Until it is told, it must not write itself into the list as if nothing had happened.
    pub(crate) knows_of_reaping: AtomicBool,
    /// Whether it ever was. From then on it vouches for what it restores, in case whoever took over is still at it.
    pub(crate) was_reaped: AtomicBool,
    /// Whether something was read that no version known here writes; logged once.
    puzzled: AtomicBool,
    /// When it was last tended, by the clock of Redis in Unix ms and by this node's.
    pub(crate) tended_at: Mutex<Option<(u64, Instant)>>,
}

impl Registry {
    pub(crate) fn new(
        options: &Options,
        keys: &Keys,
        uid: &[u8],
        sessions: watch::Receiver<Option<Session>>,
        subscriber: Weak<dyn Subscriber>,
        learned: Arc<Learned>,
    ) -> Self {
        Self {
            scripts: Scripts::new(sessions, subscriber, options.command_timeout),
            held_key: keys.held(&options.node, &options.incarnation),
            stays_key: keys.stays(&options.node, &options.incarnation),
            keys: keys.clone(),
            node: options.node.clone(),
            incarnation: options.incarnation.clone(),
            fence_after: options.fence_after,
            uid: uid.to_vec(),
            learned,
            knows_of_reaping: AtomicBool::new(false),
            was_reaped: AtomicBool::new(false),
            puzzled: AtomicBool::new(false),
            tended_at: Mutex::new(None),
        }
    }

    /// An answer, or something stored, cannot be read.
    pub(crate) fn unknown(&self, what: &'static str) -> Error {
        if !self.puzzled.swap(true, Ordering::Relaxed) {
            tracing::warn!(what, "the session registry holds something that this version cannot read");
        }
        Error
    }

    /// One step through a set: where the next begins, 0 after the last, and some members.
    pub(crate) async fn scan(
        &self,
        label: &'static str,
        key: &str,
        cursor: u64,
    ) -> Result<(u64, Vec<Vec<u8>>), Error> {
        let mut command = redis::cmd("SSCAN");
        command.arg(key).arg(cursor).arg("COUNT").arg(BATCH_MAX);
        self.scripts.ask_one(label, command).await
    }

    /// The members of a set of this incarnation's, each once.
    async fn members_of(&self, key: &str) -> Result<HashSet<Vec<u8>>, Error> {
        let mut all = HashSet::new();
        let mut cursor = 0;
        loop {
            let (next, members) = self.scan("held", key, cursor).await?;
            all.extend(members);
            if next == 0 {
                return Ok(all);
            }
            cursor = next;
        }
    }

    async fn held(&self) -> Result<Vec<Gone>, Error> {
        let members = self.members_of(&self.held_key).await?;
        Ok(members.iter().filter_map(|member| index::read_held(member)).collect())
    }

    async fn stays(&self) -> Result<Vec<Stay>, Error> {
        let members = self.members_of(&self.stays_key).await?;
        Ok(members.iter().filter_map(|member| index::read_stay(member, &self.node)).collect())
    }

    /// Ends what is left, and strikes the node off the list last: what this does not get to is taken over by others.
    async fn give_back(&self) -> Result<(), Error> {
        self.leave(&self.stays().await?, None).await?;
        self.give_up(&self.held().await?).await?;
        let mut indexes = redis::cmd("UNLINK");
        indexes.arg(&self.held_key).arg(&self.stays_key);
        let mut entry = redis::cmd("HDEL");
        entry.arg(self.keys.nodes()).arg(self.incarnation.as_str());
        self.scripts.ask("release", vec![indexes, entry]).await.map(drop)
    }
}

/// The port. Every call runs on its own, and is given up when its future is dropped.
pub(crate) struct Port(pub(crate) Arc<Registry>);

impl SessionRegistry for Port {
    fn claim(&self, claim: Claim) -> BoxFuture<'static, Result<Claimed, ClaimError>> {
        let registry = Arc::clone(&self.0);
        async move { registry.claim(&claim).await }.boxed()
    }

    fn check(&self, held: Vec<Claim>, restore: bool) -> BoxFuture<'static, Result<Vec<Verdict>, Error>> {
        let registry = Arc::clone(&self.0);
        async move { registry.check(&held, restore).await }.boxed()
    }

    fn release(&self, gone: Vec<Gone>) -> BoxFuture<'static, Result<(), Error>> {
        let registry = Arc::clone(&self.0);
        async move { registry.give_up(&gone).await }.boxed()
    }

    fn kick(
        &self,
        place: Place,
        device: Option<Arc<str>>,
        confirm: ClaimId,
    ) -> BoxFuture<'static, Result<Vec<Row>, Error>> {
        let registry = Arc::clone(&self.0);
        async move { registry.kick(&place, device.as_deref(), &confirm).await }.boxed()
    }

    fn refresh(&self, changed: Vec<Refresh>) -> BoxFuture<'static, Result<(), Error>> {
        let registry = Arc::clone(&self.0);
        async move { registry.refresh(&changed).await }.boxed()
    }

    fn find(&self, places: Vec<Place>) -> BoxFuture<'static, Result<Vec<Vec<Row>>, Error>> {
        let registry = Arc::clone(&self.0);
        async move { registry.find(&places).await }.boxed()
    }

    fn enter(&self, stays: Vec<Stay>, announce: Option<Announce>) -> BoxFuture<'static, Result<(), Error>> {
        let registry = Arc::clone(&self.0);
        async move { registry.enter(&stays, announce).await }.boxed()
    }

    fn depart(&self, stays: Vec<Stay>, announce: Announce) -> BoxFuture<'static, Result<(), Error>> {
        let registry = Arc::clone(&self.0);
        async move { registry.leave(&stays, Some(announce)).await }.boxed()
    }

    fn members(
        &self,
        namespace: Namespace,
        room: Room,
        page: Page,
    ) -> BoxFuture<'static, Result<Listed<Stay>, Error>> {
        let registry = Arc::clone(&self.0);
        async move { registry.members(&namespace, &room, &page).await }.boxed()
    }

    fn rooms(&self, namespace: Namespace, page: Page) -> BoxFuture<'static, Result<Listed<Occupied>, Error>> {
        let registry = Arc::clone(&self.0);
        async move { registry.rooms(&namespace, &page).await }.boxed()
    }

    fn nodes(&self) -> BoxFuture<'static, Result<Vec<NodeRow>, Error>> {
        let registry = Arc::clone(&self.0);
        async move { registry.nodes().await }.boxed()
    }

    fn own(&self) -> BoxFuture<'static, Result<Own, Error>> {
        let registry = Arc::clone(&self.0);
        async move { registry.own().await }.boxed()
    }

    fn held(&self) -> BoxFuture<'static, Result<Vec<Gone>, Error>> {
        let registry = Arc::clone(&self.0);
        async move { registry.held().await }.boxed()
    }

    fn stays(&self) -> BoxFuture<'static, Result<Vec<Stay>, Error>> {
        let registry = Arc::clone(&self.0);
        async move { registry.stays().await }.boxed()
    }

    fn tend(&self, reap: Option<Announce>) -> BoxFuture<'static, Result<Tended, Error>> {
        let registry = Arc::clone(&self.0);
        async move { registry.tend(reap).await }.boxed()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let registry = Arc::clone(&self.0);
        async move {
            // A node that stops has nothing left to give back, or little.
            if !matches!(
                tokio::time::timeout(registry.scripts.timeout, registry.give_back()).await,
                Ok(Ok(()))
            ) {
                tracing::debug!("left what this node held for others to take over");
            }
        }
        .boxed()
    }
}
