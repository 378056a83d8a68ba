//! Some of an audience stop reading: what the others notice, what the server keeps for those, and what it does to them.
//!
//! Everything is published at a rate, first while all read, then while some do not. A server that waits for the slow
//! makes the others late; one that does not has to keep what they have not read, or to close them.

use clap::Args;

use crate::audience;
use crate::broadcast::Publisher;
use crate::line::Protocol;
use crate::link::{Job, Order};
use crate::process::resident_bytes;
use crate::record::Record;
use crate::run::{Beside, Phase, Run, rates};
use crate::stamp::bytes_range;
use crate::tally::Tally;
use crate::target::Target;
use crate::times::Latency;

/// The scenario's own settings.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// How many subscribers.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(2..))]
    subscribers: u32,
    /// How many of them stop reading: a number, or a share such as 10%.
    #[arg(long, default_value = "10%", value_parser = stalled)]
    stalled: Stalled,
    /// Publishes a second.
    #[arg(long, default_value = "100", value_parser = crate::run::rate)]
    rate: f64,
    /// How long each of the two phases lasts, in seconds. The second one should bring
    /// more than a server is willing to keep.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Length of a message's data. The more, the sooner those who do not read are behind.
    #[arg(long, default_value_t = 8192, value_parser = bytes_range)]
    bytes: usize,
    /// What the kernel is to hold for each subscriber that has not been read, in bytes.
    #[arg(long, default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1024..=1 << 24))]
    receive_buffer: u32,
    /// What publisher and subscribers speak.
    #[arg(long, value_enum, default_value_t)]
    protocol: Protocol,
    /// Gives every connection a user of its own in the CONNECT payload.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    users: bool,
}

/// How many stop reading.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stalled {
    Count(u32),
    Percent(f64),
}

fn stalled(text: &str) -> Result<Stalled, String> {
    let percent = text.strip_suffix('%').and_then(|share| share.parse::<f64>().ok());
    match (percent, text.parse()) {
        (Some(percent), _) if (0.0..100.0).contains(&percent) => Ok(Stalled::Percent(percent)),
        (None, Ok(count)) => Ok(Stalled::Count(count)),
        _ => Err("a number, or a share such as 10%".to_owned()),
    }
}

impl Stalled {
    /// Of so many. At least one goes on reading.
    fn of(self, subscribers: u32) -> u32 {
        let count = match self {
            Stalled::Count(count) => count,
            Stalled::Percent(percent) => (f64::from(subscribers) * percent / 100.0).round() as u32,
        };
        count.min(subscribers.saturating_sub(1))
    }
}

pub(crate) async fn run(target: &Target, options: &Options) -> anyhow::Result<Record> {
    let place = target.place(&target.urls, options.protocol, options.users)?;
    let stalling = options.stalled.of(options.subscribers);
    let job = |share| {
        Job::Audience(audience::Job {
            place: place.clone(),
            share,
            in_flight: None,
            stalling,
            receive_buffer_bytes: usize::try_from(options.receive_buffer).ok(),
        })
    };
    let mut run = Run::open(target, &place, options.subscribers, Beside::default(), job).await?;
    let mut publisher = Publisher::connect(&place, options.bytes).await?;
    let resident = || if target.pids.is_empty() { Ok(0) } else { resident_bytes(&target.pids) };

    let messages = (options.rate * options.seconds as f64).ceil() as u64;
    let warm_up = (options.rate.ceil() as u64).min(messages);
    let everyone = run.count;
    let readers = everyone - stalling.min(everyone - 1);
    run.begin("warming up", warm_up).await?;
    publisher.at_rate(&mut run.crew, &run.progress, options.rate, warm_up, everyone).await?;

    let mut publish = async |run: &mut Run<'_>, what, receivers| {
        let before = run.begin(what, messages).await?;
        let behind =
            publisher.at_rate(&mut run.crew, &run.progress, options.rate, messages, receivers).await?;
        let mut phase = run.halt(&before).await?;
        phase.tally.behind_ns_max = behind;
        anyhow::Ok(phase)
    };
    let all_read = publish(&mut run, "all read", everyone).await?;
    let before_bytes = resident()?;
    run.crew.order(Order::Stall).await?;
    let some_stall = publish(&mut run, "some do not read", readers).await?;
    let peak_bytes = run.watch.peak_bytes();
    run.progress.phase("they read on", 0);
    run.watch.enter("they read on");
    let after = run.crew.order(Order::Resume).await?;
    let after_bytes = resident()?;

    let has_server = !target.pids.is_empty();
    let mut record = run.record("slow", None);
    record.setting.add("subscribers", everyone.to_string());
    record.setting.add("stalled", (everyone - readers).to_string());
    record.setting.add("bytes", options.bytes.to_string());
    record.setting.add("publishes per second", options.rate.to_string());
    rates(&mut record, &some_stall.spent, some_stall.tally.done, "deliveries", "delivery");
    latencies(&mut record, &all_read, &some_stall);
    if has_server {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        record.figures.add("server memory before, MiB", mib(before_bytes));
        record.figures.add("server memory peak, MiB", mib(peak_bytes.max(before_bytes)));
        record.figures.add("server memory after, MiB", mib(after_bytes));
    }
    ends(&mut record, &after, everyone - readers);
    let missing =
        |phase: &Phase, receivers: u32| (messages * u64::from(receivers)).saturating_sub(phase.tally.done);
    record.faults.add("lost connections", all_read.tally.lost + some_stall.tally.lost + after.lost);
    record.faults.add("late", all_read.tally.late + some_stall.tally.late);
    record.faults.add("repeated", all_read.tally.repeated + some_stall.tally.repeated);
    record.faults.add("missing", missing(&all_read, everyone) + missing(&some_stall, readers));
    Ok(record)
}

/// How much later everything comes to those who read.
fn latencies(record: &mut Record, all_read: &Phase, some_stall: &Phase) {
    let (before, after) = (Latency::of(&all_read.tally.took), Latency::of(&some_stall.tally.took));
    let times = |before: f64, after: f64| if before > 0.0 { after / before } else { 0.0 };
    let ratios = [("p50", times(before.p50, after.p50)), ("p99", times(before.p99, after.p99))];
    record.took("latency, all read", before);
    record.took("latency, some stalled", after);
    for (name, ratio) in ratios {
        record.figures.add(format!("latency {name}, some stalled to all read"), ratio);
    }
    let behind_ns = all_read.tally.behind_ns_max.max(some_stall.tally.behind_ns_max);
    record.figures.add("publisher behind, max, ms", behind_ns as f64 / 1e6);
}

/// What became of those who did not read.
fn ends(record: &mut Record, after: &Tally, stalled: u32) {
    let open = after.ends.get("still open").copied().unwrap_or(0);
    let all: u64 = after.ends.values().sum();
    record.figures.add("stalled, closed by the server", (all - open) as f64);
    record.figures.add("stalled, still open", open as f64);
    for (end, count) in &after.ends {
        record.notes.push(format!("Of {stalled} stalled connections {count}: {end}."));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stalled_are_a_number_or_a_share() {
        assert_eq!(stalled("10%").map(|stalled| stalled.of(205)), Ok(21));
        assert_eq!(stalled("7").map(|stalled| stalled.of(200)), Ok(7));
        assert_eq!(stalled("7").map(|stalled| stalled.of(5)), Ok(4));
        for wrong in ["", "%", "100%", "-1", "1.5", "x%"] {
            assert!(stalled(wrong).is_err(), "{wrong}");
        }
    }
}
