//! What a run of the scenario found.

use crate::meter::Kept;
use crate::record::Record;
use crate::redis::Cost;
use crate::times::Latency;

/// Users who log in on one node, and then move to the other and back.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Takeover {
    pub(crate) users: u32,
    pub(crate) rounds: u32,
    /// Logins begun per second, 0 for as many as can be.
    pub(crate) rate: u32,
    pub(crate) in_flight: u32,
    /// The logins that displace nobody.
    pub(crate) first: Logins,
    /// The logins that displace the user's session on the other node.
    pub(crate) takeover: Logins,
    pub(crate) redis_bytes: Option<Bytes>,
    pub(crate) kept: Option<Kept>,
    /// Logins that were refused or not answered, or whose displaced session heard nothing of it.
    pub(crate) failed: u64,
    /// Users whose connection ended.
    pub(crate) lost: u32,
}

/// Logins of one kind.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Logins {
    /// Those that succeeded.
    pub(crate) count: u64,
    pub(crate) seconds: f64,
    pub(crate) per_second: f64,
    /// From the CONNECT to its answer.
    pub(crate) answer_us: Latency,
    /// From the CONNECT to the DISCONNECT of the displaced session.
    pub(crate) farewell_us: Option<Latency>,
    /// CPU of the nodes for each, absent without `--pid`.
    pub(crate) server_us: Option<f64>,
    /// The tool's own CPU for each.
    pub(crate) load_us: f64,
    /// What each cost Redis, without what happens anyway.
    pub(crate) redis: Option<Cost>,
}

/// What one session takes of Redis' memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bytes {
    /// One without a user: its channel.
    pub(crate) anonymous: f64,
    /// One with a user: its channel and its rows.
    pub(crate) session: f64,
}

impl Takeover {
    /// The record of a run, without its course.
    pub(super) fn record(self, label: &str) -> Record {
        let mut record = Record::new("takeover", label);
        record.setting.add("users", self.users.to_string());
        record.setting.add("rounds", self.rounds.to_string());
        let rate = if self.rate == 0 { "any".to_owned() } else { self.rate.to_string() };
        record.setting.add("logins per second", rate);
        record.setting.add("in flight", self.in_flight.to_string());
        record.figures.extend(self.figures());
        for (kind, logins) in [("first login", &self.first), ("takeover", &self.takeover)] {
            record.latency.add(format!("{kind}: to answer"), logins.answer_us.clone());
            if let Some(farewell) = &logins.farewell_us {
                record.latency.add(format!("{kind}: to disconnect"), farewell.clone());
            }
        }
        record.faults.add("logins failed", self.failed);
        record.faults.add("users lost", self.lost);
        record
    }

    /// The figures by name.
    fn figures(&self) -> Vec<(String, f64)> {
        let mut figures = Vec::new();
        let mut add = |name: String, figure: f64| figures.push((name, figure));
        for (kind, logins) in [("first login", &self.first), ("takeover", &self.takeover)] {
            add(format!("{kind}: per second"), logins.per_second);
            let farewell = logins.farewell_us.as_ref().map(|latency| ("to disconnect", latency));
            for (what, latency) in [("to answer", &logins.answer_us)].into_iter().chain(farewell) {
                let named = latency.figures(&format!("{kind}: {what}"));
                named.into_iter().for_each(|(name, figure)| add(name, figure));
            }
            add(format!("{kind}: load CPU, us"), logins.load_us);
            if let Some(us) = logins.server_us {
                add(format!("{kind}: server CPU, us"), us);
            }
            for (name, figure) in logins.redis.iter().flat_map(Cost::figures) {
                add(format!("{kind}: {name}"), figure);
            }
        }
        if let Some(bytes) = self.redis_bytes {
            add("Redis bytes per anonymous session".to_owned(), bytes.anonymous);
            add("Redis bytes per session".to_owned(), bytes.session);
        }
        if let Some(kept) = &self.kept {
            for (name, figure) in kept.figures() {
                add(format!("kept, in a second: {name}"), figure);
            }
        }
        figures
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn logins(farewell_us: Option<Latency>) -> Logins {
        let calls = BTreeMap::from([("evalsha".to_owned(), 2.0), ("ping".to_owned(), 0.001)]);
        Logins {
            count: 4,
            seconds: 2.0,
            per_second: 2.0,
            answer_us: Latency { p50: 1.0, p99: 2.0, max: 3.0, ..Latency::default() },
            farewell_us,
            server_us: None,
            load_us: 7.0,
            redis: Some(Cost { calls, cpu_us: 30.0 }),
        }
    }

    #[test]
    fn a_run_is_told_with_what_was_measured_and_nothing_else() {
        let mut run = Takeover {
            users: 4,
            rounds: 1,
            rate: 0,
            in_flight: 2,
            first: logins(None),
            takeover: logins(Some(Latency { p50: 4.0, p99: 5.0, max: 6.0, ..Latency::default() })),
            redis_bytes: None,
            kept: None,
            failed: 0,
            lost: 0,
        };
        let figures = BTreeMap::from_iter(run.figures());
        assert_eq!(figures["takeover: to disconnect max, us"], 6.0);
        assert_eq!(figures["first login: Redis evalsha"], 2.0);
        let is_absent = |name: &str| !figures.keys().any(|key| key.contains(name));
        assert!(is_absent("first login: to disconnect") && is_absent("ping") && is_absent("kept"));
        let record = run.clone().record("tidegate");
        assert!(record.is_sound() && record.latency.get("takeover: to disconnect").is_some());
        assert_eq!(record.setting(), "takeover, users 4, rounds 1, logins per second any, in flight 2");
        run.failed = 1;
        assert!(!run.record("tidegate").is_sound());
    }
}
