//! A publisher on one node, its subscribers on others: what a message costs each node, and what lies between them.

use anyhow::bail;
use clap::Args;

use crate::audience;
use crate::broadcast::Publisher;
use crate::fanout::{closed, deliveries};
use crate::line::Protocol;
use crate::link::Job;
use crate::record::Record;
use crate::run::{Beside, Run, node, outcome, rates};
use crate::seen::WINDOW;
use crate::stamp::bytes_range;
use crate::target::Target;

/// The scenario's own settings.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// How many subscribers, spread over all servers but the first.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    subscribers: u32,
    /// How many messages are measured.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    messages: u64,
    /// How many messages come before them, unmeasured.
    #[arg(long, default_value_t = 20)]
    warm_up: u64,
    /// Length of a message's data.
    #[arg(long, default_value_t = 100, value_parser = bytes_range)]
    bytes: usize,
    /// How many messages are under way at a time, without --rate.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=WINDOW))]
    in_flight: u64,
    /// Publishes so many a second, whatever becomes of them, instead.
    #[arg(long, value_parser = crate::run::rate)]
    rate: Option<f64>,
    /// What publisher and subscribers speak.
    #[arg(long, value_enum, default_value_t)]
    protocol: Protocol,
    /// Gives every connection a user of its own in the CONNECT payload.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    users: bool,
    /// The Redis of the nodes, as redis://host:port: what it does is measured, too.
    #[arg(long)]
    redis: Option<String>,
    /// The process of that Redis: its CPU is measured there, and drawn.
    #[arg(long)]
    redis_pid: Option<u32>,
    /// The whole run ends after this, in seconds, finished or not.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    limit: u64,
}

pub(crate) async fn run(target: &Target, options: &Options) -> anyhow::Result<Record> {
    let [first, others @ ..] = target.urls.as_slice() else { bail!("--url is needed") };
    if others.is_empty() {
        bail!("a second --url is needed: subscribers are not on the publisher's node");
    }
    let there = target.place(others, options.protocol, options.users)?;
    let here = target.place(std::slice::from_ref(first), options.protocol, options.users)?;
    let job = |share| {
        Job::Audience(audience::Job {
            place: there.clone(),
            share,
            in_flight: options.rate.is_none().then_some(options.in_flight),
            stalling: 0,
            receive_buffer_bytes: None,
        })
    };
    let beside = Beside { redis: options.redis.clone(), redis_pid: options.redis_pid };
    let mut run = Run::open(target, &there, options.subscribers, beside, job).await?;
    let mut publisher = Publisher::connect(&here, options.bytes).await?;
    let (warm_up, messages, subscribers) = (options.warm_up, options.messages, run.count);
    let (published, phase) = if let Some(rate) = options.rate {
        let before = run.begin("warming up", warm_up).await?;
        publisher.at_rate(&mut run.crew, &run.progress, rate, warm_up, subscribers).await?;
        run.halt(&before).await?;
        let before = run.begin("publishing", messages).await?;
        let behind = publisher.at_rate(&mut run.crew, &run.progress, rate, messages, subscribers).await?;
        let mut phase = run.halt(&before).await?;
        phase.tally.behind_ns_max = behind;
        (messages, phase)
    } else {
        closed(&mut run, &mut publisher, options.in_flight, warm_up, messages, options.limit).await?
    };

    let mut record = run.record("crossnode", None);
    record.setting.add("subscribers", subscribers.to_string());
    record.setting.add("bytes", options.bytes.to_string());
    match options.rate {
        Some(rate) => record.setting.add("publishes per second", rate.to_string()),
        None => record.setting.add("in flight", options.in_flight.to_string()),
    }
    rates(&mut record, &phase.spent, phase.tally.done, "deliveries", "delivery");
    let mut parts: Vec<(String, f64)> = Vec::new();
    for (at, cpu) in phase.spent.servers.iter().enumerate() {
        parts.push((node(at), cpu.us_per(1)));
    }
    parts.extend(phase.spent.redis_us().map(|us| ("Redis".to_owned(), us)));
    for (name, us) in &parts {
        record.figures.add(format!("{name} CPU, us per delivery"), us / phase.tally.done.max(1) as f64);
    }
    for (name, us) in &parts {
        record.figures.add(format!("{name} CPU, us per publish"), us / published.max(1) as f64);
    }
    if !parts.is_empty() {
        let all: f64 = parts.iter().map(|(_, us)| us).sum();
        record.figures.add("all together CPU, us per publish", all / published.max(1) as f64);
    }
    if let Some(cost) = &phase.spent.redis {
        let each = cost.per(published as f64).figures();
        record
            .figures
            .extend(each.into_iter().skip(1).map(|(name, figure)| (format!("{name} per publish"), figure)));
    }
    if options.rate.is_some() {
        record.figures.add("publisher behind, max, ms", phase.tally.behind_ns_max as f64 / 1e6);
    }
    outcome(&mut record, &phase.tally);
    deliveries(&mut record, &phase, published * u64::from(subscribers));
    Ok(record)
}
