//! What a phase of a scenario has cost: the servers, this tool, and Redis.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::process::Cpu;
use crate::redis::{Cost, Counts, Redis};
use crate::threads::Threads;

/// How long what a phase has set off may take to end, before it is added up. A node keeps the subscriptions of a
/// session for half a second after it.
const AFTERMATH: Duration = Duration::from_secs(2);

/// Reads what the servers, this tool and Redis have used.
pub(crate) struct Meter {
    servers: Vec<u32>,
    tools: Vec<u32>,
    redis: Option<Redis>,
    redis_pid: Option<u32>,
}

/// What they had used at some moment.
pub(crate) struct Reading {
    at: Instant,
    servers: Vec<Cpu>,
    threads: Threads,
    tools: Vec<Cpu>,
    redis: Option<Counts>,
    redis_process: Option<Cpu>,
}

/// What was used between two readings.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spent {
    pub(crate) seconds: f64,
    /// Each server's process.
    pub(crate) servers: Vec<Cpu>,
    /// The share of each of their threads, the busiest first.
    pub(crate) threads: Vec<f64>,
    /// Each process of this tool.
    pub(crate) tools: Vec<Cpu>,
    pub(crate) redis: Option<Cost>,
    /// The process of Redis, if it is known: finer than what Redis says itself.
    pub(crate) redis_process: Option<Cpu>,
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

impl Meter {
    /// Of the processes `servers`, of the processes `tools` of this tool, and of Redis, if there is one.
    pub(crate) fn new(
        servers: &[u32],
        tools: Vec<u32>,
        redis: Option<&str>,
        redis_pid: Option<u32>,
    ) -> anyhow::Result<Meter> {
        let redis = redis.map(Redis::connect).transpose()?;
        Ok(Meter { servers: servers.to_vec(), tools, redis, redis_pid })
    }

    pub(crate) fn read(&mut self) -> anyhow::Result<Reading> {
        let each = |pids: &[u32]| pids.iter().map(|pid| Cpu::of(&[*pid])).collect::<anyhow::Result<Vec<_>>>();
        Ok(Reading {
            at: Instant::now(),
            servers: each(&self.servers)?,
            threads: Threads::of(&self.servers)?,
            tools: each(&self.tools)?,
            redis: self.redis.as_mut().map(Redis::counts).transpose()?,
            redis_process: self.redis_pid.map(|pid| Cpu::of(&[pid])).transpose()?,
        })
    }

    /// What was used since `before`, until now.
    pub(crate) fn spent(&mut self, before: &Reading) -> anyhow::Result<Spent> {
        Ok(self.read()?.since(before))
    }

    /// What was used since `before`: by this tool until now, by all others until its consequences have died away.
    pub(crate) async fn spent_since(&mut self, before: &Reading) -> anyhow::Result<Spent> {
        let now = self.spent(before)?;
        aftermath().await;
        Ok(Spent { tools: now.tools, ..self.spent(before)? })
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
        Ok(spent.redis.as_ref().map(|cost| Kept {
            sessions,
            seconds: spent.seconds,
            redis: cost.per(spent.seconds),
            server_us: spent.server().map(|cpu| cpu.us_per(1) / spent.seconds),
        }))
    }
}

/// Waits until what came before has died away.
pub(crate) async fn aftermath() {
    sleep(AFTERMATH).await;
}

impl Reading {
    fn since(&self, before: &Reading) -> Spent {
        let each = |now: &[Cpu], before: &[Cpu]| {
            // A process that was not there before has begun at nothing.
            let before = before.iter().copied().chain(std::iter::repeat(Cpu::default()));
            now.iter().zip(before).map(|(now, before)| now.since(before)).collect()
        };
        Spent {
            seconds: (self.at - before.at).as_secs_f64(),
            servers: each(&self.servers, &before.servers),
            threads: self.threads.shares_since(&before.threads),
            tools: each(&self.tools, &before.tools),
            redis: self.redis.as_ref().zip(before.redis.as_ref()).map(|(now, before)| now.since(before)),
            redis_process: self
                .redis_process
                .zip(before.redis_process)
                .map(|(now, before)| now.since(before)),
        }
    }
}

impl Spent {
    /// All servers together, if they are known.
    pub(crate) fn server(&self) -> Option<Cpu> {
        (!self.servers.is_empty()).then(|| Cpu::sum(&self.servers))
    }

    /// This tool.
    pub(crate) fn load(&self) -> Cpu {
        Cpu::sum(&self.tools)
    }

    /// What Redis has used, in microseconds, if it is known.
    pub(crate) fn redis_us(&self) -> Option<f64> {
        self.redis_process.map(|cpu| cpu.us_per(1)).or_else(|| self.redis.as_ref().map(|cost| cost.cpu_us))
    }

