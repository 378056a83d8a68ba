//! What a run of the scenario found.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::meter::Kept;
use crate::record::Latency;
use crate::redis::Cost;

/// Messages that are stored for users who are away, then drained by them, then sent to them while they are there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Offline {
    pub(crate) label: String,
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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

impl Faults {
    fn total(&self) -> u64 {
        let Faults { failed, missing, repeated, late, not_caught_up, lost } = self;
        failed + missing + repeated + late + u64::from(*not_caught_up) + u64::from(*lost)
    }
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
            figures.push((format!("{what}, p50, us"), latency.p50));
            figures.push((format!("{what}, p99, us"), latency.p99));
            figures.push((format!("{what}, max, us"), latency.max));
        }
        figures.push(("load CPU, us".to_owned(), self.load_us));
        figures.extend(self.server_us.map(|us| ("server CPU, us".to_owned(), us)));
        figures.extend(self.per_redis_core().map(|count| ("per second of Redis CPU".to_owned(), count)));
        figures.extend(self.redis.iter().flat_map(Cost::figures));
        figures
    }
}

impl Offline {
    /// Whether nothing was lost, repeated or out of order, and every send acknowledged.
    pub(crate) fn is_sound(&self) -> bool {
        self.faults.total() == 0
    }

    /// What runs must have in common to be held against each other.
    pub(crate) fn setting(&self) -> String {
        let Offline { users, messages, bytes, senders, .. } = self;
        format!("offline, {users} users, {messages} messages of {bytes} bytes for each, {senders} senders")
    }

    /// The figures by name.
    pub(crate) fn figures(&self) -> Vec<(String, f64)> {
        let mut figures = Vec::new();
        for (name, phase) in [("store", &self.store), ("drain", &self.drain), ("live", &self.live)] {
            figures.extend(
                phase.figures().into_iter().map(|(what, figure)| (format!("{name}: {what}"), figure)),
            );
        }
        figures.extend(self.redis_bytes.map(|bytes| ("Redis bytes per stored message".to_owned(), bytes)));
        figures.push(("missing, repeated, late or failed".to_owned(), self.faults.total() as f64));
        figures
    }
}

impl fmt::Display for Offline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.label, self.setting())?;
        writeln!(f, "  store: {}", self.store)?;
        if let Some(bytes) = self.redis_bytes {
            writeln!(f, "    Redis memory: {bytes:.0} bytes per message")?;
        }
        writeln!(f, "  drain: {}", self.drain)?;
        writeln!(f, "  live: {}", self.live)?;
        for kept in self.kept_senders.iter().chain(&self.kept) {
            writeln!(f, "  {kept}")?;
        }
        let Faults { failed, missing, repeated, late, not_caught_up, lost } = self.faults;
        write!(f, "  {failed} sends failed, {missing} messages missing, {repeated} repeated, {late} late, ")?;
        write!(f, "{not_caught_up} users not caught up, {lost} connections lost")
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {:.2} s, {:.0} per second", self.count, self.seconds, self.per_second)?;
        for (what, latency) in &self.latency_us {
            write!(f, "\n    {what} {latency}")?;
        }
        write!(f, "\n    each: load CPU {:.0} us", self.load_us)?;
        if let Some(us) = self.server_us {
            write!(f, ", server CPU {us:.0} us")?;
        }
        if let Some(redis) = &self.redis {
            write!(f, "\n    each: {redis}")?;
        }
        match self.per_redis_core() {
            Some(count) => write!(f, "\n    {count:.0} per second of Redis CPU"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(redis: Option<Cost>) -> Phase {
        let latency = Latency { p50: 1.0, p99: 2.0, max: 3.0 };
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
            label: "tidegate".to_owned(),
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
        assert_eq!(figures["live: send to answer, p99, us"], 2.0);
        let is_absent = |name: &str| !figures.contains_key(name);
        assert!(is_absent("drain: Redis CPU, us") && is_absent("live: per second of Redis CPU"));
        let text = run.to_string();
        assert!(
            text.contains("200 bytes per message") && text.contains("20000 per second of Redis"),
            "{text}"
        );
        assert!(!text.contains("kept") && !text.contains("inf"), "{text}");

        assert!(run.is_sound());
        run.faults.not_caught_up = 1;
        assert!(!run.is_sound());
    }
}
