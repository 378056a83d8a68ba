//! The pulse: whether this node may act, decided by its own messages coming back.
//!
//! Every interval the node renews its lease and publishes a numbered pulse in one step, and hears it back on the
//! subscription that carries its room traffic and its evictions. The echo of a pulse sent at time `s` lets the node act
//! until `s + fence_after`, by its own monotonic clock. An echo counts only on the unbroken subscription that its pulse
//! was sent under.
//!
//! A node without a fresh echo is *deaf*. Each time that happens is one *lapse*. After a lapse an echo alone is not
//! enough: sessions may have been displaced while the node could not hear of it, so it acts again only when an audit
//! that began after the echo has checked them all ([`Pulse::audited`]). See ARCHITECTURE.md for why this fences.

mod beat;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

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
    /// It hears again, and has not checked its sessions yet.
    Unaudited,
}

impl Deaf {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unsubscribed => "the broker subscription is not whole",
            Self::NoEcho => "no pulse has come back through the broker within cluster.fence_after_ms",
            Self::Unaudited => "sessions are being checked against the registry after a time of deafness",
        }
    }
}

/// One time of deafness. Numbers only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lapse(u64);

pub(crate) struct Pulse {
    options: PulseOptions,
    metrics: Arc<Metrics>,
    start: Instant,
    /// Until when the node may act, in nanoseconds since `start`; 0 while it may not. The state says the same; this is
    /// for those who ask per message.
    acting_until: AtomicU64,
    state: Mutex<State>,
    /// Changes with every echo and every audit.
    changes: watch::Sender<()>,
}

struct State {
    /// The subscription's number while it is whole.
    generation: Option<u64>,
    sent: VecDeque<Sent>,
    fresh_until: Option<Instant>,
    /// The latest lapse, which is over when it has been audited.
    lapse: Lapse,
    audited: Option<Lapse>,
    /// When the latest lapse began.
    deaf_since: Instant,
    /// Since when the node has been acting without a lapse.
    acting_since: Option<Instant>,
    /// When the lease of a process of the same id ends, while this one waits for it.
    predecessor_until: Option<Instant>,
}

struct Sent {
    number: u64,
    at: Instant,
    generation: Option<u64>,
}

impl State {
    /// The node was found deaf, since `since`.
    fn lapsed(&mut self, since: Instant) {
        if self.audited == Some(self.lapse) {
            self.lapse.0 += 1;
            self.deaf_since = since;
            self.acting_since = None;
        } else {
            // An audit that is under way has begun before this, and so proves nothing.
            self.lapse.0 += 1;
        }
    }
}

impl Pulse {
    pub(crate) fn new(options: PulseOptions, metrics: Arc<Metrics>) -> Self {
        let start = Instant::now();
        let state = State {
            generation: None,
            sent: VecDeque::new(),
            fresh_until: None,
            lapse: Lapse(1),
            audited: None,
            deaf_since: start,
            acting_since: None,
            predecessor_until: None,
        };
        Self {
            options,
            metrics,
            start,
            acting_until: AtomicU64::new(0),
            state: Mutex::new(state),
            changes: watch::Sender::new(()),
        }
    }

    /// Whether the node may act at `now`.
    pub(crate) fn check(&self, now: Instant) -> Result<(), Deaf> {
        if self.since_start(now) < self.acting_until.load(Ordering::Acquire) {
            return Ok(());
        }
        let state = self.state.lock();
        if state.generation.is_none() {
            return Err(Deaf::Unsubscribed);
        }
        match state.fresh_until {
            Some(until) if now < until => {
                if state.audited == Some(state.lapse) {
                    Ok(())
                } else {
                    Err(Deaf::Unaudited)
                }
            }
            _ => Err(Deaf::NoEcho),
        }
    }

