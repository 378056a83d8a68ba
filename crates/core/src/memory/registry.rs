//! The session registry for the nodes of an exchange.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use foldhash::quality::RandomState;
use futures_util::future::{self, BoxFuture, FutureExt as _};

use super::places::{Home, Told};
use super::seats::{Idle, Item};
use super::{Exchange, State};
use crate::ids::{ClaimId, Incarnation, Namespace, Room};
use crate::registry::{
    Announce, Change, Claim, ClaimError, Claimed, Error, Gone, Listed, NodeRow, Occupied, Own, Page, Place,
    Refresh, Row, SessionRegistry, Stay, Tended, Verdict,
};

/// The list of nodes, those included that hold no lease any more and wait to be taken over.
pub(super) type Nodes = HashMap<Incarnation, Standing, RandomState>;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Listed,
    Reaped,
}

/// One node's end of the registry.
///
/// It answers while a node of its incarnation is joined, as one on Redis does while its connection lives.
pub(super) struct Register {
    pub(super) exchange: Exchange,
    pub(super) home: Arc<Home>,
}

impl Register {
    /// Does one thing under the lock, and then delivers what it put into inboxes.
    fn step<T>(&self, step: impl FnOnce(&mut State, &mut Idle) -> Result<T, Error>) -> Result<T, Error> {
        let mut idle = Idle::new();
        let outcome = {
            let mut state = self.exchange.0.lock();
            if state.seats.has(&self.home.incarnation) { step(&mut state, &mut idle) } else { Err(Error) }
        };
        self.exchange.deliver_all(idle);
        outcome
    }

    fn now<T: Send + 'static>(outcome: T) -> BoxFuture<'static, T> {
        future::ready(outcome).boxed()
    }
}

impl SessionRegistry for Register {
    fn claim(&self, claim: Claim) -> BoxFuture<'static, Result<Claimed, ClaimError>> {
        let claimed = self.step(|state, idle| {
            let State { places, leases, .. } = state;
            let is_dead = |home: &Home| {
                leases.get(&home.node).is_none_or(|lease| lease.incarnation != home.incarnation)
            };
            let claimed = places.claim(&claim, &self.home, unix_ms(), is_dead);
            Ok(claimed.map(|(claimed, told)| {
                state.evict(told, idle);
                claimed
            }))
        });
        Self::now(claimed.unwrap_or_else(|error| Err(error.into())))
    }

    fn check(&self, held: Vec<Claim>, restore: bool) -> BoxFuture<'static, Result<Vec<Verdict>, Error>> {
        Self::now(self.step(|state, idle| {
            let verdicts = held.iter().map(|held| {
                let (verdict, told) = state.places.check(held, restore, &self.home, unix_ms());
                state.evict(told, idle);
                verdict
            });
            Ok(verdicts.collect())
        }))
    }

    fn release(&self, gone: Vec<Gone>) -> BoxFuture<'static, Result<(), Error>> {
        Self::now(self.step(|state, _| {
            gone.iter().for_each(|gone| state.places.release(gone));
            Ok(())
        }))
    }

    fn kick(
        &self,
        place: Place,
        device: Option<Arc<str>>,
        confirm: ClaimId,
    ) -> BoxFuture<'static, Result<Vec<Row>, Error>> {
        Self::now(self.step(|state, idle| {
            let confirm = (self.home.node.clone(), confirm);
            let (kicked, told) = state.places.kick(&place, device.as_deref(), &confirm, unix_ms());
            state.evict(told, idle);
            Ok(kicked)
        }))
    }

    fn refresh(&self, changed: Vec<Refresh>) -> BoxFuture<'static, Result<(), Error>> {
        Self::now(self.step(|state, _| {
            changed.iter().for_each(|changed| state.places.refresh(changed));
            Ok(())
        }))
    }

    fn find(&self, places: Vec<Place>) -> BoxFuture<'static, Result<Vec<Vec<Row>>, Error>> {
        Self::now(self.step(|state, _| Ok(places.iter().map(|place| state.places.find(place)).collect())))
    }

    fn enter(&self, stays: Vec<Stay>, announce: Option<Announce>) -> BoxFuture<'static, Result<(), Error>> {
        Self::now(self.step(|state, idle| {
            for stay in stays {
                if let Some(announce) = announce
                    && state.presence.would_begin(&stay)
                {
                    state.announce(announce, &Change { joined: true, stay: &stay }, idle)?;
                }
                state.presence.enter(stay, &self.home.incarnation);
            }
            Ok(())
        }))
    }

    fn depart(&self, stays: Vec<Stay>, announce: Announce) -> BoxFuture<'static, Result<(), Error>> {
        Self::now(self.step(|state, idle| state.depart(&stays, announce, idle)))
    }

    fn members(
        &self,
        namespace: Namespace,
        room: Room,
        page: Page,
    ) -> BoxFuture<'static, Result<Listed<Stay>, Error>> {
        Self::now(self.step(|state, _| Ok(state.presence.members(&namespace, &room, &page))))
    }

    fn rooms(&self, namespace: Namespace, page: Page) -> BoxFuture<'static, Result<Listed<Occupied>, Error>> {
        Self::now(self.step(|state, _| Ok(state.presence.rooms(&namespace, &page))))
    }

    fn nodes(&self) -> BoxFuture<'static, Result<Vec<NodeRow>, Error>> {
        Self::now(self.step(|state, _| {
            let listed = |incarnation| state.nodes.get(incarnation) == Some(&Standing::Listed);
            let rows =
                state.leases.iter().filter(|(_, lease)| listed(&lease.incarnation)).map(|(node, lease)| {
                    NodeRow {
                        node: node.clone(),
                        incarnation: lease.incarnation.clone(),
                        started_at_ms: lease.started_at_ms,
                        vitals: lease.vitals.clone(),
                    }
                });
            Ok(rows.collect())
        }))
    }

    fn own(&self) -> BoxFuture<'static, Result<Own, Error>> {
        Self::now(self.step(|state, _| {
            Ok(match state.nodes.get(&self.home.incarnation) {
                None => Own::Unknown,
                Some(Standing::Listed) => Own::Listed,
                Some(Standing::Reaped) => Own::Reaped,
            })
        }))
    }

    fn held(&self) -> BoxFuture<'static, Result<Vec<Gone>, Error>> {
        Self::now(self.step(|state, _| Ok(state.places.held(&self.home.incarnation))))
    }

    fn stays(&self) -> BoxFuture<'static, Result<Vec<Stay>, Error>> {
        Self::now(self.step(|state, _| Ok(state.presence.of(&self.home.incarnation))))
    }

    fn tend(&self, reap: Option<Announce>) -> BoxFuture<'static, Result<Tended, Error>> {
        Self::now(self.step(|state, idle| {
            state.nodes.insert(self.home.incarnation.clone(), Standing::Listed);
            reap.map_or(Ok(Tended::default()), |announce| state.reap(announce, &self.home.incarnation, idle))
        }))
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        // Also once the node has left: what it did not give up would otherwise wait to be reaped.
        let mut state = self.exchange.0.lock();
        let incarnation = &self.home.incarnation;
        state.nodes.remove(incarnation);
        state.forget(incarnation);
        for stay in state.presence.of(incarnation) {
            state.presence.depart(&stay);
        }
        Self::now(())
    }
}

