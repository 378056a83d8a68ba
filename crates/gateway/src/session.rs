//! One session: a client in one namespace.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tidegate_core::offline::Holder;
use tidegate_core::registry::{self, Evicted, Gone, OnDuplicate, Place, Policy, Stay, Transport};
use tidegate_core::{Broker, ClaimId, DisconnectReason, Namespace, NodeId, Room, SessionId, Topic};

use crate::auth::{EXPIRY_LEEWAY_S, Identity};
use crate::dialect::Dialect;
use crate::inbox::Inbox;
use crate::interest::Interest;
use crate::metrics::NamespaceMetrics;
use crate::namespaces::Operations;
use crate::outbox::Outbox;

/// What all sessions of a namespace share.
#[derive(Clone)]
pub(crate) struct Rule {
    pub(crate) namespace: Namespace,
    pub(crate) operations: Operations,
    pub(crate) policy: Policy,
    pub(crate) on_duplicate: OnDuplicate,
    /// Whether who is here is told and can be asked.
    pub(crate) presence: bool,
    /// Whether users have durable messages.
    pub(crate) offline: bool,
    pub(crate) metrics: Arc<NamespaceMetrics>,
}

/// A claim that was made, and its place in the order of claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holding {
    pub(crate) claim: ClaimId,
    pub(crate) epoch: u64,
}

/// Where a session sits in the hub. Valid until it is removed; who comes later with the same seat has another session id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) shard: u32,
    pub(crate) slot: u32,
}

/// With the counts of its `Arc` it fits 192 bytes of the allocator.
const _: () = assert!(size_of::<Session>() <= 176);

/// A client in one namespace. Its connection acts for it; whoever evicts it may be any task.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) rule: Arc<Rule>,
    pub(crate) seat: Seat,
    pub(crate) identity: Identity,
    pub(crate) dialect: Dialect,
    pub(crate) outbox: Arc<Outbox>,
    /// Its claim to its user's place; anonymous sessions claim none. See [`Session::holding`].
    claim: ClaimId,
    is_holding: bool,
    /// In Unix milliseconds; of one that claimed a place, the claim's epoch.
    pub(crate) connected_at_ms: u64,
    /// The last sign of life by `heartbeat`, in Unix milliseconds; 0 before the first.
    pub(crate) seen_at_ms: AtomicU64,
    /// Whether it has said, or is saying, that it is ready for durable messages.
    pub(crate) ready: AtomicBool,
    pub(crate) inbox: Inbox,
    /// Something that was said to it while its node was deaf was not kept for it.
    missed: AtomicBool,
    over: AtomicBool,
    life: Mutex<Life>,
}

/// What must be one step: whether the session may act, and what it is in the middle of. Every idle session has one, so
/// what few ever need is kept elsewhere.
#[derive(Default)]
struct Life {
    /// Deeds begun and not yet answered.
    deeds: u32,
    /// It has ended and is no receiver any more.
    left: bool,
    /// Its connection waits for the last deed to be done.
    awaited: bool,
    departure: Option<Box<Departure>>,
}

/// What there is to say of a session that somebody else ended.
#[derive(Default)]
struct Departure {
    evicted: Option<Evicted>,
    /// Who waits to hear that the session is silent.
    confirms: Vec<(NodeId, ClaimId)>,
}

impl Life {
    /// Who is to be told now that the session is silent: it does nothing and receives nothing.
    fn owed(&mut self) -> Vec<(NodeId, ClaimId)> {
        match &mut self.departure {
            Some(departure) if self.deeds == 0 && self.left => std::mem::take(&mut departure.confirms),
            _ => Vec::new(),
        }
    }
}

/// What a session is made of beside what the hub gives it.
pub(crate) struct Parts {
    pub(crate) id: SessionId,
    pub(crate) rule: Arc<Rule>,
    pub(crate) identity: Identity,
    pub(crate) dialect: Dialect,
    pub(crate) outbox: Arc<Outbox>,
    /// A claim that was made, if one was.
    pub(crate) holding: Option<Holding>,
    /// For who claims no place, in Unix milliseconds; else it is the claim's epoch.
    pub(crate) connected_at_ms: u64,
}

