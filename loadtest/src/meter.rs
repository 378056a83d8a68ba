//! What a phase of a scenario has cost: the servers, this tool, and Redis.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::process::Cpu;
use crate::redis::{Cost, Counts, Redis};

/// How long what a phase has set off may take to end, before it is added up. A node keeps the subscriptions of a
/// session for half a second after it.
const AFTERMATH: Duration = Duration::from_secs(2);

/// Reads what the servers, this tool and Redis have used.
pub(crate) struct Meter<'a> {
    pids: &'a [u32],
    redis: Option<Redis>,
}

/// What they had used at some moment.
pub(crate) struct Reading {
    at: Instant,
    server: Option<Cpu>,
    load: Cpu,
    redis: Option<Counts>,
}

/// What was used between two readings.
pub(crate) struct Spent {
    seconds: f64,
    server: Option<Cpu>,
    load: Cpu,
    redis: Option<Cost>,
}

/// What each of many things has cost.
pub(crate) struct Each {
    /// CPU of the servers, absent without `--pid`.
    pub(crate) server_us: Option<f64>,
    /// The tool's own CPU.
    pub(crate) load_us: f64,
    pub(crate) redis: Option<Cost>,
}

/// Sessions that do nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) sessions: u32,
    pub(crate) seconds: f64,
    /// What Redis does in a second.
    pub(crate) redis: Cost,
    /// CPU of the nodes in a second.
    pub(crate) server_us: Option<f64>,
}

impl Meter<'_> {
    /// Of the processes `pids` and, if there is one, the Redis at this URL.
    pub(crate) fn new<'a>(pids: &'a [u32], redis: Option<&str>) -> anyhow::Result<Meter<'a>> {
        Ok(Meter { pids, redis: redis.map(Redis::connect).transpose()? })
    }

    pub(crate) fn read(&mut self) -> anyhow::Result<Reading> {
        Ok(Reading {
            at: Instant::now(),
            server: if self.pids.is_empty() { None } else { Some(Cpu::of(self.pids)?) },
            load: Cpu::of(&[std::process::id()])?,
            redis: self.redis.as_mut().map(Redis::counts).transpose()?,
        })
    }

    /// What was used since `before`: by this tool until now, by all others until its consequences have died away.
    pub(crate) async fn spent_since(&mut self, before: &Reading) -> anyhow::Result<Spent> {
        let load = Cpu::of(&[std::process::id()])?.since(before.load);
        aftermath().await;
        Ok(Spent { load, ..self.read()?.since(before) })
    }

    /// What Redis has allocated, once what came before has died away.
    pub(crate) async fn redis_bytes(&mut self) -> anyhow::Result<Option<u64>> {
        let Some(redis) = &mut self.redis else { return Ok(None) };
        aftermath().await;
        Ok(Some(redis.counts()?.used_bytes))
    }

    /// What is done each second while nobody does anything.
    pub(crate) async fn keep(&mut self, seconds: u64, sessions: u32) -> anyhow::Result<Option<Kept>> {
        if self.redis.is_none() || seconds == 0 {
            return Ok(None);
        }
        let before = self.read()?;
        sleep(Duration::from_secs(seconds)).await;
        let spent = self.read()?.since(&before);
        Ok(spent.redis.map(|cost| Kept {
            sessions,
            seconds: spent.seconds,
            redis: cost.per(spent.seconds),
            server_us: spent.server.map(|cpu| cpu.us_per(1) / spent.seconds),
        }))
    }
}

/// Waits until what came before has died away.
pub(crate) async fn aftermath() {
    sleep(AFTERMATH).await;
}

impl Reading {
    fn since(&self, before: &Reading) -> Spent {
        Spent {
            seconds: (self.at - before.at).as_secs_f64(),
            server: self.server.zip(before.server).map(|(now, before)| now.since(before)),
            load: self.load.since(before.load),
            redis: self.redis.as_ref().zip(before.redis.as_ref()).map(|(now, before)| now.since(before)),
        }
    }
}

impl Spent {
    /// The share of one of `count`. What the nodes and Redis do anyway, as long as sessions are kept, is no part of it.
    pub(crate) fn each(&self, count: u64, kept: Option<&Kept>) -> Each {
        let anyway = kept.map(|kept| kept.redis.clone()).unwrap_or_default();
        let anyway_us = kept.and_then(|kept| kept.server_us).unwrap_or(0.0) * self.seconds;
        let server_us = self.server.map(|cpu| (cpu.us_per(1) - anyway_us).max(0.0));
        Each {
            server_us: server_us.filter(|_| count > 0).map(|us| us / count as f64),
            load_us: self.load.us_per(count),
            redis: self.redis.as_ref().map(|cost| cost.less(&anyway, self.seconds).per(count as f64)),
        }
    }
}

impl Kept {
    /// The figures by name.
    pub(crate) fn figures(&self) -> Vec<(String, f64)> {
        let server = self.server_us.map(|us| ("server CPU, us".to_owned(), us));
        server.into_iter().chain(self.redis.figures()).collect()
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Kept { sessions, seconds, redis, server_us } = self;
        write!(f, "{sessions} sessions kept for {seconds:.0} s, each second: {redis}")?;
        match server_us {
            Some(us) => write!(f, ", server CPU {us:.0} us"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::collections::BTreeMap;

    use super::*;

    fn cost(evalsha: f64, cpu_us: f64) -> Cost {
        Cost { calls: BTreeMap::from([("evalsha".to_owned(), evalsha)]), cpu_us }
    }

    #[test]
    fn what_is_done_anyway_is_not_in_the_share_of_one() {
        let cpu = |total_ns| Cpu { total_ns, ..Cpu::default() };
        let spent = Spent {
            seconds: 2.0,
            server: Some(cpu(10_000_000)),
            load: cpu(1_000_000),
            redis: Some(cost(60.0, 800.0)),
        };
        let kept = Kept { sessions: 1, seconds: 5.0, redis: cost(10.0, 200.0), server_us: Some(1000.0) };
        let each = spent.each(20, Some(&kept));
        assert_eq!((each.server_us, each.load_us, each.redis.unwrap()), (Some(400.0), 50.0, cost(2.0, 20.0)));
        let each = spent.each(20, None);
        assert_eq!((each.server_us, each.redis.unwrap()), (Some(500.0), cost(3.0, 40.0)));
        let each = spent.each(0, None);
        assert_eq!((each.server_us, each.load_us, each.redis.unwrap()), (None, 0.0, Cost::default()));
    }
}