impl State {
    fn evict(&mut self, told: Vec<Told>, idle: &mut Idle) {
        for (node, eviction) in told {
            self.seats.tell(&node, || Item::Evict(eviction.clone()), idle);
        }
    }

    /// Fails when an inbox has no room; the change must not happen then.
    fn announce(&mut self, announce: Announce, change: &Change<'_>, idle: &mut Idle) -> Result<(), Error> {
        self.seats.publish(&announce.0(change), idle).map_err(|_| Error)
    }

    fn depart(&mut self, stays: &[Stay], announce: Announce, idle: &mut Idle) -> Result<(), Error> {
        for stay in stays {
            if self.presence.would_end(stay) {
                self.announce(announce, &Change { joined: false, stay }, idle)?;
            }
            self.presence.depart(stay);
        }
        Ok(())
    }

    /// Forgets what an incarnation held that gives it up.
    fn forget(&mut self, incarnation: &Incarnation) {
        self.places.held(incarnation).iter().for_each(|gone| self.places.release(gone));
    }

    /// Takes over what other incarnations left that are in the list of nodes and hold no lease.
    fn reap(&mut self, announce: Announce, own: &Incarnation, idle: &mut Idle) -> Result<Tended, Error> {
        let leases = &self.leases;
        let alive = |one: &Incarnation| leases.values().any(|lease| lease.incarnation == *one);
        let listed = self.nodes.iter().filter(|(_, standing)| **standing == Standing::Listed);
        let dead: Vec<_> = listed
            .map(|(incarnation, _)| incarnation.clone())
            .filter(|one| one != own && !alive(one))
            .collect();
        let mut tended = Tended::default();
        for incarnation in dead {
            let may_return = self.seats.has(&incarnation);
            tended.sessions += self.places.forget(&incarnation, may_return);
            let stays = self.presence.of(&incarnation);
            // If it fails, the next call goes on from here.
            self.depart(&stays, announce, idle)?;
            if self.seats.has(&incarnation) {
                self.nodes.insert(incarnation, Standing::Reaped);
            } else {
                // Nobody is left who could ask.
                self.nodes.remove(&incarnation);
            }
            tended.nodes += 1;
        }
        Ok(tended)
    }

    /// What the list of nodes still needs of an incarnation that has left.
    pub(super) fn left(&mut self, incarnation: &Incarnation) {
        if self.nodes.get(incarnation) == Some(&Standing::Reaped) {
            self.nodes.remove(incarnation);
        }
    }
}

