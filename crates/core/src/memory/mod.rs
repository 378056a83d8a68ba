//! The ports for nodes that share one process.
//!
//! [`Exchange`] joins them with the [`Broker`] port. A publication is put into the inbox of every node that
//! subscribed to its topic, and whoever published delivers it there and then, unless another caller is at that
//! inbox already; that one then delivers it, too. A node is therefore never called concurrently with itself, and a
//! subscriber that publishes from within a delivery cannot deadlock.
//!
//! The [`SessionRegistry`] port is a table behind the same lock: `places` says who holds a place, `presence` who is
//! in a room, `registry` tells the nodes through their inboxes (`seats`), in one order with their pulses. The
//! [`OfflineStore`](crate::OfflineStore) port (`offline`) stands beside it: `inboxes` holds what waits for users.

mod inboxes;
mod offline;
mod places;
mod presence;
mod registry;
mod seats;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;
use futures_util::future::{self, BoxFuture, FutureExt as _};
use parking_lot::Mutex;

use self::inboxes::Inboxes;
use self::places::{Home, Places};
use self::presence::Presence;
use self::registry::{Nodes, Register, unix_ms};
pub use self::seats::INBOX_BYTES_MAX;
use self::seats::{Idle, Item, SeatId, Seats};
use crate::broker::{ANSWER_REFUSED, Broker, Done, Error, PulseError, Subscriber};
use crate::ids::{ClaimId, Incarnation, Namespace, NodeId, SessionId};
use crate::publication::{Publication, Topic};
use crate::registry::{SessionRegistry, Vitals};
use crate::request::{Answer, Asker, Request};

/// The only generation: subscriptions in memory do not break.
const GENERATION: u64 = 1;

/// Joins the nodes of one process. Clones are the same exchange.
#[derive(Clone, Default)]
pub struct Exchange(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    seats: Seats,
    leases: HashMap<NodeId, Lease, RandomState>,
    nodes: Nodes,
    places: Places,
    presence: Presence,
    inboxes: Inboxes,
}

/// It needs no end of its own: whoever holds it lives in this process until its broker closes.
struct Lease {
    holder: SeatId,
    incarnation: Incarnation,
    started_at_ms: u64,
    vitals: Vitals,
}

impl Exchange {
    /// An exchange without nodes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Joins a node, and tells it that its link is up and its subscription whole. The exchange keeps `subscriber`
    /// until the broker is closed or dropped, which also ends its lease.
    ///
    /// Two live nodes may not share an id; the one whose pulse comes second is told so by it.
    #[must_use]
    pub fn join(
        &self,
        node: NodeId,
        incarnation: Incarnation,
        subscriber: Arc<dyn Subscriber>,
    ) -> Arc<dyn Broker> {
        let seat = self.0.lock().seats.add(node.clone(), incarnation.clone(), Arc::clone(&subscriber));
        subscriber.link(true);
        subscriber.whole(GENERATION);
        Arc::new(Member { exchange: self.clone(), seat, node, incarnation, started_at_ms: unix_ms() })
    }

    /// The registry as `incarnation` of `node` sees it. It is unavailable while that is not joined. What it holds
    /// outlives the node's broker, until another node takes it over or [`SessionRegistry::close`] gives it up.
    #[must_use]
    pub fn registry(
        &self,
        node: NodeId,
        incarnation: Incarnation,
        fence_after: Duration,
    ) -> Arc<dyn SessionRegistry> {
        let home = Arc::new(Home { node, incarnation, fence_after });
        Arc::new(Register { exchange: self.clone(), home })
    }

    fn send(&self, from: SeatId, topic: &Topic, to: Option<&NodeId>, item: &Item) -> Result<(), Error> {
        let mut idle = Idle::new();
        {
            let mut state = self.0.lock();
            if !state.seats.contains(from) {
                return Err(Error::Closed);
            }
            state.seats.send(topic, to, item, &mut idle)?;
        }
        self.deliver_all(idle);
        Ok(())
    }

    fn deliver_all(&self, idle: Idle) {
        for id in idle {
            self.deliver(id);
        }
    }

