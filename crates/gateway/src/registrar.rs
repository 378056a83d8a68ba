//! The registrar: what sessions that come, move and go leave to be written into the registry, in order and in batches.
//!
//! Claims do not go through here: each is awaited by its own CONNECT. What does is either awaited by a callback (a
//! stay begins) or by nobody (a session or a stay ended, something changed about a session). What ended is written
//! until it is: a user who left during an outage has left after it, too.
//!
//! Whether a session is in a room is looked up when it is written, not when it is asked for: joins take a while to be
//! confirmed, and end in any order with the sessions that asked for them. Whoever changes it says so afterwards, so
//! that what is written last is what was true last.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use foldhash::HashSet;
use parking_lot::Mutex;
use tidegate_core::offline::{Settled, Settlement};
use tidegate_core::registry::{Error, Gone, Refresh, Stay};
use tidegate_core::{OfflineStore, SessionId, SessionRegistry};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::presence;
use crate::session::Session;

/// Most entries that wait. It is reached only while the registry cannot be: what ends in that time is then found by an
/// audit, which compares what the registry holds with what lives here.
const QUEUE_MAX: usize = 65_536;

/// How long to wait before a registry that did not answer is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Most entries of one call to the registry.
const BATCH_MAX: usize = 256;

type Entered = Box<dyn FnOnce(Result<(), Error>) + Send>;

enum Entry {
    /// A session has acknowledged durable messages, which its inbox knows.
    Settle(Arc<Session>),
    Release(Gone),
    Refresh(Refresh),
    /// A session came to a room or left it; whoever waits for the cluster to know is told.
    Stay(Stay, Option<Entered>),
}

/// One per node.
pub(crate) struct Registrar {
    queue: Mutex<VecDeque<Entry>>,
    filled: Notify,
    /// Something was left out, so that the registry may hold what has ended here.
    owing: AtomicBool,
    /// Live sessions here that the cluster did not know.
    missed: Mutex<HashSet<SessionId>>,
    misses: Notify,
    metrics: Arc<Metrics>,
}

