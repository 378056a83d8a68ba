//! Clients that come and go: what a connect costs, and how long it takes.

mod visitor;

use clap::Args;

use crate::line::Protocol;
use crate::link::Job as AnyJob;
use crate::record::Record;
use crate::run::{Beside, Run, rates};
use crate::target::Target;
use crate::times::Latency;

pub(crate) use visitor::{Job, work};

/// The scenario's own settings.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// How many clients there are at most at a time. Without --rate the next comes when one has gone.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    at_once: u32,
    /// Connects begun a second, as far as --at-once allows.
    #[arg(long, value_parser = crate::run::rate)]
    rate: Option<f64>,
    /// How long each stays, in milliseconds.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=600_000))]
    stay: u64,
    /// The room each joins, if any.
    #[arg(long)]
    room: Option<String>,
    /// How long clients come, in seconds.
    #[arg(long, default_value = "10", value_parser = crate::run::seconds)]
    seconds: f64,
    /// How long they have come before that, unmeasured, in seconds.
    #[arg(long, default_value = "1", value_parser = crate::run::seconds)]
    warm_up: f64,
    /// What clients speak.
    #[arg(long, value_enum, default_value_t)]
    protocol: Protocol,
    /// Gives every connection a user of its own in the CONNECT payload.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    users: bool,
}

pub(crate) async fn run(target: &Target, options: &Options) -> anyhow::Result<Record> {
    let place = target.place(&target.urls, options.protocol, options.users)?;
    let job = |share| {
        AnyJob::Churn(Job {
            place: place.clone(),
            share,
            all: options.at_once,
            rate: options.rate,
            stay_ms: options.stay,
            room: options.room.clone(),
        })
    };
    let mut run = Run::open(target, &place, options.at_once, Beside::default(), job).await?;
    run.has_connections = false;
    run.timed("warming up", options.warm_up).await?;
    let phase = run.timed("clients come and go", options.seconds).await?;

    let mut record = run.record("churn", None);
    record.setting.add("at once", options.at_once.to_string());
    if let Some(rate) = options.rate {
        record.setting.add("connects per second", rate.to_string());
    }
    record.setting.add("stay", format!("{} ms", options.stay));
    record.setting.add("room", if options.room.is_some() { "yes" } else { "no" });
    record.setting.add("users", if options.users { "yes" } else { "no" });
    rates(&mut record, &phase.spent, phase.tally.done, "connects", "connect");
    if options.rate.is_some() {
        record.figures.add("connects behind, max, ms", phase.tally.behind_ns_max as f64 / 1e6);
    }
    record.took("connect latency", Latency::of(&phase.tally.took));
    record.faults.add("failed", phase.tally.failed);
    record.faults.add("lost connections", phase.tally.lost);
    Ok(record)
}
