//! What a worker has counted. Tallies of several workers are added up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::seen::Verdict;
use crate::times::Times;

/// How many failures are described; all are counted.
const TOLD_MAX: usize = 5;

/// What was counted in a phase. What the words mean is the scenario's to say.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// What was begun: publishes, events, connects.
    pub(crate) sent: u64,
    /// What came of it: deliveries, answers, connections.
    pub(crate) done: u64,
    /// Deliveries that something newer had overtaken.
    pub(crate) late: u64,
    /// Deliveries that had been made before.
    pub(crate) repeated: u64,
    /// What was refused, or not answered.
    pub(crate) failed: u64,
    /// Connections that ended although nobody wanted them to.
    pub(crate) lost: u64,
    /// How long it took.
    pub(crate) took: Times,
    /// How far the tool was behind its own rate, at most.
    pub(crate) behind_ns_max: u64,
    /// How connections that were expected to end have ended.
    pub(crate) ends: BTreeMap<String, u64>,
    /// Some of the failures.
    pub(crate) told: Vec<String>,
}

impl Tally {
    /// Counts a delivery; whether it was one.
    pub(crate) fn deliver(&mut self, verdict: Verdict, took_ns: u64) -> bool {
        match verdict {
            Verdict::InOrder => {}
            Verdict::Late => self.late += 1,
            Verdict::Repeated => {
                self.repeated += 1;
                return false;
            }
        }
        self.done += 1;
        self.took.record(took_ns);
        true
    }

    /// Counts a failure.
    pub(crate) fn fail(&mut self, why: impl FnOnce() -> String) {
        self.failed += 1;
        if self.told.len() < TOLD_MAX {
            self.told.push(why());
        }
    }

    pub(crate) fn add(&mut self, other: &Tally) {
        self.sent += other.sent;
        self.done += other.done;
        self.late += other.late;
        self.repeated += other.repeated;
        self.failed += other.failed;
        self.lost += other.lost;
        self.took.add(&other.took);
        self.behind_ns_max = self.behind_ns_max.max(other.behind_ns_max);
        for (end, count) in &other.ends {
            *self.ends.entry(end.clone()).or_default() += count;
        }
        let room = TOLD_MAX.saturating_sub(self.told.len());
        self.told.extend(other.told.iter().take(room).cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_are_added_up_in_every_part() {
        let mut first = Tally { sent: 1, lost: 2, behind_ns_max: 9, ..Tally::default() };
        assert!(first.deliver(Verdict::InOrder, 5000) && first.deliver(Verdict::Late, 5000));
        assert!(!first.deliver(Verdict::Repeated, 5000));
        let mut second = Tally { sent: 3, behind_ns_max: 4, ..Tally::default() };
        second.ends.insert("reset".to_owned(), 2);
        for at in 0..7 {
            second.fail(|| format!("{at}"));
        }
        first.add(&second.clone());
        first.add(&second);
        assert_eq!((first.sent, first.done, first.late, first.repeated), (7, 2, 1, 1));
        assert_eq!((first.failed, first.lost, first.took.len(), first.behind_ns_max), (14, 2, 2, 9));
        assert_eq!((first.ends["reset"], first.told.len()), (4, TOLD_MAX));
    }
}
