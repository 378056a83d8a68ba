//! The fan-out: from one publication to the outboxes of all its receivers in a shard.
//!
//! One publication alone is pushed, which writes to each socket at once. When more have arrived meanwhile, all of
//! them are appended first and every touched outbox is flushed once, so that a socket gets its share of the batch
//! in one write: measured here, sixteen messages in one write cost a twelfth of sixteen writes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tidegate_core::Publication;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::shard::Shard;
use super::{Hub, Receiver};
use crate::dialect::Dialect;
use crate::message::Message;
use crate::metrics::Metrics;
use crate::outbox::{Outbox, Pushed};
use crate::pulse::Pulse;

/// Most publications of one batch. Bounds how long the first of a batch waits for its flush.
const BATCH_MAX: usize = 64;

/// Receivers between two yields: about a millisecond of writes, after which the worker serves others.
const RECEIVERS_PER_YIELD: usize = 256;

/// Bytes of publications that wait for one shard before the newest are dropped and counted as `fanout_full`.
const QUEUE_BYTES_MAX: usize = 64 << 20;

/// From here on local publishers are held back, long before anything is dropped.
const QUEUE_BYTES_HIGH: usize = 4 << 20;

/// A publication with its encodings, made by whoever needs one first.
pub(crate) struct Job {
    publication: Publication,
    received: Instant,
    shards_left: AtomicUsize,
    forms: [OnceLock<Option<Message>>; Dialect::COUNT],
}

impl Job {
    pub(crate) fn new(publication: Publication, shards: usize) -> Self {
        Self {
            publication,
            received: Instant::now(),
            shards_left: AtomicUsize::new(shards),
            forms: Default::default(),
        }
    }

    /// The publication for receivers of one dialect; none if its payload is not what it should be.
    fn message(&self, dialect: Dialect, metrics: &Metrics) -> Option<&Message> {
        self.forms[dialect.index()]
            .get_or_init(|| {
                let Publication { namespace, data, flags, .. } = &self.publication;
                match dialect.event(namespace.as_str(), data, *flags, None) {
                    Ok(message) => Some(message),
                    Err(error) => {
                        metrics.dropped("malformed", 1);
                        tracing::debug!(%error, "failed to encode a publication");
                        None
                    }
                }
            })
            .as_ref()
    }

    fn finished(&self, metrics: &Metrics) {
        if self.shards_left.fetch_sub(1, Ordering::AcqRel) == 1 {
            metrics.fanout_seconds.observe(self.received.elapsed().as_secs_f64());
        }
    }
}

/// What waits for a shard's task.
pub(super) struct Queue {
    jobs: Mutex<VecDeque<Arc<Job>>>,
    bytes: AtomicUsize,
    filled: Notify,
    drained: Notify,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            jobs: Mutex::new(VecDeque::new()),
            bytes: AtomicUsize::new(0),
            filled: Notify::new(),
            drained: Notify::new(),
        }
    }

    /// Whether it was taken.
    pub(super) fn push(&self, job: Arc<Job>) -> bool {
        let weight = job.publication.weight();
        let mut jobs = self.jobs.lock();
        if self.bytes.load(Ordering::Relaxed) + weight > QUEUE_BYTES_MAX {
            return false;
        }
        self.bytes.fetch_add(weight, Ordering::AcqRel);
        jobs.push_back(job);
        let wake = jobs.len() == 1;
        drop(jobs);
        if wake {
            self.filled.notify_one();
        }
        true
    }

    pub(super) fn is_congested(&self) -> bool {
        self.bytes.load(Ordering::Acquire) > QUEUE_BYTES_HIGH
    }

    pub(super) async fn relieved(&self) {
        loop {
            let drained = self.drained.notified();
            tokio::pin!(drained);
            // Registered before the look, so that no notification between the two is missed.
            drained.as_mut().enable();
            if !self.is_congested() {
                return;
            }
            drained.await;
        }
    }

    async fn take(&self, out: &mut Vec<Arc<Job>>) {
        loop {
            {
                let mut jobs = self.jobs.lock();
                let count = jobs.len().min(BATCH_MAX);
                out.extend(jobs.drain(..count));
                if jobs.is_empty() && jobs.capacity() > BATCH_MAX {
                    *jobs = VecDeque::new();
                }
            }
            if !out.is_empty() {
                let weight = out.iter().map(|job| job.publication.weight()).sum::<usize>();
                let before = self.bytes.fetch_sub(weight, Ordering::AcqRel);
                if before > QUEUE_BYTES_HIGH && before - weight <= QUEUE_BYTES_HIGH {
                    self.drained.notify_waiters();
                }
                return;
            }
            self.filled.notified().await;
        }
    }
}

