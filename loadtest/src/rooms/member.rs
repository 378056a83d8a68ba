//! Members of rooms, each of which publishes to its own and hears the others.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tidegate_client::Reason;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

use crate::broadcast::STALL_LIMIT;
use crate::clock::now_ns;
use crate::fleet::{lost_count, open};
use crate::gate::Gate;
use crate::line::{Heard, Line};
use crate::link::{Order, Port, Report, Share};
use crate::seen::Seen;
use crate::stamp::data;
use crate::tally::Tally;
use crate::target::Place;
use crate::worker::{COUNT_EVERY, LOOK_EVERY};

/// A message's number is its sender's place in the room and, below it, how many that one had sent before. So many fit
/// there, and so many places above.
const NUMBERS: u64 = 10_000_000;
pub(super) const MEMBERS_MAX: u32 = 999;
/// Members share this many tallies, so that the threads of the tool seldom meet at one.
const TALLIES: u32 = 16;

/// What a worker is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) place: Place,
    /// Of the rooms. A room's members are in one process, and on all servers.
    pub(crate) share: Share,
    pub(crate) members: u32,
    pub(crate) in_flight: u64,
    pub(crate) bytes: usize,
}

/// What members share.
struct House {
    in_flight: u64,
    bytes: usize,
    gate: Gate,
    tallies: Vec<Mutex<Tally>>,
    /// Deliveries since the beginning.
    delivered: AtomicU64,
    /// Deliveries that are to come of what was published. Below zero while they are ahead of the count.
    awaited: AtomicI64,
    /// Publishes without an answer.
    unanswered: AtomicI64,
}

/// Opens the share's connections and carries out orders until there are no more.
pub(crate) async fn work(job: Job, mut port: Port) -> anyhow::Result<()> {
    let house = Arc::new(House::new(&job));
    let servers = job.place.servers()?;
    let (first, members) = (job.share.first * job.members, job.members);
    let connect = |at| {
        let index = first + at;
        let (server, auth) = (servers.of(index).clone(), job.place.auth(index));
        let room = format!("room{}", index / members);
        let house = house.clone();
        async move {
            let mut line = Line::connect(&server, auth.as_ref()).await?;
            line.join(&room).await?;
            Ok(Member::new(line, house, room, index, members))
        }
    };
    let opened = |count| port.reports.tell_now(Report::Opened(count));
    let count = job.share.count * members;
    let mut running = open(count, job.place.opening, opened, connect, Member::live).await?;
    port.reports.tell(Report::Done(Box::default())).await?;

    let mut count_every = interval(COUNT_EVERY);
    loop {
        tokio::select! {
            order = port.orders.recv() => {
                let Some(order) = order else { return Ok(()) };
                let tally = house.carry_out(&order, &mut running).await;
                port.reports.tell(Report::Count(house.delivered.load(Ordering::Relaxed))).await?;
                port.reports.tell(Report::Done(Box::new(tally))).await?;
            }
            _ = count_every.tick() => {
                port.reports.tell(Report::Count(house.delivered.load(Ordering::Relaxed))).await?;
            }
        }
    }
}

/// One client.
struct Member {
    line: Line,
    house: Arc<House>,
    room: String,
    /// Its place in the room, and the others there are.
    place: u64,
    others: u32,
    tally: usize,
    sent: u64,
    under_way: u64,
    /// What it has seen of each member.
    seen: Vec<Seen>,
}

impl Member {
    fn new(line: Line, house: Arc<House>, room: String, index: u32, members: u32) -> Member {
        Member {
            line,
            house,
            room,
            place: (index % members).into(),
            others: members - 1,
            tally: (index % TALLIES) as usize,
            sent: 0,
            under_way: 0,
            seen: vec![Seen::default(); members as usize],
        }
    }

