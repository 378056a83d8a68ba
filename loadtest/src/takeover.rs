//! Users who log in on one node and then on the other: how fast a session moves, and what that costs Redis.
//!
//! Every user holds a transport to each node, opened beforehand and joined to `/` without a user. What is measured
//! is therefore the CONNECT of a session and nothing else: no TCP, HTTP or WebSocket handshake is in it.

mod record;
mod user;

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use hdrhistogram::Histogram;
use tidegate_client::raw::{Connection, Server};
use tidegate_client::{Options as ClientOptions, Reason};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::Target;
use crate::fleet::{capped, lost, open};
use crate::process::Cpu;
use crate::record::Latency;
use crate::redis::{Cost, Counts, Redis};

use user::{Outcome, User};

pub(crate) use record::Takeover;
use record::{Bytes, Kept, Logins};

/// How long what a phase has set off may take to end, before it is added up. A node keeps the subscriptions of a
/// session for half a second after it.
const AFTERMATH: Duration = Duration::from_secs(2);
/// How many failed logins are described; all are counted.
const TOLD_MAX: u64 = 5;

/// The scenario's own settings.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// The other node, as http://host:port.
    #[arg(long)]
    other_url: String,
    /// How many sessions, each of a user of its own, who has two connections of this tool, one to each node.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    sessions: u32,
    /// How often each user moves to the other node and back.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Logins begun per second; 0 begins the next as soon as `--in-flight` lets it.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    rate: u32,
    /// How many logins may be under way at a time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    in_flight: u32,
    /// The Redis of both nodes, as redis://host:port: what it does is measured, too.
    #[arg(long)]
    redis: Option<String>,
    /// How long the sessions are merely kept, in seconds, before they move. Only with --redis.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=600))]
    hold: u64,
    /// The namespace they log in to; both it and `/` must be open.
    #[arg(long, default_value = "/takeover", value_parser = namespace)]
    namespace: String,
}

fn namespace(text: &str) -> Result<String, String> {
    if text.len() > 1 && text.starts_with('/') && !text.contains([',', '?']) {
        Ok(text.to_owned())
    } else {
        Err("a name such as /takeover, and not / itself".to_owned())
    }
}

pub(crate) async fn run(target: &Target, options: &Options) -> anyhow::Result<Takeover> {
    let users = capped(options.sessions.saturating_mul(2), 1)? / 2;
    let mut meter =
        Meter { pids: &target.pids, redis: options.redis.as_deref().map(Redis::connect).transpose()? };
    let bytes_before = meter.redis_bytes().await?;
    let mut crowd = Crowd::open(target, options, users).await?;
    let bytes_open = meter.redis_bytes().await?;

    let (first, first_spent) = crowd.log_in(&mut meter, options, 1).await?;
    let bytes_logged_in = meter.redis_bytes().await?;
    let kept = meter.keep(options.hold, users).await?;
    let (takeover, takeover_spent) =
        crowd.log_in(&mut meter, options, options.rounds.saturating_mul(2)).await?;

    let growth = |before: Option<u64>, after: Option<u64>, count: u32| {
        before.zip(after).map(|(before, after)| (after as f64 - before as f64) / f64::from(count))
    };
    let bytes = growth(bytes_before, bytes_open, users * 2).zip(growth(bytes_open, bytes_logged_in, users));
    Ok(Takeover {
        label: target.label.clone(),
        users,
        rounds: options.rounds,
        rate: options.rate,
        in_flight: options.in_flight,
        first: first.logins(&first_spent, kept.as_ref()),
        takeover: takeover.logins(&takeover_spent, kept.as_ref()),
        redis_bytes: bytes.map(|(anonymous, session)| Bytes { anonymous, session }),
        kept,
        failed: first.failed + takeover.failed,
        lost: crowd.lost(),
    })
}

/// All users, and the way to tell them.
struct Crowd {
    users: Vec<Member>,
    outcomes: mpsc::Receiver<Outcome>,
    running: JoinSet<Reason>,
}

struct Member {
    turns: mpsc::Sender<()>,
    /// Whether it can be told to log in once more: none of its logins has failed.
    is_sound: bool,
}

impl Crowd {
    async fn open(target: &Target, options: &Options, count: u32) -> anyhow::Result<Crowd> {
        let server = |url: &str| {
            let mut client = ClientOptions::new(url);
            client.path.clone_from(&target.path);
            Server::new(&client)
        };
        let servers = [server(&target.url)?, server(&options.other_url)?];
        let connect = |index| {
            let ([first, second], namespace) = (servers.clone(), options.namespace.clone());
            async move {
                let first = Connection::connect(&first, "/", None).await.context("failed to connect")?;
                let second = Connection::connect(&second, "/", None);
                let second = second.await.context("failed to connect to the other node")?;
                Ok(User::new(index, [first, second], &namespace))
            }
        };
        // As many outcomes as logins are under way, so that telling one never waits.
        let (telling, outcomes) = mpsc::channel(options.in_flight as usize);
        let users: RefCell<Vec<Option<Member>>> = RefCell::new((0..count).map(|_| None).collect());
        let run = |user: User| {
            let (turns, told) = mpsc::channel(1);
            users.borrow_mut()[user.index() as usize] = Some(Member { turns, is_sound: true });
            user.live(told, telling.clone())
        };
        let running = open(count, target.opening, connect, run).await?;
        let users = users.into_inner().into_iter();
        let users = users.map(|user| user.expect("every user was opened")).collect();
        Ok(Crowd { users, outcomes, running })
    }