impl Session {
    pub(crate) fn new(seat: Seat, parts: Parts) -> Self {
        let Parts { id, rule, identity, dialect, outbox, holding, connected_at_ms } = parts;
        Self {
            id,
            rule,
            seat,
            identity,
            dialect,
            outbox,
            claim: holding.map_or(ClaimId::NOBODY, |holding| holding.claim),
            is_holding: holding.is_some(),
            connected_at_ms: holding.map_or(connected_at_ms, |holding| holding.epoch),
            seen_at_ms: AtomicU64::new(0),
            ready: AtomicBool::new(false),
            inbox: Inbox::default(),
            missed: AtomicBool::new(false),
            over: AtomicBool::new(false),
            life: Mutex::default(),
        }
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.rule.namespace
    }

    /// Its claim to its user's place; anonymous sessions claim none.
    pub(crate) fn holding(&self) -> Option<Holding> {
        self.is_holding.then_some(Holding { claim: self.claim, epoch: self.connected_at_ms })
    }

    /// When the session must end, in Unix milliseconds.
    pub(crate) fn expires_unix_ms(&self) -> Option<u64> {
        let expires_at = self.identity.expires_at?.get();
        Some(expires_at.saturating_add(EXPIRY_LEEWAY_S).saturating_mul(1_000))
    }

    /// The room that holds only this session.
    pub(crate) fn own_room(&self) -> Room {
        Room::from(self.id.as_str())
    }

    /// Whether the session has ended, for whatever reason.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Why the session was evicted, if it was.
    pub(crate) fn evicted(&self) -> Option<Evicted> {
        if !self.is_over() {
            return None;
        }
        self.life.lock().departure.as_ref()?.evicted.clone()
    }

    /// It will never get what was said to it, and must come again elsewhere. Who holds a place is sent away only after
    /// the audit has found that it still does: a client whose place was taken must hear that instead, or it would come
    /// back and take the place again.
    pub(crate) fn miss(&self) {
        if self.is_holding {
            self.missed.store(true, Ordering::Release);
        } else {
            self.outbox.close(DisconnectReason::ForcedClose);
        }
    }

    /// Whether it missed something.
    pub(crate) fn has_missed(&self) -> bool {
        self.missed.load(Ordering::Acquire)
    }

    /// Closes the transport of one that is found to hold its place, if it missed something. Returns whether it did.
    pub(crate) fn send_away_if_it_missed(&self) -> bool {
        let missed = self.has_missed();
        if missed {
            self.outbox.close(DisconnectReason::ForcedClose);
        }
        missed
    }

    /// Begins something that will be acknowledged or reach others. Nothing, once the session has ended; and whoever
    /// evicts it meanwhile hears that it is silent only when the deed is done.
    pub(crate) fn begin(self: &Arc<Self>, broker: &Arc<dyn Broker>) -> Option<Deed> {
        let mut life = self.life.lock();
        if self.is_over() {
            return None;
        }
        life.deeds += 1;
        Some(Deed { session: Arc::clone(self), broker: Arc::clone(broker) })
    }

    /// Whether everything it has begun is answered. If it is not, the connection's task is woken when it is.
    pub(crate) fn is_idle(&self) -> bool {
        let mut life = self.life.lock();
        life.awaited = life.deeds > 0;
        !life.awaited
    }

    /// Ends the session. Returns whether it had not ended before; [`Session::settle`] is owed in any case, once it
    /// is no receiver any more.
    pub(crate) fn finish(&self) -> bool {
        let _life = self.life.lock();
        !self.over.swap(true, Ordering::AcqRel)
    }

