//! The beat: what sends pulses, and who may have the node's id.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tidegate_core::broker::{Broker, PulseError};
use tidegate_core::registry::Vitals;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Pulse;

/// How much later than first seen a lease must end to count as renewed: clocks and round trips are no exact things,
/// and no node renews for less.
const RENEWED_BY: Duration = Duration::from_millis(50);

impl Pulse {
    /// Beats until `shutdown`, or until another live node holds this one's id, which is for the operator. `vitals` is
    /// asked before every beat.
    ///
    /// # Errors
    /// The conflict, and nothing else: a broker that is away is met again with the next beat.
    pub(crate) async fn run(
        &self,
        broker: Arc<dyn Broker>,
        vitals: impl Fn() -> Vitals + Send,
        shutdown: CancellationToken,
    ) -> Result<(), PulseError> {
        let mut interval = tokio::time::interval(self.options.interval);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut predecessor = Some(Predecessor::default());
        for number in 1.. {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = interval.tick() => {}
            }
            let asked = Instant::now();
            self.sending(number, asked);
            let outcome = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                outcome = broker.pulse(number, self.options.lease_ttl, vitals()) => outcome,
            };
            match outcome {
                Ok(()) => {
                    predecessor = None;
                    self.metrics.lease_renewed("ok");
                }
                Err(PulseError::Unavailable) => self.metrics.lease_renewed("failed"),
                Err(PulseError::Conflict { incarnation, lease_left }) => {
                    self.metrics.lease_renewed("conflict");
                    // The broker looked at the lease at some moment between the two.
                    let ends = asked + lease_left..Instant::now() + lease_left;
                    let until = ends.end;
                    let alive = predecessor.as_mut().is_none_or(|seen| seen.is_renewed(&incarnation, ends));
                    if alive {
                        return Err(PulseError::Conflict { incarnation, lease_left });
                    }
                    if self.state.lock().predecessor_until.replace(until).is_none() {
                        tracing::warn!(
                            incarnation,
                            lease_left_ms = u64::try_from(lease_left.as_millis()).unwrap_or(u64::MAX),
                            "the lease of this node id is held; waiting for it to end or to be renewed"
                        );
                    }
                }
            }
        }
        Ok(())
    }
}

/// Who held this node's id before its first renewal: a process that crashed leaves a lease that runs out, a live one
/// renews its own.
#[derive(Default)]
struct Predecessor(Option<(String, Instant)>);

impl Predecessor {
    /// Whether the lease of `incarnation`, which now ends at some moment of `ends`, was renewed since it was first seen.
    /// A late answer alone proves nothing: the earliest end now is compared with the latest end then.
    fn is_renewed(&mut self, incarnation: &str, ends: Range<Instant>) -> bool {
        match &self.0 {
            Some((seen, first_end)) if seen == incarnation => ends.start > *first_end + RENEWED_BY,
            // Another one took the id meanwhile, and so is alive.
            Some(_) => true,
            None => {
                self.0 = Some((incarnation.to_owned(), ends.end));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_renewed_lease_is_a_live_predecessors() {
        let start = Instant::now();
        let ms = |ms| start + Duration::from_millis(ms);
        let mut dead = Predecessor::default();
        assert!(!dead.is_renewed("a", ms(10_000)..ms(10_002)));
        // The same end, seen again and again, give or take a round trip, however long.
        assert!(!dead.is_renewed("a", ms(9_997)..ms(10_003)));
        assert!(!dead.is_renewed("a", ms(10_000)..ms(10_900)));
        assert!(dead.is_renewed("a", ms(10_250)..ms(10_251)));
        let mut replaced = Predecessor::default();
        assert!(!replaced.is_renewed("a", ms(10_000)..ms(10_001)));
        assert!(replaced.is_renewed("b", ms(10_000)..ms(10_001)));
    }
}