    async fn live(mut self) -> Reason {
        let house = self.house.clone();
        let mut changes = house.gate.changes();
        loop {
            while house.gate.is_open() && self.under_way < house.in_flight {
                self.publish();
            }
            let read = if self.under_way > 0 {
                // Whether it may go on is looked at when an answer has come.
                self.read().await
            } else {
                tokio::select! {
                    _ = changes.changed() => Ok(()),
                    read = self.read() => read,
                }
            };
            if let Err(reason) = read {
                return reason;
            }
        }
    }

    fn publish(&mut self) {
        let number = self.place * NUMBERS + self.sent % NUMBERS;
        self.line.publish(&self.room, &data(number, now_ns(), self.house.bytes), self.sent);
        self.sent += 1;
        self.under_way += 1;
        self.house.tally(self.tally).sent += 1;
        self.house.awaited.fetch_add(self.others.into(), Ordering::AcqRel);
        self.house.unanswered.fetch_add(1, Ordering::AcqRel);
    }

    /// Sends what waits, and reads. Cancel safe.
    async fn read(&mut self) -> Result<(), Reason> {
        let Member { line, house, tally, seen, under_way, others, .. } = self;
        // Everything one read brings has come at the same moment.
        let mut now = None;
        let read = line.read(|heard| match heard {
            Heard::Delivery(number, moment_ns) => {
                let took_ns = now.get_or_insert_with(now_ns).saturating_sub(moment_ns);
                let sender = usize::try_from(number / NUMBERS).ok().and_then(|sender| seen.get_mut(sender));
                let Some(sender) = sender else { return };
                if house.tally(*tally).deliver(sender.see(number % NUMBERS), took_ns) {
                    house.delivered.fetch_add(1, Ordering::Relaxed);
                    house.awaited.fetch_sub(1, Ordering::AcqRel);
                }
            }
            Heard::Answer(outcome) => {
                *under_way = under_way.saturating_sub(1);
                house.unanswered.fetch_sub(1, Ordering::AcqRel);
                if let Err(refusal) = outcome {
                    house.awaited.fetch_sub((*others).into(), Ordering::AcqRel);
                    house.tally(*tally).fail(|| format!("publish was refused: {refusal}"));
                }
            }
            Heard::Disconnect => {}
        });
        read.await
    }
}

impl House {
    fn new(job: &Job) -> House {
        House {
            in_flight: job.in_flight,
            bytes: job.bytes,
            gate: Gate::default(),
            tallies: (0..TALLIES).map(|_| Mutex::default()).collect(),
            delivered: AtomicU64::new(0),
            awaited: AtomicI64::new(0),
            unanswered: AtomicI64::new(0),
        }
    }

    fn tally(&self, at: usize) -> MutexGuard<'_, Tally> {
        self.tallies[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn carry_out(&self, order: &Order, running: &mut JoinSet<Reason>) -> Tally {
        match order {
            Order::Start => {
                (0..self.tallies.len()).for_each(|at| *self.tally(at) = Tally::default());
                self.gate.set(true);
                Tally::default()
            }
            Order::Halt => {
                self.gate.set(false);
                self.settle().await;
                let mut sum = Tally::default();
                (0..self.tallies.len()).for_each(|at| sum.add(&self.tally(at)));
                // What was not answered must not be waited for in the next phase either.
                sum.failed += u64::try_from(self.unanswered.swap(0, Ordering::AcqRel)).unwrap_or(0);
                self.awaited.store(0, Ordering::Release);
                sum.lost = lost_count(running).into();
                sum
            }
            Order::Job(_) | Order::Stall | Order::Resume => Tally::default(),
        }
    }

    /// Waits until everything has come, or nothing comes any more.
    async fn settle(&self) {
        let awaited = || (self.awaited.load(Ordering::Acquire), self.unanswered.load(Ordering::Acquire));
        let mut last = (awaited(), Instant::now());
        while awaited() != (0, 0) && last.1.elapsed() < STALL_LIMIT {
            sleep(LOOK_EVERY).await;
            if awaited() != last.0 {
                last = (awaited(), Instant::now());
            }
        }
    }
}
