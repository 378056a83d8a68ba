//! Users who log in on one node and then on the other: how fast a session moves, and what that costs Redis.
//!
//! Every user holds a transport to each node, opened beforehand and joined to `/` without a user. What is measured
//! is therefore the CONNECT of a session and nothing else: no TCP, HTTP or WebSocket handshake is in it.

mod record;
mod user;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use tidegate_client::Reason;
use tidegate_client::raw::{Connection, Server};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::fleet::{capped, lost_count, open};
use crate::meter::{Each, Kept, Meter, Spent};
use crate::progress::Progress;
use crate::record::Record;
use crate::run::subjects;
use crate::target::Target;
use crate::times::{Latency, Times};
use crate::watch::{Done, Watch};

use user::{Outcome, User};

use record::{Bytes, Logins, Takeover};

/// How many failed logins are described; all are counted.
const TOLD_MAX: u64 = 5;

/// The scenario's own settings.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// The other node, as http://host:port; a second --url is the same.
    #[arg(long)]
    other_url: Option<String>,
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

pub(crate) async fn run(target: &Target, options: &Options) -> anyhow::Result<Record> {
    target.alone()?;
    let users = capped(options.sessions.saturating_mul(2), 1, 1)? / 2;
    let own = vec![std::process::id()];
    let mut meter = Meter::new(&target.pids, own.clone(), options.redis.as_deref(), None)?;
    let done = Arc::new(Done::default());
    let mut watch = Watch::begin(subjects(&target.pids, None, &own), done.clone());
    watch.enter("opening");
    let bytes_before = meter.redis_bytes().await?;
    let mut crowd = Crowd::open(target, options, users, done).await?;
    let bytes_open = meter.redis_bytes().await?;

    watch.enter("first logins");
    let (first, first_spent) = crowd.log_in(&mut meter, options, 1).await?;
    watch.enter("kept");
    let bytes_logged_in = meter.redis_bytes().await?;
    let kept = meter.keep(options.hold, users).await?;
    watch.enter("takeovers");
    let (takeover, takeover_spent) =
        crowd.log_in(&mut meter, options, options.rounds.saturating_mul(2)).await?;

    watch.leave();
    crowd.progress.end();
    // What the others are given to come to an end is not the tool's time.
    let load = Spent { seconds: takeover.seconds, ..takeover_spent.clone() }.busyness(target.threads);
    let growth = |before: Option<u64>, after: Option<u64>, count: u32| {
        before.zip(after).map(|(before, after)| (after as f64 - before as f64) / f64::from(count))
    };
    let bytes = growth(bytes_before, bytes_open, users * 2).zip(growth(bytes_open, bytes_logged_in, users));
    let run = Takeover {
        users,
        rounds: options.rounds,
        rate: options.rate,
        in_flight: options.in_flight,
        first: first.logins(&first_spent, kept.as_ref()),
        takeover: takeover.logins(&takeover_spent, kept.as_ref()),
        redis_bytes: bytes.map(|(anonymous, session)| Bytes { anonymous, session }),
        kept,
        failed: first.failed + takeover.failed,
        lost: lost_count(&mut crowd.running),
    };
    Ok(Record { load, course: watch.course(), ..run.record(&target.label) })
}

/// All users, and the way to tell them.
struct Crowd {
    users: Vec<Member>,
    outcomes: mpsc::Receiver<Outcome>,
    running: JoinSet<Reason>,
    progress: Progress,
    /// Logins that have come to an end, for whoever watches.
    done: Arc<Done>,
}

struct Member {
    turns: mpsc::Sender<()>,
    /// Whether it can be told to log in once more: none of its logins has failed.
    is_sound: bool,
}

impl Crowd {
    async fn open(target: &Target, options: &Options, count: u32, done: Arc<Done>) -> anyhow::Result<Crowd> {
        let other = target.other_url(options.other_url.as_deref())?;
        let servers = [Server::new(&target.client(&target.urls[0]))?, Server::new(&target.client(&other))?];
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
        let progress = Progress::new();
        progress.phase("opening transports of users", count.into());
        let opened = |count: u32| progress.set(count.into());
        let running = open(count, target.opening, opened, connect, run).await?;
        let users = users.into_inner().into_iter();
        let users = users.map(|user| user.expect("every user was opened")).collect();
        Ok(Crowd { users, outcomes, running, progress, done })
    }

    /// Has every user log in `times` times, each time on the node where it is not.
    async fn log_in(
        &mut self,
        meter: &mut Meter,
        options: &Options,
        times: u32,
    ) -> anyhow::Result<(Tally, Spent)> {
        let mut tally = Tally::default();
        let all = u64::from(times) * self.users.len() as u64;
        self.progress.phase("logins", all);
        let before = meter.read()?;
        for _ in 0..times {
            let began = Instant::now();
            self.pass(options, &mut tally).await?;
            tally.seconds += began.elapsed().as_secs_f64();
        }
        Ok((tally, meter.spent_since(&before).await?))
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
                    tally.count(outcome, &self.progress);
                    self.done.set(self.done.count() + 1);
                    self.progress.set(tally.answer_ns.len() + tally.failed);
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
}

/// What came of the logins of a phase.
#[derive(Default)]
struct Tally {
    answer_ns: Times,
    farewell_ns: Times,
    failed: u64,
    seconds: f64,
}

impl Tally {
    fn count(&mut self, outcome: Outcome, progress: &Progress) {
        let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        match outcome.login {
            Ok(login) => {
                self.answer_ns.record(ns(login.answer));
                if let Some(farewell) = login.farewell {
                    self.farewell_ns.record(ns(farewell));
                }
            }
            Err(failure) => {
                self.failed += 1;
                if self.failed <= TOLD_MAX {
                    progress.say(&format!("user {} failed to log in: {failure}", outcome.index));
                }
            }
        }
    }

    fn logins(&self, spent: &Spent, kept: Option<&Kept>) -> Logins {
        let count = self.answer_ns.len();
        let Each { server_us, load_us, redis } = spent.each(count, kept);
        Logins {
            count,
            seconds: self.seconds,
            per_second: if self.seconds > 0.0 { count as f64 / self.seconds } else { 0.0 },
            answer_us: Latency::of(&self.answer_ns),
            farewell_us: (!self.farewell_ns.is_empty()).then(|| Latency::of(&self.farewell_ns)),
            server_us,
            load_us,
            redis,
        }
    }
}
