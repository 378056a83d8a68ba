//! The ports for nodes that share one process.
//!
//! [`Exchange`] joins them with the [`Broker`] port. A publication is put into the inbox of every node that
//! subscribed to its topic, and whoever published delivers it there and then, unless another caller is at that
//! inbox already; that one then delivers it, too. A node is therefore never called concurrently with itself, and a
//! subscriber that publishes from within a delivery cannot deadlock.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;
use futures_util::future::{self, BoxFuture, FutureExt as _};
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::broker::{Broker, Done, Error, PulseError, Subscriber};
use crate::ids::{ClaimId, Incarnation, NodeId, SessionId};
use crate::publication::{Publication, Topic};
use crate::registry::Vitals;

/// What may wait in one node's inbox, in bytes by [`Publication::weight`]. An inbox fills only while its node is
/// busy delivering what others published; the bound is the one of the publishing queue of the Redis broker.
pub const INBOX_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The only generation: subscriptions in memory do not break.
const GENERATION: u64 = 1;

/// Joins the nodes of one process. Clones are the same exchange.
#[derive(Clone, Default)]
pub struct Exchange(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    seats: HashMap<SeatId, Seat, RandomState>,
    /// A room topic exists for every connected socket, so an entry holds its first four seats inline.
    topics: HashMap<Topic, SmallVec<[SeatId; 4]>, RandomState>,
    leases: HashMap<NodeId, (SeatId, Incarnation), RandomState>,
    last_seat: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct SeatId(u32);

/// A joined node.
struct Seat {
    subscriber: Arc<dyn Subscriber>,
    inbox: VecDeque<Item>,
    inbox_bytes: usize,
    /// Some caller is delivering from the inbox and goes on until it is empty.
    delivering: bool,
}

enum Item {
    Publication(Publication),
    Pulse(u64),
}

impl Exchange {
    /// An exchange without nodes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Joins a node, and tells it that its link is up and its subscription whole. The exchange keeps `subscriber`
    /// until the broker is closed or dropped.
    ///
    /// Two live nodes may not share an id; the one whose pulse comes second is told so by it.
    #[must_use]
    pub fn join(&self, node: NodeId, subscriber: Arc<dyn Subscriber>) -> Arc<dyn Broker> {
        let seat = {
            let mut state = self.0.lock();
            state.last_seat += 1;
            let id = SeatId(state.last_seat);
            let seat = Seat {
                subscriber: Arc::clone(&subscriber),
                inbox: VecDeque::new(),
                inbox_bytes: 0,
                delivering: false,
            };
            state.seats.insert(id, seat);
            id
        };
        subscriber.link(true);
        subscriber.whole(GENERATION);
        Arc::new(Member { exchange: self.clone(), seat, node, incarnation: Incarnation::random() })
    }

    fn publish(&self, from: SeatId, publication: Publication) -> Result<(), Error> {
        let mut idle: SmallVec<[SeatId; 4]> = SmallVec::new();
        {
            let mut state = self.0.lock();
            let State { seats, topics, .. } = &mut *state;
            if !seats.contains_key(&from) {
                return Err(Error::Closed);
            }
            let Some(members) = topics.get(&publication.topic()) else { return Ok(()) };
            let weight = publication.weight();
            let has_room =
                |seat: &Seat| seat.inbox.is_empty() || seat.inbox_bytes + weight <= INBOX_BYTES_MAX;
            // All or nobody: a publisher that is refused may assume that nobody was reached for lack of room.
            if !members.iter().filter_map(|id| seats.get(id)).all(has_room) {
                return Err(Error::Unavailable);
            }
            for id in members {
                if let Some(seat) = seats.get_mut(id) {
                    seat.inbox.push_back(Item::Publication(publication.clone()));
                    seat.inbox_bytes += weight;
                    if !std::mem::replace(&mut seat.delivering, true) {
                        idle.push(*id);
                    }
                }
            }
        }
        for id in idle {
            self.deliver(id);
        }
        Ok(())
    }

    /// Empties the inbox of a seat whose `delivering` the caller has just set.
    fn deliver(&self, id: SeatId) {
        // A subscriber that panics must not leave its inbox marked as busy for ever.
        let mut guard = DeliveryGuard { exchange: self, seat: id, finished: false };
        loop {
            let (subscriber, item) = {
                let mut state = self.0.lock();
                let Some(seat) = state.seats.get_mut(&id) else { break };
                let Some(item) = seat.inbox.pop_front() else {
                    // Under the lock, so that nobody can add to an inbox that is about to be left.
                    seat.delivering = false;
                    break;
                };
                if let Item::Publication(publication) = &item {
                    seat.inbox_bytes -= publication.weight();
                }
                (Arc::clone(&seat.subscriber), item)
            };
            match item {
                Item::Publication(publication) => subscriber.publication(publication),
                Item::Pulse(number) => subscriber.pulse(number, GENERATION),
            }
        }
        guard.finished = true;
    }

    fn subscribe(&self, seat: SeatId, topics: Vec<Topic>) -> Result<(), Error> {
        let mut state = self.0.lock();
        if !state.seats.contains_key(&seat) {
            return Err(Error::Closed);
        }
        for topic in topics {
            let members = state.topics.entry(topic).or_default();
            if !members.contains(&seat) {
                members.push(seat);
            }
        }
        Ok(())
    }

    fn unsubscribe(&self, seat: SeatId, topics: &[Topic]) -> Result<(), Error> {
        let mut state = self.0.lock();
        if !state.seats.contains_key(&seat) {
            return Err(Error::Closed);
        }
        for topic in topics {
            if let Some(members) = state.topics.get_mut(topic) {
                members.retain(|member| *member != seat);
                if members.is_empty() {
                    state.topics.remove(topic);
                }
            }
        }
        Ok(())
    }

    fn pulse(
        &self,
        id: SeatId,
        node: NodeId,
        incarnation: Incarnation,
        number: u64,
        lease_ttl: Duration,
    ) -> Result<(), PulseError> {
        let idle = {
            let mut state = self.0.lock();
            let State { seats, leases, .. } = &mut *state;
            let Some(seat) = seats.get_mut(&id) else { return Err(PulseError::Unavailable) };
            let (holder, incarnation) = leases.entry(node).or_insert((id, incarnation));
            if *holder != id {
                let incarnation = incarnation.as_str().to_owned();
                // As if renewed this very moment: whoever holds it is alive.
                return Err(PulseError::Conflict { incarnation, lease_left: lease_ttl });
            }
            seat.inbox.push_back(Item::Pulse(number));
            !std::mem::replace(&mut seat.delivering, true)
        };
        if idle {
            self.deliver(id);
        }
        Ok(())
    }

    fn leave(&self, id: SeatId) {
        let mut state = self.0.lock();
        let Some(seat) = state.seats.remove(&id) else { return };
        state.leases.retain(|_, (holder, _)| *holder != id);
        state.topics.retain(|_, members| {
            members.retain(|member| *member != id);
            !members.is_empty()
        });
        // The last reference to the subscriber may go with it, and with that code that locks again.
        drop(state);
        drop(seat);
    }
}

struct DeliveryGuard<'a> {
    exchange: &'a Exchange,
    seat: SeatId,
    finished: bool,
}

