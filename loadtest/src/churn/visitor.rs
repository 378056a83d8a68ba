//! One after the other: connects, stays for a while, and leaves.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde::{Deserialize, Serialize};
use tidegate_client::Reason;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};

use crate::broadcast::STALL_LIMIT;
use crate::clock::now_ns;
use crate::fleet::OPEN_LIMIT;
use crate::gate::Gate;
use crate::line::Line;
use crate::link::{Order, Port, Report, Share};
use crate::tally::Tally;
use crate::target::{Place, Servers};
use crate::worker::{COUNT_EVERY, LOOK_EVERY};

/// How long the server may take to hang up on a client that has said goodbye.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// After a visitor that was turned away the next one waits, so that a server that is down is not asked as fast as can be.
const PAUSE: Duration = Duration::from_millis(50);

/// What a worker is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) place: Place,
    /// Of those who are there at once.
    pub(crate) share: Share,
    /// How many those are, in all processes.
    pub(crate) all: u32,
    /// Connects a second, of all processes.
    pub(crate) rate: Option<f64>,
    pub(crate) stay_ms: u64,
    pub(crate) room: Option<String>,
}

/// What visitors share.
struct Door {
    place: Place,
    servers: Servers,
    /// The time between two visitors of this process.
    gap: Option<Duration>,
    stay: Duration,
    room: Option<String>,
    gate: Gate,
    tally: Mutex<Tally>,
    connected: AtomicU64,
    inside: AtomicU32,
    /// When the phase began, and how many visitors have had a turn since.
    turns: Mutex<(Instant, u32)>,
}

/// Carries out orders until there are no more.
pub(crate) async fn work(job: Job, mut port: Port) -> anyhow::Result<()> {
    let share_of_all = f64::from(job.share.count) / f64::from(job.all.max(1));
    let door = Arc::new(Door {
        servers: job.place.servers()?,
        place: job.place,
        gap: job.rate.map(|rate| Duration::from_secs_f64(1.0 / (rate * share_of_all))),
        stay: Duration::from_millis(job.stay_ms),
        room: job.room,
        gate: Gate::default(),
        tally: Mutex::default(),
        connected: AtomicU64::new(0),
        inside: AtomicU32::new(0),
        turns: Mutex::new((Instant::now(), 0)),
    });
    let mut running = JoinSet::new();
    for at in 0..job.share.count {
        running.spawn(come_and_go(door.clone(), job.share.first + at));
    }
    port.reports.tell(Report::Done(Box::default())).await?;

    let mut count_every = interval(COUNT_EVERY);
    loop {
        tokio::select! {
            order = port.orders.recv() => {
                let Some(order) = order else { return Ok(()) };
                let tally = door.carry_out(&order).await;
                port.reports.tell(Report::Count(door.connected.load(Ordering::Relaxed))).await?;
                port.reports.tell(Report::Done(Box::new(tally))).await?;
            }
            _ = count_every.tick() => {
                port.reports.tell(Report::Count(door.connected.load(Ordering::Relaxed))).await?;
            }
        }
    }
}

/// Visitors in one place, one after the other.
async fn come_and_go(door: Arc<Door>, index: u32) {
    let mut changes = door.gate.changes();
    let mut visits = 0;
    loop {
        if !door.gate.is_open() {
            // The gate is there as long as whoever waits at it.
            let _ = changes.changed().await;
            continue;
        }
        if let Some(due) = door.due() {
            changes.mark_unchanged();
            tokio::select! {
                () = sleep_until(due) => {}
                _ = changes.changed() => continue,
            }
            let behind_ns = u64::try_from(due.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let mut tally = door.tally();
            tally.behind_ns_max = tally.behind_ns_max.max(behind_ns);
        }
        door.inside.fetch_add(1, Ordering::AcqRel);
        // Servers alternate from visit to visit, not only from place to place.
        let visit = visit(&door, index, index.wrapping_add(visits)).await;
        visits = visits.wrapping_add(1);
        if let Err(error) = visit {
            door.tally().fail(|| format!("a client failed: {error:#}"));
            sleep(PAUSE).await;
        }
        door.inside.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn visit(door: &Door, index: u32, way: u32) -> anyhow::Result<()> {
    door.tally().sent += 1;
    let auth = door.place.auth(index);
    let began_ns = now_ns();
    let line = timeout(OPEN_LIMIT, Line::connect(door.servers.of(way), auth.as_ref())).await;
    let mut line = line.context("it took too long to connect")??;
    let took_ns = now_ns().saturating_sub(began_ns);
    {
        let mut tally = door.tally();
        tally.done += 1;
        tally.took.record(took_ns);
    }
    door.connected.fetch_add(1, Ordering::Relaxed);
    if let Some(room) = &door.room {
        timeout(OPEN_LIMIT, line.join(room)).await.context("it took too long to join")??;
    }
    if !door.stay.is_zero()
        && let Ok(reason) = timeout(door.stay, stay(&mut line)).await
    {
        return Err(anyhow!("disconnected while it stayed: {reason}"));
    }
    let closed = timeout(CLOSE_LIMIT, line.close()).await.context("the server did not hang up")?;
    closed.map_err(|reason| anyhow!("disconnected while it left: {reason}"))
}

async fn stay(line: &mut Line) -> Reason {
    loop {
        if let Err(reason) = line.read(|_| ()).await {
            return reason;
        }
    }
}

impl Door {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the next visitor may come in, if that is not at once.
    fn due(&self) -> Option<Instant> {
        let gap = self.gap?;
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let due = turns.0 + gap * turns.1;
        turns.1 += 1;
        Some(due)
    }

    async fn carry_out(&self, order: &Order) -> Tally {
        match order {
            Order::Start => {
                *self.tally() = Tally::default();
                *self.turns.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), 0);
                self.gate.set(true);
                Tally::default()
            }
            Order::Halt => {
                self.gate.set(false);
                let (began, limit) = (Instant::now(), self.stay + STALL_LIMIT);
                while self.inside.load(Ordering::Acquire) != 0 && began.elapsed() < limit {
                    sleep(LOOK_EVERY).await;
                }
                let mut sum = self.tally().clone();
                sum.lost = self.inside.load(Ordering::Acquire).into();
                sum
            }
            Order::Job(_) | Order::Stall | Order::Resume => Tally::default(),
        }
    }
}
