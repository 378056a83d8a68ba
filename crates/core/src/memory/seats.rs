//! The joined nodes, their inboxes, and which topics they want.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use foldhash::quality::RandomState;
use smallvec::SmallVec;

use crate::broker::{Error, Subscriber};
use crate::ids::{ClaimId, Incarnation, Namespace, NodeId, RequestId, SessionId};
use crate::offline::Arrival;
use crate::publication::{Publication, Topic};
use crate::registry::Eviction;
use crate::request::{Answer, Request};

/// What may wait in one node's inbox, in bytes by [`Publication::weight`] and its likes. An inbox fills only while its node is
/// busy delivering what others published; the bound is the one of the publishing queue of the Redis broker.
///
/// Publications, requests and answers count. Of the rest there is one pulse an interval, one eviction a session and one confirmation
/// an eviction.
pub const INBOX_BYTES_MAX: usize = 8 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SeatId(u32);

/// Seats with something in their inbox that nobody delivers yet. Whoever filled them does, once it holds no lock.
pub(super) type Idle = SmallVec<[SeatId; 4]>;

#[derive(Clone)]
pub(super) enum Item {
    Publication(Publication),
    Request(Request),
    Answered(RequestId, NodeId, Answer),
    Pulse(u64),
    Evict(Eviction),
    Arrived(Arrival),
    Confirmed(ClaimId, SessionId),
}

impl Item {
    fn weight(&self) -> usize {
        match self {
            Self::Publication(publication) => publication.weight(),
            Self::Request(request) => request.weight(),
            Self::Answered(_, _, answer) => answer.weight(),
            Self::Pulse(_) | Self::Evict(_) | Self::Arrived(_) | Self::Confirmed(..) => 0,
        }
    }
}

/// A joined node.
struct Seat {
    node: NodeId,
    incarnation: Incarnation,
    subscriber: Arc<dyn Subscriber>,
    inbox: VecDeque<Item>,
    inbox_bytes: usize,
    /// Some caller is delivering from the inbox and goes on until it is empty.
    delivering: bool,
}

#[derive(Default)]
pub(super) struct Seats {
    seats: HashMap<SeatId, Seat, RandomState>,
    topics: HashMap<Topic, SmallVec<[SeatId; 4]>, RandomState>,
    /// The topics of sockets, of which there are as many as connections. Each lives on one node.
    sockets: HashMap<SessionId, SeatId, RandomState>,
    last: u32,
}

impl Seats {
    pub(super) fn add(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        subscriber: Arc<dyn Subscriber>,
    ) -> SeatId {
        self.last += 1;
        let id = SeatId(self.last);
        let inbox = VecDeque::new();
        let seat = Seat { node, incarnation, subscriber, inbox, inbox_bytes: 0, delivering: false };
        self.seats.insert(id, seat);
        id
    }

    /// The subscriber comes back so that it is dropped where no lock is held.
    #[must_use]
    pub(super) fn remove(&mut self, id: SeatId) -> Option<Arc<dyn Subscriber>> {
        let seat = self.seats.remove(&id)?;
        self.topics.retain(|_, members| {
            members.retain(|member| *member != id);
            !members.is_empty()
        });
        self.sockets.retain(|_, member| *member != id);
        Some(seat.subscriber)
    }

    pub(super) fn contains(&self, id: SeatId) -> bool {
        self.seats.contains_key(&id)
    }

    pub(super) fn subscriber(&self, id: SeatId) -> Option<Arc<dyn Subscriber>> {
        self.seats.get(&id).map(|seat| Arc::clone(&seat.subscriber))
    }

    pub(super) fn has(&self, incarnation: &Incarnation) -> bool {
        self.seats.values().any(|seat| seat.incarnation == *incarnation)
    }

    pub(super) fn subscribe(&mut self, id: SeatId, topics: Vec<Topic>) {
        for topic in topics {
            if let Topic::Socket(_, socket) = topic {
                self.sockets.insert(socket, id);
                continue;
            }
            let members = self.topics.entry(topic).or_default();
            if !members.contains(&id) {
                members.push(id);
            }
        }
    }

