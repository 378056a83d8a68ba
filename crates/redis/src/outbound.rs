//! The queue of publications.
//!
//! One batch is on its way at a time. A publication that finds none is sent there and then, by whoever publishes it;
//! whatever queues up before its answer makes the next batch. So an idle node sends at once, a busy one few large
//! batches, and the order is kept.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use parking_lot::Mutex;
use tidegate_core::broker::{Done, Error};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::line::{Line, Sent};

/// Most publications in one batch. Redis works on one for some 2 us, so that the answer of its first waits for less than
/// 0.3 ms, and larger ones gain nothing.
const BATCH_ENTRIES_MAX: usize = 128;

/// Most bytes in one batch, unless a single publication is larger. It bounds how long a ping waits behind one.
const BATCH_BYTES_MAX: usize = 256 * 1024;

/// What an entry weighs beside its channel and payload, in bytes.
const ENTRY_OVERHEAD: usize = size_of::<Entry>();

/// The queue. Bounded in bytes, those of the batch on its way included.
pub(crate) struct Outbound {
    state: Mutex<State>,
    bytes_max: usize,
    timeout: Duration,
    /// There is something whose time can run out.
    pending: Notify,
    room: Notify,
    flushed: CancellationToken,
    refused: AtomicBool,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Entry>,
    bytes: usize,
    closed: bool,
    /// The connection, while the node's own subscription is whole. Without it nothing is sent: the node's members would
    /// miss what it publishes.
    line: Option<Arc<Line>>,
    /// The batch on its way, over `line`. If there is none and there is a line, the queue is empty.
    flight: Option<Flight>,
    /// Whether the time of what is here is watched.
    watched: bool,
}

struct Flight {
    since: Instant,
    weight: usize,
}

struct Entry {
    channel: String,
    payload: Vec<u8>,
    done: Done,
    deadline: Instant,
}

impl Entry {
    fn weight(&self) -> usize {
        self.channel.len() + self.payload.len() + ENTRY_OVERHEAD
    }

    fn into_parts(self, last: bool) -> (String, Vec<u8>, Sent) {
        (self.channel, self.payload, Sent { done: Some(self.done), deadline: self.deadline, last })
    }
}

impl State {
    /// Takes off with the next entries, if there are any and nothing is on its way.
    fn take_off(&mut self) -> Option<(Arc<Line>, Vec<Entry>)> {
        let line = self.line.as_ref().filter(|_| self.flight.is_none() && !self.queue.is_empty())?;
        let line = Arc::clone(line);
        let mut weight = 0;
        let count = self
            .queue
            .iter()
            .take(BATCH_ENTRIES_MAX)
            .enumerate()
            .take_while(|(index, entry)| {
                let fits = *index == 0 || weight + entry.weight() <= BATCH_BYTES_MAX;
                weight += if fits { entry.weight() } else { 0 };
                fits
            })
            .count();
        self.flight = Some(Flight { since: Instant::now(), weight });
        Some((line, self.queue.drain(..count).collect()))
    }

    /// The batch on its way is not any more; returns since when it was.
    fn land(&mut self) -> Option<Instant> {
        let Flight { since, weight } = self.flight.take()?;
        self.bytes -= weight;
        Some(since)
    }
}

impl Outbound {
    pub(crate) fn new(bytes_max: usize, timeout: Duration) -> Self {
        Self {
            state: Mutex::default(),
            bytes_max,
            timeout,
            pending: Notify::new(),
            room: Notify::new(),
            flushed: CancellationToken::new(),
            refused: AtomicBool::new(false),
        }
    }

    /// Sends one publication or queues it, or tells `done` at once why not.
    pub(crate) fn push(&self, channel: String, payload: Vec<u8>, done: Done) {
        let now = Instant::now();
        let entry = Entry { channel, payload, done, deadline: now + self.timeout };
        let weight = entry.weight();
        let mut state = self.state.lock();
        let refusal = if state.closed {
            Some(Error::Closed)
        } else if state.bytes + weight > self.bytes_max {
            Some(Error::Unavailable)
        } else {
            None
        };
        if let Some(error) = refusal {
            drop(state);
            return entry.done.tell(Err(error));
        }
        state.bytes += weight;
        if !std::mem::replace(&mut state.watched, true) {
            self.pending.notify_one();
        }
        match &state.line {
            Some(line) if state.flight.is_none() => {
                let line = Arc::clone(line);
                state.flight = Some(Flight { since: now, weight });
                drop(state);
                self.send(&line, std::iter::once(entry.into_parts(true)));
            }
            _ => state.queue.push_back(entry),
        }
    }

    /// Nobody else sends meanwhile: the batch is the one on its way.
    fn send(&self, line: &Line, batch: impl Iterator<Item = (String, Vec<u8>, Sent)>) {
        if let Err(refused) = line.publish(batch) {
            refused.into_iter().for_each(|sent| self.gave_up(sent));
        }
    }

    fn send_next(&self, next: Option<(Arc<Line>, Vec<Entry>)>) {
        if let Some((line, batch)) = next {
            let last = batch.len() - 1;
            let parts = batch.into_iter().enumerate().map(|(index, entry)| entry.into_parts(index == last));
            self.send(&line, parts);
        }
    }

