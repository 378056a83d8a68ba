//! Seating: how sessions of this node begin, and how they end, whoever ends them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidegate_core::registry::{Evicted, Eviction, Refresh};
use tidegate_core::{ClaimId, DisconnectReason, NodeId};

use crate::clock::unix_ms;
use crate::dialect::Dialect;
use crate::enrolment::{Enrolled, Entrant, Tenure};
use crate::interest;
use crate::message::Message;
use crate::node::Inner;
use crate::outbox::Outbox;
use crate::session::{Membership, Parts, Session};
use crate::takeover::Takeover;

impl Inner {
    /// Seats a session and sends `connected` before anything else can reach it.
    pub(crate) fn connect(
        &self,
        shard: u32,
        outbox: &Arc<Outbox>,
        dialect: Dialect,
        connected: &Message,
        enrolled: Enrolled,
    ) -> Arc<Session> {
        let Enrolled { entrant, memberships, tenure, .. } = enrolled;
        let Entrant { id, rule, identity, .. } = entrant;
        let holding = tenure.as_ref().map(|tenure| tenure.holding);
        let parts = Parts {
            id,
            rule,
            identity,
            dialect,
            outbox: Arc::clone(outbox),
            holding,
            connected_at_ms: holding.map_or_else(unix_ms, |holding| holding.epoch),
        };
        let session =
            outbox.push_after(connected, || self.hub.insert(shard, |seat| Session::new(seat, parts)));
        memberships.into_iter().for_each(Membership::keep);
        session.rule.metrics.sessions.inc();
        // Displaced while it waited: it was told that it is connected, and now hears that it no longer is.
        if let Some((evicted, confirms)) = tenure.and_then(Tenure::keep).and_then(Takeover::finish) {
            for confirm in confirms {
                self.end(&session, evicted.clone(), Some(confirm));
            }
        }
        session
    }

    /// A session of this node lost its place.
    pub(crate) fn evict(&self, eviction: Eviction) {
        // In this order: a session is known by its claim first, then by its seat, and in between by both.
        if self.takeovers.evict(&eviction) {
            return;
        }
        let Eviction { session: id, claim, evicted, confirm, .. } = eviction;
        match self.hub.find(id) {
            Some(session) if session.holding().is_some_and(|holding| holding.claim == claim) => {
                self.end(&session, evicted, Some(confirm));
            }
            // It has ended by itself, and begins nothing any more.
            _ => self.broker.confirm(confirm.0, confirm.1, id),
        }
    }

    /// Ends a session from outside its connection: it receives and does nothing from now on. Its connection tells the
    /// client why; whoever waits is told when everything it had begun is answered.
    pub(crate) fn end(&self, session: &Arc<Session>, evicted: Evicted, confirm: Option<(NodeId, ClaimId)>) {
        let reason = evicted.reason;
        if session.evict(evicted, confirm) {
            self.metrics.evicted(reason);
            self.ended(session, DisconnectReason::ServerNamespaceDisconnect);
        }
        self.vacate(session);
        session.settle(&self.broker);
        session.outbox.wake_tick();
    }

    /// Ends a session for a reason of its connection's. One that has ended stays as it is.
    pub(crate) fn disconnect(&self, session: &Session, reason: DisconnectReason) {
        if session.finish() {
            self.ended(session, reason);
        }
        self.vacate(session);
        session.settle(&self.broker);
    }

    fn ended(&self, session: &Session, reason: DisconnectReason) {
        self.metrics.disconnected(reason);
        tracing::debug!(session = %session.id, namespace = %session.namespace(), %reason, "session ended");
    }

    /// The session leaves its rooms and its place, and is no receiver any more. Whoever finds it ended makes sure of
    /// that: whoever ended it may not have come so far yet.
    fn vacate(&self, session: &Session) {
        let Some(rooms) = self.hub.remove(session.seat, session.id) else { return };
        for room in rooms {
            self.left(session, &room);
        }
        for topic in interest::of_session(session.namespace(), session.id) {
            self.interest.leave(&topic);
        }
        if let Some(gone) = session.gone() {
            self.registrar.release(gone);
        }
        session.rule.metrics.sessions.dec();
    }

    /// Something about the session is to be told to the registry.
    pub(crate) fn refresh(&self, session: &Session) {
        let (Some(place), Some(holding)) = (session.place(), session.holding()) else { return };
        self.registrar.refresh(Refresh {
            place,
            session: session.id,
            claim: holding.claim,
            transport: session.transport(),
            seen_at_ms: session.seen_at_ms.load(Ordering::Relaxed).max(session.connected_at_ms),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tidegate_core::SessionId;
    use tidegate_core::memory::Exchange;
    use tidegate_core::registry::EvictReason;

    use super::*;
    use crate::rig::Rig;

    fn replaced() -> Evicted {
        Evicted { reason: EvictReason::Replaced, by: None }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nobody_is_told_of_silence_before_the_session_is_no_receiver() {
        let exchange = Exchange::new();
        let rig = Rig::start(&exchange, "a").await;
        let node = Arc::clone(rig.inner());
        for by_itself in [false, true] {
            let session = rig.seat("ann").await;
            let deed = session.begin(&node.broker).unwrap();
            // A wait of this very node, which hears of the silence at once.
            let winner = ClaimId::random();
            let _wait = node.takeovers.begin(winner, SessionId::random(), &node.broker);
            let confirm = (node.options.node.clone(), winner);

            // Somebody else is at the shard, so that whoever ends the session comes no further than that.
            let (entered, inside) = mpsc::channel();
            let (leave, left) = mpsc::channel::<()>();
            let hub = Arc::clone(&node.hub);
            let holder = std::thread::spawn(move || {
                hub.while_busy(0, || {
                    entered.send(()).unwrap();
                    left.recv().unwrap();
                });
            });
            inside.recv().unwrap();
            let ending = {
                let (node, session, confirm) = (Arc::clone(&node), Arc::clone(&session), confirm.clone());
                std::thread::spawn(move || {
                    if by_itself {
                        node.disconnect(&session, DisconnectReason::ClientNamespaceDisconnect);
                    } else {
                        node.end(&session, replaced(), Some(confirm));
                    }
                })
            };
            while !session.is_over() {
                std::thread::yield_now();
            }
            // Its last publish is answered just now, or its eviction arrives just now.
            let evicting = by_itself.then(|| {
                let (node, session) = (Arc::clone(&node), Arc::clone(&session));
                std::thread::spawn(move || node.end(&session, replaced(), Some(confirm)))
            });
            drop(deed);
            for _ in 0..1_000 {
                let confirmed = node.takeovers.has_confirmed(winner, session.id);
                assert!(!confirmed, "it would still be given what is published");
                std::thread::yield_now();
            }

            leave.send(()).unwrap();
            for thread in [Some(holder), Some(ending), evicting].into_iter().flatten() {
                thread.join().unwrap();
            }
            assert!(node.takeovers.has_confirmed(winner, session.id));
        }
        rig.node.drain().await;
    }

    #[tokio::test]
    async fn a_session_is_not_last_seen_before_it_came() {
        let rig = Rig::start(&Exchange::new(), "a").await;
        let ann = rig.seat("ann").await;
        rig.inner().refresh(&ann);
        // What is written, is written in order.
        rig.join(&ann, "r").await;
        let rows = rig.node.sessions_of(ann.place().unwrap()).await.unwrap();
        assert_eq!(rows[0].seen_at_ms, rows[0].epoch);
        rig.node.drain().await;
    }
}
