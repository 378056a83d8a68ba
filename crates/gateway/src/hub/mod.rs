//! The hub: every session of the node and the rooms it is in, in shards.
//!
//! A connection is pinned to one shard, and each shard has one task that fans publications out to its members, so
//! that a room is served by all cores at once and every connection still sees one order.
//!
//! Architecture Invariant: the hub holds outboxes, never connections.

#[cfg(feature = "bench")]
pub(crate) mod bench;
mod fanout;
mod shard;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidegate_core::{Namespace, Room, Rooms, SessionId};
use tokio::time::Instant;

pub(crate) use fanout::Job;
use shard::Shard;

use crate::dialect::Dialect;
use crate::message::Message;
use crate::outbox::Outbox;
use crate::pulse::Pulse;
use crate::session::{Seat, Session};

/// What a join did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    New,
    Already,
    /// The session is in as many rooms as it may be.
    Full,
    /// The session has ended.
    Gone,
}

/// A receiver as the fan-out sees it.
#[derive(Clone)]
pub(crate) struct Receiver {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) slot: u32,
    pub(crate) dialect: Dialect,
}

/// All sessions of a node.
pub(crate) struct Hub {
    shards: Box<[Shard]>,
    next: AtomicUsize,
}

impl Hub {
    /// A hub of `shards` shards; one per worker thread is right.
    pub(crate) fn new(shards: usize) -> Self {
        Self { shards: (0..shards.max(1)).map(|_| Shard::new()).collect(), next: AtomicUsize::new(0) }
    }

    pub(crate) fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The shard of a new connection.
    pub(crate) fn assign(&self) -> u32 {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.shards.len();
        u32::try_from(next).unwrap_or(0)
    }

    fn shard(&self, index: u32) -> &Shard {
        &self.shards[index as usize]
    }

    /// Seats a session. From now on it is in the room of its own id and in its namespace.
    pub(crate) fn insert(&self, shard: u32, make: impl FnOnce(Seat) -> Session) -> Arc<Session> {
        self.shard(shard).state.lock().insert(shard, make)
    }

    /// The session of that id, wherever it sits.
    pub(crate) fn find(&self, id: SessionId) -> Option<Arc<Session>> {
        self.shards.iter().find_map(|shard| shard.state.lock().find(id).cloned())
    }

    /// Every session. Shard by shard: one that comes or goes meanwhile may be in it or not.
    pub(crate) fn sessions(&self) -> Vec<Arc<Session>> {
        self.shards
            .iter()
            .flat_map(|shard| shard.state.lock().sessions().cloned().collect::<Vec<_>>())
            .collect()
    }

    /// The sessions that a publication to `rooms` without `except` would reach.
    pub(crate) fn select(&self, namespace: &Namespace, rooms: &Rooms, except: &Rooms) -> Vec<Arc<Session>> {
        let mut receivers = Vec::new();
        self.shards
            .iter()
            .flat_map(|shard| {
                receivers.clear();
                let state = shard.state.lock();
                state.select(namespace, rooms, except, &mut receivers);
                state.sessions_of(&receivers)
            })
            .collect()
    }

    /// The rooms a session is in, its own apart.
    pub(crate) fn rooms_of(&self, session: &Session) -> Vec<Room> {
        self.shard(session.seat.shard).state.lock().rooms_of(session)
    }

    /// The rooms of a namespace with a member here, each socket's own apart.
    pub(crate) fn rooms(&self, namespace: &Namespace) -> BTreeSet<Room> {
        self.shards
            .iter()
            .flat_map(|shard| shard.state.lock().rooms(namespace).cloned().collect::<Vec<_>>())
            .collect()
    }

    /// Removes a session and returns the rooms it was in, its own apart. None if it is not there any more.
    pub(crate) fn remove(&self, seat: Seat, id: SessionId) -> Option<Vec<Room>> {
        self.shard(seat.shard).state.lock().remove(seat.slot, id)
    }

    /// Makes a session a member of a room. `new` is called if it was none, before anybody can find it there; it must
    /// not touch the hub.
    pub(crate) fn join(
        &self,
        seat: Seat,
        id: SessionId,
        room: &Room,
        rooms_max: usize,
        new: impl FnOnce(),
    ) -> Joined {
        let mut state = self.shard(seat.shard).state.lock();
        let joined = state.join(seat.slot, id, room, rooms_max);
        if joined == Joined::New {
            new();
        }
        joined
    }

    /// Whether the session is in `room`.
    pub(crate) fn is_member(&self, seat: Seat, id: SessionId, room: &Room) -> bool {
        self.shard(seat.shard).state.lock().is_member(seat.slot, id, room)
    }

    /// Whether the session of that id, wherever it sits, is in `room`.
    pub(crate) fn is_in(&self, id: SessionId, room: &Room) -> bool {
        self.shards.iter().any(|shard| {
            let mut state = shard.state.lock();
            state
                .find(id)
                .map(|session| session.seat.slot)
                .is_some_and(|slot| state.is_member(slot, id, room))
        })
    }

    /// Whether the session was a member.
    pub(crate) fn leave(&self, seat: Seat, id: SessionId, room: &Room) -> bool {
        self.shard(seat.shard).state.lock().leave(seat.slot, id, room)
    }

    /// Hands a publication to every shard. Returns how many had no room for it. While the node is deaf, its receivers
    /// there are sent away, since they would miss it and nobody could tell them.
    pub(crate) fn dispatch(&self, job: Job, pulse: &Pulse) -> usize {
        let job = Arc::new(job);
        let full = self.shards.iter().filter(|shard| !shard.queue.push(Arc::clone(&job)));
        full.inspect(|shard| {
            if pulse.check(Instant::now()).is_err() {
                shard.send_away(&job, pulse);
            }
        })
        .count()
    }

    /// Sends a session something that may leave together with what is published: at once, unless its shard is about to
    /// deliver.
    pub(crate) fn send_along(&self, session: &Session, message: &Message) {
        self.shard(session.seat.shard).queue.send_along(&session.outbox, message);
    }

    /// Resolves once every shard's queue is short enough for more, or nothing if it is.
    pub(crate) fn congestion(self: &Arc<Self>) -> Option<impl Future<Output = ()> + Send + use<>> {
        if !self.shards.iter().any(|shard| shard.queue.is_congested()) {
            return None;
        }
        let hub = Arc::clone(self);
        Some(async move {
            for shard in &hub.shards {
                shard.queue.relieved().await;
            }
        })
    }
}

#[cfg(test)]
impl Hub {
    /// Does something while nobody else gets at a shard.
    pub(crate) fn while_busy(&self, shard: u32, act: impl FnOnce()) {
        let _state = self.shard(shard).state.lock();
        act();
    }
}