    /// Empties the inbox of a seat whose `delivering` the caller has just set.
    fn deliver(&self, id: SeatId) {
        // A subscriber that panics must not leave its inbox marked as busy for ever.
        let mut guard = DeliveryGuard { exchange: self, seat: id, finished: false };
        loop {
            let next = self.0.lock().seats.take(id);
            let Some((subscriber, item)) = next else { break };
            match item {
                Item::Publication(publication) => subscriber.publication(publication),
                Item::Request(request) => subscriber.request(request),
                Item::Answered(id, from, answer) => subscriber.answered(id, Some(from), answer),
                Item::Pulse(number) => subscriber.pulse(number, GENERATION),
                Item::Evict(eviction) => subscriber.evict(eviction),
                Item::Arrived(arrival) => subscriber.arrived(arrival),
                Item::Confirmed(claim, session) => subscriber.confirmed(claim, session),
            }
        }
        guard.finished = true;
    }

    fn subscribe(&self, seat: SeatId, topics: Vec<Topic>) -> Result<(), Error> {
        let mut state = self.0.lock();
        if !state.seats.contains(seat) {
            return Err(Error::Closed);
        }
        state.seats.subscribe(seat, topics);
        Ok(())
    }

    fn unsubscribe(&self, seat: SeatId, topics: &[Topic]) -> Result<(), Error> {
        let mut state = self.0.lock();
        if !state.seats.contains(seat) {
            return Err(Error::Closed);
        }
        state.seats.unsubscribe(seat, topics);
        Ok(())
    }

    fn dropped(&self, seat: SeatId, reason: &'static str) {
        let subscriber = self.0.lock().seats.subscriber(seat);
        if let Some(subscriber) = subscriber {
            subscriber.dropped(reason);
        }
    }

    fn listeners(&self, seat: SeatId, namespace: Namespace) -> Result<usize, Error> {
        let state = self.0.lock();
        if state.seats.contains(seat) { Ok(state.seats.listeners(namespace)) } else { Err(Error::Closed) }
    }

    fn pulse(&self, node: NodeId, lease: Lease, number: u64, lease_ttl: Duration) -> Result<(), PulseError> {
        let mut idle = Idle::new();
        {
            let mut state = self.0.lock();
            let State { seats, leases, .. } = &mut *state;
            let id = lease.holder;
            if !seats.contains(id) {
                return Err(PulseError::Unavailable);
            }
            if let Some(other) = leases.get(&node).filter(|other| other.holder != id) {
                let incarnation = other.incarnation.as_str().to_owned();
                // As if renewed this very moment: whoever holds it is alive.
                return Err(PulseError::Conflict { incarnation, lease_left: lease_ttl });
            }
            leases.insert(node, lease);
            seats.put(id, Item::Pulse(number), &mut idle);
        }
        self.deliver_all(idle);
        Ok(())
    }

    fn confirm(&self, to: &NodeId, claim: ClaimId, session: SessionId) {
        let mut idle = Idle::new();
        self.0.lock().seats.tell(to, || Item::Confirmed(claim, session), &mut idle);
        self.deliver_all(idle);
    }

    fn leave(&self, id: SeatId, incarnation: &Incarnation) {
        let mut state = self.0.lock();
        let subscriber = state.seats.remove(id);
        if subscriber.is_some() {
            state.leases.retain(|_, lease| lease.holder != id);
            state.left(incarnation);
        }
        // The last reference to the subscriber may go with it, and with that code that locks again.
        drop(state);
        drop(subscriber);
    }
}

struct DeliveryGuard<'a> {
    exchange: &'a Exchange,
    seat: SeatId,
    finished: bool,
}

impl Drop for DeliveryGuard<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.exchange.0.lock().seats.abandon(self.seat);
        }
    }
}

/// One node's end of the exchange.
struct Member {
    exchange: Exchange,
    seat: SeatId,
    node: NodeId,
    incarnation: Incarnation,
    started_at_ms: u64,
}

