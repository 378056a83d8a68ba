//! One that holds connections for a run, in the run's process or in one of its own.

use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::link::{Job, ORDERS_MAX, Order, Port, REPORTS_MAX, Report, Reports};
use crate::{acks, audience, churn, idle, rooms};

/// How often a worker says what it has done.
pub(crate) const COUNT_EVERY: Duration = Duration::from_millis(100);

/// How often it looks whether what is under way has ended.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Does what the first order says, until there are no more orders.
pub(crate) async fn work(mut port: Port) -> anyhow::Result<()> {
    match port.orders.recv().await {
        None => Ok(()),
        Some(Order::Job(job)) => match *job {
            Job::Audience(job) => Box::pin(audience::work(job, port)).await,
            Job::Rooms(job) => Box::pin(rooms::work(job, port)).await,
            Job::Acks(job) => Box::pin(acks::work(job, port)).await,
            Job::Churn(job) => Box::pin(churn::work(job, port)).await,
            Job::Idle(job) => Box::pin(idle::work(job, port)).await,
        },
        Some(order) => bail!("the first order is no job: {order:?}"),
    }
}

/// A process that works for the one that started it. Orders come from stdin, reports go to stdout. It ends with stdin.
pub(crate) async fn serve() -> anyhow::Result<()> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
    let stdout = std::io::stdout().as_fd().try_clone_to_owned()?;
    let stdin =
        pipe::Receiver::from_owned_fd(stdin).context("stdin is no pipe: a run starts workers by itself")?;
    let mut stdout = pipe::Sender::from_owned_fd(stdout).context("stdout is no pipe")?;
    let mut lines = BufReader::new(stdin).lines();

    let (orders, inbound) = mpsc::channel(ORDERS_MAX);
    let (sender, mut reports) = mpsc::channel(REPORTS_MAX);
    let mut working = JoinSet::new();
    working.spawn(work(Port { orders: inbound, reports: Reports { worker: 0, sender } }));
    loop {
        tokio::select! {
            Some((_, report)) = reports.recv() => write(&mut stdout, &report).await?,
            line = lines.next_line() => {
                let Some(line) = line? else { return Ok(()) };
                let order = serde_json::from_str(&line).with_context(|| format!("unreadable order {line:.200}"))?;
                // A worker that is gone says why below.
                let _ = orders.send(order).await;
            }
            Some(ended) = working.join_next() => {
                let why = match ended {
                    Ok(Ok(())) => continue,
                    Ok(Err(error)) => format!("{error:#}"),
                    Err(error) => error.to_string(),
                };
                return write(&mut stdout, &Report::Failed(why)).await;
            }
        }
    }
}

async fn write(stdout: &mut pipe::Sender, report: &Report) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    stdout.write_all(&line).await.context("the run hung up")
}
