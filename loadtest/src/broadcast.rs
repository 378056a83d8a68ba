//! One who publishes to an audience, in a closed loop or at a rate.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::audience::{self, ROOM};
use crate::clock::now_ns;
use crate::crew::{Crew, Event};
use crate::fleet::OPEN_LIMIT;
use crate::line::{Heard, Line};
use crate::progress::Progress;
use crate::stamp::data;
use crate::target::Place;

/// With no delivery for this long what is under way counts as missing and the run ends.
pub(crate) const STALL_LIMIT: Duration = Duration::from_secs(10);

/// The publisher.
pub(crate) struct Publisher {
    line: Line,
    bytes: usize,
    /// The next message's number.
    next: u64,
    /// The oldest message that has not reached everyone. A closed loop only.
    oldest: u64,
}

/// When something was delivered last.
struct Pulse {
    delivered: u64,
    at: Instant,
}

impl Pulse {
    fn new(crew: &Crew) -> Pulse {
        Pulse { delivered: crew.done().count(), at: Instant::now() }
    }

    /// Whether nothing has been delivered for too long.
    fn is_lost(&mut self, crew: &Crew) -> bool {
        let delivered = crew.done().count();
        if delivered != self.delivered {
            *self = Pulse { delivered, at: Instant::now() };
        }
        self.at.elapsed() > STALL_LIMIT
    }
}

impl Publisher {
    /// Connects to the first server of `place`.
    pub(crate) async fn connect(place: &Place, bytes: usize) -> anyhow::Result<Publisher> {
        let servers = place.servers()?;
        let line = timeout(OPEN_LIMIT, audience::publisher(servers.of(0), place)).await;
        let line = line.context("the publisher took too long to connect")??;
        Ok(Publisher { line, bytes, next: 0, oldest: 0 })
    }

    /// How many messages it has published.
    pub(crate) fn published(&self) -> u64 {
        self.next
    }

    /// Publishes `count` messages. With `in_flight` under way, the next leaves when the oldest has reached everyone.
    /// Waits for all deliveries, or for them to stall.
    pub(crate) async fn closed(
        &mut self,
        crew: &mut Crew,
        progress: &Progress,
        in_flight: u64,
        count: u64,
    ) -> anyhow::Result<()> {
        let (begin, end) = (self.next, self.next + count);
        let everyone = crew.len();
        // How many workers have yet to say that their share has message n, at n modulo the number in flight.
        let mut awaited = vec![0; usize::try_from(in_flight)?];
        let slot = |number: u64| usize::try_from(number % in_flight).expect("less than a length");
        let mut pulse = Pulse::new(crew);
        while self.oldest < end {
            while self.next < end && self.next - self.oldest < in_flight {
                awaited[slot(self.next)] = everyone;
                self.emit();
            }
            self.flush().await?;
            tokio::select! {
                // A completion is what the loop is about; acknowledgements can wait for the next turn.
                biased;
                event = crew.next() => if let Event::Completed(number) = event? {
                    awaited[slot(number)] -= 1;
                },
                read = hear(&mut self.line) => read?,
                () = sleep(Duration::from_millis(250)) => {}
            }
            // What has come meanwhile belongs to the same turn: what was delivered together is followed together.
            while let Some(event) = crew.heard()? {
                if let Event::Completed(number) = event {
                    awaited[slot(number)] -= 1;
                }
            }
            while self.oldest < self.next && awaited[slot(self.oldest)] == 0 {
                self.oldest += 1;
            }
            progress.set(self.oldest - begin);
            if pulse.is_lost(crew) {
                progress.say(&format!(
                    "no delivery for {} s at message {}",
                    STALL_LIMIT.as_secs(),
                    self.oldest
                ));
                break;
            }
        }
        Ok(())
    }

    /// Publishes `count` messages at `rate` per second, whatever becomes of them, and waits until they have reached
    /// `receivers` each, or nothing comes any more. How far it was behind at most, in nanoseconds.
    pub(crate) async fn at_rate(
        &mut self,
        crew: &mut Crew,
        progress: &Progress,
        rate: f64,
        count: u64,
        receivers: u32,
    ) -> anyhow::Result<u64> {
        let expected = crew.done().count() + count * u64::from(receivers);
        let began = Instant::now();
        let mut behind = Duration::ZERO;
        for at in 0..count {
            let due = began + Duration::from_secs_f64(at as f64 / rate);
            loop {
                tokio::select! {
                    // Answers that are not read would make a slow consumer of the publisher.
                    biased;
                    read = hear(&mut self.line) => read?,
                    () = sleep_until(due) => break,
                    event = crew.next() => { event?; }
                }
            }
            behind = behind.max(due.elapsed());
            self.emit();
            self.flush().await?;
            progress.set(at + 1);
        }
        let mut pulse = Pulse::new(crew);
        while crew.done().count() < expected && !pulse.is_lost(crew) {
            tokio::select! {
                event = crew.next() => { event?; }
                read = hear(&mut self.line) => read?,
                () = sleep(Duration::from_millis(250)) => {}
            }
        }
        // What was under way at the end is not waited for in a closed loop that may follow.
        self.oldest = self.next;
        Ok(u64::try_from(behind.as_nanos()).unwrap_or(u64::MAX))
    }

    fn emit(&mut self) {
        let number = self.next;
        self.next += 1;
        self.line.publish(ROOM, &data(number, now_ns(), self.bytes), number);
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        self.line.flush().await.map_err(|reason| anyhow!("the publisher was disconnected: {reason}"))
    }
}

/// Reads answers. Cancel safe.
async fn hear(line: &mut Line) -> anyhow::Result<()> {
    let mut refusal = None;
    let read = line.read(|heard| {
        if let Heard::Answer(outcome) = heard {
            refusal = refusal.take().or(outcome.err());
        }
    });
    read.await.map_err(|reason| anyhow!("the publisher was disconnected: {reason}"))?;
    match refusal {
        Some(refusal) => bail!("publish was refused: {refusal}"),
        None => Ok(()),
    }
}
