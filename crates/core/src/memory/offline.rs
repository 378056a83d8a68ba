//! The offline store for the nodes of an exchange.

use std::sync::Arc;

use futures_util::future::{self, BoxFuture, FutureExt as _};
use smallvec::SmallVec;

use super::registry::unix_ms;
use super::seats::{Idle, Item};
use super::{Exchange, State};
use crate::ids::{Incarnation, NodeId, SessionId};
use crate::offline::{
    Arrival, Holder, HolderError, Letter, OfflineStore, Page, Quotas, SendError, Sender, Sent, Serial,
    Settled, Settlement, Span, Status, Stored, Unavailable,
};
use crate::registry::Place;

/// One node's end of the store. It answers while a node of its incarnation is joined.
pub(super) struct Post {
    pub(super) exchange: Exchange,
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    pub(super) quotas: Quotas,
}

impl Post {
    fn step<T, E: From<Unavailable>>(
        &self,
        step: impl FnOnce(&mut State, &mut Idle) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut idle = Idle::new();
        let outcome = {
            let mut state = self.exchange.0.lock();
            if state.seats.has(&self.incarnation) {
                step(&mut state, &mut idle)
            } else {
                Err(Unavailable.into())
            }
        };
        self.exchange.deliver_all(idle);
        outcome
    }

    fn now<T: Send + 'static>(outcome: T) -> BoxFuture<'static, T> {
        future::ready(outcome).boxed()
    }

    /// Too few replicas have anything: there are none.
    fn replicated(&self) -> Result<(), Unavailable> {
        if self.quotas.wait_replicas == 0 { Ok(()) } else { Err(Unavailable) }
    }
}

impl OfflineStore for Post {
    fn send(&self, letter: Letter) -> BoxFuture<'static, Result<Sent, SendError>> {
        Self::now(self.step(|state, idle| {
            let now_ms = unix_ms();
            if let Sender::Session(holder) = &letter.from {
                state.places.holds(holder)?;
                let max = self.quotas.sender_per_minute_max;
                state.inboxes.take_token(&holder.place, max, now_ms)?;
            }
            let (mut sent, stored) = state.inboxes.store(&letter, &self.node, &self.quotas, now_ms)?;
            if let Some((message, before)) = stored {
                let mut nodes: SmallVec<[(NodeId, Vec<SessionId>); 2]> = SmallVec::new();
                for (node, session) in state.places.ready(&letter.to) {
                    sent.status = Status::Live;
                    match nodes.iter_mut().find(|(known, _)| *known == node) {
                        Some((_, sessions)) => sessions.push(session),
                        None => nodes.push((node, vec![session])),
                    }
                }
                for (node, sessions) in nodes {
                    let arrival = Arrival {
                        namespace: letter.to.namespace.clone(),
                        sessions,
                        before,
                        serial: sent.serial,
                        message: Some(message.clone()),
                    };
                    state.seats.tell(&node, || Item::Arrived(arrival.clone()), idle);
                }
            }
            self.replicated()?;
            Ok(sent)
        }))
    }

    fn open(&self, holder: Holder) -> BoxFuture<'static, Result<Serial, HolderError>> {
        Self::now(self.step(|state, _| {
            state.places.open(&holder)?;
            Ok(state.inboxes.last(&holder.place))
        }))
    }

    fn read(&self, holder: Holder, span: Span) -> BoxFuture<'static, Result<Page, HolderError>> {
        Self::now(self.step(|state, _| {
            state.places.holds(&holder)?;
            Ok(state.inboxes.read(&holder.place, &span, unix_ms()))
        }))
    }

    fn settle(&self, settlements: Vec<Settlement>) -> BoxFuture<'static, Result<Vec<Settled>, Unavailable>> {
        Self::now(self.step(|state, _| {
            let each =
                settlements.iter().map(|Settlement { holder, serials }| match state.places.holds(holder) {
                    Ok(()) => Settled::Deleted(state.inboxes.settle(&holder.place, serials)),
                    Err(HolderError::Displaced) => Settled::Displaced,
                    Err(_) => Settled::Absent,
                });
            Ok(each.collect())
        }))
    }

    fn stored(&self, place: Place) -> BoxFuture<'static, Result<Stored, Unavailable>> {
        Self::now(self.step(|state, _| Ok(state.inboxes.stored(&place, unix_ms()))))
    }

    fn clear(&self, place: Place) -> BoxFuture<'static, Result<u64, Unavailable>> {
        Self::now(self.step(|state, _| Ok(state.inboxes.clear(&place, unix_ms()))))
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        Self::now(())
    }
}

impl Exchange {
    /// The offline store as `incarnation` of `node` sees it. What it holds lives as long as the exchange.
    #[must_use]
    pub fn offline(&self, node: NodeId, incarnation: Incarnation, quotas: Quotas) -> Arc<dyn OfflineStore> {
        Arc::new(Post { exchange: self.clone(), node, incarnation, quotas })
    }
}
