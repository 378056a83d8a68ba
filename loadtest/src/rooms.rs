//! Many small rooms, in which everyone publishes: what chat looks like.
//!
//! Each client runs a closed loop of its own: its next publish leaves when one of its publishes has been acknowledged,
//! as an application would do it. Deliveries are counted at the receivers; who is told `ok` before anything is delivered is
//! not slowed down by that, and shows it in the latency.

mod member;

use clap::Args;

use crate::line::Protocol;
use crate::link::Job as AnyJob;
use crate::record::Record;
use crate::run::{Beside, Run, outcome, rates};
use crate::seen::WINDOW;
use crate::stamp::bytes_range;
use crate::target::Target;

pub(crate) use member::{Job, work};

/// The scenario's own settings.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// How many rooms.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rooms: u32,
    /// How many members each has.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=member::MEMBERS_MAX as i64))]
    members: u32,
    /// How many publishes of each member are under way at a time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=WINDOW))]
    in_flight: u64,
    /// Length of a message's data.
    #[arg(long, default_value_t = 100, value_parser = bytes_range)]
    bytes: usize,
    /// How long everyone publishes, in seconds.
    #[arg(long, default_value = "10", value_parser = crate::run::seconds)]
    seconds: f64,
    /// How long everyone has published before that, unmeasured, in seconds.
    #[arg(long, default_value = "1", value_parser = crate::run::seconds)]
    warm_up: f64,
    /// What members speak.
    #[arg(long, value_enum, default_value_t)]
    protocol: Protocol,
    /// Gives every connection a user of its own in the CONNECT payload.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    users: bool,
}

pub(crate) async fn run(target: &Target, options: &Options) -> anyhow::Result<Record> {
    let place = target.place(&target.urls, options.protocol, options.users)?;
    let Options { rooms, members, in_flight, bytes, .. } = *options;
    let job = |share| AnyJob::Rooms(Job { place: place.clone(), share, members, in_flight, bytes });
    let mut run = Run::open_groups(target, &place, rooms, members, Beside::default(), job).await?;
    run.timed("warming up", options.warm_up).await?;
    let phase = run.timed("everyone publishes", options.seconds).await?;

    let rooms = run.count / members;
    let mut record = run.record("rooms", None);
    record.setting.add("rooms", rooms.to_string());
    record.setting.add("members", members.to_string());
    record.setting.add("bytes", bytes.to_string());
    record.setting.add("in flight each", in_flight.to_string());
    rates(&mut record, &phase.spent, phase.tally.done, "deliveries", "delivery");
    if let Some(cpu) = phase.spent.server() {
        record.figures.add("server CPU, us per publish", cpu.us_per(phase.tally.sent));
    }
    record.figures.add("publishes per second", phase.tally.sent as f64 / phase.spent.seconds);
    outcome(&mut record, &phase.tally);
    record.faults.add("refused or unanswered", phase.tally.failed);
    record.faults.add("late", phase.tally.late);
    record.faults.add("repeated", phase.tally.repeated);
    let expected = phase.tally.sent.saturating_sub(phase.tally.failed) * u64::from(members - 1);
    record.faults.add("missing", expected.saturating_sub(phase.tally.done));
    Ok(record)
}