    /// Resolves when the queue is at most half full; `None` if it is.
    pub(crate) fn ready(self: &Arc<Self>) -> Option<BoxFuture<'static, ()>> {
        if self.has_room() {
            return None;
        }
        let queue = Arc::clone(self);
        let wait = async move {
            loop {
                let room = queue.room.notified();
                tokio::pin!(room);
                // Before the look at the queue, or room made in between would go unnoticed.
                room.as_mut().enable();
                if queue.has_room() {
                    return;
                }
                room.await;
            }
        };
        Some(wait.boxed())
    }

    fn has_room(&self) -> bool {
        let state = self.state.lock();
        state.closed || state.bytes <= self.bytes_max / 2
    }

    /// Changes the queue, and tells whoever waits for it to get shorter.
    fn shorten<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let changed = change(&mut state);
        let room = state.closed || state.bytes <= self.bytes_max / 2;
        let flushed = state.closed && state.queue.is_empty() && state.flight.is_none();
        drop(state);
        if room {
            self.room.notify_waiters();
        }
        if flushed {
            self.flushed.cancel();
        }
        changed
    }

    /// Sends over `line` from now on.
    pub(crate) fn attach(&self, line: &Arc<Line>) {
        let next = {
            let mut state = self.state.lock();
            state.line = Some(Arc::clone(line));
            state.take_off()
        };
        self.send_next(next);
    }

    /// The line broke. What is on its way is given up by whoever reads there.
    pub(crate) fn detach(&self) {
        self.shorten(|state| {
            state.line = None;
            state.land();
        });
    }

    /// Gives up what is written and not answered, with its connection: it must not arrive later.
    pub(crate) fn reset(&self) {
        let line = self.state.lock().line.clone();
        if let Some(line) = line {
            line.broken.cancel();
        }
    }

    /// A publication was answered. Returns how long its batch took, if it was the last.
    pub(crate) fn answered(&self, sent: Sent, outcome: Result<(), &[u8]>) -> Option<Duration> {
        let Sent { done, last, .. } = sent;
        let outcome = self.judge(outcome);
        let took = if last {
            let (since, next) = self.shorten(|state| (state.land(), state.take_off()));
            self.send_next(next);
            since.map(|since| since.elapsed())
        } else {
            None
        };
        if let Some(done) = done {
            done.tell(outcome);
        }
        took
    }

    /// The outcome will not be known, so nothing is sent again: a publication is delivered at most once.
    pub(crate) fn gave_up(&self, sent: Sent) {
        if let Some(done) = sent.done {
            done.tell(Err(Error::Unavailable));
        }
    }

    fn judge(&self, outcome: Result<(), &[u8]>) -> Result<(), Error> {
        let Err(reason) = outcome else {
            if self.refused.load(Ordering::Relaxed) {
                self.refused.store(false, Ordering::Relaxed);
            }
            return Ok(());
        };
        // Once for each series of refusals; the next success ends it.
        if !self.refused.swap(true, Ordering::Relaxed) {
            tracing::warn!(reason = %reason.escape_ascii(), "redis refuses publications");
        }
        Err(Error::Unavailable)
    }

    /// Refuses everything from now on. What was accepted is still sent.
    pub(crate) fn close(&self) {
        self.shorten(|state| state.closed = true);
    }

    /// Resolves once everything accepted before [`Outbound::close`] has an outcome.
    pub(crate) async fn flushed(&self) {
        self.flushed.cancelled().await;
    }

    /// Watches the time until `cancel`: whoever has waited for too long is told so, sent or not, and a connection that
    /// does not answer is given up. Whatever is still queued at the end is refused.
    pub(crate) async fn run(self: Arc<Self>, cancel: CancellationToken) {
        tokio::select! {
            () = self.watch() => {}
            () = cancel.cancelled() => {}
        }
        self.close();
        self.release(|state| state.queue.drain(..).collect());
        self.flushed.cancel();
    }

    async fn watch(&self) {
        loop {
            match self.expire(Instant::now()) {
                Some(next) => tokio::time::sleep_until(next).await,
                None => self.pending.notified().await,
            }
        }
    }

    /// Tells those whose time is over, and returns when the next one's will be.
    fn expire(&self, now: Instant) -> Option<Instant> {
        self.release(|state| {
            let expired = state.queue.iter().take_while(|entry| entry.deadline <= now).count();
            state.queue.drain(..expired).collect()
        });
        let line = self.state.lock().line.clone();
        let sent = line.as_ref().and_then(|line| line.expire(now, |done| done.tell(Err(Error::Unavailable))));
        let mut state = self.state.lock();
        let stuck = state.flight.as_ref().map(|flight| flight.since + self.timeout);
        if let (Some(line), Some(stuck)) = (&state.line, stuck)
            && stuck <= now
        {
            tracing::debug!("publishing timed out");
            line.broken.cancel();
        }
        let queued = state.queue.front().map(|entry| entry.deadline);
        let next = [queued, sent, stuck.filter(|stuck| *stuck > now)].into_iter().flatten().min();
        state.watched = next.is_some();
        next
    }

    /// Takes entries out of the queue and tells them that they were not sent.
    fn release(&self, take: impl FnOnce(&mut State) -> Vec<Entry>) {
        let entries = self.shorten(|state| {
            let entries = take(state);
            state.bytes -= entries.iter().map(Entry::weight).sum::<usize>();
            entries
        });
        for entry in entries {
            entry.done.tell(Err(Error::Unavailable));
        }
    }
}