    fn since_start(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Publishes what `state` says, under its lock.
    fn publish(&self, state: &State) {
        let until = match state.fresh_until {
            Some(until) if state.generation.is_some() && state.audited == Some(state.lapse) => {
                self.since_start(until)
            }
            _ => 0,
        };
        self.acting_until.store(until, Ordering::Release);
    }

    /// The subscription broke: deaf at once, whatever was echoed before.
    pub(crate) fn lost(&self, now: Instant) {
        let mut state = self.state.lock();
        state.generation = None;
        let since = state.fresh_until.take().map_or(now, |until| until.min(now));
        state.lapsed(since);
        state.sent.clear();
        self.publish(&state);
    }

    /// The subscription is whole, under a new number.
    pub(crate) fn whole(&self, generation: u64, now: Instant) {
        let mut state = self.state.lock();
        if state.generation != Some(generation) {
            if state.generation.is_some() {
                let since = state.fresh_until.map_or(now, |until| until.min(now));
                state.lapsed(since);
            }
            state.generation = Some(generation);
            state.fresh_until = None;
            self.publish(&state);
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
        if let Some(fresh_until) = state.fresh_until
            && fresh_until <= now
        {
            // Nobody may have looked meanwhile; it was a lapse all the same.
            state.lapsed(fresh_until);
        }
        let until = sent.at + self.options.fence_after;
        if state.fresh_until.is_none_or(|fresh| fresh < until) {
            state.fresh_until = Some(until);
        }
        state.predecessor_until = None;
        self.publish(&state);
        drop(state);
        self.metrics.pulse_seconds.observe(now.duration_since(sent.at).as_secs_f64());
        self.changes.send_replace(());
    }

    /// The lapse that is to be audited, once the node hears again: what is read from the registry from now on is news
    /// of a time when every later eviction is heard. None while it is deaf or acting.
    pub(crate) fn unaudited(&self, now: Instant) -> Option<Lapse> {
        let state = self.state.lock();
        let hears = state.generation.is_some() && state.fresh_until.is_some_and(|until| now < until);
        (hears && state.audited != Some(state.lapse)).then_some(state.lapse)
    }

    /// Every session has been checked in an audit that began when [`Pulse::unaudited`] gave `lapse`. It counts for
    /// nothing when the node has been deaf again meanwhile. Returns whether the node may act.
    pub(crate) fn audited(&self, lapse: Lapse, now: Instant) -> bool {
        let mut state = self.state.lock();
        if let Some(fresh_until) = state.fresh_until
            && fresh_until <= now
        {
            state.lapsed(fresh_until);
            // The next echo must not count the same time of deafness again.
            state.fresh_until = None;
        }
        let counts = state.lapse == lapse && state.generation.is_some() && state.fresh_until.is_some();
        if counts {
            state.audited = Some(lapse);
            state.acting_since = Some(now);
            self.publish(&state);
            drop(state);
            self.changes.send_replace(());
        }
        counts
    }

    /// The number of the latest lapse: as long as it stays the same, the node has not been deaf.
    pub(crate) fn lapse(&self) -> Lapse {
        self.state.lock().lapse
    }

    /// How long the node has been acting without a lapse.
    pub(crate) fn acting_for(&self, now: Instant) -> Option<Duration> {
        self.check(now).ok()?;
        self.state.lock().acting_since.map(|since| now.saturating_duration_since(since))
    }

    /// Resolves at the next echo or audit.
    pub(crate) fn changed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut changes = self.changes.subscribe();
        async move {
            // The sender lives as long as the node; without it nothing changes any more.
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Until when what arrives may be held for want of hearing.
    pub(crate) fn hold_until(&self, now: Instant) -> Instant {
        let state = self.state.lock();
        let since = match state.fresh_until {
            // The lapse has begun and nobody has written it down yet.
            Some(until) if state.audited == Some(state.lapse) => until.min(now),
            _ => state.deaf_since,
        };
        since + self.options.hold
    }

    /// Resolves when the node may act, or with the reason why not once `hold` has passed since it became deaf.
    pub(crate) async fn held(&self) -> Result<(), Deaf> {
        loop {
            // Before the look, or a change in between would go unnoticed.
            let changed = self.changed();
            let now = Instant::now();
            let Err(deaf) = self.check(now) else { return Ok(()) };
            let until = self.hold_until(now);
            if until <= now || tokio::time::timeout_at(until, changed).await.is_err() {
                return Err(deaf);
            }
        }
    }

    /// Whether the node cannot begin yet because the lease of a process of the same id has not run out.
    /// After the lease has ended, the next beat and its echo have `grace` to come.
    pub(crate) fn is_waiting(&self, now: Instant, grace: Duration) -> bool {
        self.state.lock().predecessor_until.is_some_and(|until| now < until + grace)
    }

    /// Resolves when the node may act; the node's start waits for it.
    pub(crate) async fn acting(&self) {
        loop {
            let changed = self.changed();
            if self.check(Instant::now()).is_ok() {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(feature = "bench")]
impl Pulse {
    /// Lets the node act for `fence_after`, as an echo and an audit do.
    pub(crate) fn let_act(&self) {
        let now = Instant::now();
        self.whole(1, now);
        self.sending(1, now);
        self.echo(1, 1, now);
        self.audited(self.lapse(), now);
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
            lease_renew: Duration::from_secs(3),
            hold: Duration::from_secs(2),
        };
        Pulse::new(options, Arc::new(Metrics::new("test", "test", "n").unwrap()))
    }

    fn audit(pulse: &Pulse, now: Instant) {
        let lapse = pulse.unaudited(now).expect("a lapse to audit");
        assert!(pulse.audited(lapse, now));
    }

    #[test]
    fn nothing_is_done_before_an_audit_that_began_after_the_lapse() {
        let (pulse, start) = (pulse(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        pulse.whole(1, start);
        assert_eq!(pulse.unaudited(start), None, "it does not hear yet");
        pulse.sending(1, start);
        pulse.echo(1, 1, start);
        assert_eq!(pulse.check(start), Err(Deaf::Unaudited));
        audit(&pulse, start);
        assert_eq!(pulse.unaudited(at(10)), None);
        assert_eq!(pulse.check(at(10)), Ok(()));

        // Heard again a moment too late, and nobody looked in between.
        pulse.sending(2, at(900));
        pulse.echo(2, 1, at(1_001));
        assert_eq!(pulse.check(at(1_001)), Err(Deaf::Unaudited));
        assert_eq!(pulse.acting_for(at(1_001)), None);
        let early = pulse.unaudited(at(1_001)).unwrap();
        // Deaf once more while it was audited.
        pulse.lost(at(1_100));
        pulse.whole(2, at(1_100));
        assert!(!pulse.audited(early, at(1_110)));
        pulse.sending(3, at(1_120));
        pulse.echo(3, 2, at(1_130));
        assert!(!pulse.audited(early, at(1_140)));
        audit(&pulse, at(1_150));
        assert_eq!(pulse.check(at(1_150)), Ok(()));
        assert_eq!(pulse.acting_for(at(1_250)), Some(Duration::from_millis(100)));
    }

    #[test]
    fn an_audit_that_outlasts_its_echo_counts_for_nothing() {
        let (pulse, start) = (pulse(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        pulse.whole(1, start);
        pulse.sending(1, start);
        pulse.echo(1, 1, start);
        let lapse = pulse.unaudited(start).unwrap();
        assert!(!pulse.audited(lapse, at(1_000)));
        pulse.sending(2, at(1_010));
        pulse.echo(2, 1, at(1_020));
        assert!(!pulse.audited(lapse, at(1_030)));
        audit(&pulse, at(1_030));
    }

    #[test]
    fn what_arrives_is_held_for_a_while_since_the_deafness_began() {
        let (pulse, start) = (pulse(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        pulse.whole(1, start);
        pulse.sending(1, start);
        pulse.echo(1, 1, start);
        audit(&pulse, start);
        // It hears until 1,000 ms, whoever looks and when.
        assert_eq!(pulse.hold_until(at(1_500)), at(3_000));
        pulse.lost(at(1_600));
        assert_eq!(pulse.hold_until(at(1_700)), at(3_000));
        pulse.whole(2, at(1_800));
        pulse.lost(at(1_900));
        assert_eq!(pulse.hold_until(at(2_000)), at(3_000), "all of it is one time of deafness");
    }

    #[test]
    fn an_echo_lets_act_until_fence_after_its_sending() {
        let (pulse, start) = (pulse(), Instant::now());
        assert_eq!(pulse.check(start), Err(Deaf::Unsubscribed));
        pulse.whole(1, start);
        assert_eq!(pulse.check(start), Err(Deaf::NoEcho));
        pulse.sending(1, start);
        pulse.echo(1, 1, start + Duration::from_millis(400));
        audit(&pulse, start + Duration::from_millis(400));
        assert_eq!(pulse.check(start + Duration::from_millis(999)), Ok(()));
        assert_eq!(pulse.check(start + Duration::from_millis(1_000)), Err(Deaf::NoEcho));
    }

    #[test]
    fn an_echo_of_another_subscription_counts_for_nothing() {
        let (pulse, start) = (pulse(), Instant::now());
        pulse.whole(1, start);
        pulse.sending(1, start);
        pulse.lost(start);
        pulse.whole(2, start);
        // Sent under the first subscription, heard on the second.
        pulse.echo(1, 2, start);
        assert_eq!(pulse.check(start), Err(Deaf::NoEcho));
        pulse.sending(2, start);
        // Sent under the second, and a late echo claims the first.
        pulse.echo(2, 1, start);
        assert_eq!(pulse.check(start), Err(Deaf::NoEcho));
        pulse.sending(3, start);
        pulse.echo(3, 2, start);
        audit(&pulse, start);
        assert_eq!(pulse.check(start), Ok(()));
    }

    #[test]
    fn a_pulse_sent_before_the_subscription_was_whole_counts_for_nothing() {
        let (pulse, start) = (pulse(), Instant::now());
        pulse.sending(1, start);
        pulse.whole(1, start);
        pulse.echo(1, 1, start);
        assert_eq!(pulse.check(start), Err(Deaf::NoEcho));
    }

    #[test]
    fn a_break_makes_deaf_at_once() {
        let (pulse, start) = (pulse(), Instant::now());
        pulse.whole(1, start);
        pulse.sending(1, start);
        pulse.echo(1, 1, start);
        audit(&pulse, start);
        assert_eq!(pulse.check(start), Ok(()));
        pulse.lost(start);
        assert_eq!(pulse.check(start), Err(Deaf::Unsubscribed));
    }

    #[test]
    fn a_predecessors_lease_is_waited_for_and_a_beat_longer() {
        let (pulse, start) = (pulse(), Instant::now());
        let grace = Duration::from_secs(1);
        assert!(!pulse.is_waiting(start, grace));
        pulse.state.lock().predecessor_until = Some(start + Duration::from_secs(5));
        assert!(pulse.is_waiting(start + Duration::from_millis(5_999), grace));
        assert!(!pulse.is_waiting(start + Duration::from_millis(6_000), grace));
        pulse.whole(1, start);
        pulse.sending(1, start);
        pulse.echo(1, 1, start);
        assert!(!pulse.is_waiting(start, grace), "its own echo ends the wait");
    }

    #[test]
    fn an_older_echo_does_not_shorten_what_a_newer_one_gave() {
        let (pulse, start) = (pulse(), Instant::now());
        pulse.whole(1, start);
        pulse.sending(1, start);
        pulse.sending(2, start + Duration::from_millis(250));
        pulse.echo(2, 1, start + Duration::from_millis(260));
        audit(&pulse, start + Duration::from_millis(260));
        pulse.echo(1, 1, start + Duration::from_millis(270));
        assert_eq!(pulse.check(start + Duration::from_millis(1_249)), Ok(()));
    }
}
