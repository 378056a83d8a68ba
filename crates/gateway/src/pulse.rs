//! The pulse: whether this node may act, decided by its own messages coming back.
//!
//! Every interval the node renews its lease and publishes a numbered pulse in one step, and hears it back on the
//! subscription that carries its room traffic. The echo of a pulse sent at time `s` lets the node act until
//! `s + fence_after`, by its own monotonic clock. An echo counts only on the unbroken subscription that its pulse
//! was sent under. A node without a fresh echo is *deaf*: it refuses handshakes and is not ready.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_core::broker::{Broker, PulseError};
use tidegate_core::registry::Vitals;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::options::PulseOptions;

/// Pulses that may be under way at once: more than `fence_after / interval` of them prove nothing new.
const OUTSTANDING_MAX: usize = 64;

/// Why the node is deaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deaf {
    /// The subscription is broken or not whole yet.
    Unsubscribed,
    /// It is whole, and yet no pulse has come back for `fence_after`.
    NoEcho,
}

impl Deaf {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unsubscribed => "the broker subscription is not whole",
            Self::NoEcho => "no pulse has come back through the broker within cluster.fence_after_ms",
        }
    }
}

pub(crate) struct Pulse {
    options: PulseOptions,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    echoes: watch::Sender<u64>,
}

/// How much later than first seen a lease must end to count as renewed: clocks and round trips are no exact things,
/// and no node renews for less.
const RENEWED_BY: Duration = Duration::from_millis(50);

#[derive(Default)]
struct State {
    /// The subscription's number while it is whole.
    generation: Option<u64>,
    sent: VecDeque<Sent>,
    fresh_until: Option<Instant>,
    /// When the lease of a process of the same id ends, while this one waits for it.
    predecessor_until: Option<Instant>,
}

struct Sent {
    number: u64,
    at: Instant,
    generation: Option<u64>,
}

impl Pulse {
    pub(crate) fn new(options: PulseOptions, metrics: Arc<Metrics>) -> Self {
        Self { options, metrics, state: Mutex::new(State::default()), echoes: watch::Sender::new(0) }
    }

    /// Whether the node may act at `now`.
    pub(crate) fn check(&self, now: Instant) -> Result<(), Deaf> {
        let state = self.state.lock();
        if state.generation.is_none() {
            return Err(Deaf::Unsubscribed);
        }
        if state.fresh_until.is_some_and(|until| now < until) { Ok(()) } else { Err(Deaf::NoEcho) }
    }

    /// The subscription broke: deaf at once, whatever was echoed before.
    pub(crate) fn lost(&self) {
        let mut state = self.state.lock();
        state.generation = None;
        state.fresh_until = None;
        state.sent.clear();
    }

    /// The subscription is whole, under a new number.
    pub(crate) fn whole(&self, generation: u64) {
        let mut state = self.state.lock();
        if state.generation != Some(generation) {
            state.generation = Some(generation);
            state.fresh_until = None;
        }
    }

    /// A pulse is about to leave.
    fn sending(&self, number: u64, at: Instant) {
        let mut state = self.state.lock();
        if state.sent.len() == OUTSTANDING_MAX {
            state.sent.pop_front();
        }
        let generation = state.generation;
        state.sent.push_back(Sent { number, at, generation });
    }

    /// A pulse came back on `generation`.
    pub(crate) fn echo(&self, number: u64, generation: u64, now: Instant) {
        let mut state = self.state.lock();
        let Some(found) = state.sent.iter().position(|sent| sent.number == number) else { return };
        // What was sent before it is older news, whether it comes back or not.
        let Some(sent) = state.sent.drain(..=found).next_back() else { return };
        if state.generation != Some(generation) || sent.generation != Some(generation) {
            return;
        }
        let until = sent.at + self.options.fence_after;
        if state.fresh_until.is_none_or(|fresh| fresh < until) {
            state.fresh_until = Some(until);
        }
        state.predecessor_until = None;
        drop(state);
        self.metrics.pulse_seconds.observe(now.duration_since(sent.at).as_secs_f64());
        self.echoes.send_replace(number);
    }

    /// Whether the node cannot begin yet because the lease of a process of the same id has not run out.
    /// After the lease has ended, the next beat and its echo have `grace` to come.
    pub(crate) fn is_waiting(&self, now: Instant, grace: Duration) -> bool {
        self.state.lock().predecessor_until.is_some_and(|until| now < until + grace)
    }

