//! Those who listen: subscribers of one room, who see order, loss and latency, and tell the run when a message has reached
//! all of them.
//!
//! Some of them can be told to stop reading. Their sockets stay open and fill up, which is what the scenario `slow` is
//! about.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tidegate_client::Reason;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};

use crate::clock::now_ns;
use crate::fleet::{lost_count, open};
use crate::line::{Heard, Line, Server};
use crate::link::{Order, Port, Report, Reports, Share};
use crate::seen::Seen;
use crate::tally::Tally;
use crate::target::Place;
use crate::times::Times;
use crate::worker::COUNT_EVERY;

/// The room that everything is published to.
pub(crate) const ROOM: &str = "bench";
/// Subscribers share this many tallies, so that the threads of the tool seldom meet at one.
const TALLIES: u32 = 16;
/// How long a subscriber that reads on may take to find out that it was closed, before it counts as open.
const RESUME_LIMIT: Duration = Duration::from_secs(5);
/// What a worker is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) place: Place,
    pub(crate) share: Share,
    /// Messages under way at a time, if the run waits for them.
    pub(crate) in_flight: Option<u64>,
    /// The subscribers before this number can be told to stop reading.
    pub(crate) stalling: u32,
    /// What the kernel is to hold for each subscriber that has not been read.
    pub(crate) receive_buffer_bytes: Option<usize>,
}

/// What subscribers share.
struct Hall {
    /// How many there are here.
    count: u32,
    /// Subscribers that have message n, at n modulo the number in flight; none if nobody waits for that.
    arrived: Vec<AtomicU32>,
    /// Deliveries made since the beginning.
    delivered: AtomicU64,
    /// Behind all others is the one of those that can be told to stop reading.
    tallies: Vec<Mutex<Tally>>,
    /// Whether the stalling ones read.
    reading: watch::Sender<bool>,
    /// How those have ended.
    ends: Mutex<BTreeMap<String, u64>>,
    /// How many of those have not been told whether they are open.
    undecided: AtomicU32,
    reports: Reports,
}

/// Opens the share's connections and carries out orders until there are no more.
pub(crate) async fn work(job: Job, mut port: Port) -> anyhow::Result<()> {
    let Share { first, count } = job.share;
    let hall = Arc::new(Hall::new(&job, port.reports.clone()));
    let servers = job.place.servers()?;
    let receive_buffer_bytes = job.receive_buffer_bytes;
    let connect = |at| {
        let index = first + at;
        let is_stalling = index < job.stalling;
        let (server, auth) = (servers.of(index).clone(), job.place.auth(index));
        async move {
            let mut line = Line::connect(&server, auth.as_ref()).await?;
            if let Some(bytes) = receive_buffer_bytes {
                line.set_receive_buffer(bytes).context("failed to set the receive buffer")?;
            }
            line.join(ROOM).await?;
            Ok((line, is_stalling))
        }
    };
    let next_tally = AtomicU32::new(0);
    let listen = |(line, is_stalling)| {
        let next = next_tally.fetch_add(1, Ordering::Relaxed) % TALLIES;
        let tally = if is_stalling { TALLIES } else { next };
        let listener = Listener { line, hall: hall.clone(), tally: tally as usize, seen: Seen::default() };
        async move { if is_stalling { listener.live_and_stall().await } else { listener.live().await } }
    };
    let opened = |count| port.reports.tell_now(Report::Opened(count));
    let mut running = open(count, job.place.opening, opened, connect, listen).await?;
    port.reports.tell(Report::Done(Box::default())).await?;

    let mut count_every = interval(COUNT_EVERY);
    loop {
        tokio::select! {
            order = port.orders.recv() => {
                let Some(order) = order else { return Ok(()) };
                let tally = hall.carry_out(order, &mut running).await;
                port.reports.tell(Report::Count(hall.delivered.load(Ordering::Relaxed))).await?;
                port.reports.tell(Report::Done(Box::new(tally))).await?;
            }
            _ = count_every.tick() => {
                port.reports.tell(Report::Count(hall.delivered.load(Ordering::Relaxed))).await?;
            }
        }
    }
}

/// A subscriber.
struct Listener {
    line: Line,
    hall: Arc<Hall>,
    tally: usize,
    seen: Seen,
}

impl Listener {
    async fn live(mut self) -> Reason {
        loop {
            if let Err(reason) = self.read().await {
                return reason;
            }
        }
    }

    async fn read(&mut self) -> Result<(), Reason> {
        // Everything one read brings has come at the same moment.
        let mut now = None;
        let Listener { line, hall, tally, seen } = self;
        let read = line.read(|heard| {
            if let Heard::Delivery(number, moment_ns) = heard {
                hall.deliver(seen, *tally, number, now.get_or_insert_with(now_ns).saturating_sub(moment_ns));
            }
        });
        read.await
    }

    /// The life of one that can be told to stop reading. It ends well: what became of it is counted, and no loss.
    async fn live_and_stall(mut self) -> Reason {
        let mut reading = self.hall.reading.subscribe();
        while *reading.borrow_and_update() {
            tokio::select! {
                biased;
                _ = reading.changed() => {}
                read = self.read() => if let Err(reason) = read {
                    return reason;
                },
            }
        }
        // Nothing is read, and no ping is answered either.
        if reading.wait_for(|is_reading| *is_reading).await.is_err() {
            return Reason::IoClientDisconnect;
        }
        let end = timeout(RESUME_LIMIT, self.end()).await.unwrap_or_else(|_| "still open".to_owned());
        *lock(&self.hall.ends).entry(end).or_default() += 1;
        self.hall.undecided.fetch_sub(1, Ordering::AcqRel);
        std::future::pending().await
    }