    /// How busy this tool was.
    pub(crate) fn busyness(&self, threads: u32) -> Busyness {
        let cores = |ns: u64| if self.seconds > 0.0 { ns as f64 / 1e9 / self.seconds } else { 0.0 };
        let most = |ns: fn(&Cpu) -> u64| {
            self.tools.iter().map(|cpu| cores(ns(cpu))).fold(0.0, f64::max) / f64::from(threads.max(1))
        };
        Busyness {
            processes: self.tools.len(),
            threads,
            cores: cores(self.load().total_ns),
            busiest: most(|cpu| cpu.total_ns),
            waiting: most(|cpu| cpu.waited_ns),
            wanting: most(|cpu| cpu.total_ns + cpu.waited_ns),
        }
    }

    /// The share of one of `count`. What the nodes and Redis do anyway, as long as sessions are kept, is no part of it.
    pub(crate) fn each(&self, count: u64, kept: Option<&Kept>) -> Each {
        let anyway = kept.map(|kept| kept.redis.clone()).unwrap_or_default();
        let anyway_us = kept.and_then(|kept| kept.server_us).unwrap_or(0.0) * self.seconds;
        let server_us = self.server().map(|cpu| (cpu.us_per(1) - anyway_us).max(0.0));
        Each {
            server_us: server_us.filter(|_| count > 0).map(|us| us / count as f64),
            load_us: self.load().us_per(count),
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

/// How busy this tool was while it measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Busyness {
    pub(crate) processes: usize,
    /// Threads of each process.
    pub(crate) threads: u32,
    /// Cores that all processes together kept busy.
    pub(crate) cores: f64,
    /// The share of its threads that the busiest process kept busy, 1 at most.
    pub(crate) busiest: f64,
    /// The share of the time that a process was ready and something else had its core, at most.
    pub(crate) waiting: f64,
    /// Both together, of the process that has most.
    pub(crate) wanting: f64,
}

impl Busyness {
    /// From this share of a core for each thread the tool may be what limits the run.
    const BUSY: f64 = 0.8;
    /// Less waiting than this is no news.
    const WAITING_SHOWN_MIN: f64 = 0.05;

    /// Whether the tool, and not the server, may be what limits the run.
    pub(crate) fn is_busy(&self) -> bool {
        self.wanting >= Self::BUSY
    }
}

impl fmt::Display for Busyness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Busyness { processes, threads, cores, busiest, waiting, .. } = self;
        write!(f, "The load tool kept {cores:.2} cores busy ({processes} processes of {threads} threads); ")?;
        write!(f, "the busiest process used {:.0} % of its threads", busiest * 100.0)?;
        if *waiting >= Self::WAITING_SHOWN_MIN {
            write!(f, ", and waited {:.0} % of the time for a core that others had", waiting * 100.0)?;
        }
        f.write_str(". ")?;
        if self.is_busy() {
            write!(
                f,
                "It was busy: rates and latencies may be the tool's limit and not the server's. The server's CPU for each \
                 remains true."
            )
        } else {
            write!(f, "It was not busy: what was measured is the server's.")
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
    fn the_busiest_process_says_whether_the_tool_was() {
        let cpu = |total_ns| Cpu { total_ns, ..Cpu::default() };
        let spent =
            |busy_ns| Spent { seconds: 1.0, tools: vec![cpu(100_000_000), cpu(busy_ns)], ..Spent::default() };
        assert!(!spent(1_500_000_000).busyness(2).is_busy());
        let busy = spent(1_700_000_000).busyness(2);
        assert!(busy.is_busy() && busy.to_string().contains("85 % of its threads. It was busy"), "{busy}");
        let waited = Cpu { total_ns: 300_000_000, waited_ns: 600_000_000, ..Cpu::default() };
        let waiting = Spent { seconds: 1.0, tools: vec![waited], ..Spent::default() }.busyness(1);
        assert!(waiting.is_busy() && waiting.to_string().contains("waited 60 % of the time"), "{waiting}");
        assert_eq!(Spent::default().busyness(1).busiest, 0.0);
    }

    #[test]
    fn what_is_done_anyway_is_not_in_the_share_of_one() {
        let cpu = |total_ns| Cpu { total_ns, ..Cpu::default() };
        let spent = Spent {
            seconds: 2.0,
            threads: Vec::new(),
            servers: vec![cpu(4_000_000), cpu(6_000_000)],
            tools: vec![cpu(1_000_000)],
            redis: Some(cost(60.0, 800.0)),
            redis_process: None,
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