impl Broker for Member {
    fn publish(&self, publication: Publication, done: Done) {
        let topic = publication.topic();
        done.tell(self.exchange.send(self.seat, &topic, None, &Item::Publication(publication)));
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

    fn request(&self, request: Request, done: Done) {
        let Request { namespace, asker, ask } = request;
        let asker = asker.map(|Asker { id, .. }| Asker { node: Some(self.node.clone()), ..Asker::new(id) });
        let topic = Topic::Requests(namespace.clone());
        let request = Item::Request(Request { namespace, asker, ask });
        done.tell(self.exchange.send(self.seat, &topic, None, &request));
    }

    fn answer(&self, to: &Asker, namespace: &Namespace, answer: Answer) {
        if !to.expects(&answer) {
            return;
        }
        let topic = Topic::Answers(namespace.clone());
        let answered = Item::Answered(to.id.clone(), self.node.clone(), answer);
        if self.exchange.send(self.seat, &topic, to.node.as_ref(), &answered).is_err() {
            self.exchange.dropped(self.seat, ANSWER_REFUSED);
        }
    }

    fn listeners(&self, namespace: Namespace) -> BoxFuture<'static, Result<usize, Error>> {
        future::ready(self.exchange.listeners(self.seat, namespace)).boxed()
    }

    fn pulse(
        &self,
        number: u64,
        lease_ttl: Duration,
        vitals: Vitals,
    ) -> BoxFuture<'static, Result<(), PulseError>> {
        let lease = Lease {
            holder: self.seat,
            incarnation: self.incarnation.clone(),
            started_at_ms: self.started_at_ms,
            vitals,
        };
        future::ready(self.exchange.pulse(self.node.clone(), lease, number, lease_ttl)).boxed()
    }

    fn confirm(&self, to: NodeId, claim: ClaimId, session: SessionId) {
        self.exchange.confirm(&to, claim, session);
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.exchange.leave(self.seat, &self.incarnation);
        future::ready(()).boxed()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.exchange.leave(self.seat, &self.incarnation);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

    use std::sync::OnceLock;

    use bytes::Bytes;

    use super::*;
    use crate::ids::{RequestId, Room};
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
        fn request(&self, _: Request) {}
        fn answered(&self, _: RequestId, _: Option<NodeId>, _: Answer) {}
        fn whole(&self, _: u64) {}
        fn lost(&self) {}
        fn pulse(&self, _: u64, _: u64) {}
        fn evict(&self, _: crate::registry::Eviction) {}
        fn arrived(&self, _: crate::offline::Arrival) {}
        fn confirmed(&self, _: ClaimId, _: SessionId) {}
        fn dropped(&self, _: &'static str) {}
        fn observe(&self, _: &'static str, _: Duration) {}
        fn link(&self, _: bool) {}
    }

    fn join(exchange: &Exchange, node: &Arc<Echoing>) -> Arc<dyn Broker> {
        let subscriber = Arc::clone(node) as Arc<dyn Subscriber>;
        exchange.join(NodeId::random(), Incarnation::random(), subscriber)
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
        let broker = join(&exchange, &node);
        assert!(node.broker.set(Arc::clone(&broker)).is_ok());
        broker.subscribe(vec![to("ping").topic(), to("pong").topic()]).await.unwrap();

        broker.publish(to("ping"), Done::nobody());
        assert_eq!(*node.seen.lock(), [to("ping"), to("pong")]);
        broker.close().await;
        assert!(exchange.0.lock().seats.is_empty());
    }

    #[tokio::test]
    async fn a_dropped_broker_leaves_nothing_behind() {
        let exchange = Exchange::new();
        let node = Arc::new(Echoing::default());
        let broker = join(&exchange, &node);
        broker.subscribe(vec![to("pong").topic()]).await.unwrap();
        broker.pulse(1, Duration::from_secs(1), Vitals::default()).await.unwrap();
        drop(broker);
        assert_eq!(Arc::strong_count(&node), 1);
        let state = exchange.0.lock();
        assert!(state.seats.is_empty() && state.leases.is_empty());
    }
}
