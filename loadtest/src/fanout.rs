//! One publisher, one room, many subscribers.
//!
//! The publisher runs a closed loop: with `in_flight` messages under way, the next leaves when the oldest has
//! reached every subscriber. Numbers and the moment of publishing travel in the message, so that order, loss and
//! latency are seen at the receivers.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use hdrhistogram::Histogram;
use serde_json::json;
use tidegate_client::{Options as ClientOptions, Reason, Value};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Target;
use crate::fleet::{auth, capped, lost, open};
use crate::line::{Heard, Line, Protocol, Server};
use crate::process::Cpu;
use crate::record::{Fanout, Latency};
use crate::seen::{Seen, Verdict, WINDOW};
use crate::stamp::{bytes_range, data};

/// With no delivery for this long what is under way counts as missing and the run ends.
const STALL_LIMIT: Duration = Duration::from_secs(10);
const ROOM: &str = "bench";
/// Subscribers share this many tallies, so that the threads of the tool seldom meet at one.
const TALLIES: u32 = 16;

/// The scenario's own settings.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// How many subscribers.
    #[arg(long)]
    subscribers: u32,
    /// How many messages are measured.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    messages: u64,
    /// How many messages come before them, unmeasured.
    #[arg(long, default_value_t = 20)]
    warm_up: u64,
    /// Length of a message's data.
    #[arg(long, default_value_t = 100, value_parser = bytes_range)]
    bytes: usize,
    /// How many messages are under way at a time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=WINDOW))]
    in_flight: u64,
    /// What publisher and subscribers speak.
    #[arg(long, value_enum, default_value_t)]
    protocol: Protocol,
    /// Gives every connection a user of its own in the CONNECT payload.
    #[arg(long)]
    users: bool,
    /// The whole run ends after this, in seconds, finished or not.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    limit: u64,
}

/// What publisher and subscribers share.
struct Course {
    started: Instant,
    /// Messages before this number are not measured.
    measured_from: u64,
    /// Deliveries still to come of message n, at n modulo the number in flight.
    awaited: Vec<AtomicU32>,
    /// Deliveries made, of measured messages or not. What stands still is stalled.
    delivered: AtomicU64,
    /// A message has reached every subscriber.
    completed: Notify,
    tallies: Vec<Mutex<Tally>>,
}

/// What the subscribers saw of the measured messages.
struct Tally {
    latency_ns: Histogram<u64>,
    late: u64,
    repeated: u64,
}

