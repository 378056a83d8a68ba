//! A broker that lies: the one in memory, with everything that Redis can do to a node done on command.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use tidegate_core::broker::{Done, Error, PulseError};
use tidegate_core::memory::Exchange;
use tidegate_core::offline::Arrival;
use tidegate_core::registry::{Eviction, Vitals};
use tidegate_core::{
    Answer, Asker, Broker, ClaimId, Incarnation, Namespace, NodeId, Publication, Request, RequestId,
    SessionId, Subscriber, Topic,
};
use tokio::sync::watch;

use crate::cluster::within;

/// What one node's broker is to lie about. Nothing at first.
pub struct Lies(watch::Sender<State>);

/// What becomes of a subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subscribing {
    /// What ought to.
    #[default]
    Honest,
    /// It is neither confirmed nor refused for now.
    Held,
    /// It is refused.
    Refused,
}

#[derive(Default)]
struct State {
    node: Option<Arc<dyn Subscriber>>,
    generation: u64,
    swallows_pulses: bool,
    /// The last pulse that did not come back.
    swallowed: Option<u64>,
    pulse_error: Option<PulseError>,
    /// How many pulses were answered so.
    pulses_failed: usize,
    refuses_publications: bool,
    keeps_answers: bool,
    /// Answers to publications that are kept.
    kept: Mutex<Vec<Done>>,
    drops_evictions: bool,
    /// How many evictions were dropped.
    evictions_dropped: usize,
    drops_arrivals: bool,
    /// How many arrivals of durable messages were dropped.
    arrivals_dropped: usize,
    subscribing: Subscribing,
    /// Calls that wait for a word.
    held: usize,
}

impl Lies {
    /// No lie yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(State::default())))
    }

    /// Joins the exchange for a node.
    #[must_use]
    pub fn join(
        self: &Arc<Self>,
        exchange: &Exchange,
        id: NodeId,
        incarnation: Incarnation,
        node: Arc<dyn Subscriber>,
    ) -> Arc<dyn Broker> {
        self.0.send_modify(|state| state.node = Some(Arc::clone(&node)));
        let ear = Arc::new(Ear { lies: Arc::clone(self), node });
        Arc::new(Liar { lies: Arc::clone(self), truth: exchange.join(id, incarnation, ear) })
    }

    /// Whether pulses are sent and do not come back.
    pub fn swallow_pulses(&self, swallow: bool) {
        self.0.send_modify(|state| state.swallows_pulses = swallow);
    }

    /// Waits for a pulse that is sent after this call and swallowed; gives its number.
    ///
    /// # Panics
    /// When none is.
    pub async fn swallowed(&self) -> u64 {
        let mut number = 0;
        // The first one may have been under way.
        for _ in 0..2 {
            self.0.send_modify(|state| state.swallowed = None);
            let mut told = self.0.subscribe();
            number = within("a pulse to swallow", async {
                told.wait_for(|state| state.swallowed.is_some()).await.ok().and_then(|state| state.swallowed)
            })
            .await
            .expect("the sender is held");
        }
        number
    }

    /// What every pulse is answered with from now on.
    pub fn fail_pulses(&self, error: Option<PulseError>) {
        self.0.send_modify(|state| state.pulse_error = error);
    }

    /// Waits until a pulse has been answered so.
    ///
    /// # Panics
    /// When none is in time.
    pub async fn pulse_failed(&self) {
        let mut told = self.0.subscribe();
        within("a pulse to fail", told.wait_for(|state| state.pulses_failed > 0))
            .await
            .expect("the sender is held");
    }

    /// Whether publications are refused.
    pub fn refuse_publications(&self, refuse: bool) {
        self.0.send_modify(|state| state.refuses_publications = refuse);
    }

    /// Whether publications arrive, and nobody is told so; those that were kept are told when it ends.
    pub fn keep_answers(&self, keep: bool) {
        let mut kept = Vec::new();
        self.0.send_modify(|state| {
            state.keeps_answers = keep;
            if !keep {
                kept = std::mem::take(state.kept.get_mut().unwrap_or_else(PoisonError::into_inner));
            }
        });
        kept.into_iter().for_each(|done| done.tell(Ok(())));
    }

    /// Waits until so many answers are kept.
    ///
    /// # Panics
    /// When they are not in time.
    pub async fn until_kept(&self, answers: usize) {
        let mut told = self.0.subscribe();
        let kept = within(
            "answers to keep",
            told.wait_for(|state| state.kept.lock().is_ok_and(|kept| kept.len() == answers)),
        )
        .await;
        drop(kept.expect("the sender is held"));
    }

    /// Whether the node is not told of its sessions' evictions.
    pub fn drop_evictions(&self, drop: bool) {
        self.0.send_modify(|state| state.drops_evictions = drop);
    }

    /// How many evictions the node was not told of.
    #[must_use]
    pub fn evictions_dropped(&self) -> usize {
        self.0.borrow().evictions_dropped
    }

    /// Whether the node is not told of durable messages.
    pub fn drop_arrivals(&self, drop: bool) {
        self.0.send_modify(|state| state.drops_arrivals = drop);
    }

    /// How many durable messages the node was not told of.
    #[must_use]
    pub fn arrivals_dropped(&self) -> usize {
        self.0.borrow().arrivals_dropped
    }

    /// What becomes of subscriptions, those that are held included.
    pub fn subscribing(&self, subscribing: Subscribing) {
        self.0.send_modify(|state| state.subscribing = subscribing);
    }

    /// Waits until a subscription is held.
    ///
    /// # Panics
    /// When none is.
    pub async fn until_held(&self) {
        let mut told = self.0.subscribe();
        let held = within("a subscription to hold", told.wait_for(|state| state.held > 0)).await;
        drop(held.expect("the sender is held"));
    }

    /// Says that the subscription broke. It did not: whatever is published goes on arriving.
    pub fn lost(&self) {
        self.node().lost();
    }

    /// Says that it is whole again, as `generation`.
    pub fn whole(&self, generation: u64) {
        self.0.send_modify(|state| state.generation = generation);
        self.node().whole(generation);
    }

    /// Says that a pulse came back.
    pub fn echo(&self, number: u64, generation: u64) {
        self.node().pulse(number, generation);
    }

    fn node(&self) -> Arc<dyn Subscriber> {
        self.0.borrow().node.clone().expect("a node has joined")
    }
}

