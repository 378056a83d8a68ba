//! Durable messages: stored for users who are away, drained by all of them at once, and sent to them while they are
//! there.
//!
//! Senders work in a closed loop, one message each. A user is written to by one sender at a time, so that the order of
//! its messages is known; each message carries its number.

mod course;
mod packet;
mod recipient;
mod record;
mod rota;
mod sender;
mod tally;

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;
use tidegate_client::raw::{Connection, Server};
use tidegate_client::{Reason, Value};
use tokio::task::JoinSet;

use crate::fleet::{capped, lost_count, open};
use crate::meter::{Each, Kept, Meter, Spent, aftermath};
use crate::progress::Progress;
use crate::record::Record;
use crate::run::subjects;
use crate::stamp::bytes_range;
use crate::target::Target;
use crate::times::Latency;
use crate::watch::Watch;

use course::Course;
use recipient::Recipient;
use rota::Rota;
use sender::Sender;
use tally::Tally;

use record::{Faults, Offline, Phase};

/// The scenario's own settings.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// The other node, as http://host:port; a second --url is the same.
    #[arg(long)]
    other_url: Option<String>,
    /// How many users are written to.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    users: u32,
    /// How many messages wait for each user when it comes back.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    messages: u64,
    /// How many users send. Each has one message under way at a time, so it is also how many there are in flight.
    #[arg(long, visible_alias = "in-flight", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    senders: u32,
    /// How many messages are sent, in all, to the users once they are ready.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    live: u64,
    /// Length of a message's data.
    #[arg(long, default_value_t = 100, value_parser = bytes_range)]
    bytes: usize,
    /// The Redis of both nodes, as redis://host:port: what it does is measured, too.
    #[arg(long)]
    redis: Option<String>,
    /// How long the sessions are merely kept, in seconds, so that what this costs can be taken off. Only with --redis.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=600))]
    hold: u64,
}

/// The name of a user who is written to.
fn recipient(user: u32) -> String {
    format!("u{user}")
}

pub(crate) async fn run(target: &Target, options: &Options) -> anyhow::Result<Record> {
    target.alone()?;
    let Options { messages, senders, bytes, .. } = *options;
    if senders > options.users {
        bail!("{senders} senders need as many users at least: one is not written to by two at a time");
    }
    // What the senders and the tool's own connection to Redis take is not there for users.
    let users = capped(options.users, senders.saturating_add(1), 1)?;
    let stored = u64::from(users) * messages;
    let own = vec![std::process::id()];
    let mut meter = Meter::new(&target.pids, own.clone(), options.redis.as_deref(), None)?;
    let nodes = Nodes::new(target, options)?;
    let progress = Progress::new();
    let course = Arc::new(Course::new(bytes, progress.clone()));
    let mut watch = Watch::begin(subjects(&target.pids, None, &own), course.done.clone());

    let send = |(_, connection)| Sender::new(connection).live(course.clone());
    watch.enter("opening");
    progress.phase("opening senders", senders.into());
    let mut sending = nodes.open(senders, target, &progress, |sender| format!("s{sender}"), send).await?;
    let bytes_before = meter.redis_bytes().await?;
    let kept_senders = meter.keep(options.hold, senders).await?;
    let begin = || course.post(Rota::new(users, 0, stored), "stored");
    let is_over = |tally: &Tally| tally.answered + tally.failed == stored;
    watch.enter("store");
    let store = Leg::run("store", stored, &course, &mut meter, begin, is_over).await?;
    let bytes_after = meter.redis_bytes().await?;

    watch.enter("opening");
    progress.phase("opening recipients", users.into());
    let receive = |(user, connection)| Recipient::new(user, connection, &course).live(course.clone());
    let mut receiving = nodes.open(users, target, &progress, recipient, receive).await?;
    aftermath().await;
    let kept = meter.keep(options.hold, senders + users).await?;
    let has_all_caught_up = |tally: &Tally| tally.caught_up == users;
    watch.enter("drain");
    let drain =
        Leg::run("drain", stored, &course, &mut meter, || course.call(messages), has_all_caught_up).await?;
    let begin = || course.post(Rota::new(users, messages, options.live), "live");
    let is_over =
        |tally: &Tally| tally.answered + tally.failed == options.live && tally.delivered >= tally.answered;
    watch.enter("live");
    let live = Leg::run("live", options.live, &course, &mut meter, begin, is_over).await?;
    watch.leave();
    // Whatever was not settled would come again now.
    course.call(0);
    let last = course.until("second online", 0, has_all_caught_up).await;

    let expected = Expected { sends: stored + options.live, replays: users * 2 };
    let faults = expected.faults(&[&store.tally, &drain.tally, &live.tally, &last]);
    let growth = bytes_before.zip(bytes_after).map(|(before, after)| after as f64 - before as f64);
    progress.end();
    // What the others are given to come to an end is not the tool's time.
    let load = Spent { seconds: live.seconds, ..live.spent.clone() }.busyness(target.threads);
    let run = Offline {
        users,
        messages,
        bytes,
        senders,
        redis_bytes: growth.map(|bytes| bytes / stored as f64),
        store: store.phase(store.tally.answered, kept_senders.as_ref()),
        drain: drain.phase(drain.tally.delivered, kept.as_ref()),
        live: live.phase(live.tally.delivered, kept.as_ref()),
        kept_senders,
        kept,
        faults: Faults { lost: lost_count(&mut sending) + lost_count(&mut receiving), ..faults },
    };
    Ok(Record { load, course: watch.course(), ..run.record(&target.label) })
}

