//! Clients that send an event and wait for its acknowledgement.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tidegate_client::Reason;
use tidegate_client::raw::{Connection, Message, Server};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

use crate::broadcast::STALL_LIMIT;
use crate::clock::now_ns;
use crate::fleet::{lost_count, open};
use crate::gate::Gate;
use crate::link::{Order, Port, Report, Share};
use crate::tally::Tally;
use crate::target::Place;
use crate::worker::{COUNT_EVERY, LOOK_EVERY};

/// What a worker is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) place: Place,
    pub(crate) share: Share,
    pub(crate) in_flight: u64,
    /// The event and its arguments, as the packet has them.
    pub(crate) args: String,
}

/// What clients share.
struct Desk {
    in_flight: usize,
    args: String,
    gate: Gate,
    tally: Mutex<Tally>,
    answered: AtomicU64,
    under_way: AtomicI64,
}

/// Opens the share's connections and carries out orders until there are no more.
pub(crate) async fn work(job: Job, mut port: Port) -> anyhow::Result<()> {
    let desk = Arc::new(Desk {
        in_flight: usize::try_from(job.in_flight)?,
        args: job.args,
        gate: Gate::default(),
        tally: Mutex::default(),
        answered: AtomicU64::new(0),
        under_way: AtomicI64::new(0),
    });
    let options = job.place.options();
    let servers: Vec<Server> = options.iter().map(Server::new).collect::<Result<_, _>>()?;
    let connect = |at| {
        let index = job.share.first + at;
        let (server, auth) = (servers[index as usize % servers.len()].clone(), job.place.auth(index));
        async move { Connection::connect(&server, "/", auth.as_ref()).await.context("failed to connect") }
    };
    let ask = |connection| Asker { connection, desk: desk.clone(), next: 0, under_way: Vec::new() }.live();
    let opened = |count| port.reports.tell_now(Report::Opened(count));
    let mut running = open(job.share.count, job.place.opening, opened, connect, ask).await?;
    port.reports.tell(Report::Done(Box::default())).await?;

    let mut count_every = interval(COUNT_EVERY);
    loop {
        tokio::select! {
            order = port.orders.recv() => {
                let Some(order) = order else { return Ok(()) };
                let tally = desk.carry_out(&order, &mut running).await;
                port.reports.tell(Report::Count(desk.answered.load(Ordering::Relaxed))).await?;
                port.reports.tell(Report::Done(Box::new(tally))).await?;
            }
            _ = count_every.tick() => {
                port.reports.tell(Report::Count(desk.answered.load(Ordering::Relaxed))).await?;
            }
        }
    }
}

/// One client.
struct Asker {
    connection: Connection,
    desk: Arc<Desk>,
    /// The next event's id.
    next: u64,
    /// Ids without an answer, and when they were sent.
    under_way: Vec<(u64, u64)>,
}

impl Asker {
    async fn live(mut self) -> Reason {
        let desk = self.desk.clone();
        let mut changes = desk.gate.changes();
        loop {
            while desk.gate.is_open() && self.under_way.len() < desk.in_flight {
                self.ask();
            }
            let read = if self.under_way.is_empty() {
                tokio::select! {
                    _ = changes.changed() => Ok(()),
                    read = self.read() => read,
                }
            } else {
                self.read().await
            };
            if let Err(reason) = read {
                return reason;
            }
        }
    }

    fn ask(&mut self) {
        let id = self.next;
        self.next += 1;
        self.connection.push_message(Message::Text(&format!("2{id}{}", self.desk.args)));
        self.under_way.push((id, now_ns()));
        self.desk.under_way.fetch_add(1, Ordering::AcqRel);
    }

    /// Sends what waits, and reads. Cancel safe.
    async fn read(&mut self) -> Result<(), Reason> {
        let Asker { connection, desk, under_way, .. } = self;
        let read = connection.read(|message| {
            let Message::Text(packet) = message else { return };
            let Some((id, args)) = answer(packet) else { return };
            let Some(at) = under_way.iter().position(|(asked, _)| *asked == id) else { return };
            let (_, asked_ns) = under_way.swap_remove(at);
            desk.answer(args, now_ns().saturating_sub(asked_ns));
        });
        read.await
    }
}

/// The id and the arguments of an acknowledgement.
fn answer(packet: &str) -> Option<(u64, &str)> {
    let rest = packet.strip_prefix('3')?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    Some((rest[..digits].parse().ok()?, &rest[digits..]))
}

impl Desk {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, args: &str, took_ns: u64) {
        self.under_way.fetch_sub(1, Ordering::AcqRel);
        self.answered.fetch_add(1, Ordering::Relaxed);
        let mut tally = self.tally();
        tally.sent += 1;
        // Only what says so is a refusal: what an answer means is the application's affair.
        if args.starts_with(r#"[{"ok":false"#) {
            tally.fail(|| format!("the answer was {args:.200}"));
        } else {
            tally.done += 1;
            tally.took.record(took_ns);
        }
    }

    async fn carry_out(&self, order: &Order, running: &mut JoinSet<Reason>) -> Tally {
        match order {
            Order::Start => {
                *self.tally() = Tally::default();
                self.gate.set(true);
                Tally::default()
            }
            Order::Halt => {
                self.gate.set(false);
                let began = Instant::now();
                while self.under_way.load(Ordering::Acquire) != 0 && began.elapsed() < STALL_LIMIT {
                    sleep(LOOK_EVERY).await;
                }
                let mut sum = self.tally().clone();
                sum.failed += u64::try_from(self.under_way.swap(0, Ordering::AcqRel)).unwrap_or(0);
                sum.lost = lost_count(running).into();
                sum
            }
            Order::Job(_) | Order::Stall | Order::Resume => Tally::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_an_id() {
        assert_eq!(answer("312[{\"ok\":true}]"), Some((12, "[{\"ok\":true}]")));
        assert_eq!(answer("30[]"), Some((0, "[]")));
        for other in ["", "3[]", "2[\"a\"]", "40"] {
            assert_eq!(answer(other), None, "{other}");
        }
    }
}