    /// Resolves when a pulse has come back and the node may act; the node's start waits for it.
    pub(crate) async fn first_echo(&self) {
        let mut echoes = self.echoes.subscribe();
        while self.check(Instant::now()).is_err() {
            if echoes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Beats until `shutdown`, or until another live node holds this one's id, which is for the operator.
    ///
    /// # Errors
    /// The conflict, and nothing else: a broker that is away is met again with the next beat.
    pub(crate) async fn run(
        &self,
        broker: Arc<dyn Broker>,
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
                outcome = broker.pulse(number, self.options.lease_ttl, Vitals::default()) => outcome,
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

    fn pulse() -> Pulse {
        let options = PulseOptions {
            interval: Duration::from_millis(250),
            fence_after: Duration::from_millis(1_000),
            lease_ttl: Duration::from_secs(10),
        };
        Pulse::new(options, Arc::new(Metrics::new("test", "test").unwrap()))
    }

    #[test]
    fn an_echo_lets_act_until_fence_after_its_sending() {
        let (pulse, start) = (pulse(), Instant::now());
        assert_eq!(pulse.check(start), Err(Deaf::Unsubscribed));
        pulse.whole(1);
        assert_eq!(pulse.check(start), Err(Deaf::NoEcho));
        pulse.sending(1, start);
        pulse.echo(1, 1, start + Duration::from_millis(400));
        assert_eq!(pulse.check(start + Duration::from_millis(999)), Ok(()));
        assert_eq!(pulse.check(start + Duration::from_millis(1_000)), Err(Deaf::NoEcho));
    }

    #[test]
    fn an_echo_of_another_subscription_counts_for_nothing() {
        let (pulse, start) = (pulse(), Instant::now());
        pulse.whole(1);
        pulse.sending(1, start);
        pulse.lost();
        pulse.whole(2);
        // Sent under the first subscription, heard on the second.
        pulse.echo(1, 2, start);
        assert_eq!(pulse.check(start), Err(Deaf::NoEcho));
        pulse.sending(2, start);
        // Sent under the second, and a late echo claims the first.
        pulse.echo(2, 1, start);
        assert_eq!(pulse.check(start), Err(Deaf::NoEcho));
        pulse.sending(3, start);
        pulse.echo(3, 2, start);
        assert_eq!(pulse.check(start), Ok(()));
    }

    #[test]
    fn a_pulse_sent_before_the_subscription_was_whole_counts_for_nothing() {
        let (pulse, start) = (pulse(), Instant::now());
        pulse.sending(1, start);
        pulse.whole(1);
        pulse.echo(1, 1, start);
        assert_eq!(pulse.check(start), Err(Deaf::NoEcho));
    }

    #[test]
    fn a_break_makes_deaf_at_once() {
        let (pulse, start) = (pulse(), Instant::now());
        pulse.whole(1);
        pulse.sending(1, start);
        pulse.echo(1, 1, start);
        pulse.lost();
        assert_eq!(pulse.check(start), Err(Deaf::Unsubscribed));
    }

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

    #[test]
    fn a_predecessors_lease_is_waited_for_and_a_beat_longer() {
        let (pulse, start) = (pulse(), Instant::now());
        let grace = Duration::from_secs(1);
        assert!(!pulse.is_waiting(start, grace));
        pulse.state.lock().predecessor_until = Some(start + Duration::from_secs(5));
        assert!(pulse.is_waiting(start + Duration::from_millis(5_999), grace));
        assert!(!pulse.is_waiting(start + Duration::from_millis(6_000), grace));
        pulse.whole(1);
        pulse.sending(1, start);
        pulse.echo(1, 1, start);
        assert!(!pulse.is_waiting(start, grace), "its own echo ends the wait");
    }

    #[test]
    fn an_older_echo_does_not_shorten_what_a_newer_one_gave() {
        let (pulse, start) = (pulse(), Instant::now());
        pulse.whole(1);
        pulse.sending(1, start);
        pulse.sending(2, start + Duration::from_millis(250));
        pulse.echo(2, 1, start + Duration::from_millis(260));
        pulse.echo(1, 1, start + Duration::from_millis(270));
        assert_eq!(pulse.check(start + Duration::from_millis(1_249)), Ok(()));
    }
}
