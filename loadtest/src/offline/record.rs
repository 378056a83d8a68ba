//! What a run of the scenario found.

use std::collections::BTreeMap;

use crate::meter::Kept;
use crate::record::Record;
use crate::redis::Cost;
use crate::times::Latency;

/// Messages that are stored for users who are away, then drained by them, then sent to them while they are there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Offline {
    pub(crate) users: u32,
    /// Messages that wait for each user.
    pub(crate) messages: u64,
    /// Length of a message's data.
    pub(crate) bytes: usize,
    /// How many send, one message at a time each.
    pub(crate) senders: u32,
    /// Sends to users who are away.
    pub(crate) store: Phase,
    /// What a stored message takes of Redis' memory.
    pub(crate) redis_bytes: Option<f64>,
    /// Stored messages, delivered and acknowledged.
    pub(crate) drain: Phase,
    /// Sends to users who are ready, delivered and acknowledged.
    pub(crate) live: Phase,
    /// The senders alone, taken off what the first phase cost.
    pub(crate) kept_senders: Option<Kept>,
    /// Senders and users, taken off what the other phases cost.
    pub(crate) kept: Option<Kept>,
    pub(crate) faults: Faults,
}

/// Messages of one kind.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Phase {
    pub(crate) count: u64,
    pub(crate) seconds: f64,
    pub(crate) per_second: f64,
    /// How long what took.
    pub(crate) latency_us: BTreeMap<String, Latency>,
    /// CPU of the nodes for each, absent without `--pid`.
    pub(crate) server_us: Option<f64>,
    /// The tool's own CPU for each.
    pub(crate) load_us: f64,
    /// What each cost Redis, without what happens anyway.
    pub(crate) redis: Option<Cost>,
}

/// What must not be: all of these are zero in a sound run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    /// Sends that were not answered with `ok` and the right status.
    pub(crate) failed: u64,
    /// Messages that were acknowledged to their sender and have not reached their user.
    pub(crate) missing: u64,
    /// Messages that reached their user once more.
    pub(crate) repeated: u64,
    /// Messages that came after one that was sent later.
    pub(crate) late: u64,
    /// Users who did not catch up: not in time, or not with the count there should be.
    pub(crate) not_caught_up: u32,
    /// Senders and users whose connection ended.
    pub(crate) lost: u32,
}

impl Phase {
    /// How many there could be if Redis were the limit, and had one core for it.
    fn per_redis_core(&self) -> Option<f64> {
        let cpu_us = self.redis.as_ref()?.cpu_us;
        (cpu_us > 0.0).then(|| 1e6 / cpu_us)
    }

    fn figures(&self) -> Vec<(String, f64)> {
        let mut figures = vec![("per second".to_owned(), self.per_second)];
        for (what, latency) in &self.latency_us {
            figures.extend(latency.figures(what));
        }
        figures.push(("load CPU, us".to_owned(), self.load_us));
        figures.extend(self.server_us.map(|us| ("server CPU, us".to_owned(), us)));
        figures.extend(self.per_redis_core().map(|count| ("per second of Redis CPU".to_owned(), count)));
        figures.extend(self.redis.iter().flat_map(Cost::figures));
        figures
    }
}

impl Offline {
    /// The record of a run, without its course.
    pub(super) fn record(self, label: &str) -> Record {
        let mut record = Record::new("offline", label);
        for (name, count) in [("users", self.users.into()), ("messages", self.messages)] {
            record.setting.add(name, count.to_string());
        }
        record.setting.add("bytes", self.bytes.to_string());
        record.setting.add("senders", self.senders.to_string());
        record.figures.extend(self.figures());
        for (name, phase) in [("store", &self.store), ("drain", &self.drain), ("live", &self.live)] {
            for (what, latency) in &phase.latency_us {
                record.latency.add(format!("{name}: {what}"), latency.clone());
            }
        }
        let Faults { failed, missing, repeated, late, not_caught_up, lost } = self.faults;
        let faults = [("sends failed", failed), ("missing", missing), ("repeated", repeated), ("late", late)];
        for (name, count) in faults {
            record.faults.add(name, count);
        }
        record.faults.add("users not caught up", not_caught_up);
        record.faults.add("lost connections", lost);
        record
    }

    /// The figures by name.
    fn figures(&self) -> Vec<(String, f64)> {
        let mut figures = Vec::new();
        for (name, phase) in [("store", &self.store), ("drain", &self.drain), ("live", &self.live)] {
            figures.extend(
                phase.figures().into_iter().map(|(what, figure)| (format!("{name}: {what}"), figure)),
            );
        }
        figures.extend(self.redis_bytes.map(|bytes| ("Redis bytes per stored message".to_owned(), bytes)));
        let kept = [("senders kept", &self.kept_senders), ("all kept", &self.kept)];
        for (who, kept) in kept.into_iter().filter_map(|(who, kept)| Some((who, kept.as_ref()?))) {
            let each_second = kept.figures().into_iter();
            figures.extend(each_second.map(|(what, figure)| (format!("{who}, in a second: {what}"), figure)));
        }
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(redis: Option<Cost>) -> Phase {
        let latency = Latency { p50: 1.0, p99: 2.0, max: 3.0, ..Latency::default() };
        Phase {
            count: 4,
            seconds: 2.0,
            per_second: 2.0,
            latency_us: BTreeMap::from([("send to answer".to_owned(), latency)]),
            server_us: None,
            load_us: 7.0,
            redis,
        }
    }

    #[test]
    fn a_run_is_told_with_what_was_measured_and_nothing_else() {
        let cost = Cost { calls: BTreeMap::from([("evalsha".to_owned(), 2.0)]), cpu_us: 50.0 };
        let mut run = Offline {
            users: 4,
            messages: 1,
            bytes: 40,
            senders: 2,
            store: phase(Some(cost)),
            redis_bytes: Some(200.0),
            drain: phase(None),
            live: phase(Some(Cost::default())),
            kept_senders: None,
            kept: None,
            faults: Faults::default(),
        };
        let figures = BTreeMap::from_iter(run.figures());
        assert_eq!(figures["store: per second of Redis CPU"], 20_000.0);
        assert_eq!(figures["live: send to answer p99, us"], 2.0);
        let is_absent = |name: &str| !figures.contains_key(name);
        assert!(is_absent("drain: Redis CPU, us") && is_absent("live: per second of Redis CPU"));
        assert!(is_absent("all kept, in a second: Redis CPU, us"));
        assert!(run.clone().record("tidegate").is_sound());
        run.faults.not_caught_up = 1;
        let record = run.record("tidegate");
        assert_eq!(record.reasons(), ["1 users not caught up"]);
        assert_eq!(record.setting(), "offline, users 4, messages 1, bytes 40, senders 2");
        assert!(record.latency.get("store: send to answer").is_some());
    }
}