pub(crate) async fn run(target: &Target, options: &Options) -> anyhow::Result<Fanout> {
    let subscribers = capped(options.subscribers, 1)?;
    let mut client = ClientOptions::new(target.url.clone());
    client.path.clone_from(&target.path);
    let server = Server::new(options.protocol, &client)?;
    let course = Arc::new(Course::new(options)?);

    let cpu_before = cpu(target)?;
    let started = Instant::now();
    let connect = |index| {
        let (server, auth) = (server.clone(), auth(options.users, index));
        async move { subscribe(&server, auth.as_ref()).await }
    };
    let next_tally = AtomicU32::new(0);
    let listen = |line| {
        let tally = next_tally.fetch_add(1, Ordering::Relaxed) % TALLIES;
        listen(line, course.clone(), tally as usize)
    };
    let mut running = open(subscribers, target.opening, connect, listen).await?;
    let connect_seconds = started.elapsed().as_secs_f64();
    let connect_cpu = cpu(target)?.zip(cpu_before).map(|(now, before)| now.since(before));

    let publisher_auth = options.users.then(|| json!({ "user": "publisher" }).into());
    let line = timeout(STALL_LIMIT, Line::connect(&server, publisher_auth.as_ref()));
    let line = line.await.context("the publisher took too long to connect")??;
    let mut publisher =
        Publisher { line, course: &course, options, subscribers, running: &mut running, next: 0, oldest: 0 };
    let limit = Duration::from_secs(options.limit);
    timeout(limit, publisher.publish(options.warm_up)).await.context("the warm-up took too long")??;
    if publisher.oldest < options.warm_up {
        bail!("the warm-up stalled");
    }

    let (server_before, load_before) = (cpu(target)?, Cpu::of(&[std::process::id()])?);
    let delivered_before = course.delivered.load(Ordering::Relaxed);
    let started = Instant::now();
    match timeout(limit, publisher.publish(options.warm_up + options.messages)).await {
        Ok(published) => published?,
        Err(_) => eprintln!("not finished within {} s", options.limit),
    }
    let seconds = started.elapsed().as_secs_f64();
    let server_cpu = cpu(target)?.zip(server_before).map(|(now, before)| now.since(before));
    let load_cpu = Cpu::of(&[std::process::id()])?.since(load_before);
    let published = publisher.next - options.warm_up;

    let mut lost_count = 0;
    while lost(&mut running).is_some() {
        lost_count += 1;
    }
    let deliveries = course.delivered.load(Ordering::Relaxed) - delivered_before;
    let seen = course.sum();
    Ok(Fanout {
        label: target.label.clone(),
        subscribers,
        messages: published,
        bytes: options.bytes,
        in_flight: options.in_flight,
        seconds,
        deliveries,
        deliveries_per_second: deliveries as f64 / seconds,
        server_cpu,
        server_us_per_delivery: server_cpu.map(|cpu| cpu.us_per(deliveries)),
        load_us_per_delivery: load_cpu.us_per(deliveries),
        latency_us: Latency::of(&seen.latency_ns),
        late: seen.late,
        repeated: seen.repeated,
        missing: (published * u64::from(subscribers)).saturating_sub(deliveries),
        lost: lost_count,
        connect_seconds,
        connect_cpu_us: connect_cpu.map(|cpu| cpu.us_per(subscribers.into())),
    })
}

fn cpu(target: &Target) -> anyhow::Result<Option<Cpu>> {
    if target.pids.is_empty() { Ok(None) } else { Cpu::of(&target.pids).map(Some) }
}

/// Connects and joins the room.
async fn subscribe(server: &Server, auth: Option<&Value>) -> anyhow::Result<Line> {
    let mut line = Line::connect(server, auth).await?;
    line.join(ROOM).await?;
    Ok(line)
}

/// A subscriber's life.
async fn listen(mut line: Line, course: Arc<Course>, tally: usize) -> Reason {
    let mut seen = Seen::default();
    loop {
        let read = line.read(|heard| {
            if let Heard::Delivery(number, moment_ns) = heard {
                course.deliver(&mut seen, tally, number, moment_ns);
            }
        });
        if let Err(reason) = read.await {
            return reason;
        }
    }
}

impl Course {
    fn new(options: &Options) -> anyhow::Result<Course> {
        let tally = || Ok(Mutex::new(Tally { latency_ns: Latency::histogram()?, late: 0, repeated: 0 }));
        Ok(Course {
            started: Instant::now(),
            measured_from: options.warm_up,
            awaited: (0..options.in_flight).map(|_| AtomicU32::new(0)).collect(),
            delivered: AtomicU64::new(0),
            completed: Notify::new(),
            tallies: (0..TALLIES).map(|_| tally()).collect::<anyhow::Result<_>>()?,
        })
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn slot(&self, number: u64) -> &AtomicU32 {
        &self.awaited[usize::try_from(number % self.awaited.len() as u64).expect("less than a length")]
    }

    fn deliver(&self, seen: &mut Seen, tally: usize, number: u64, moment_ns: u64) {
        let verdict = seen.see(number);
        if number >= self.measured_from {
            let mut tally = self.tallies[tally].lock().unwrap_or_else(PoisonError::into_inner);
            match verdict {
                Verdict::InOrder => {}
                Verdict::Late => tally.late += 1,
                Verdict::Repeated => tally.repeated += 1,
            }
            if verdict != Verdict::Repeated {
                tally.latency_ns.saturating_record(self.now_ns().saturating_sub(moment_ns));
            }
        }
        if verdict != Verdict::Repeated {
            self.delivered.fetch_add(1, Ordering::Relaxed);
            if self.slot(number).fetch_sub(1, Ordering::AcqRel) == 1 {
                self.completed.notify_one();
            }
        }
    }

    fn sum(&self) -> Tally {
        let mut tallies =
            self.tallies.iter().map(|tally| tally.lock().unwrap_or_else(PoisonError::into_inner));
        let first = tallies.next().expect("there are tallies");
        let mut sum =
            Tally { latency_ns: first.latency_ns.clone(), late: first.late, repeated: first.repeated };
        for tally in tallies {
            sum.latency_ns.add(&tally.latency_ns).expect("all histograms have the same bounds");
            sum.late += tally.late;
            sum.repeated += tally.repeated;
        }
        sum
    }
}

struct Publisher<'a> {
    line: Line,
    course: &'a Course,
    options: &'a Options,
    subscribers: u32,
    running: &'a mut JoinSet<Reason>,
    /// The next message's number.
    next: u64,
    /// The oldest message that has not reached everyone.
    oldest: u64,
}

