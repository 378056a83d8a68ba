//! The registrar: what sessions that come, move and go leave to be written into the registry, in order and in batches.
//!
//! Claims do not go through here: each is awaited by its own CONNECT. What does is either awaited by a callback (a
//! stay begins) or by nobody (a session or a stay ended, something changed about a session). What ended is written
//! until it is: a user who left during an outage has left after it, too.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_core::SessionRegistry;
use tidegate_core::registry::{Error, Gone, Refresh, Stay};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::presence;

/// Most entries that wait. It is reached only while the registry cannot be: what ends in that time is then found by an
/// audit, which compares what the registry holds with what lives here.
const QUEUE_MAX: usize = 65_536;

/// How long to wait before a registry that did not answer is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Most entries of one call to the registry.
const BATCH_MAX: usize = 256;

type Entered = Box<dyn FnOnce(Result<(), Error>) + Send>;

enum Entry {
    Release(Gone),
    Refresh(Refresh),
    Enter(Stay, Entered),
    Depart(Stay),
}

/// One per node.
pub(crate) struct Registrar {
    queue: Mutex<VecDeque<Entry>>,
    filled: Notify,
    /// Something was left out, so that the registry may hold what has ended here.
    owing: AtomicBool,
    metrics: Arc<Metrics>,
}

impl Registrar {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { queue: Mutex::default(), filled: Notify::new(), owing: AtomicBool::new(false), metrics }
    }

    /// The session ended.
    pub(crate) fn release(&self, gone: Gone) {
        self.push(Entry::Release(gone));
    }

    /// Something changed about the session.
    pub(crate) fn refresh(&self, refresh: Refresh) {
        self.push(Entry::Refresh(refresh));
    }

    /// The session is in the room; `then` is told when the cluster knows.
    pub(crate) fn enter(&self, stay: Stay, then: impl FnOnce(Result<(), Error>) + Send + 'static) {
        self.push(Entry::Enter(stay, Box::new(then)));
    }

    /// The session is no longer in the room.
    pub(crate) fn depart(&self, stay: Stay) {
        self.push(Entry::Depart(stay));
    }

    /// Whether something was left out since the last call.
    pub(crate) fn take_owing(&self) -> bool {
        self.owing.swap(false, Ordering::AcqRel)
    }

    /// Something the registry was to be told did not reach it.
    pub(crate) fn owe(&self) {
        self.owing.store(true, Ordering::Release);
    }

    fn push(&self, entry: Entry) {
        let refused = {
            let mut queue = self.queue.lock();
            if queue.len() < QUEUE_MAX {
                queue.push_back(entry);
                None
            } else {
                Some(entry)
            }
        };
        match refused {
            None => self.filled.notify_one(),
            Some(entry) => {
                self.metrics.dropped("registrar_full", 1);
                self.fail(entry);
            }
        }
    }

    fn fail(&self, entry: Entry) {
        self.owe();
        if let Entry::Enter(_, then) = entry {
            then(Err(Error));
        }
    }

    /// Writes until `shutdown`, and then what still waits, once. A registry that cannot be reached is waited for; what
    /// is never written, a reaper finds.
    pub(crate) async fn run(&self, registry: Arc<dyn SessionRegistry>, shutdown: CancellationToken) {
        loop {
            let run = self.take();
            if run.is_empty() {
                if shutdown.is_cancelled() {
                    return;
                }
                tokio::select! {
                    () = self.filled.notified() => {}
                    () = shutdown.cancelled() => {}
                }
                continue;
            }
            if self.write(&*registry, run).await.is_err() {
                if shutdown.is_cancelled() {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(RETRY_AFTER) => {}
                    () = shutdown.cancelled() => {}
                }
            }
        }
    }

    /// The next entries of one kind.
    fn take(&self) -> Vec<Entry> {
        let mut queue = self.queue.lock();
        let Some(first) = queue.front().map(std::mem::discriminant) else { return Vec::new() };
        let same = queue.iter().take(BATCH_MAX).take_while(|entry| std::mem::discriminant(*entry) == first);
        let count = same.count();
        let run = queue.drain(..count).collect();
        if queue.is_empty() && queue.capacity() > 4 * BATCH_MAX {
            *queue = VecDeque::new();
        }
        run
    }

    /// Writes entries of one kind. What ended is kept until it is written; what else fails is given up.
    async fn write(&self, registry: &dyn SessionRegistry, run: Vec<Entry>) -> Result<(), Error> {
        let (mut gone, mut changed, mut left) = (Vec::new(), Vec::new(), Vec::new());
        let (mut entered, mut waiting) = (Vec::new(), Vec::new());
        for entry in run {
            match entry {
                Entry::Release(session) => gone.push(session),
                Entry::Refresh(refresh) => changed.push(refresh),
                Entry::Depart(stay) => left.push(stay),
                Entry::Enter(stay, then) => {
                    entered.push(stay);
                    waiting.push(then);
                }
            }
        }
        // All are of one kind, so one of the lists is not empty.
        if !changed.is_empty() {
            return registry.refresh(changed).await;
        }
        if !entered.is_empty() {
            let outcome = registry.enter(entered.clone(), Some(presence::ANNOUNCE)).await;
            for then in waiting {
                then(outcome);
            }
            if outcome.is_err() {
                // Nobody knows whether it was written; it is taken back in any case.
                self.put_back(entered.into_iter().map(Entry::Depart));
            }
            return outcome;
        }
        let outcome = if gone.is_empty() {
            registry.depart(left.clone(), presence::ANNOUNCE).await
        } else {
            registry.release(gone.clone()).await
        };
        if outcome.is_err() {
            self.put_back(gone.into_iter().map(Entry::Release).chain(left.into_iter().map(Entry::Depart)));
        }
        outcome
    }

    /// Entries that are to be written next, before all others.
    fn put_back(&self, entries: impl DoubleEndedIterator<Item = Entry>) {
        let mut queue = self.queue.lock();
        for entry in entries.rev() {
            queue.push_front(entry);
        }
    }
}