    /// Has every user log in `times` times, each time on the node where it is not.
    async fn log_in(
        &mut self,
        meter: &mut Meter<'_>,
        options: &Options,
        times: u32,
    ) -> anyhow::Result<(Tally, Spent)> {
        let mut tally = Tally::new()?;
        let before = meter.read()?;
        for _ in 0..times {
            let began = Instant::now();
            self.pass(options, &mut tally).await?;
            tally.seconds += began.elapsed().as_secs_f64();
        }
        let load = Cpu::of(&[std::process::id()])?.since(before.load);
        sleep(AFTERMATH).await;
        let spent = Spent { load, ..meter.read()?.since(&before) };
        Ok((tally, spent))
    }

    /// Every user once; returns when all have come to an end.
    async fn pass(&mut self, options: &Options, tally: &mut Tally) -> anyhow::Result<()> {
        let began = tokio::time::Instant::now();
        let gap = if options.rate == 0 { Duration::ZERO } else { Duration::from_secs(1) / options.rate };
        let (mut next, mut begun, mut under_way) = (0, 0, 0);
        loop {
            while self.users.get(next).is_some_and(|user| !user.is_sound) {
                next += 1;
            }
            if next == self.users.len() && under_way == 0 {
                return Ok(());
            }
            let may_begin = next < self.users.len() && under_way < options.in_flight;
            tokio::select! {
                biased;
                Some(outcome) = self.outcomes.recv(), if under_way > 0 => {
                    under_way -= 1;
                    self.users[outcome.index as usize].is_sound = outcome.login.is_ok();
                    tally.count(outcome);
                }
                () = tokio::time::sleep_until(began + gap * begun), if may_begin => {
                    let user = &mut self.users[next];
                    // A user whose task has ended was lost, and is counted so.
                    user.is_sound = user.turns.try_send(()).is_ok();
                    under_way += u32::from(user.is_sound);
                    begun += 1;
                    next += 1;
                }
                else => bail!("all users were lost"),
            }
        }
    }

    /// How many users were lost.
    fn lost(&mut self) -> u32 {
        std::iter::from_fn(|| lost(&mut self.running)).map(|_| 1).sum()
    }
}

/// What came of the logins of a phase.
struct Tally {
    answer_ns: Histogram<u64>,
    farewell_ns: Histogram<u64>,
    failed: u64,
    seconds: f64,
}

impl Tally {
    fn new() -> anyhow::Result<Tally> {
        Ok(Tally {
            answer_ns: Latency::histogram()?,
            farewell_ns: Latency::histogram()?,
            failed: 0,
            seconds: 0.0,
        })
    }

    fn count(&mut self, outcome: Outcome) {
        let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        match outcome.login {
            Ok(login) => {
                self.answer_ns.saturating_record(ns(login.answer));
                if let Some(farewell) = login.farewell {
                    self.farewell_ns.saturating_record(ns(farewell));
                }
            }
            Err(failure) => {
                self.failed += 1;
                if self.failed <= TOLD_MAX {
                    eprintln!("user {} failed to log in: {failure}", outcome.index);
                }
            }
        }
    }

    /// What the nodes and Redis do anyway, as long as sessions are kept, is no part of a login.
    fn logins(&self, spent: &Spent, kept: Option<&Kept>) -> Logins {
        let count = self.answer_ns.len();
        let anyway = kept.map(|kept| kept.redis.clone()).unwrap_or_default();
        let redis = spent.redis.as_ref().map(|cost| cost.less(&anyway, spent.seconds).per(count as f64));
        let anyway_us = kept.and_then(|kept| kept.server_us).unwrap_or(0.0) * spent.seconds;
        let server_us = spent.server.map(|cpu| (cpu.us_per(1) - anyway_us).max(0.0));
        Logins {
            count,
            seconds: self.seconds,
            per_second: if self.seconds > 0.0 { count as f64 / self.seconds } else { 0.0 },
            answer_us: Latency::of(&self.answer_ns),
            farewell_us: (!self.farewell_ns.is_empty()).then(|| Latency::of(&self.farewell_ns)),
            server_us: server_us.filter(|_| count > 0).map(|us| us / count as f64),
            load_us: spent.load.us_per(count),
            redis,
        }
    }
}

/// Reads what the servers, this tool and Redis have used.
struct Meter<'a> {
    pids: &'a [u32],
    redis: Option<Redis>,
}

struct Reading {
    at: Instant,
    server: Option<Cpu>,
    load: Cpu,
    redis: Option<Counts>,
}

/// What was used between two readings.
struct Spent {
    seconds: f64,
    server: Option<Cpu>,
    load: Cpu,
    redis: Option<Cost>,
}

impl Meter<'_> {
    fn read(&mut self) -> anyhow::Result<Reading> {
        Ok(Reading {
            at: Instant::now(),
            server: if self.pids.is_empty() { None } else { Some(Cpu::of(self.pids)?) },
            load: Cpu::of(&[std::process::id()])?,
            redis: self.redis.as_mut().map(Redis::counts).transpose()?,
        })
    }

    /// What Redis has allocated, once what came before has died away.
    async fn redis_bytes(&mut self) -> anyhow::Result<Option<u64>> {
        let Some(redis) = &mut self.redis else { return Ok(None) };
        sleep(AFTERMATH).await;
        Ok(Some(redis.counts()?.used_bytes))
    }

    /// What is done each second while nobody does anything.
    async fn keep(&mut self, seconds: u64, sessions: u32) -> anyhow::Result<Option<Kept>> {
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