impl Publisher<'_> {
    /// Publishes up to message `end`, exclusively, and waits for all deliveries, or for them to stall.
    async fn publish(&mut self, end: u64) -> anyhow::Result<()> {
        let mut delivered = (self.course.delivered.load(Ordering::Relaxed), Instant::now());
        while self.oldest < end {
            while self.next < end && self.next - self.oldest < self.options.in_flight {
                self.emit();
            }
            let sent = self.line.flush().await;
            sent.map_err(|reason| anyhow!("the publisher was disconnected: {reason}"))?;
            let mut refusal = None;
            tokio::select! {
                // A completion is what the loop is about; acknowledgements can wait for the next turn.
                biased;
                () = self.course.completed.notified() => {}
                read = self.line.read(|heard| {
                    if let Heard::Answer(outcome) = heard {
                        refusal = refusal.take().or(outcome.err());
                    }
                }) => read.map_err(|reason| anyhow!("the publisher was disconnected: {reason}"))?,
                () = tokio::time::sleep(Duration::from_millis(250)) => {}
            }
            if let Some(refusal) = refusal {
                bail!("publish was refused: {refusal}");
            }
            while self.oldest < self.next && self.course.slot(self.oldest).load(Ordering::Acquire) == 0 {
                self.oldest += 1;
            }
            let now = self.course.delivered.load(Ordering::Relaxed);
            if now != delivered.0 {
                delivered = (now, Instant::now());
            } else if delivered.1.elapsed() > STALL_LIMIT {
                let lost = lost(self.running)
                    .map_or(String::new(), |reason| format!(", a subscriber was lost: {reason}"));
                eprintln!("no delivery for {} s at message {}{lost}", STALL_LIMIT.as_secs(), self.oldest);
                return Ok(());
            }
        }
        Ok(())
    }

    fn emit(&mut self) {
        let number = self.next;
        self.next += 1;
        self.course.slot(number).store(self.subscribers, Ordering::Release);
        let data = data(number, self.course.now_ns(), self.options.bytes);
        self.line.publish(ROOM, &data, number);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn options(in_flight: u64) -> Options {
        Options {
            subscribers: 2,
            messages: 10,
            warm_up: 1,
            bytes: 40,
            in_flight,
            protocol: Protocol::default(),
            users: false,
            limit: 1,
        }
    }

    #[test]
    fn deliveries_are_counted_once_and_judged_after_the_warm_up() {
        let course = Course::new(&options(4)).unwrap();
        let mut seen = Seen::default();
        for slot in &course.awaited {
            slot.store(1, Ordering::Relaxed);
        }
        for number in [0, 2, 1, 1] {
            course.deliver(&mut seen, 0, number, 0);
        }
        let sum = course.sum();
        assert_eq!((sum.late, sum.repeated, sum.latency_ns.len()), (1, 1, 2));
        assert_eq!(course.delivered.load(Ordering::Relaxed), 3);
        assert_eq!(course.slot(1).load(Ordering::Relaxed), 0);
        assert_eq!(course.slot(3).load(Ordering::Relaxed), 1);
    }
}
