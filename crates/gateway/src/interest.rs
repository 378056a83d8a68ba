//! Interest: which topics this node has a local receiver for, and so must be subscribed to.
//!
//! The first member of a room subscribes, the last one unsubscribes a moment later, and both go to the broker in
//! batches: while one batch is under way, everything else that is asked for collects in the next.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use foldhash::HashMapExt as _;
use parking_lot::Mutex;
use tidegate_core::broker::{self, Broker};
use tidegate_core::{Namespace, Room, SessionId, Topic};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a topic without a member stays subscribed. Someone who reloads a page comes back within it, and costs
/// Redis nothing.
const UNSUBSCRIBE_DELAY: Duration = Duration::from_millis(500);

/// Most topics of one call to the broker: a SUBSCRIBE of 10,000 channels takes Redis 45 ms, in which it serves
/// nobody else, so a batch is a tenth of that.
const BATCH_MAX: usize = 1_000;

type Waiter = Box<dyn FnOnce(Result<(), broker::Error>) + Send>;

/// Shared by all sessions of a node. One entry per topic with a local member, and for a moment after the last; of a socket's
/// own topic only until it is confirmed.
pub(crate) struct Interest {
    topics: Mutex<Topics>,
    changed: Notify,
}

struct Topics {
    /// Not those of sockets, once they are confirmed: each has one member, its socket, and there is one for every session.
    entries: HashMap<Topic, Entry>,
    /// Wanted and not yet asked for.
    wanted: VecDeque<Topic>,
    /// Without a member since then, oldest first.
    idle: VecDeque<(Instant, Topic)>,
}

struct Entry {
    members: u32,
    subscription: Subscription,
}

enum Subscription {
    /// These are told once it is confirmed.
    Pending(Vec<Waiter>),
    Confirmed,
}

impl Interest {
    pub(crate) fn new() -> Self {
        let topics = Topics { entries: HashMap::new(), wanted: VecDeque::new(), idle: VecDeque::new() };
        Self { topics: Mutex::new(topics), changed: Notify::new() }
    }

    /// Counts one more member of `topic`; `then` is told when what is published on it from now on will arrive. On an
    /// error the caller takes the member back with [`Interest::leave`].
    pub(crate) fn join(&self, topic: Topic, then: impl FnOnce(Result<(), broker::Error>) + Send + 'static) {
        self.count(topic.clone(), || {});
        self.confirm(&topic, then);
    }

    /// Counts one more member of `topic`. `first` is called before anything else can be known of it if there was none
    /// before; it must be quick.
    pub(crate) fn count(&self, topic: Topic, first: impl FnOnce()) {
        let mut topics = self.topics.lock();
        let Topics { entries, wanted, .. } = &mut *topics;
        let entry = entries.entry(topic.clone()).or_insert_with(|| {
            wanted.push_back(topic);
            Entry { members: 0, subscription: Subscription::Pending(Vec::new()) }
        });
        entry.members += 1;
        if entry.members == 1 {
            first();
        }
        let is_pending = matches!(entry.subscription, Subscription::Pending(_));
        drop(topics);
        if is_pending {
            self.changed.notify_one();
        }
    }

    /// Tells `then` when a topic that has a member is confirmed.
    pub(crate) fn confirm(
        &self,
        topic: &Topic,
        then: impl FnOnce(Result<(), broker::Error>) + Send + 'static,
    ) {
        let mut topics = self.topics.lock();
        if let Some(Entry { subscription: Subscription::Pending(waiters), .. }) =
            topics.entries.get_mut(topic)
        {
            waiters.push(Box::new(then));
            drop(topics);
            // It may have failed just now, and is tried again with the next change only.
            self.changed.notify_one();
            return;
        }
        drop(topics);
        then(Ok(()));
    }

    /// Counts one member less; returns whether it was the last.
    pub(crate) fn leave(&self, topic: &Topic) -> bool {
        let mut topics = self.topics.lock();
        match topics.entries.get_mut(topic) {
            Some(entry) => {
                entry.members = entry.members.saturating_sub(1);
                if entry.members > 0 {
                    return false;
                }
            }
            None if is_socket(topic) => {}
            None => return false,
        }
        let wake = topics.idle.is_empty();
        topics.idle.push_back((Instant::now(), topic.clone()));
        drop(topics);
        if wake {
            self.changed.notify_one();
        }
        true
    }