pub(super) fn unix_ms() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

    use std::sync::{Arc, OnceLock};

    use bytes::Bytes;
    use parking_lot::Mutex;

    use super::*;
    use crate::broker::{Broker, Subscriber};
    use crate::ids::{ClaimId, NodeId, RequestId, SessionId};
    use crate::publication::{Flags, Publication, Rooms};
    use crate::registry::{Eviction, OnDuplicate, Policy, Transport, Vitals};
    use crate::request::{Answer, Request};

    /// Confirms every eviction from within its delivery.
    #[derive(Default)]
    struct Obeying {
        broker: OnceLock<Arc<dyn Broker>>,
        confirmed: Mutex<Vec<SessionId>>,
    }

    impl Subscriber for Obeying {
        fn publication(&self, _: Publication) {}
        fn request(&self, _: Request) {}
        fn answered(&self, _: RequestId, _: Option<NodeId>, _: Answer) {}
        fn whole(&self, _: u64) {}
        fn lost(&self) {}
        fn pulse(&self, _: u64, _: u64) {}
        fn evict(&self, eviction: Eviction) {
            let (to, claim) = eviction.confirm;
            self.broker.get().unwrap().confirm(to, claim, eviction.session);
        }
        fn arrived(&self, _: crate::offline::Arrival) {}
        fn confirmed(&self, _: ClaimId, session: SessionId) {
            self.confirmed.lock().push(session);
        }
        fn dropped(&self, _: &'static str) {}
        fn observe(&self, _: &'static str, _: Duration) {}
        fn link(&self, _: bool) {}
    }

    struct Node {
        obeying: Arc<Obeying>,
        broker: Arc<dyn Broker>,
        registry: Arc<dyn SessionRegistry>,
        id: NodeId,
    }

    async fn node(exchange: &Exchange) -> Node {
        let (id, incarnation) = (NodeId::random(), Incarnation::random());
        let obeying = Arc::new(Obeying::default());
        let subscriber = Arc::clone(&obeying) as Arc<dyn Subscriber>;
        let broker = exchange.join(id.clone(), incarnation.clone(), subscriber);
        broker.pulse(1, Duration::from_secs(1), Vitals::default()).await.unwrap();
        let registry = exchange.registry(id.clone(), incarnation, Duration::from_secs(1));
        registry.tend(None).await.unwrap();
        Node { obeying, broker, registry, id }
    }

    fn claim() -> Claim {
        Claim {
            place: Place { namespace: Namespace::root(), user: "u".into() },
            session: SessionId::random(),
            id: ClaimId::random(),
            epoch: 0,
            device: "d".into(),
            transport: Transport::WebSocket,
            policy: Policy::PerDevice,
            on_duplicate: OnDuplicate::Replace,
            resumes: None,
            ready: false,
        }
    }

    fn stay(node: &Node, session: SessionId) -> Stay {
        Stay {
            namespace: Namespace::root(),
            room: "r".into(),
            user: "u".into(),
            device: "d".into(),
            session,
            node: node.id.clone(),
        }
    }

    fn announce() -> Announce {
        Announce(|change| Publication {
            namespace: change.stay.namespace.clone(),
            rooms: Rooms::from_iter([change.stay.room.clone()]),
            except: Rooms::new(),
            flags: Flags::default(),
            data: Bytes::from_static(b"\x91\xa1e"),
        })
    }

    #[tokio::test]
    async fn a_node_may_confirm_from_within_the_delivery_of_an_eviction() {
        let exchange = Exchange::new();
        let node = node(&exchange).await;
        assert!(node.obeying.broker.set(Arc::clone(&node.broker)).is_ok());
        let (old, new) = (claim(), claim());
        node.registry.claim(old.clone()).await.unwrap();
        node.registry.claim(new).await.unwrap();
        assert_eq!(*node.obeying.confirmed.lock(), [old.session]);
        node.broker.close().await;
    }

    #[tokio::test]
    async fn nothing_stays_of_nodes_that_are_gone() {
        let exchange = Exchange::new();
        let [closed, dropped, last] = [node(&exchange).await, node(&exchange).await, node(&exchange).await];
        for node in [&closed, &dropped, &last] {
            let claim = Claim { policy: Policy::Unlimited, ..claim() };
            node.registry.enter(vec![stay(node, claim.session)], Some(announce())).await.unwrap();
            node.registry.claim(claim).await.unwrap();
        }
        closed.registry.close().await;
        closed.broker.close().await;
        drop(dropped.broker);
        assert_eq!(dropped.registry.own().await, Err(Error));
        assert_eq!(last.registry.tend(Some(announce())).await, Ok(Tended { nodes: 1, sessions: 1 }));
        {
            let state = exchange.0.lock();
            assert_eq!((state.nodes.len(), state.leases.len()), (1, 1));
        }
        // Also when the broker goes first.
        last.broker.close().await;
        last.registry.close().await;
        let state = exchange.0.lock();
        assert!(state.places.is_empty() && state.presence.is_empty());
        assert!(state.nodes.is_empty() && state.leases.is_empty() && state.seats.is_empty());
    }
}