impl Drop for DeliveryGuard<'_> {
    fn drop(&mut self) {
        if !self.finished
            && let Some(seat) = self.exchange.0.lock().seats.get_mut(&self.seat)
        {
            seat.delivering = false;
        }
    }
}

/// One node's end of the exchange.
struct Member {
    exchange: Exchange,
    seat: SeatId,
    node: NodeId,
    incarnation: Incarnation,
}

impl Broker for Member {
    fn publish(&self, publication: Publication, done: Done) {
        done.tell(self.exchange.publish(self.seat, publication));
    }

    fn ready(&self) -> Option<BoxFuture<'static, ()>> {
        // Whoever publishes delivers, so that publishers are slowed down by delivery itself.
        None
    }

    fn subscribe(&self, topics: Vec<Topic>) -> BoxFuture<'static, Result<(), Error>> {
        future::ready(self.exchange.subscribe(self.seat, topics)).boxed()
    }

    fn unsubscribe(&self, topics: Vec<Topic>) -> BoxFuture<'static, Result<(), Error>> {
        future::ready(self.exchange.unsubscribe(self.seat, &topics)).boxed()
    }

    fn pulse(
        &self,
        number: u64,
        lease_ttl: Duration,
        _vitals: Vitals,
    ) -> BoxFuture<'static, Result<(), PulseError>> {
        // The lease needs no end of its own: whoever holds it lives in this process until it closes.
        let (node, incarnation) = (self.node.clone(), self.incarnation.clone());
        future::ready(self.exchange.pulse(self.seat, node, incarnation, number, lease_ttl)).boxed()
    }

    fn confirm(&self, to: NodeId, claim: ClaimId, session: SessionId) {
        let _ = (to, claim, session);
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.exchange.leave(self.seat);
        future::ready(()).boxed()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.exchange.leave(self.seat);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

    use std::sync::OnceLock;

    use bytes::Bytes;

    use super::*;
    use crate::ids::{Namespace, Room};
    use crate::publication::{Flags, Rooms};

    /// Answers every publication on `ping` with one on `pong`, from within the delivery.
    #[derive(Default)]
    struct Echoing {
        broker: OnceLock<Arc<dyn Broker>>,
        seen: Mutex<Vec<Publication>>,
    }

    impl Subscriber for Echoing {
        fn publication(&self, publication: Publication) {
            let answer = (publication.rooms[0].as_str() == "ping").then(|| to("pong"));
            self.seen.lock().push(publication);
            if let Some(answer) = answer {
                self.broker.get().unwrap().publish(answer, Done::nobody());
            }
        }
        fn whole(&self, _: u64) {}
        fn lost(&self) {}
        fn pulse(&self, _: u64, _: u64) {}
        fn evict(&self, _: crate::registry::Eviction) {}
        fn confirmed(&self, _: ClaimId, _: SessionId) {}
        fn dropped(&self, _: &'static str) {}
        fn observe(&self, _: &'static str, _: Duration) {}
        fn link(&self, _: bool) {}
    }

    fn to(room: &str) -> Publication {
        Publication {
            namespace: Namespace::root(),
            rooms: Rooms::from_iter([Room::from(room)]),
            except: Rooms::new(),
            flags: Flags::default(),
            data: Bytes::from_static(b"\x91\xa1e"),
        }
    }

    #[tokio::test]
    async fn a_subscriber_may_publish_from_within_a_delivery() {
        let exchange = Exchange::new();
        let node = Arc::new(Echoing::default());
        let broker = exchange.join(NodeId::random(), Arc::clone(&node) as Arc<dyn Subscriber>);
        assert!(node.broker.set(Arc::clone(&broker)).is_ok());
        broker.subscribe(vec![to("ping").topic(), to("pong").topic()]).await.unwrap();

        broker.publish(to("ping"), Done::nobody());
        assert_eq!(*node.seen.lock(), [to("ping"), to("pong")]);
        broker.close().await;
        assert!(exchange.0.lock().topics.is_empty());
    }

    #[tokio::test]
    async fn a_dropped_broker_leaves_nothing_behind() {
        let exchange = Exchange::new();
        let node = Arc::new(Echoing::default());
        let broker = exchange.join(NodeId::random(), Arc::clone(&node) as Arc<dyn Subscriber>);
        broker.subscribe(vec![to("pong").topic()]).await.unwrap();
        broker.pulse(1, Duration::from_secs(1), Vitals::default()).await.unwrap();
        drop(broker);
        assert_eq!(Arc::strong_count(&node), 1);
        let state = exchange.0.lock();
        assert!(state.topics.is_empty() && state.leases.is_empty() && state.seats.is_empty());
    }

    #[test]
    fn an_entry_of_the_topic_table_is_small() {
        // Every connected socket costs one.
        assert!(size_of::<(Topic, SmallVec<[SeatId; 4]>)>() <= 64);
    }
}
