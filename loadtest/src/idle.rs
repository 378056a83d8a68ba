//! Connections that do nothing but answer pings: what one costs the server in resident memory.

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use tidegate_client::raw::Server;
use tidegate_client::{Reason, poll};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::fleet::{lost_count, open};
use crate::line::{Line, Protocol};
use crate::link::{Job as AnyJob, Order, Port, Report, Share};
use crate::process::settled_bytes;
use crate::record::Record;
use crate::run::{Beside, Run};
use crate::tally::Tally;
use crate::target::{Place, Target, Transport};

/// Connections that are opened and closed first, so that what a server allocates once is not counted.
const WARM_UP: u32 = 200;
/// How long memory may take to stand still.
const SETTLE_LIMIT: Duration = Duration::from_secs(15);

/// The scenario's own settings.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// How many connections.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// How long they are kept once they are open, before memory is read, in seconds.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=600))]
    hold: u64,
    /// What carries them.
    #[arg(long, value_enum, default_value_t)]
    transport: Transport,
    /// What is spoken.
    #[arg(long, value_enum, default_value_t)]
    protocol: Protocol,
    /// Gives every connection a user of its own in the CONNECT payload.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    users: bool,
}

/// What a worker is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) place: Place,
    pub(crate) share: Share,
    pub(crate) transport: Transport,
}

pub(crate) async fn run(target: &Target, options: &Options) -> anyhow::Result<Record> {
    if target.pids.is_empty() {
        bail!("--pid is needed: memory is read from the server's process");
    }
    if options.transport == Transport::Polling && options.protocol != Protocol::Socketio {
        bail!("the plain protocol does not poll");
    }
    let place = target.place(&target.urls, options.protocol, options.users)?;
    let job = |share| AnyJob::Idle(Job { place: place.clone(), share, transport: options.transport });

    let warm_up = WARM_UP.min(options.connections);
    drop(Run::open(target, &place, warm_up, Beside::default(), job).await?);
    let before_bytes = settled_bytes(&target.pids, SETTLE_LIMIT).await?;
    let mut run = Run::open(target, &place, options.connections, Beside::default(), job).await?;
    run.progress.phase("holding", 0);
    run.watch.enter("holding");
    sleep(Duration::from_secs(options.hold)).await;
    let after_bytes = settled_bytes(&target.pids, SETTLE_LIMIT).await?;
    let lost = run.crew.order(Order::Halt).await?.lost;

    let (count, opening) = (run.count, run.opening.clone());
    let mut record = run.record("idle", Some(&opening));
    record.setting.add("connections", count.to_string());
    // What was measured before there was a choice is held against the same.
    if options.transport == Transport::Polling {
        record.setting.add("transport", "polling");
    }
    let grown = after_bytes as f64 - before_bytes as f64;
    record.figures.add("resident bytes before", before_bytes as f64);
    record.figures.add("resident bytes after", after_bytes as f64);
    record.figures.add("resident bytes per connection", grown / f64::from(count));
    record.faults.add("lost connections", lost);
    Ok(record)
}

/// Opens the share's connections and keeps them until there are no more orders.
pub(crate) async fn work(job: Job, mut port: Port) -> anyhow::Result<()> {
    let opened = |count| port.reports.tell_now(Report::Opened(count));
    let Job { place, share, transport } = &job;
    let mut running: JoinSet<Reason> = match transport {
        Transport::Websocket => {
            let servers = place.servers()?;
            let connect = |at| {
                let index = share.first + at;
                let (server, auth) = (servers.of(index).clone(), place.auth(index));
                async move { Line::connect(&server, auth.as_ref()).await }
            };
            open(share.count, place.opening, opened, connect, stay).await?
        }
        Transport::Polling => {
            let options = place.options();
            let servers: Vec<Server> = options.iter().map(Server::new).collect::<Result<_, _>>()?;
            let connect = |at| {
                let index = share.first + at;
                let (server, auth) = (servers[index as usize % servers.len()].clone(), place.auth(index));
                async move {
                    poll::Connection::connect(&server, "/", auth.as_ref()).await.context("failed to connect")
                }
            };
            open(share.count, place.opening, opened, connect, poll::Connection::stay).await?
        }
    };
    port.reports.tell(Report::Done(Box::default())).await?;
    while port.orders.recv().await.is_some() {
        let tally = Tally { lost: lost_count(&mut running).into(), ..Tally::default() };
        port.reports.tell(Report::Done(Box::new(tally))).await?;
    }
    Ok(())
}

async fn stay(mut line: Line) -> Reason {
    loop {
        if let Err(reason) = line.read(|_| ()).await {
            return reason;
        }
    }
}
