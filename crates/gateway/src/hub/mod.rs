//! The hub: every session of the node and the rooms it is in, in shards.
//!
//! A connection is pinned to one shard, and each shard has one task that fans publications out to its members, so
//! that a room is served by all cores at once and every connection still sees one order.
//!
//! Architecture Invariant: the hub holds outboxes, never connections.

mod fanout;
mod shard;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidegate_core::{Namespace, Room, SessionId};
use tidegate_protocol::socketio::Parser;

pub(crate) use fanout::Job;
use shard::Shard;

use crate::metrics::NamespaceMetrics;
use crate::outbox::Outbox;

/// Where a session sits. Valid until it is removed; who comes later with the same seat has another session id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    shard: u32,
    slot: u32,
}

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
    pub(crate) parser: Parser,
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
    pub(crate) fn insert(
        &self,
        shard: u32,
        id: SessionId,
        namespace: &Namespace,
        metrics: &Arc<NamespaceMetrics>,
        outbox: &Arc<Outbox>,
        parser: Parser,
    ) -> Seat {
        let slot = self.shard(shard).state.lock().insert(id, namespace, metrics, outbox, parser);
        Seat { shard, slot }
    }

    /// Removes a session and returns the rooms it was in, its own apart.
    pub(crate) fn remove(&self, seat: Seat, id: SessionId) -> Vec<Room> {
        self.shard(seat.shard).state.lock().remove(seat.slot, id)
    }

    pub(crate) fn join(&self, seat: Seat, id: SessionId, room: &Room, rooms_max: usize) -> Joined {
        self.shard(seat.shard).state.lock().join(seat.slot, id, room, rooms_max)
    }

    /// Whether the session is in `room`.
    pub(crate) fn is_member(&self, seat: Seat, id: SessionId, room: &Room) -> bool {
        self.shard(seat.shard).state.lock().is_member(seat.slot, id, room)
    }

    /// Whether the session was a member.
    pub(crate) fn leave(&self, seat: Seat, id: SessionId, room: &Room) -> bool {
        self.shard(seat.shard).state.lock().leave(seat.slot, id, room)
    }

    /// Hands a publication to every shard. Returns how many had no room for it.
    pub(crate) fn dispatch(&self, job: Job) -> usize {
        let job = Arc::new(job);
        self.shards.iter().filter(|shard| !shard.queue.push(Arc::clone(&job))).count()
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
