//! The fan-out: from one publication to the outboxes of all its receivers in a shard.
//!
//! One publication alone is pushed, which writes to each socket at once. When more have arrived meanwhile, all of
//! them are appended first and every touched outbox is flushed once, so that a socket gets its share of the batch
//! in one write: measured here, sixteen messages in one write cost a twelfth of sixteen writes. For the same reason a
//! batch begins only when everything that is ready now has had its turn, and takes the answers to publishers along.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

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
use crate::outbox::{Outbox, Pushed, SLICES_MAX};
use crate::pulse::Pulse;
use crate::trace::Followed;

/// Most publications of one batch.
const BATCH_MAX: usize = 1_024;

/// For how long at most whoever is ready is let go first before a batch begins, as long as that brings more. It ends at
/// once where nobody is.
const GATHERING_MAX: Duration = Duration::from_millis(2);

/// Publications that came while a batch was delivered wait a little for those that are answers to it: a share of the time
/// that the batch took. Who publishes again when he has seen his own would else keep missing the next batch for good, and
/// everybody got two writes where one would have done.
const PAUSE_SHARE: u32 = 8;

/// Bounds of that wait. Below the first it is not worth a timer.
const PAUSE_MIN: Duration = Duration::from_micros(500);
const PAUSE_MAX: Duration = Duration::from_millis(2);

/// Half of the timer's resolution: it rounds up, and the wait is to be right on the average.
const ROUNDING: Duration = Duration::from_micros(500);

/// For so long after a batch the next one may have company. A publication that comes later is delivered at once: a look
/// around costs a system call, which is a tenth of what ten receivers cost.
const COMPANY: Duration = Duration::from_millis(1);

/// Messages appended before what they touched is flushed, if each outbox has that many by then as one write takes. Bounds
/// how long the first of a batch waits, a millisecond or two, where waiting longer would save nothing.
const APPENDED_MAX: usize = 16 * 1_024;

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
    followed: Option<Followed>,
    forms: [OnceLock<Option<Message>>; Dialect::COUNT],
}

impl Job {
    pub(crate) fn new(publication: Publication, shards: usize, followed: Option<Followed>) -> Self {
        Self {
            publication,
            received: Instant::now(),
            shards_left: AtomicUsize::new(shards),
            followed,
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
            if let Some(followed) = &self.followed {
                followed.delivered();
            }
        }
    }
}

/// What waits for a shard's task.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    bytes: AtomicUsize,
    filled: Notify,
    drained: Notify,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Arc<Job>>,
    /// What is to be flushed when a batch is over. Never anything while the task has nothing to do, or waits for the node to
    /// hear again; as many as there are publishers here.
    corked: Vec<Arc<Outbox>>,
    phase: Phase,
}

/// What a shard's task is doing.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    /// Nothing, unless there are jobs.
    #[default]
    Resting,
    /// It delivers a batch.
    Delivering,
    /// It may not deliver: the node does not hear.
    Held,
}

impl Waiting {
    /// Whether the end of a batch is near.
    fn may_cork(&self) -> bool {
        match self.phase {
            Phase::Resting => !self.jobs.is_empty(),
            Phase::Delivering => true,
            Phase::Held => false,
        }
    }
}

