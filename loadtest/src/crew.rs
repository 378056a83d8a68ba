//! Those who hold the connections: a task of this process, or several processes.

use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::link::{Job, ORDERS_MAX, Order, Port, REPORTS_MAX, Report, Reports};
use crate::progress::Progress;
use crate::tally::Tally;
use crate::watch::Done;
use crate::worker;

/// All workers of a run. Dropping it ends them.
pub(crate) struct Crew {
    workers: Vec<Worker>,
    reports: mpsc::Receiver<(usize, Report)>,
    /// What all workers have done so far, for whoever watches.
    done: Arc<Done>,
    progress: Progress,
    /// The tasks that work, or that speak to the processes that do.
    running: JoinSet<()>,
}

struct Worker {
    orders: mpsc::Sender<Order>,
    /// The process, if it is not this one.
    pid: Option<u32>,
    opened: u32,
    done: u64,
}

/// What the run need not wait for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A worker's connections all have message number so many.
    Completed(u64),
    /// Something was counted.
    Counted,
}

impl Crew {
    /// A worker for each of `jobs`: processes with so many threads each if there are to be several, a task of this one
    /// otherwise.
    pub(crate) async fn hire(
        jobs: Vec<Job>,
        threads: u32,
        in_processes: bool,
        progress: &Progress,
    ) -> anyhow::Result<Crew> {
        let (sender, reports) = mpsc::channel(REPORTS_MAX * jobs.len().max(1));
        let mut crew = Crew {
            workers: Vec::new(),
            reports,
            done: Arc::default(),
            progress: progress.clone(),
            running: JoinSet::new(),
        };
        for (at, job) in jobs.into_iter().enumerate() {
            let (orders, inbound) = mpsc::channel(ORDERS_MAX);
            let reports = Reports { worker: at, sender: sender.clone() };
            let pid = if in_processes {
                let child = spawn(threads).context("failed to start a process of this tool")?;
                let pid = child.id();
                crew.running.spawn(speak(child, inbound, reports));
                pid
            } else {
                crew.running.spawn(work(Port { orders: inbound, reports }));
                None
            };
            orders.send(Order::Job(Box::new(job))).await.ok().context("a worker ended at once")?;
            crew.workers.push(Worker { orders, pid, opened: 0, done: 0 });
        }
        Ok(crew)
    }

    /// How many workers there are.
    pub(crate) fn len(&self) -> usize {
        self.workers.len()
    }

    /// The processes of this tool that the workers are.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.workers.iter().filter_map(|worker| worker.pid).collect()
    }

    /// What all workers have done so far.
    pub(crate) fn done(&self) -> &Arc<Done> {
        &self.done
    }

    /// Gives every worker an order and waits until all have carried it out. What they have counted is added up.
    pub(crate) async fn order(&mut self, order: Order) -> anyhow::Result<Tally> {
        self.tell(&order).await?;
        self.carried_out().await
    }

    /// Gives every worker an order.
    pub(crate) async fn tell(&mut self, order: &Order) -> anyhow::Result<()> {
        for worker in &self.workers {
            // A worker that is gone has said why.
            let _ = worker.orders.send(order.clone()).await;
        }
        Ok(())
    }

    /// Waits until all workers have carried out the last order.
    pub(crate) async fn carried_out(&mut self) -> anyhow::Result<Tally> {
        let mut sum = Tally::default();
        let mut waiting = self.workers.len();
        while waiting > 0 {
            let (at, report) = self.reports.recv().await.context("all workers are gone")?;
            if let Report::Done(tally) = report {
                sum.add(&tally);
                waiting -= 1;
            } else {
                self.hear(at, report)?;
            }
        }
        Ok(sum)
    }

    /// What happens next. Cancel safe.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Event> {
        let (at, report) = self.reports.recv().await.context("all workers are gone")?;
        self.hear(at, report)
    }

    /// What has happened already, if anything.
    pub(crate) fn heard(&mut self) -> anyhow::Result<Option<Event>> {
        let Ok((at, report)) = self.reports.try_recv() else { return Ok(None) };
        self.hear(at, report).map(Some)
    }

    fn hear(&mut self, at: usize, report: Report) -> anyhow::Result<Event> {
        match report {
            Report::Opened(count) => {
                self.workers[at].opened = count;
                self.progress.set(self.workers.iter().map(|worker| u64::from(worker.opened)).sum());
            }
            Report::Count(count) => {
                self.workers[at].done = count;
                self.done.set(self.workers.iter().map(|worker| worker.done).sum());
            }
            Report::Completed(number) => return Ok(Event::Completed(number)),
            Report::Done(_) => bail!("a worker has done what nobody asked for"),
            Report::Failed(why) => bail!("{why}"),
        }
        Ok(Event::Counted)
    }
}

/// A worker of this process.
async fn work(port: Port) {
    let reports = port.reports.clone();
    if let Err(error) = worker::work(port).await {
        // Nobody listens when the run is over.
        let _ = reports.tell(Report::Failed(format!("{error:#}"))).await;
    }
}

/// This program as a worker. It ends when the pipe to it closes, and is killed when its handle is dropped.
fn spawn(threads: u32) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("this program's file is unknown")?;
    let mut command = Command::new(program);
    command.arg("worker").arg("--threads").arg(threads.to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    Ok(command.spawn()?)
}

/// Carries orders to a process and reports back, until the run wants no more, or the process ends, which it should not.
async fn speak(mut child: Child, mut orders: mpsc::Receiver<Order>, reports: Reports) {
    let ended = match converse(&mut child, &mut orders, &reports).await {
        Ok(()) => return,
        Err(error) => error,
    };
    let status = child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
    let why = format!("worker process {} ended before the run did ({status}): {ended:#}", reports.worker + 1);
    let _ = reports.tell(Report::Failed(why)).await;
}

async fn converse(
    child: &mut Child,
    orders: &mut mpsc::Receiver<Order>,
    reports: &Reports,
) -> anyhow::Result<()> {
    let mut stdin = child.stdin.take().context("it has no stdin")?;
    let mut lines = BufReader::new(child.stdout.take().context("it has no stdout")?).lines();
    loop {
        tokio::select! {
            line = lines.next_line() => {
                let line = line?.ok_or_else(|| anyhow!("it hung up"))?;
                let report = serde_json::from_str(&line).with_context(|| format!("it said {line:.200}"))?;
                if reports.tell(report).await.is_err() {
                    return Ok(());
                }
            }
            order = orders.recv() => {
                let Some(order) = order else { return Ok(()) };
                let mut line = serde_json::to_vec(&order)?;
                line.push(b'\n');
                stdin.write_all(&line).await?;
            }
        }
    }
}
