//! Connections that do nothing but answer pings: what one costs the server in resident memory.

use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use tidegate_client::{Options as ClientOptions, Reason};
use tokio::time::sleep;

use crate::Target;
use crate::fleet::{auth, capped, lost, open};
use crate::line::{Line, Protocol, Server};
use crate::process::{Cpu, settled_bytes};
use crate::record::Idle;

/// Connections that are opened and closed first, so that what a server allocates once is not counted.
const WARM_UP: u32 = 200;
/// How long memory may take to stand still.
const SETTLE_LIMIT: Duration = Duration::from_secs(15);

/// The scenario's own settings.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// How many connections.
    #[arg(long)]
    connections: u32,
    /// How long they are kept once they are open, before memory is read, in seconds.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=600))]
    hold: u64,
    /// What is spoken.
    #[arg(long, value_enum, default_value_t)]
    protocol: Protocol,
    /// Gives every connection a user of its own in the CONNECT payload.
    #[arg(long)]
    users: bool,
}

pub(crate) async fn run(target: &Target, options: &Options) -> anyhow::Result<Idle> {
    if target.pids.is_empty() {
        bail!("--pid is needed: memory is read from the server's process");
    }
    let count = capped(options.connections, 0)?;
    let mut client = ClientOptions::new(target.url.clone());
    client.path.clone_from(&target.path);
    let server = Server::new(options.protocol, &client)?;
    let connect = |index| {
        let (server, auth) = (server.clone(), auth(options.users, index));
        async move { Line::connect(&server, auth.as_ref()).await }
    };

    drop(open(WARM_UP.min(count), target.opening, connect, stay).await?);
    let before_bytes = settled_bytes(&target.pids, SETTLE_LIMIT).await?;
    let cpu_before = Cpu::of(&target.pids)?;
    let started = Instant::now();
    let mut connections = open(count, target.opening, connect, stay).await?;
    let opened_in = started.elapsed();
    let cpu = Cpu::of(&target.pids)?.since(cpu_before);
    sleep(Duration::from_secs(options.hold)).await;
    let after_bytes = settled_bytes(&target.pids, SETTLE_LIMIT).await?;

    let mut lost_count = 0;
    while lost(&mut connections).is_some() {
        lost_count += 1;
    }
    Ok(Idle {
        label: target.label.clone(),
        connections: count,
        before_bytes,
        after_bytes,
        bytes_per_connection: (after_bytes as f64 - before_bytes as f64) / f64::from(count),
        connect_cpu_us: cpu.us_per(count.into()),
        connect_seconds: opened_in.as_secs_f64(),
        lost: lost_count,
    })
}

async fn stay(mut line: Line) -> Reason {
    loop {
        if let Err(reason) = line.read(|_| ()).await {
            return reason;
        }
    }
}