/// What a shard's task has taken on.
#[derive(Default)]
struct Batch {
    jobs: Vec<Arc<Job>>,
    /// What the publications weigh.
    weight: usize,
    /// Outboxes to be flushed at the end.
    dirty: Vec<Arc<Outbox>>,
    /// When it was begun.
    began: Option<Instant>,
    /// When the last one was over.
    ended: Option<Instant>,
    /// How long the next one waits for company that is only on its way.
    pause: Option<Duration>,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            waiting: Mutex::default(),
            bytes: AtomicUsize::new(0),
            filled: Notify::new(),
            drained: Notify::new(),
        }
    }

    /// Whether it was taken.
    pub(super) fn push(&self, job: Arc<Job>) -> bool {
        let weight = job.publication.weight();
        let mut waiting = self.waiting.lock();
        if self.bytes.load(Ordering::Relaxed) + weight > QUEUE_BYTES_MAX {
            return false;
        }
        self.bytes.fetch_add(weight, Ordering::AcqRel);
        waiting.jobs.push_back(job);
        let wake = waiting.jobs.len() == 1;
        drop(waiting);
        if wake {
            self.filled.notify_one();
        }
        true
    }

    /// Sends a message with a batch, if one is under way or about to begin, and else at once.
    pub(super) fn send_along(&self, outbox: &Arc<Outbox>, message: &Message) {
        if !self.waiting.lock().may_cork() {
            outbox.push(message);
        } else if outbox.append(message) {
            // Outside the lock, since a full outbox writes. The batch may be over meanwhile.
            let mut waiting = self.waiting.lock();
            if waiting.may_cork() {
                waiting.corked.push(Arc::clone(outbox));
            } else {
                drop(waiting);
                outbox.flush();
            }
        }
    }

    /// Says what the task does now; what is corked is its to flush.
    fn enter(&self, phase: Phase, batch: &mut Batch) {
        let mut waiting = self.waiting.lock();
        waiting.phase = phase;
        batch.dirty.append(&mut waiting.corked);
    }

    /// The publications of a batch wait no more.
    fn finish(&self, batch: &mut Batch) {
        let weight = std::mem::take(&mut batch.weight);
        let before = self.bytes.fetch_sub(weight, Ordering::AcqRel);
        if before > QUEUE_BYTES_HIGH && before - weight <= QUEUE_BYTES_HIGH {
            self.drained.notify_waiters();
        }
        let ended = Instant::now();
        let took = batch.began.map_or(Duration::ZERO, |began| ended - began);
        let pause = (took / PAUSE_SHARE).min(PAUSE_MAX);
        let overtaken = !self.waiting.lock().jobs.is_empty();
        batch.pause = (overtaken && pause >= PAUSE_MIN).then_some(pause);
        batch.ended = Some(ended);
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

    /// Waits for publications and takes them.
    async fn take(&self, batch: &mut Batch) {
        while self.waiting.lock().jobs.is_empty() {
            self.filled.notified().await;
        }
        if let Some(pause) = batch.pause.take()
            && !self.is_congested()
            && self.waiting.lock().jobs.len() < BATCH_MAX
        {
            tokio::time::sleep(pause - ROUNDING).await;
        }
        let (began, mut gathered) = (Instant::now(), 0);
        let mut jobs = self.waiting.lock().jobs.len();
        if jobs > 1 || batch.ended.is_some_and(|ended| began < ended + COMPANY) {
            // Whoever is ready to publish does so first, and what is published is delivered together.
            while jobs > gathered && jobs < BATCH_MAX && began.elapsed() < GATHERING_MAX {
                gathered = jobs;
                tokio::task::yield_now().await;
                jobs = self.waiting.lock().jobs.len();
            }
        }
        {
            let mut waiting = self.waiting.lock();
            let count = waiting.jobs.len().min(BATCH_MAX);
            batch.jobs.extend(waiting.jobs.drain(..count));
            batch.dirty.append(&mut waiting.corked);
            waiting.phase = Phase::Delivering;
            if waiting.jobs.is_empty() && waiting.jobs.capacity() > BATCH_MAX {
                waiting.jobs = VecDeque::new();
            }
        }
        batch.weight = batch.jobs.iter().map(|job| job.publication.weight()).sum();
    }
}