/// Both nodes, between which connections alternate.
struct Nodes([Server; 2]);

impl Nodes {
    fn new(target: &Target, options: &Options) -> anyhow::Result<Nodes> {
        let other = target.other_url(options.other_url.as_deref())?;
        Ok(Nodes([Server::new(&target.client(&target.urls[0]))?, Server::new(&target.client(&other))?]))
    }

    /// A connection for each of `count` users.
    async fn open<R>(
        &self,
        count: u32,
        target: &Target,
        progress: &Progress,
        name: fn(u32) -> String,
        run: impl Fn((u32, Connection)) -> R,
    ) -> anyhow::Result<JoinSet<Reason>>
    where
        R: Future<Output = Reason> + Send + 'static,
    {
        let connect = |index: u32| {
            let server = self.0[index as usize % 2].clone();
            let auth = Value::from(json!({ "user": name(index), "device": "load" }));
            async move {
                let connection = Connection::connect(&server, "/", Some(&auth)).await;
                Ok((index, connection.context("failed to connect")?))
            }
        };
        open(count, target.opening, |opened| progress.set(opened.into()), connect, run).await
    }
}

/// One phase as it was run.
struct Leg {
    seconds: f64,
    tally: Tally,
    spent: Spent,
}

impl Leg {
    async fn run(
        what: &str,
        total: u64,
        course: &Course,
        meter: &mut Meter,
        begin: impl FnOnce() -> Instant,
        is_over: impl Fn(&Tally) -> bool,
    ) -> anyhow::Result<Leg> {
        let before = meter.read()?;
        let began = begin();
        let tally = course.until(what, total, is_over).await;
        let seconds = tally.last().saturating_duration_since(began).as_secs_f64();
        Ok(Leg { seconds, tally, spent: meter.spent_since(&before).await? })
    }

    /// What it has come to, for each of `count` messages.
    fn phase(&self, count: u64, kept: Option<&Kept>) -> Phase {
        let Each { server_us, load_us, redis } = self.spent.each(count, kept);
        let latencies = [
            ("send to answer", &self.tally.answer_ns),
            ("send to arrival", &self.tally.arrival_ns),
            ("online to settled", &self.tally.caught_up_ns),
        ];
        let measured = latencies.into_iter().filter(|(_, ns)| !ns.is_empty());
        Phase {
            count,
            seconds: self.seconds,
            per_second: if self.seconds > 0.0 { count as f64 / self.seconds } else { 0.0 },
            latency_us: measured.map(|(what, ns)| (what.to_owned(), Latency::of(ns))).collect(),
            server_us,
            load_us,
            redis,
        }
    }
}

/// What all phases together must come to.
struct Expected {
    /// Sends that are answered.
    sends: u64,
    /// How often a user catches up.
    replays: u32,
}

impl Expected {
    fn faults(&self, tallies: &[&Tally]) -> Faults {
        let sum = |count: fn(&Tally) -> u64| tallies.iter().map(|tally| count(tally)).sum::<u64>();
        let users = |count: fn(&Tally) -> u32| tallies.iter().map(|tally| count(tally)).sum::<u32>();
        let answered = sum(|tally| tally.answered);
        Faults {
            failed: self.sends - answered,
            // A send that has failed may have been stored all the same.
            missing: answered.saturating_sub(sum(|tally| tally.delivered)),
            repeated: sum(|tally| tally.repeated),
            late: sum(|tally| tally.late),
            not_caught_up: self.replays - users(|tally| tally.caught_up) + users(|tally| tally.miscounted),
            lost: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::seen::Verdict;

    #[test]
    fn what_did_not_happen_is_a_fault() {
        let (mut store, mut drain) = (Tally::new(), Tally::new());
        let expected = Expected { sends: 4, replays: 3 };
        for _ in 0..3 {
            store.answer(Duration::ZERO);
        }
        store.fail(0, "refused");
        drain.deliver(Verdict::InOrder, None);
        drain.deliver(Verdict::Late, None);
        drain.deliver(Verdict::Repeated, None);
        drain.catch_up(0, 2, 2, Duration::ZERO);
        drain.catch_up(1, 1, 2, Duration::ZERO);
        let faults = Faults { failed: 1, missing: 1, repeated: 1, late: 1, not_caught_up: 2, lost: 0 };
        assert_eq!(expected.faults(&[&store, &drain]), faults);
    }

    #[test]
    fn a_sound_run_has_no_faults() {
        let mut tally = Tally::new();
        tally.answer(Duration::ZERO);
        tally.deliver(Verdict::InOrder, None);
        tally.catch_up(0, 1, 1, Duration::ZERO);
        assert_eq!(Expected { sends: 1, replays: 1 }.faults(&[&tally]), Faults::default());
    }
}
