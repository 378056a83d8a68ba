//! What came of the messages of one phase.

use std::time::{Duration, Instant};

use crate::seen::Verdict;
use crate::times::Times;

/// How many failures of a phase are described; all are counted.
const TOLD_MAX: u64 = 5;

/// Counted by all senders and recipients together.
pub(super) struct Tally {
    /// When something was counted last: the end of the phase, once it is over.
    last: Instant,
    /// Sends that were answered as they should be.
    pub(super) answered: u64,
    /// Sends that were not.
    pub(super) failed: u64,
    /// From the send to its answer.
    pub(super) answer_ns: Times,
    /// Messages that reached their user for the first time.
    pub(super) delivered: u64,
    /// Those among them that a newer one had overtaken.
    pub(super) late: u64,
    /// Messages that had reached their user before.
    pub(super) repeated: u64,
    /// From the send to the arrival, of messages that did not wait.
    pub(super) arrival_ns: Times,
    /// Users whose replay has come to its end, good or bad.
    pub(super) caught_up: u32,
    /// From `online` to the answer that says that everything is settled.
    pub(super) caught_up_ns: Times,
    /// Users who were refused, or told another count than they should be.
    pub(super) miscounted: u32,
}

impl Tally {
    pub(super) fn new() -> Tally {
        Tally {
            last: Instant::now(),
            answered: 0,
            failed: 0,
            answer_ns: Times::default(),
            delivered: 0,
            late: 0,
            repeated: 0,
            arrival_ns: Times::default(),
            caught_up: 0,
            caught_up_ns: Times::default(),
            miscounted: 0,
        }
    }

    /// When something was counted last.
    pub(super) fn last(&self) -> Instant {
        self.last
    }

    /// A send was answered as it should be.
    pub(super) fn answer(&mut self, took: Duration) {
        self.last = Instant::now();
        self.answered += 1;
        self.answer_ns.record(ns(took));
    }

    /// A send was not answered as it should be.
    pub(super) fn fail(&mut self, user: u32, why: &str) {
        self.last = Instant::now();
        self.failed += 1;
        if self.failed <= TOLD_MAX {
            eprintln!("a message to user {user} failed: {why}");
        }
    }

    /// A message has reached its user, `took_ns` after it was sent if it did not wait.
    pub(super) fn deliver(&mut self, verdict: Verdict, took_ns: Option<u64>) {
        self.last = Instant::now();
        match verdict {
            Verdict::InOrder => {}
            Verdict::Late => self.late += 1,
            Verdict::Repeated => {
                self.repeated += 1;
                return;
            }
        }
        self.delivered += 1;
        if let Some(took_ns) = took_ns {
            self.arrival_ns.record(took_ns);
        }
    }

    /// A user has got what waited, so many messages by the gateway's count, and has settled it.
    pub(super) fn catch_up(&mut self, user: u32, count: u64, expected: u64, took: Duration) {
        self.caught_up_ns.record(ns(took));
        self.end_replay(user, count == expected, || format!("told {count} messages instead of {expected}"));
    }

    /// A user was not given what waits.
    pub(super) fn refuse(&mut self, user: u32, args: &str) {
        self.end_replay(user, false, || format!("refused: {args}"));
    }

    fn end_replay(&mut self, user: u32, is_good: bool, why: impl FnOnce() -> String) {
        self.last = Instant::now();
        self.caught_up += 1;
        if !is_good {
            self.miscounted += 1;
            if u64::from(self.miscounted) <= TOLD_MAX {
                eprintln!("user {user} was {}", why());
            }
        }
    }
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_delivered_once_however_often_they_come() {
        let mut tally = Tally::new();
        for verdict in [Verdict::InOrder, Verdict::Late, Verdict::Repeated] {
            tally.deliver(verdict, Some(5000));
        }
        tally.deliver(Verdict::InOrder, None);
        assert_eq!((tally.delivered, tally.late, tally.repeated), (3, 1, 1));
        assert_eq!(tally.arrival_ns.len(), 2);
    }

    #[test]
    fn a_replay_ends_well_or_badly() {
        let mut tally = Tally::new();
        tally.catch_up(0, 7, 7, Duration::from_millis(1));
        tally.catch_up(1, 6, 7, Duration::from_millis(1));
        tally.refuse(2, "[]");
        assert_eq!((tally.caught_up, tally.miscounted, tally.caught_up_ns.len()), (3, 2, 2));
    }

    #[test]
    fn failures_are_no_answers() {
        let mut tally = Tally::new();
        let began = tally.last();
        tally.answer(Duration::from_micros(3));
        tally.fail(0, "because");
        assert_eq!((tally.answered, tally.failed, tally.answer_ns.len()), (1, 1, 1));
        assert!(tally.last() >= began);
    }
}
