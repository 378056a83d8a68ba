//! Takeovers: claims of this node whose CONNECT is not answered yet, and who must be silent before it is.
//!
//! A newcomer is answered when the node of everybody it displaced has confirmed, or when that node cannot act any more:
//! its own `fence_after` has passed since the claim. A newcomer can itself be displaced while it waits. It waits on all
//! the same, and then hears of its own eviction, before whoever displaced it is answered.

use std::pin::pin;
use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tidegate_core::registry::{Displaced, Evicted, Eviction};
use tidegate_core::{Broker, ClaimId, NodeId, SessionId};
use tokio::sync::Notify;
use tokio::time::Instant;

/// One entry per CONNECT, or per eviction by the operator, that waits.
#[derive(Default)]
pub(crate) struct Takeovers(Mutex<HashMap<ClaimId, Wait>>);

#[derive(Default)]
struct Wait {
    confirmed: SmallVec<[SessionId; 2]>,
    evicted: Option<Evicted>,
    /// Who waits to hear that the newcomer will never act.
    confirms: Vec<(NodeId, ClaimId)>,
    changed: Arc<Notify>,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// Everybody has confirmed, or nobody had to.
    Confirmed,
    /// Somebody has not, and cannot act any more.
    Fenced,
    /// The newcomer itself was displaced.
    Evicted,
}

impl Silence {
    /// The label value.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Fenced => "fenced",
            Self::Evicted => "evicted",
        }
    }
}

/// A wait, for as long as it is kept.
pub(crate) struct Takeover {
    takeovers: Arc<Takeovers>,
    broker: Arc<dyn Broker>,
    claim: ClaimId,
    session: SessionId,
    changed: Arc<Notify>,
}

impl Takeovers {
    /// Begins a wait; before the claim is made, since confirmations may come before its answer does.
    pub(crate) fn begin(
        self: &Arc<Self>,
        claim: ClaimId,
        session: SessionId,
        broker: &Arc<dyn Broker>,
    ) -> Takeover {
        let wait = Wait::default();
        let changed = Arc::clone(&wait.changed);
        self.0.lock().insert(claim, wait);
        Takeover { takeovers: Arc::clone(self), broker: Arc::clone(broker), claim, session, changed }
    }

    /// The claims of every CONNECT under way.
    pub(crate) fn claims(&self) -> HashSet<ClaimId> {
        self.0.lock().keys().copied().collect()
    }

    /// A session that was told to be silent is.
    pub(crate) fn confirmed(&self, claim: ClaimId, session: SessionId) {
        if let Some(wait) = self.0.lock().get_mut(&claim)
            && !wait.confirmed.contains(&session)
        {
            wait.confirmed.push(session);
            wait.changed.notify_one();
        }
    }

    /// Takes an eviction of a session that is not seated yet. False if there is none of that claim.
    pub(crate) fn evict(&self, eviction: &Eviction) -> bool {
        let mut waits = self.0.lock();
        let Some(wait) = waits.get_mut(&eviction.claim) else { return false };
        wait.evicted.get_or_insert_with(|| eviction.evicted.clone());
        wait.confirms.push(eviction.confirm.clone());
        wait.changed.notify_one();
        true
    }
}

#[cfg(test)]
impl Takeovers {
    pub(crate) fn has_confirmed(&self, claim: ClaimId, session: SessionId) -> bool {
        self.0.lock().get(&claim).is_some_and(|wait| wait.confirmed.contains(&session))
    }
}

impl Takeover {
    /// Resolves when nobody of `displaced` acts any more; `since` is a moment after the claim was made. A newcomer that is
    /// itself displaced meanwhile goes on waiting: its end is confirmed, and so its own successor answered, only when
    /// whoever it displaced is silent.
    pub(crate) async fn silence(&self, displaced: &[Displaced], since: Instant) -> Silence {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Before the look, or a change in between would go unnoticed.
            changed.as_mut().enable();
            let fence = {
                let waits = self.takeovers.0.lock();
                let wait = waits.get(&self.claim);
                let missing = displaced
                    .iter()
                    .filter(|displaced| wait.is_none_or(|wait| !wait.confirmed.contains(&displaced.session)));
                missing.map(|displaced| since + displaced.fence_after).max()
            };
            match fence {
                None if self.is_evicted() => return Silence::Evicted,
                None => return Silence::Confirmed,
                Some(fence) => {
                    if tokio::time::timeout_at(fence, changed).await.is_err() {
                        return Silence::Fenced;
                    }
                }
            }
        }
    }

    fn is_evicted(&self) -> bool {
        self.takeovers.0.lock().get(&self.claim).is_some_and(|wait| wait.evicted.is_some())
    }

    /// Ends the wait, once evictions find the session in its seat. Returns its own eviction, if that came while it
    /// waited, with those who are to be told when it is silent.
    pub(crate) fn finish(self) -> Option<(Evicted, Vec<(NodeId, ClaimId)>)> {
        let mut wait = self.takeovers.0.lock().remove(&self.claim)?;
        Some((wait.evicted.take()?, std::mem::take(&mut wait.confirms)))
    }
}

impl Drop for Takeover {
    /// A session that was never seated is silent.
    fn drop(&mut self) {
        let Some(wait) = self.takeovers.0.lock().remove(&self.claim) else { return };
        for (node, claim) in wait.confirms {
            self.broker.confirm(node, claim, self.session);
        }
    }
}