/// Flushes what a batch has touched.
async fn flush(dirty: &mut Vec<Arc<Outbox>>) {
    for (count, outbox) in dirty.drain(..).enumerate() {
        outbox.flush();
        if count % RECEIVERS_PER_YIELD == RECEIVERS_PER_YIELD - 1 {
            tokio::task::yield_now().await;
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
        let mut batch = Batch::default();
        let mut receivers: Vec<Receiver> = Vec::new();
        while self.run_batch(shard, &mut batch, &mut receivers, &pulse, &metrics, &shutdown).await.is_some() {
        }
        // Whoever still has an answer coming.
        shard.queue.enter(Phase::Held, &mut batch);
        flush(&mut batch.dirty).await;
    }

    /// Waits for publications and delivers them; nothing once the node shuts down.
    async fn run_batch(
        &self,
        shard: &Shard,
        batch: &mut Batch,
        receivers: &mut Vec<Receiver>,
        pulse: &Pulse,
        metrics: &Metrics,
        shutdown: &CancellationToken,
    ) -> Option<()> {
        tokio::select! {
            () = shutdown.cancelled() => return None,
            () = shard.queue.take(batch) => {}
        }
        // Looked at after the publications were taken: what is delivered was received by a node that was fresh, or
        // by one that has checked its sessions since.
        if pulse.check(Instant::now()).is_err() {
            // Answers do not wait for that.
            shard.queue.enter(Phase::Held, batch);
            flush(&mut batch.dirty).await;
            let held = tokio::select! {
                () = shutdown.cancelled() => return None,
                held = pulse.held() => held,
            };
            shard.queue.enter(Phase::Delivering, batch);
            if held.is_err() {
                for job in batch.jobs.drain(..) {
                    let closed = shard.send_away(&job, pulse);
                    metrics.dropped("deaf", u64::from(closed > 0));
                    job.finished(metrics);
                }
            }
        }
        batch.began = Some(Instant::now());
        let Batch { jobs, dirty, .. } = batch;
        let alone = jobs.len() == 1;
        if alone {
            flush(dirty).await;
        }
        let (mut since_yield, mut appended) = (0, 0);
        for job in &*jobs {
            let namespace = shard.state.lock().receivers(&job.publication, receivers);
            let mut delivered = 0;
            for receiver in receivers.drain(..) {
                let Some(message) = job.message(receiver.dialect, metrics) else { continue };
                if alone {
                    delivered += u64::from(receiver.outbox.push(message) == Pushed::Taken);
                } else {
                    delivered += 1;
                    appended += 1;
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
            if let Some(followed) = &job.followed {
                followed.reached(delivered);
            }
            if appended >= APPENDED_MAX && appended >= dirty.len() * SLICES_MAX {
                appended = 0;
                flush(dirty).await;
            }
        }
        // What was answered meanwhile leaves with what was delivered.
        shard.queue.enter(Phase::Resting, batch);
        flush(&mut batch.dirty).await;
        for job in batch.jobs.drain(..) {
            job.finished(metrics);
        }
        shard.queue.finish(batch);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::{Flags, Namespace, Rooms};
    use tidegate_protocol::plain::Format;
    use tidegate_protocol::socketio::Parser;

    use super::*;
    use crate::options::PulseOptions;
    use crate::outbox::Terms;
    use crate::reactor::Reactor;

    fn job() -> Arc<Job> {
        let publication = Publication {
            namespace: Namespace::root(),
            rooms: Rooms::new(),
            except: Rooms::new(),
            flags: Flags::default(),
            data: b"\x91\xa1e".to_vec().into(),
        };
        Arc::new(Job::new(publication, 1, None))
    }

    #[tokio::test]
    async fn an_answer_leaves_at_once_or_with_the_next_batch() {
        let metrics = Arc::new(Metrics::new("v", "r", "n").unwrap());
        let outbox = Arc::new(Outbox::polling(Terms::new(1_000, Arc::clone(&metrics), Reactor::resting())));
        let (queue, answer) = (Queue::new(), Message::engine("6"));
        let crate::outbox::Poll::Pending(mut poll) = outbox.poll() else { panic!("nothing waits") };
        assert!(queue.push(job()));
        queue.send_along(&outbox, &answer);
        queue.send_along(&outbox, &answer);
        assert!(poll.try_recv().is_err(), "it left before the batch");
        let mut batch = Batch::default();
        queue.take(&mut batch).await;
        assert_eq!((batch.jobs.len(), batch.dirty.len()), (1, 1));
        // One that comes while it is under way goes along, too.
        queue.send_along(&outbox, &answer);
        queue.enter(Phase::Resting, &mut batch);
        flush(&mut batch.dirty).await;
        assert_eq!(poll.try_recv().unwrap(), "6\u{1e}6\u{1e}6");
        // Nothing is about to be delivered.
        let crate::outbox::Poll::Pending(mut poll) = outbox.poll() else { panic!("nothing waits") };
        queue.send_along(&outbox, &answer);
        assert_eq!(poll.try_recv().unwrap(), "6");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_ready_publishes_before_a_batch_begins() {
        let queue = Queue::new();
        assert!(queue.push(job()));
        let mut batch = Batch { ended: Some(Instant::now()), ..Batch::default() };
        let publish = async {
            for _ in 0..3 {
                assert!(queue.push(job()));
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(biased; queue.take(&mut batch), publish);
        assert_eq!(batch.jobs.len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_during_a_long_batch_waits_for_answers_to_it() {
        let ms = Duration::from_millis;
        // How long a batch took, whether something came meanwhile, and for how long that waits for company.
        let cases = [(12, 1, 1), (80, 1, 2), (3, 1, 0), (80, 0, 0), (80, BATCH_MAX, 0)];
        for (took, overtaken, waits) in cases {
            let queue = Queue::new();
            let mut batch = Batch { began: Some(Instant::now()), ..Batch::default() };
            tokio::time::advance(ms(took)).await;
            for _ in 0..overtaken {
                assert!(queue.push(job()));
            }
            queue.finish(&mut batch);
            let began = Instant::now();
            let answering = async {
                if overtaken == 0 {
                    assert!(queue.push(job()));
                }
                if waits > 1 {
                    tokio::time::sleep(ms(1)).await;
                }
                assert!(queue.push(job()));
            };
            tokio::join!(biased; queue.take(&mut batch), answering);
            let taken = (overtaken.max(1) + 1).min(BATCH_MAX);
            assert_eq!((began.elapsed(), batch.jobs.len()), (ms(waits), taken), "{took} ms, {overtaken}");
        }
    }

    /// Nobody is kept from hearing by a batch that waits for its node to hear.
    #[tokio::test(start_paused = true)]
    async fn what_is_answered_while_the_node_is_deaf_leaves_at_once() {
        let metrics = Arc::new(Metrics::new("v", "r", "n").unwrap());
        let hub = Arc::new(Hub::new(1));
        let options = PulseOptions {
            interval: Duration::from_millis(250),
            fence_after: Duration::from_secs(1),
            lease_ttl: Duration::from_secs(10),
            lease_renew: Duration::from_secs(3),
            hold: Duration::from_secs(2),
        };
        // It has never heard, and so is deaf.
        let pulse = Arc::new(Pulse::new(options, Arc::clone(&metrics)));
        let outbox = Arc::new(Outbox::polling(Terms::new(100_000, Arc::clone(&metrics), Reactor::resting())));
        let queue = &hub.shards[0].queue;
        let answering = async {
            assert!(queue.push(job()));
            queue.send_along(&outbox, &Message::engine("2"));
            tokio::time::sleep(Duration::from_millis(20)).await;
            let crate::outbox::Poll::Ready(payload) = outbox.poll() else { panic!("it did not leave") };
            assert_eq!(payload, "2");
            assert!(queue.push(job()));
            let crate::outbox::Poll::Pending(mut poll) = outbox.poll() else { panic!("nothing waits") };
            queue.send_along(&outbox, &Message::engine("6"));
            assert_eq!(poll.try_recv().unwrap(), "6");
            assert!(!outbox.is_dirty());
        };
        let shutdown = CancellationToken::new();
        tokio::select! {
            () = Arc::clone(&hub).run_shard(0, pulse, metrics, shutdown) => panic!("it has ended"),
            () = answering => {}
        }
    }

    #[test]
    fn a_publication_is_encoded_once_for_each_dialect() {
        let metrics = Metrics::new("v", "r", "n").unwrap();
        let publication = Publication {
            namespace: Namespace::root(),
            rooms: Rooms::new(),
            except: Rooms::new(),
            flags: Flags { volatile: true, ..Flags::default() },
            data: b"\x92\xa1e\x01".to_vec().into(),
        };
        let job = Job::new(publication, 1, None);
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
