//! What comes from the broker.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tidegate_core::offline::Arrival;
use tidegate_core::registry::Eviction;
use tidegate_core::{Answer, ClaimId, NodeId, Publication, Request, RequestId, SessionId, Subscriber};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::hub::{Hub, Job};
use crate::metrics::Metrics;
use crate::node::Inner;
use crate::pulse::Pulse;
use crate::questions::Questions;
use crate::takeover::Takeovers;
use crate::trace::Traces;

/// The node's side of the broker port: publications go to the hub, pulses to the pulse.
pub(crate) struct Inbound {
    pub(crate) hub: Arc<Hub>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) takeovers: Arc<Takeovers>,
    pub(crate) questions: Arc<Questions>,
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) traces: Option<Arc<Traces>>,
    /// The node, once there is one; it owns the broker that owns this.
    pub(crate) node: Arc<OnceLock<Weak<Inner>>>,
}

impl Subscriber for Inbound {
    fn publication(&self, publication: Publication) {
        let followed = self.traces.as_ref().and_then(|traces| traces.delivering(&publication));
        let refused = self.hub.dispatch(Job::new(publication, self.hub.shards(), followed), &self.pulse);
        if refused > 0 {
            self.metrics.dropped("fanout_full", 1);
        }
    }

    fn request(&self, request: Request) {
        if self.requests.try_send(request).is_err() {
            self.metrics.dropped("requests_full", 1);
        }
    }

    fn answered(&self, id: RequestId, from: Option<NodeId>, answer: Answer) {
        self.questions.answered(&id, from, answer);
    }

    fn whole(&self, generation: u64) {
        self.pulse.whole(generation, Instant::now());
    }

    fn lost(&self) {
        self.pulse.lost(Instant::now());
    }

    fn pulse(&self, number: u64, generation: u64) {
        self.pulse.echo(number, generation, Instant::now());
    }

    fn evict(&self, eviction: Eviction) {
        let node = self.node.get().and_then(Weak::upgrade);
        if let Some(node) = node {
            node.evict(eviction);
        }
    }

    fn arrived(&self, arrival: Arrival) {
        let node = self.node.get().and_then(Weak::upgrade);
        if let Some(node) = node {
            node.arrived(&arrival);
        }
    }

    fn confirmed(&self, claim: ClaimId, session: SessionId) {
        self.takeovers.confirmed(claim, session);
    }

    fn dropped(&self, reason: &'static str) {
        self.metrics.dropped(reason, 1);
    }

    fn observe(&self, command: &'static str, elapsed: Duration) {
        self.metrics.broker_took(command, elapsed);
    }

    fn link(&self, up: bool) {
        self.metrics.broker_up(up);
    }
}