impl Shard {
    /// Sends those away who would have received a publication and cannot; they come back elsewhere. Returns how many.
    pub(super) fn send_away(&self, job: &Job, pulse: &Pulse) -> usize {
        let sessions = {
            let state = self.state.lock();
            let mut receivers = Vec::new();
            state.receivers(&job.publication, &mut receivers);
            state.sessions_of(&receivers)
        };
        sessions.iter().for_each(|session| session.miss());
        if pulse.check(Instant::now()).is_ok() {
            // The audit is over, and may have looked for them too early.
            for session in &sessions {
                session.send_away_if_it_missed();
            }
        }
        sessions.len()
    }
}

impl Hub {
    /// Serves one shard until `shutdown`. Nothing in it can fail; without it the shard's members would receive
    /// nothing, so it ends only with the node.
    pub(crate) async fn run_shard(
        self: Arc<Self>,
        index: usize,
        pulse: Arc<Pulse>,
        metrics: Arc<Metrics>,
        shutdown: CancellationToken,
    ) {
        let shard = &self.shards[index];
        let mut jobs: Vec<Arc<Job>> = Vec::new();
        let mut receivers: Vec<Receiver> = Vec::new();
        let mut dirty: Vec<Arc<Outbox>> = Vec::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = shard.queue.take(&mut jobs) => {}
            }
            // Looked at after the publications were taken: what is delivered was received by a node that was fresh, or
            // by one that has checked its sessions since.
            if pulse.check(Instant::now()).is_err() {
                let held = tokio::select! {
                    () = shutdown.cancelled() => return,
                    held = pulse.held() => held,
                };
                if held.is_err() {
                    for job in jobs.drain(..) {
                        let closed = shard.send_away(&job, &pulse);
                        metrics.dropped("deaf", u64::from(closed > 0));
                        job.finished(&metrics);
                    }
                    continue;
                }
            }
            let alone = jobs.len() == 1;
            let mut since_yield = 0;
            for job in &jobs {
                let namespace = shard.state.lock().receivers(&job.publication, &mut receivers);
                let mut delivered = 0;
                for receiver in receivers.drain(..) {
                    let Some(message) = job.message(receiver.dialect, &metrics) else { continue };
                    if alone {
                        delivered += u64::from(receiver.outbox.push(message) == Pushed::Taken);
                    } else {
                        delivered += 1;
                        if receiver.outbox.append(message) {
                            dirty.push(receiver.outbox);
                        }
                    }
                    since_yield += 1;
                    if since_yield >= RECEIVERS_PER_YIELD {
                        since_yield = 0;
                        tokio::task::yield_now().await;
                    }
                }
                if let Some(namespace) = namespace {
                    namespace.deliveries.inc_by(delivered);
                }
                if alone {
                    job.finished(&metrics);
                }
            }
            for (count, outbox) in dirty.drain(..).enumerate() {
                outbox.flush();
                if count % RECEIVERS_PER_YIELD == RECEIVERS_PER_YIELD - 1 {
                    tokio::task::yield_now().await;
                }
            }
            if !alone {
                for job in &jobs {
                    job.finished(&metrics);
                }
            }
            jobs.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::{Flags, Namespace, Rooms};
    use tidegate_protocol::plain::Format;
    use tidegate_protocol::socketio::Parser;

    use super::*;

    #[test]
    fn a_publication_is_encoded_once_for_each_dialect() {
        let metrics = Metrics::new("v", "r").unwrap();
        let publication = Publication {
            namespace: Namespace::root(),
            rooms: Rooms::new(),
            except: Rooms::new(),
            flags: Flags { volatile: true, ..Flags::default() },
            data: b"\x92\xa1e\x01".to_vec().into(),
        };
        let job = Job::new(publication, 1);
        let dialects = [
            Dialect::SocketIo(Parser::Text),
            Dialect::SocketIo(Parser::MessagePack),
            Dialect::Plain(Format::Json),
            Dialect::Plain(Format::MessagePack),
        ];
        let mut frames = Vec::new();
        for dialect in dialects {
            let (one, other) =
                (job.message(dialect, &metrics).unwrap(), job.message(dialect, &metrics).unwrap());
            assert_eq!(one.websocket().as_ptr(), other.websocket().as_ptr(), "{dialect:?}");
            assert!(one.is_volatile(), "{dialect:?}");
            frames.push(one.websocket().clone());
        }
        assert_eq!(frames[0][2..], *b"42[\"e\",1]");
        assert_eq!(frames[2][2..], *b"{\"op\":\"event\",\"event\":\"e\",\"args\":[1]}");
        frames.dedup();
        assert_eq!(frames.len(), Dialect::COUNT);
    }
}
