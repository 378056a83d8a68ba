//! Events that are acknowledged: what a round trip costs, and how long it takes.

mod asker;

use anyhow::Context as _;
use clap::Args;

use crate::line::Protocol;
use crate::link::Job as AnyJob;
use crate::record::Record;
use crate::run::{Beside, Run, outcome, rates};
use crate::seen::WINDOW;
use crate::target::Target;

pub(crate) use asker::{Job, work};

/// The scenario's own settings.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// How many clients.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// The event; whatever answers it will do.
    #[arg(long, default_value = "heartbeat")]
    event: String,
    /// Its one argument, in JSON; without it there is none.
    #[arg(long)]
    data: Option<String>,
    /// How many events of each client are under way at a time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=WINDOW))]
    in_flight: u64,
    /// How long they are sent, in seconds.
    #[arg(long, default_value = "10", value_parser = crate::run::seconds)]
    seconds: f64,
    /// How long they have been sent before that, unmeasured, in seconds.
    #[arg(long, default_value = "1", value_parser = crate::run::seconds)]
    warm_up: f64,
    /// Gives every connection a user of its own in the CONNECT payload.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    users: bool,
}

pub(crate) async fn run(target: &Target, options: &Options) -> anyhow::Result<Record> {
    let place = target.place(&target.urls, Protocol::Socketio, options.users)?;
    let mut args = vec![serde_json::Value::from(options.event.as_str())];
    if let Some(data) = &options.data {
        args.push(serde_json::from_str(data).context("--data is not JSON")?);
    }
    let args = serde_json::Value::from(args).to_string();
    let job = |share| {
        AnyJob::Acks(Job { place: place.clone(), share, in_flight: options.in_flight, args: args.clone() })
    };
    let mut run = Run::open(target, &place, options.connections, Beside::default(), job).await?;
    run.timed("warming up", options.warm_up).await?;
    let phase = run.timed("round trips", options.seconds).await?;

    let count = run.count;
    let mut record = run.record("acks", None);
    record.setting.add("connections", count.to_string());
    record.setting.add("event", options.event.clone());
    record.setting.add("in flight each", options.in_flight.to_string());
    rates(&mut record, &phase.spent, phase.tally.done, "round trips", "round trip");
    outcome(&mut record, &phase.tally);
    record.faults.add("refused or unanswered", phase.tally.failed);
    Ok(record)
}