    /// Keeps the broker's subscriptions to what is wanted, until `shutdown`. A call that fails leaves its topics
    /// pending or confirmed as they were, and their waiters are told; the next change tries again.
    pub(crate) async fn run(&self, broker: Arc<dyn Broker>, shutdown: CancellationToken) {
        loop {
            let deadline = self.topics.lock().idle.front().map(|(since, _)| *since + UNSUBSCRIBE_DELAY);
            let idle = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.changed.notified() => {}
                () = idle => {}
            }
            loop {
                let batch = self.take_wanted();
                if batch.is_empty() {
                    break;
                }
                let outcome = broker.subscribe(batch.clone()).await;
                self.settle(&batch, outcome);
                if outcome.is_err() {
                    // Not at once again: a broker that refuses without waiting would keep this loop spinning.
                    break;
                }
            }
            let batch = self.take_idle();
            if !batch.is_empty() {
                // Whether it worked is the broker's business: a topic too many costs traffic, not correctness.
                let _ = broker.unsubscribe(batch).await;
            }
        }
    }

    fn take_wanted(&self) -> Vec<Topic> {
        let mut topics = self.topics.lock();
        let Topics { entries, wanted, .. } = &mut *topics;
        let mut batch = Vec::new();
        while batch.len() < BATCH_MAX
            && let Some(topic) = wanted.pop_front()
        {
            // It may have been given up since.
            if entries.contains_key(&topic) {
                batch.push(topic);
            }
        }
        if wanted.is_empty() {
            *wanted = VecDeque::new();
        }
        batch
    }

    fn settle(&self, batch: &[Topic], outcome: Result<(), broker::Error>) {
        let mut waiters = Vec::new();
        {
            let mut topics = self.topics.lock();
            for topic in batch {
                let Topics { entries, wanted, .. } = &mut *topics;
                let Some(entry) = entries.get_mut(topic) else { continue };
                let waiting = if outcome.is_ok() {
                    std::mem::replace(&mut entry.subscription, Subscription::Confirmed)
                } else {
                    std::mem::replace(&mut entry.subscription, Subscription::Pending(Vec::new()))
                };
                if outcome.is_err() {
                    // Asked for again with the next change: by then its members may have left.
                    wanted.push_back(topic.clone());
                }
                if let Subscription::Pending(list) = waiting {
                    waiters.extend(list);
                }
                if outcome.is_ok() && is_socket(topic) {
                    entries.remove(topic);
                }
            }
        }
        for waiter in waiters {
            waiter(outcome);
        }
    }

    /// Topics that have been without a member for long enough, forgotten here.
    fn take_idle(&self) -> Vec<Topic> {
        let now = Instant::now();
        let (mut batch, mut waiters) = (Vec::new(), Vec::new());
        {
            let mut topics = self.topics.lock();
            while let Some((since, _)) = topics.idle.front()
                && *since + UNSUBSCRIBE_DELAY <= now
                && batch.len() < BATCH_MAX
            {
                let Some((_, topic)) = topics.idle.pop_front() else { break };
                match topics.entries.get(&topic) {
                    Some(entry) if entry.members > 0 => continue,
                    None if !is_socket(&topic) => continue,
                    _ => {}
                }
                if let Some(Entry { subscription: Subscription::Pending(list), .. }) =
                    topics.entries.remove(&topic)
                {
                    waiters.extend(list);
                }
                batch.push(topic);
            }
        }
        for waiter in waiters {
            waiter(Err(broker::Error::Unavailable));
        }
        batch
    }
}

/// What every session needs beside its rooms: its namespace, what other servers ask of it, and its own room.
pub(crate) fn of_session(namespace: &Namespace, id: SessionId) -> [Topic; 3] {
    let namespace = || namespace.clone();
    [Topic::Namespace(namespace()), Topic::Requests(namespace()), Topic::Socket(namespace(), id)]
}

fn is_socket(topic: &Topic) -> bool {
    matches!(topic, Topic::Socket(..))
}

/// The topic of a room.
pub(crate) fn room(namespace: &Namespace, room: &Room) -> Topic {
    Topic::Room(namespace.clone(), room.clone())
}