    pub(super) fn unsubscribe(&mut self, id: SeatId, topics: &[Topic]) {
        for topic in topics {
            if let Topic::Socket(_, socket) = topic {
                if self.sockets.get(socket) == Some(&id) {
                    self.sockets.remove(socket);
                }
            } else if let Some(members) = self.topics.get_mut(topic) {
                members.retain(|member| *member != id);
                if members.is_empty() {
                    self.topics.remove(topic);
                }
            }
        }
    }

    /// Puts a publication into the inbox of everyone subscribed to its topic; see [`Seats::send`].
    pub(super) fn publish(&mut self, publication: &Publication, idle: &mut Idle) -> Result<(), Error> {
        self.send(&publication.topic(), None, &Item::Publication(publication.clone()), idle)
    }

    /// Puts something into the inbox of everyone subscribed to `topic`, or of those of them who are called `to`. When
    /// one has no room, nobody gets it: a publisher that is refused may assume that nobody was reached for lack of
    /// room.
    pub(super) fn send(
        &mut self,
        topic: &Topic,
        to: Option<&NodeId>,
        item: &Item,
        idle: &mut Idle,
    ) -> Result<(), Error> {
        let members = self.members(topic);
        let is_meant = |seat: &Seat| to.is_none_or(|to| seat.node == *to);
        let weight = item.weight();
        let has_room = |seat: &Seat| seat.inbox.is_empty() || seat.inbox_bytes + weight <= INBOX_BYTES_MAX;
        let mut meant = members.iter().filter_map(|id| self.seats.get(id)).filter(|seat| is_meant(seat));
        if !meant.all(has_room) {
            return Err(Error::Unavailable);
        }
        for id in members {
            if let Some(seat) = self.seats.get_mut(&id).filter(|seat| is_meant(seat)) {
                seat.inbox_bytes += weight;
                seat.put(id, item.clone(), idle);
            }
        }
        Ok(())
    }

    /// Who is subscribed to what `topic` carries.
    fn members(&self, topic: &Topic) -> SmallVec<[SeatId; 4]> {
        let mut members = self.topics.get(topic).cloned().unwrap_or_default();
        if let Topic::Room(_, room) = topic
            && let Some(home) = SessionId::parse(room.as_str()).and_then(|socket| self.sockets.get(&socket))
            && !members.contains(home)
        {
            members.push(*home);
        }
        members
    }

    /// How many nodes listen for requests of `namespace`.
    pub(super) fn listeners(&self, namespace: Namespace) -> usize {
        self.topics.get(&Topic::Requests(namespace)).map_or(0, SmallVec::len)
    }

    /// Puts something into one node's inbox.
    pub(super) fn put(&mut self, id: SeatId, item: Item, idle: &mut Idle) {
        if let Some(seat) = self.seats.get_mut(&id) {
            seat.put(id, item, idle);
        }
    }

    /// Tells whoever is called `node`, whichever run of it, as a channel of that name would.
    pub(super) fn tell(&mut self, node: &NodeId, item: impl Fn() -> Item, idle: &mut Idle) {
        for (id, seat) in &mut self.seats {
            if seat.node == *node {
                seat.put(*id, item(), idle);
            }
        }
    }

    /// The next thing to deliver to a seat whose `delivering` the caller has set; none ends that.
    pub(super) fn take(&mut self, id: SeatId) -> Option<(Arc<dyn Subscriber>, Item)> {
        let seat = self.seats.get_mut(&id)?;
        let Some(item) = seat.inbox.pop_front() else {
            // Under the lock, so that nobody can add to an inbox that is about to be left.
            seat.delivering = false;
            return None;
        };
        seat.inbox_bytes -= item.weight();
        Some((Arc::clone(&seat.subscriber), item))
    }

    /// Ends a delivery that did not come to its end.
    pub(super) fn abandon(&mut self, id: SeatId) {
        if let Some(seat) = self.seats.get_mut(&id) {
            seat.delivering = false;
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.seats.is_empty() && self.topics.is_empty() && self.sockets.is_empty()
    }
}

impl Seat {
    fn put(&mut self, id: SeatId, item: Item, idle: &mut Idle) {
        self.inbox.push_back(item);
        if !std::mem::replace(&mut self.delivering, true) {
            idle.push(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_the_table_of_sockets_is_small() {
        // Every connected socket costs one.
        assert!(size_of::<(SessionId, SeatId)>() <= 24);
    }
}