    /// Ends the session by eviction. Returns whether it had not ended before; [`Session::settle`] is owed in any case,
    /// as above.
    pub(crate) fn evict(&self, evicted: Evicted, confirm: Option<(NodeId, ClaimId)>) -> bool {
        let mut life = self.life.lock();
        let first = !self.over.swap(true, Ordering::AcqRel);
        let departure = life.departure.get_or_insert_default();
        if first {
            departure.evicted = Some(evicted);
        }
        departure.confirms.extend(confirm);
        first
    }

    /// The session has ended and is no receiver any more. Tells those who wait that it is silent, once it is.
    pub(crate) fn settle(&self, broker: &Arc<dyn Broker>) {
        let confirms = {
            let mut life = self.life.lock();
            life.left = true;
            life.owed()
        };
        self.confirm(confirms, broker);
    }

    fn confirm(&self, confirms: Vec<(NodeId, ClaimId)>, broker: &Arc<dyn Broker>) {
        for (node, claim) in confirms {
            broker.confirm(node, claim, self.id);
        }
    }

    /// The place of the session's user, if it has one.
    pub(crate) fn place(&self) -> Option<Place> {
        let user = Arc::clone(self.identity.user.as_ref()?);
        Some(Place { namespace: self.namespace().clone(), user })
    }

    /// The claim as the registry is asked about it.
    pub(crate) fn claim(&self) -> Option<registry::Claim> {
        let holding = self.holding()?;
        Some(registry::Claim {
            place: self.place()?,
            session: self.id,
            id: holding.claim,
            epoch: holding.epoch,
            device: Arc::clone(&self.identity.device),
            transport: self.transport(),
            policy: self.rule.policy,
            on_duplicate: self.rule.on_duplicate,
            resumes: None,
            ready: self.ready.load(Ordering::Acquire),
        })
    }

    /// The session as the owner of its inbox; anonymous sessions have none.
    pub(crate) fn holder(&self) -> Option<Holder> {
        Some(Holder { place: self.place()?, session: self.id, claim: self.holding()?.claim })
    }

    pub(crate) fn gone(&self) -> Option<Gone> {
        Some(Gone { place: self.place()?, session: self.id, claim: self.holding()?.claim })
    }

    /// The session's stay in `room`, where the namespace keeps presence and the session has a user.
    pub(crate) fn stay(&self, room: &Room, node: &NodeId) -> Option<Stay> {
        if !self.rule.presence {
            return None;
        }
        Some(Stay {
            namespace: self.namespace().clone(),
            room: room.clone(),
            user: Arc::clone(self.identity.user.as_ref()?),
            device: Arc::clone(&self.identity.device),
            session: self.id,
            node: node.clone(),
        })
    }

    pub(crate) fn transport(&self) -> Transport {
        transport(&self.outbox)
    }
}

/// What the client of `outbox` speaks over now.
pub(crate) fn transport(outbox: &Outbox) -> Transport {
    if outbox.is_websocket() { Transport::WebSocket } else { Transport::Polling }
}

/// Something a session has begun, until it is answered.
pub(crate) struct Deed {
    session: Arc<Session>,
    broker: Arc<dyn Broker>,
}

impl Drop for Deed {
    fn drop(&mut self) {
        let (confirms, is_awaited) = {
            let mut life = self.session.life.lock();
            life.deeds -= 1;
            (life.owed(), life.awaited && life.deeds == 0)
        };
        if is_awaited {
            self.session.outbox.wake_tick();
        }
        self.session.confirm(confirms, &self.broker);
    }
}

/// One member counted for a topic; taken back when dropped, unless it is kept.
pub(crate) struct Membership {
    interest: Arc<Interest>,
    topic: Option<Topic>,
}

impl Membership {
    pub(crate) fn new(interest: &Arc<Interest>, topic: Topic) -> Self {
        Self { interest: Arc::clone(interest), topic: Some(topic) }
    }

    /// From here on the session answers for it.
    pub(crate) fn keep(mut self) {
        self.topic = None;
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Some(topic) = &self.topic {
            self.interest.leave(topic);
        }
    }
}