/// The node's side of the port, with something between it and the exchange.
struct Ear {
    lies: Arc<Lies>,
    node: Arc<dyn Subscriber>,
}

impl Subscriber for Ear {
    fn publication(&self, publication: Publication) {
        self.node.publication(publication);
    }

    fn request(&self, request: Request) {
        self.node.request(request);
    }

    fn answered(&self, id: RequestId, from: Option<NodeId>, answer: Answer) {
        self.node.answered(id, from, answer);
    }

    fn whole(&self, generation: u64) {
        self.lies.whole(generation);
    }

    fn lost(&self) {
        self.node.lost();
    }

    fn pulse(&self, number: u64, _generation: u64) {
        let mut heard = None;
        self.lies.0.send_modify(|state| {
            if state.swallows_pulses {
                state.swallowed = Some(number);
            } else {
                heard = Some(state.generation);
            }
        });
        if let Some(generation) = heard {
            self.node.pulse(number, generation);
        }
    }

    fn evict(&self, eviction: Eviction) {
        let mut dropped = false;
        self.lies.0.send_modify(|state| {
            dropped = state.drops_evictions;
            state.evictions_dropped += usize::from(dropped);
        });
        if !dropped {
            self.node.evict(eviction);
        }
    }

    fn arrived(&self, arrival: Arrival) {
        let mut dropped = false;
        self.lies.0.send_modify(|state| {
            dropped = state.drops_arrivals;
            state.arrivals_dropped += usize::from(dropped);
        });
        if !dropped {
            self.node.arrived(arrival);
        }
    }

    fn confirmed(&self, claim: ClaimId, session: SessionId) {
        self.node.confirmed(claim, session);
    }

    fn dropped(&self, reason: &'static str) {
        self.node.dropped(reason);
    }

    fn observe(&self, command: &'static str, elapsed: Duration) {
        self.node.observe(command, elapsed);
    }

    fn link(&self, up: bool) {
        self.node.link(up);
    }
}

/// The broker's side.
struct Liar {
    lies: Arc<Lies>,
    truth: Arc<dyn Broker>,
}

impl Broker for Liar {
    fn publish(&self, publication: Publication, done: Done) {
        let (refuses, keeps) = {
            let state = self.lies.0.borrow();
            (state.refuses_publications, state.keeps_answers)
        };
        if refuses {
            done.tell(Err(Error::Unavailable));
        } else if keeps {
            self.truth.publish(publication, Done::nobody());
            self.lies.0.send_modify(|state| {
                state.kept.get_mut().unwrap_or_else(PoisonError::into_inner).push(done);
            });
        } else {
            self.truth.publish(publication, done);
        }
    }

    fn ready(&self) -> Option<BoxFuture<'static, ()>> {
        self.truth.ready()
    }

    fn subscribe(&self, topics: Vec<Topic>) -> BoxFuture<'static, Result<(), Error>> {
        let (lies, truth) = (Arc::clone(&self.lies), Arc::clone(&self.truth));
        async move {
            let mut told = lies.0.subscribe();
            lies.0.send_modify(|state| state.held += 1);
            let word = told.wait_for(|state| state.subscribing != Subscribing::Held).await;
            let word = word.map_or(Subscribing::Refused, |state| state.subscribing);
            lies.0.send_modify(|state| state.held -= 1);
            if word == Subscribing::Refused { Err(Error::Unavailable) } else { truth.subscribe(topics).await }
        }
        .boxed()
    }

    fn unsubscribe(&self, topics: Vec<Topic>) -> BoxFuture<'static, Result<(), Error>> {
        self.truth.unsubscribe(topics)
    }

    fn request(&self, request: Request, done: Done) {
        self.truth.request(request, done);
    }

    fn answer(&self, to: &Asker, namespace: &Namespace, answer: Answer) {
        self.truth.answer(to, namespace, answer);
    }

    fn listeners(&self, namespace: Namespace) -> BoxFuture<'static, Result<usize, Error>> {
        self.truth.listeners(namespace)
    }

    fn pulse(
        &self,
        number: u64,
        lease_ttl: Duration,
        vitals: Vitals,
    ) -> BoxFuture<'static, Result<(), PulseError>> {
        let error = self.lies.0.borrow().pulse_error.clone();
        match error {
            Some(error) => {
                self.lies.0.send_modify(|state| state.pulses_failed += 1);
                std::future::ready(Err(error)).boxed()
            }
            None => self.truth.pulse(number, lease_ttl, vitals),
        }
    }

    fn confirm(&self, to: NodeId, claim: ClaimId, session: SessionId) {
        self.truth.confirm(to, claim, session);
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.truth.close()
    }
}