    /// Reads to the end, and how that came.
    async fn end(&mut self) -> String {
        let mut goodbye = "";
        loop {
            let read = self.line.read(|heard| {
                if let Heard::Disconnect = heard {
                    goodbye = "DISCONNECT and ";
                }
            });
            let Err(reason) = read.await else { continue };
            return match (self.line.close_code(), reason) {
                (Some(code), _) => format!("{goodbye}close frame {code}"),
                (None, Reason::TransportClose) => format!("{goodbye}end of stream"),
                (None, Reason::TransportError) => format!("{goodbye}reset"),
                (None, other) => format!("{goodbye}{other}"),
            };
        }
    }
}

impl Hall {
    fn new(job: &Job, reports: Reports) -> Hall {
        let Share { first, count } = job.share;
        Hall {
            count,
            arrived: (0..job.in_flight.unwrap_or(0)).map(|_| AtomicU32::new(0)).collect(),
            delivered: AtomicU64::new(0),
            tallies: (0..=TALLIES).map(|_| Mutex::default()).collect(),
            reading: watch::Sender::new(true),
            ends: Mutex::default(),
            undecided: AtomicU32::new(job.stalling.saturating_sub(first).min(count)),
            reports,
        }
    }

    fn deliver(&self, seen: &mut Seen, tally: usize, number: u64, took_ns: u64) {
        if !lock(&self.tallies[tally]).deliver(seen.see(number), took_ns) {
            return;
        }
        self.delivered.fetch_add(1, Ordering::Relaxed);
        if self.arrived.is_empty() {
            return;
        }
        let slot = usize::try_from(number % self.arrived.len() as u64).expect("less than a length");
        if self.arrived[slot].fetch_add(1, Ordering::AcqRel) + 1 == self.count {
            // The next one to come here leaves only when this has been heard.
            self.arrived[slot].store(0, Ordering::Release);
            self.reports.tell_now(Report::Completed(number));
        }
    }

    /// What was counted since the phase began.
    async fn carry_out(&self, order: Order, running: &mut JoinSet<Reason>) -> Tally {
        match order {
            Order::Start => {
                self.tallies.iter().for_each(|tally| *lock(tally) = Tally::default());
                return Tally::default();
            }
            Order::Stall => {
                self.reading.send_replace(false);
                return Tally::default();
            }
            Order::Resume => {
                self.reading.send_replace(true);
                // Each has its own limit; those that were lost before do not decide.
                let deadline = Instant::now() + RESUME_LIMIT + Duration::from_secs(1);
                while self.undecided.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
                    sleep(Duration::from_millis(20)).await;
                }
            }
            Order::Halt | Order::Job(_) => {}
        }
        let mut sum = Tally::default();
        for (at, tally) in self.tallies.iter().enumerate() {
            let mut tally = lock(tally).clone();
            // What is compared is the same subscribers, before and after.
            if at == TALLIES as usize {
                tally.took = Times::default();
            }
            sum.add(&tally);
        }
        sum.ends = std::mem::take(&mut *lock(&self.ends));
        sum.lost = lost_count(running).into();
        sum
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A line to where the audience's message comes from.
pub(crate) async fn publisher(server: &Server, place: &Place) -> anyhow::Result<Line> {
    let auth = place.users.then(|| serde_json::json!({ "user": "publisher" }).into());
    Line::connect(server, auth.as_ref()).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use tokio::sync::mpsc;

    use super::*;
    use crate::line::Protocol;

    fn hall(count: u32, in_flight: u64) -> (Hall, mpsc::Receiver<(usize, Report)>) {
        let (sender, reports) = mpsc::channel(8);
        let place = Place {
            urls: Vec::new(),
            authority: None,
            path: String::new(),
            source_addresses: 0,
            opening: 1,
            protocol: Protocol::default(),
            users: false,
        };
        let share = Share { first: 0, count };
        let job = Job { place, share, in_flight: Some(in_flight), stalling: 0, receive_buffer_bytes: None };
        (Hall::new(&job, Reports { worker: 3, sender }), reports)
    }

    #[tokio::test]
    async fn deliveries_are_counted_once_and_completions_told() {
        let (hall, mut reports) = hall(2, 4);
        let mut seen = [Seen::default(); 2];
        for (who, number) in [(0, 0), (0, 2), (0, 1), (0, 1), (1, 0), (1, 1)] {
            hall.deliver(&mut seen[who], who, number, 5000);
        }
        let completed: Vec<u64> = std::iter::from_fn(|| reports.try_recv().ok())
            .map(|(worker, report)| match report {
                Report::Completed(number) if worker == 3 => number,
                other => panic!("{other:?} of {worker}"),
            })
            .collect();
        assert_eq!(completed, [0, 1]);
        let sum = hall.carry_out(Order::Halt, &mut JoinSet::new()).await;
        assert_eq!((sum.done, sum.late, sum.repeated, sum.took.len()), (5, 1, 1, 5));
        hall.carry_out(Order::Start, &mut JoinSet::new()).await;
        assert_eq!(hall.carry_out(Order::Halt, &mut JoinSet::new()).await.done, 0);
        // Of those who can stall it is not known how long it took.
        hall.deliver(&mut Seen::default(), TALLIES as usize, 0, 5000);
        let sum = hall.carry_out(Order::Halt, &mut JoinSet::new()).await;
        assert_eq!((sum.done, sum.took.len()), (1, 0));
        hall.arrived[0].store(0, Ordering::Release);
        // A slot is free again for the message that follows in it.
        hall.deliver(&mut seen[0], 0, 4, 5000);
        hall.deliver(&mut seen[1], 1, 4, 5000);
        assert!(matches!(reports.try_recv(), Ok((3, Report::Completed(4)))));
    }
}
