//! What the subscription brings, on its way to the subscriber.
//!
//! Messages are handed on by the task that reads them, in one order; whoever takes them returns at once. What the node
//! cannot deliver fast enough waits in its shards' queues, what it cannot even read in the kernel's and in those of
//! Redis, which cuts off whoever lets 32 MiB pile up there (`client-output-buffer-limit pubsub`).

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_core::{ClaimId, Incarnation, Namespace, Publication, SessionId, Subscriber};

use crate::adapter::{self, Envelope};
use crate::keys::{Keys, Traffic};
use crate::line::{Sent, Sink};
use crate::node_message::{NodeMessage, Unknown};
use crate::outbound::Outbound;
use crate::requests::{self, Answered, Refusal};

/// What the subscriber is to believe of the subscription. All of `whole` and `lost` is told from here, under
/// a lock, so that a late word of an old connection cannot contradict the new one.
pub(crate) struct Standing {
    state: Mutex<(u64, State)>,
    subscriber: Arc<dyn Subscriber>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Restoring,
    Whole,
    Broken,
}

impl Standing {
    pub(crate) fn new(subscriber: Arc<dyn Subscriber>) -> Self {
        Self { state: Mutex::new((0, State::Broken)), subscriber }
    }

    /// A new connection, whose number is returned.
    pub(crate) fn begin(&self) -> u64 {
        let mut state = self.state.lock();
        *state = (state.0 + 1, State::Restoring);
        state.0
    }

    /// Every wanted topic is confirmed on connection `generation`. False if that has broken meanwhile.
    pub(crate) fn whole(&self, generation: u64) -> bool {
        let mut state = self.state.lock();
        if *state != (generation, State::Restoring) {
            return false;
        }
        state.1 = State::Whole;
        self.subscriber.whole(generation);
        true
    }

    /// Connection `generation` broke or left something out. True if it was whole until now.
    pub(crate) fn broke(&self, generation: u64) -> bool {
        let mut state = self.state.lock();
        if state.0 != generation {
            return false;
        }
        let was_whole = std::mem::replace(&mut state.1, State::Broken) == State::Whole;
        if was_whole {
            self.subscriber.lost();
        }
        was_whole
    }
}

/// What one connection brings goes through this.
pub(crate) struct Feed {
    keys: Keys,
    node_channel: String,
    incarnation: Incarnation,
    /// Nearly every publication is in the namespace of the one before it, so its name is rarely made anew.
    namespace: Namespace,
    generation: u64,
    standing: Arc<Standing>,
    outbound: Arc<Outbound>,
    subscriber: Arc<dyn Subscriber>,
}

impl Feed {
    pub(crate) fn new(
        keys: Keys,
        node_channel: String,
        incarnation: Incarnation,
        generation: u64,
        standing: Arc<Standing>,
        outbound: Arc<Outbound>,
    ) -> Self {
        let subscriber = Arc::clone(&standing.subscriber);
        let namespace = Namespace::root();
        Self { keys, node_channel, incarnation, namespace, generation, standing, outbound, subscriber }
    }

    /// Requests and answers are delivered where publications are: what one server asks and then publishes, or the other
    /// way round, arrives in that order.
    fn deliver(&mut self, channel: &[u8], payload: &[u8]) -> Result<(), Refusal> {
        match self.keys.traffic(channel) {
            Traffic::Publications => {
                let publication = self.publication(channel, payload)?;
                self.subscriber.publication(publication);
            }
            Traffic::Requests(namespace) => {
                let request =
                    requests::decode_request(&Namespace::from(namespace), &Bytes::copy_from_slice(payload))?;
                self.subscriber.request(request);
            }
            Traffic::Answers => {
                let Answered { id, from, answer } =
                    requests::decode_answer(&Bytes::copy_from_slice(payload))?;
                self.subscriber.answered(id, from, answer);
            }
        }
        Ok(())
    }

    fn publication(&mut self, channel: &[u8], payload: &[u8]) -> Result<Publication, adapter::Refusal> {
        let envelope = Envelope::decode(payload)?;
        if !self.keys.carries(channel, envelope.namespace) {
            return Err(adapter::Refusal::NamespaceMismatch);
        }
        if envelope.namespace != self.namespace.as_str() {
            self.namespace = Namespace::from(envelope.namespace);
        }
        Ok(envelope.into_publication(self.namespace.clone()))
    }
}

impl Sink for Feed {
    fn message(&mut self, channel: &[u8], payload: &[u8]) {
        if channel == self.node_channel.as_bytes() {
            if let Err(unknown) = hand_on(payload, self.generation, &self.incarnation, &*self.subscriber) {
                tracing::debug!(%unknown, "dropped a node message");
                self.subscriber.dropped("unknown_node_message");
            }
        } else if let Err(refusal) = self.deliver(channel, payload) {
            tracing::debug!(%refusal, channel = %channel.escape_ascii(), "dropped a message");
            self.subscriber.dropped(refusal.reason());
        }
    }

    fn answered(&mut self, sent: Sent, outcome: Result<(), &[u8]>) {
        if let Some(took) = self.outbound.answered(sent, outcome) {
            self.subscriber.observe("publish", took);
        }
    }

    fn poked(&mut self) {
        self.outbound.depart();
    }

    fn broke(&mut self, reason: &'static str) {
        if self.standing.broke(self.generation) {
            tracing::warn!(reason, generation = self.generation, "lost the subscription");
        }
        self.outbound.detach();
    }

    fn gave_up(&mut self, sent: Sent) {
        self.outbound.gave_up(sent);
    }
}

fn hand_on(
    payload: &[u8],
    generation: u64,
    incarnation: &Incarnation,
    subscriber: &dyn Subscriber,
) -> Result<(), Unknown> {
    match NodeMessage::decode(payload)? {
        NodeMessage::Pulse { incarnation: whose, number } => {
            // Another process with this node's id pulses here, too; its beats say nothing about this one.
            if whose == incarnation.as_str() {
                subscriber.pulse(number, generation);
            }
        }
        // Also of an earlier process with this node's id, which is gone: somebody waits to hear so.
        NodeMessage::Evict(evict) => subscriber.evict(evict.eviction()?),
        NodeMessage::Arrived(arrived) => subscriber.arrived(arrived.arrival()?),
        NodeMessage::Evicted { claim, session } => {
            let claim = ClaimId::parse(&claim).ok_or(Unknown)?;
            subscriber.confirmed(claim, SessionId::parse(&session).ok_or(Unknown)?);
        }
    }
    Ok(())
}
