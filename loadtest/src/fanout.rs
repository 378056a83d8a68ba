//! One publisher, one room, many subscribers.
//!
//! The publisher runs a closed loop: with `in_flight` messages under way, the next leaves when the oldest has
//! reached every subscriber. Numbers and the moment of publishing travel in the message, so that order, loss and
//! latency are seen at the receivers.

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use tokio::time::timeout;

use crate::audience;
use crate::broadcast::Publisher;
use crate::line::Protocol;
use crate::link::Job;
use crate::record::Record;
use crate::run::{Beside, Phase, Run, outcome, rates};
use crate::seen::WINDOW;
use crate::stamp::bytes_range;
use crate::target::Target;

/// The scenario's own settings.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// How many subscribers.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) subscribers: u32,
    /// How many messages are measured.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) messages: u64,
    /// How many messages come before them, unmeasured.
    #[arg(long, default_value_t = 20)]
    pub(crate) warm_up: u64,
    /// Length of a message's data.
    #[arg(long, default_value_t = 100, value_parser = bytes_range)]
    pub(crate) bytes: usize,
    /// How many messages are under way at a time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=WINDOW))]
    pub(crate) in_flight: u64,
    /// What publisher and subscribers speak.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) protocol: Protocol,
    /// Gives every connection a user of its own in the CONNECT payload.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    pub(crate) users: bool,
    /// The whole run ends after this, in seconds, finished or not.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) limit: u64,
}

pub(crate) async fn run(target: &Target, options: &Options) -> anyhow::Result<Record> {
    let place = target.place(&target.urls, options.protocol, options.users)?;
    let job = |share| {
        Job::Audience(audience::Job {
            place: place.clone(),
            share,
            in_flight: Some(options.in_flight),
            stalling: 0,
            receive_buffer_bytes: None,
        })
    };
    let mut run = Run::open(target, &place, options.subscribers, Beside::default(), job).await?;
    let mut publisher = Publisher::connect(&place, options.bytes).await?;
    let Options { in_flight, warm_up, messages, .. } = *options;
    let (published, phase) =
        closed(&mut run, &mut publisher, in_flight, warm_up, messages, options.limit).await?;

    let subscribers = run.count;
    let mut record = run.record("fanout", None);
    record.setting.add("subscribers", subscribers.to_string());
    record.setting.add("bytes", options.bytes.to_string());
    record.setting.add("in flight", in_flight.to_string());
    rates(&mut record, &phase.spent, phase.tally.done, "deliveries", "delivery");
    outcome(&mut record, &phase.tally);
    deliveries(&mut record, &phase, published * u64::from(subscribers));
    Ok(record)
}

/// A closed loop: a warm-up, which must succeed, and the measured part. How many messages were published in it.
pub(crate) async fn closed(
    run: &mut Run<'_>,
    publisher: &mut Publisher,
    in_flight: u64,
    warm_up: u64,
    messages: u64,
    limit_seconds: u64,
) -> anyhow::Result<(u64, Phase)> {
    let limit = Duration::from_secs(limit_seconds);
    let before = run.begin("warming up", warm_up).await?;
    let warmed = publisher.closed(&mut run.crew, &run.progress, in_flight, warm_up);
    timeout(limit, warmed).await.context("the warm-up took too long")??;
    let warmed = run.halt(&before).await?;
    if warmed.tally.done < warm_up * u64::from(run.count) {
        bail!("the warm-up stalled");
    }

    let before = run.begin("publishing", messages).await?;
    let published_before = publisher.published();
    let publishing = publisher.closed(&mut run.crew, &run.progress, in_flight, messages);
    match timeout(limit, publishing).await {
        Ok(published) => published?,
        // What was under way then is missing.
        Err(_) => run.progress.say(&format!("not finished within {limit_seconds} s")),
    }
    Ok((publisher.published() - published_before, run.halt(&before).await?))
}

/// What there is to say about `expected` deliveries.
pub(crate) fn deliveries(record: &mut Record, phase: &Phase, expected: u64) {
    record.faults.add("late", phase.tally.late);
    record.faults.add("repeated", phase.tally.repeated);
    record.faults.add("missing", expected.saturating_sub(phase.tally.done));
}