impl Registrar {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            queue: Mutex::default(),
            filled: Notify::new(),
            owing: AtomicBool::new(false),
            missed: Mutex::default(),
            misses: Notify::new(),
            metrics,
        }
    }

    /// The session has acknowledged durable messages. Its inbox is told what became of them.
    pub(crate) fn settle(&self, session: &Arc<Session>) {
        if session.inbox.is_to_be_queued() {
            self.push(Entry::Settle(Arc::clone(session)));
        }
    }

    /// The session ended.
    pub(crate) fn release(&self, gone: Gone) {
        self.push(Entry::Release(gone));
    }

    /// Something changed about the session.
    pub(crate) fn refresh(&self, refresh: Refresh) {
        self.push(Entry::Refresh(refresh));
    }

    /// The session came to the room; `then` is told when the cluster knows.
    pub(crate) fn enter(&self, stay: Stay, then: impl FnOnce(Result<(), Error>) + Send + 'static) {
        self.push(Entry::Stay(stay, Some(Box::new(then))));
    }

    /// The session left the room.
    pub(crate) fn depart(&self, stay: Stay) {
        self.push(Entry::Stay(stay, None));
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
        match entry {
            // The next acknowledgement, or whoever asks whether all are settled, tries again.
            Entry::Settle(session) => session.inbox.not_queued(),
            Entry::Stay(_, Some(then)) => {
                self.owe();
                then(Err(Error));
            }
            _ => self.owe(),
        }
    }

    /// Writes until `shutdown`, and then what still waits, once. A registry that cannot be reached is waited for; what
    /// is never written, a reaper finds. `is_here` says whether the session of a stay is in its room.
    pub(crate) async fn run(
        &self,
        registry: Arc<dyn SessionRegistry>,
        offline: Arc<dyn OfflineStore>,
        is_here: impl Fn(&Stay) -> bool + Send + Sync,
        shutdown: CancellationToken,
    ) {
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
            if self.write(&*registry, &*offline, run, &is_here).await.is_err() {
                self.refuse_waiting();
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

    /// The next entries.
    fn take(&self) -> Vec<Entry> {
        let mut queue = self.queue.lock();
        let count = queue.len().min(BATCH_MAX);
        let run = queue.drain(..count).collect();
        if queue.is_empty() && queue.capacity() > 4 * BATCH_MAX {
            *queue = VecDeque::new();
        }
        run
    }

    /// Writes entries, kind by kind: a session's end after all else that is said of it. What ended is kept until it is
    /// written; what else fails is given up.
    async fn write(
        &self,
        registry: &dyn SessionRegistry,
        offline: &dyn OfflineStore,
        run: Vec<Entry>,
        is_here: impl Fn(&Stay) -> bool,
    ) -> Result<(), Error> {
        let (mut acknowledged, mut gone, mut changed, mut stays) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for entry in run {
            match entry {
                Entry::Settle(session) => acknowledged.push(session),
                Entry::Release(session) => gone.push(session),
                Entry::Refresh(refresh) => changed.push(refresh),
                Entry::Stay(stay, then) => stays.push((stay, then)),
            }
        }
        // Before the ends of sessions, since only a claim that holds its place settles anything.
        let settled = self.settle_all(offline, acknowledged).await;
        let refreshed = match settled {
            Ok(()) if changed.is_empty() => Ok(()),
            Ok(()) => registry.refresh(changed).await,
            Err(Error) => Err(Error),
        };
        let (mut here, mut left, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
        for (stay, then) in stays {
            if is_here(&stay) { &mut here } else { &mut left }.push(stay);
            waiting.extend(then);
        }
        // A registry that has just not answered is not waited for once more.
        let stayed = match refreshed {
            Ok(()) => stay_and_leave(registry, &here, &left).await,
            Err(Error) => Err(Error),
        };
        for then in waiting {
            then(stayed);
        }
        let released = match stayed {
            Ok(()) if gone.is_empty() => Ok(()),
            Ok(()) => registry.release(gone.clone()).await,
            Err(Error) => Err(Error),
        };
        if released.is_err() {
            self.put_back(gone.into_iter().map(Entry::Release));
        }
        if stayed.is_err() {
            // Nobody knows what was written. It is looked up again: whoever waited leaves the room again.
            self.put_back(here.into_iter().chain(left).map(|stay| Entry::Stay(stay, None)));
        }
        released
    }

    async fn settle_all(
        &self,
        offline: &dyn OfflineStore,
        acknowledged: Vec<Arc<Session>>,
    ) -> Result<(), Error> {
        let (mut sessions, mut settlements) = (Vec::new(), Vec::new());
        for session in acknowledged {
            let serials = session.inbox.settle();
            // Only a session with a place has an inbox.
            if let Some(holder) = session.holder().filter(|_| !serials.is_empty()) {
                settlements.push(Settlement { holder, serials });
                sessions.push(session);
            }
        }
        if settlements.is_empty() {
            return Ok(());
        }
        let Ok(settled) = offline.settle(settlements).await else {
            for session in &sessions {
                session.inbox.settled(None);
            }
            let again = sessions.iter().filter(|session| session.inbox.is_to_be_queued());
            self.put_back(again.cloned().map(Entry::Settle).collect::<Vec<_>>().into_iter());
            return Err(Error);
        };
        for (session, outcome) in sessions.iter().zip(settled) {
            session.inbox.settled(Some(outcome));
            match outcome {
                Settled::Deleted(messages) => self.metrics.offline_acknowledged.inc_by(messages),
                Settled::Displaced => {}
                // It is settled once the session has been put back; of one that is over, it comes again.
                Settled::Absent => self.miss(session),
            }
        }
        Ok(())
    }

    /// The cluster does not know the session: it is to be looked at before its turn.
    pub(crate) fn miss(&self, session: &Session) {
        if !session.is_over() {
            self.missed.lock().insert(session.id);
            self.misses.notify_one();
        }
    }

    /// Sessions that the cluster did not know, since the last call.
    pub(crate) fn take_missed(&self) -> Vec<SessionId> {
        self.missed.lock().drain().collect()
    }

    /// Resolves when there are some.
    pub(crate) async fn has_missed(&self) {
        self.misses.notified().await;
    }

    /// Tells those who wait that the cluster cannot be told now. What is before them is written until it is, which may
    /// take as long as an outage does.
    fn refuse_waiting(&self) {
        let waiting: Vec<Entered> = {
            let mut queue = self.queue.lock();
            let stays = queue.iter_mut().filter_map(|entry| match entry {
                Entry::Stay(_, then) => then.take(),
                _ => None,
            });
            stays.collect()
        };
        for then in waiting {
            then(Err(Error));
        }
    }

    /// Entries that are to be written next, before all others.
    fn put_back(&self, entries: impl DoubleEndedIterator<Item = Entry>) {
        let mut queue = self.queue.lock();
        for entry in entries.rev() {
            queue.push_front(entry);
        }
    }
}

/// Comings first: a user who moves from one session to another has not left in between.
async fn stay_and_leave(registry: &dyn SessionRegistry, here: &[Stay], left: &[Stay]) -> Result<(), Error> {
    if !here.is_empty() {
        registry.enter(here.to_vec(), Some(presence::ANNOUNCE)).await?;
    }
    if !left.is_empty() {
        registry.depart(left.to_vec(), presence::ANNOUNCE).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

    use tidegate_core::DisconnectReason;
    use tidegate_core::memory::Exchange;

    use crate::rig::{PATIENCE, Rig};
    use crate::rooms::NotJoined;

    // On one thread nothing else happens between two steps that wait for nothing.
    #[tokio::test]
    async fn who_ends_while_it_joins_is_in_no_room() {
        let rig = Rig::start(&Exchange::new(), "a").await;
        let node = rig.inner();
        let (ann, bob) = (rig.seat("ann").await, rig.seat("bob").await);
        node.join_then(&ann, "r".into(), drop);
        node.disconnect(&ann, DisconnectReason::TransportClose);
        node.join_then(&bob, "r".into(), drop);
        node.leave(&bob, &"r".into());
        // What is written, is written in order.
        rig.join(&rig.seat("carl").await, "r").await;
        assert_eq!(rig.users_in("r").await, ["carl"]);
        rig.node.drain().await;
    }

    #[tokio::test]
    async fn a_join_does_not_wait_for_an_end_that_cannot_be_written() {
        let rig = Rig::start(&Exchange::new(), "a").await;
        let node = rig.inner();
        let (ann, bob) = (rig.seat("ann").await, rig.seat("bob").await);
        rig.join(&bob, "r").await;
        rig.registry.fail("release", usize::MAX);
        rig.registry.fail("depart", usize::MAX);
        node.disconnect(&bob, DisconnectReason::TransportClose);
        let (done, joined) = tokio::sync::oneshot::channel();
        node.join_then(&ann, "r".into(), |outcome| done.send(outcome).unwrap());
        let joined = tokio::time::timeout(PATIENCE, joined).await.expect("an answer");
        assert_eq!(joined, Ok(Err(NotJoined::Unavailable)));
        assert!(!node.hub.is_member(ann.seat, ann.id, &"r".into()));
        // Once it can be, it is.
        rig.registry.heal();
        rig.join(&ann, "s").await;
        assert_eq!(rig.users_in("r").await, Vec::<String>::new());
        rig.node.drain().await;
    }

    #[tokio::test]
    async fn what_finds_no_room_is_found_by_comparing() {
        let rig = Rig::start(&Exchange::new(), "a").await;
        let node = rig.inner();
        let (ann, bob) = (rig.seat("ann").await, rig.seat("bob").await);
        rig.join(&ann, "r").await;
        rig.join(&bob, "r").await;
        (0..super::QUEUE_MAX).for_each(|_| node.refresh(&ann));
        node.disconnect(&bob, DisconnectReason::TransportClose);
        let left = async {
            while rig.users_in("r").await != ["ann"] {
                tokio::time::sleep(node.options.pulse.interval).await;
            }
        };
        tokio::time::timeout(PATIENCE, left).await.expect("that it is found");
        rig.node.drain().await;
    }
}
