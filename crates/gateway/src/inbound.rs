//! What comes from the broker.

use std::sync::Arc;
use std::time::Duration;

use tidegate_core::registry::Eviction;
use tidegate_core::{ClaimId, Publication, SessionId, Subscriber};
use tokio::time::Instant;

use crate::hub::{Hub, Job};
use crate::metrics::Metrics;
use crate::pulse::Pulse;

/// The node's side of the broker port: publications go to the hub, pulses to the pulse.
pub(crate) struct Inbound {
    pub(crate) hub: Arc<Hub>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Subscriber for Inbound {
    fn publication(&self, publication: Publication) {
        let refused = self.hub.dispatch(Job::new(publication, self.hub.shards()));
        if refused > 0 {
            self.metrics.dropped("fanout_full", 1);
        }
    }

    fn whole(&self, generation: u64) {
        self.pulse.whole(generation);
    }

    fn lost(&self) {
        self.pulse.lost();
    }

    fn pulse(&self, number: u64, generation: u64) {
        self.pulse.echo(number, generation, Instant::now());
    }

    fn evict(&self, eviction: Eviction) {
        let _ = eviction;
    }

    fn confirmed(&self, claim: ClaimId, session: SessionId) {
        let _ = (claim, session);
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
