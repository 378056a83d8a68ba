//! The wanted topics, and the connection that is subscribed to them.
//!
//! [`Subscriptions`] holds what is wanted. One task, [`SubscriptionLink`], compares it with what the connection
//! has and sends the difference in as few commands as it takes: while one round is on its way, all further calls
//! gather for the next. After a break it restores everything before it says that the subscription is whole.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use foldhash::quality::RandomState;
use futures_util::future::{self, BoxFuture, FutureExt as _};
use parking_lot::Mutex;
use tidegate_core::broker::Error;
use tidegate_core::{Incarnation, Subscriber, Topic};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::commands::watch_over;
use crate::inbound::{Feed, Standing};
use crate::keys::{self, Keys};
use crate::line::{BROKE, Line, Sink as _};
use crate::outbound::Outbound;
use crate::registry::Learned;
use crate::server::{Backoff, Server};

/// Topics in one SUBSCRIBE, nearly all of which have one channel. Ten thousand in one take Redis 45 ms, during which nobody else is served; a thousand
/// take 5 ms.
const TOPICS_MAX: usize = 1000;

/// The wanted topics.
pub(crate) struct Subscriptions {
    table: Mutex<Table>,
    changed: Notify,
    timeout: Duration,
}

/// As long as the number of topics wanted and of callers waiting, which those bound who want and wait.
#[derive(Default)]
struct Table {
    topics: HashMap<Topic, Want, RandomState>,
    /// What the next round looks at. Kept only while a connection is attached: attaching looks at everything.
    touched: Vec<Topic>,
    waiting: Vec<Waiting>,
    attached: bool,
    /// Whether any topic was ever wanted that may share its channel with another. Where no namespace has a `#` in
    /// its name, none does, and nobody has to look.
    shared: bool,
    /// Cancelled when the attached connection is found broken, before it is detached.
    broken: CancellationToken,
    closed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    /// Wanted, and to be sent. The server may know it from an earlier wish that has not been undone yet.
    Wanted,
    /// Wanted, and on its way.
    Sent,
    /// Wanted, and confirmed on the attached connection.
    Confirmed,
    /// No longer wanted; the server may still know it.
    Leaving,
}

struct Waiting {
    answer: oneshot::Sender<()>,
    wants: bool,
}

/// What one round has to do.
#[derive(Default)]
struct Round {
    subscribe: Vec<Topic>,
    unsubscribe: Vec<Topic>,
    waiting: Vec<Waiting>,
}

impl Subscriptions {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { table: Mutex::default(), changed: Notify::new(), timeout }
    }

    /// Wants `topics` from now on; the future resolves when all are confirmed.
    pub(crate) fn subscribe(&self, topics: Vec<Topic>) -> BoxFuture<'static, Result<(), Error>> {
        let mut table = self.table.lock();
        if table.closed {
            return future::ready(Err(Error::Closed)).boxed();
        }
        let mut confirmed = !table.broken.is_cancelled();
        for topic in topics {
            let want = table.topics.get(&topic).copied();
            confirmed &= want == Some(Want::Confirmed);
            if matches!(want, None | Some(Want::Leaving)) {
                table.touch(&topic);
                table.shared |= keys::may_share_channel(&topic);
                table.topics.insert(topic, Want::Wanted);
            }
        }
        if confirmed { future::ready(Ok(())).boxed() } else { self.wait(&mut table, true) }
    }

    /// Wants `topics` no longer; the future resolves when the server has forgotten them.
    pub(crate) fn unsubscribe(&self, topics: Vec<Topic>) -> BoxFuture<'static, Result<(), Error>> {
        let mut table = self.table.lock();
        if table.closed {
            return future::ready(Err(Error::Closed)).boxed();
        }
        let mut forgotten = true;
        for topic in topics {
            if !table.attached {
                table.topics.remove(&topic);
            } else if let Some(want) = table.topics.get_mut(&topic) {
                *want = Want::Leaving;
                table.touch(&topic);
                forgotten = false;
            }
        }
        if forgotten { future::ready(Ok(())).boxed() } else { self.wait(&mut table, false) }
    }

    /// Waits for the end of a round that begins after now.
    fn wait(&self, table: &mut Table, wants: bool) -> BoxFuture<'static, Result<(), Error>> {
        let (answer, answered) = oneshot::channel();
        if table.waiting.len() == table.waiting.capacity() {
            // Callers that gave up during a long outage are forgotten before more room is made.
            table.waiting.retain(|waiting| !waiting.answer.is_closed());
        }
        table.waiting.push(Waiting { answer, wants });
        self.changed.notify_one();
        let timeout = self.timeout;
        async move {
            match tokio::time::timeout(timeout, answered).await {
                Ok(Ok(())) => Ok(()),
                _ => Err(Error::Unavailable),
            }
        }
        .boxed()
    }

    /// Refuses everything from now on.
    pub(crate) fn close(&self) {
        self.table.lock().closed = true;
    }

    /// A connection that knows nothing yet: everything wanted makes its first round.
    fn attach(&self, broken: &CancellationToken) -> Round {
        let mut table = self.table.lock();
        table.attached = true;
        table.broken = broken.clone();
        table.touched.clear();
        let mut round = Round { waiting: std::mem::take(&mut table.waiting), ..Round::default() };
        for (topic, want) in &mut table.topics {
            *want = Want::Sent;
            round.subscribe.push(topic.clone());
        }
        round
    }

    /// The connection is gone, and all it knew.
    fn detach(&self) {
        let mut table = self.table.lock();
        table.attached = false;
        table.touched = Vec::new();
        table.topics.retain(|_, want| {
            let wanted = *want != Want::Leaving;
            *want = Want::Wanted;
            wanted
        });
        let (waiting, forgotten) =
            std::mem::take(&mut table.waiting).into_iter().partition(|waiting| waiting.wants);
        table.waiting = waiting;
        drop(table);
        tell(forgotten);
    }

    fn round(&self) -> Round {
        let mut table = self.table.lock();
        let touched = std::mem::take(&mut table.touched);
        let mut round = Round { waiting: std::mem::take(&mut table.waiting), ..Round::default() };
        for topic in touched {
            match table.topics.get_mut(&topic) {
                Some(want @ Want::Wanted) => {
                    *want = Want::Sent;
                    round.subscribe.push(topic);
                }
                Some(Want::Leaving) => {
                    table.topics.remove(&topic);
                    // One that is leaving, too, is still to come in this round, and the last takes the channel.
                    let stays =
                        table.shared && keys::any_reading(&topic, |other| table.topics.contains_key(other));
                    if !stays {
                        round.unsubscribe.push(topic);
                    }
                }
                _ => {}
            }
        }
        round
    }

    fn confirm(&self, topics: &[Topic]) {
        let mut table = self.table.lock();
        for topic in topics {
            // Whoever changed their mind meanwhile has touched the topic again.
            if let Some(want @ Want::Sent) = table.topics.get_mut(topic) {
                *want = Want::Confirmed;
            }
        }
    }

    /// Lets those who waited for a round that failed wait for the next.
    fn put_back(&self, waiting: Vec<Waiting>) {
        self.table.lock().waiting.extend(waiting);
    }
}

impl Table {
    fn touch(&mut self, topic: &Topic) {
        if self.attached {
            self.touched.push(topic.clone());
        }
    }
}

fn tell(waiting: Vec<Waiting>) {
    for waiting in waiting {
        // An error only means that the caller gave up.
        let _ = waiting.answer.send(());
    }
}

/// Keeps a connection subscribed to everything wanted.
pub(crate) struct SubscriptionLink {
    pub(crate) server: Arc<Server>,
    pub(crate) subscriptions: Arc<Subscriptions>,
    pub(crate) standing: Arc<Standing>,
    pub(crate) outbound: Arc<Outbound>,
    /// Where what reads the connection runs.
    pub(crate) tasks: TaskTracker,
    pub(crate) subscriber: Arc<dyn Subscriber>,
    pub(crate) keys: Keys,
    pub(crate) node_channel: String,
    pub(crate) incarnation: Incarnation,
    pub(crate) learned: Arc<Learned>,
    pub(crate) command_timeout: Duration,
    pub(crate) ping_timeout: Duration,
    /// Holds what became of the latest attempt, for whoever waits for the first to succeed.
    pub(crate) progress: watch::Sender<Progress>,
}

/// How far the link has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing has been tried to the end.
    Connecting,
    /// The latest attempt failed, for this reason.
    Failed(String),
    /// The subscription has been whole.
    Whole,
}

impl SubscriptionLink {
    /// Runs until `cancel`. Every failure ends in a new connection, which restores all that is wanted.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        tokio::select! {
            () = self.keep() => {}
            () = cancel.cancelled() => {}
        }
        self.subscriptions.detach();
    }

    async fn keep(&self) {
        let mut backoff = Backoff::default();
        loop {
            tokio::time::sleep(backoff.next()).await;
            let generation = self.standing.begin();
            let reason = self.serve(generation, &mut backoff).await;
            self.subscriptions.detach();
            tracing::debug!(redis = self.server.masked(), reason, generation, "subscription ended");
            self.progress.send_replace(Progress::Failed(reason));
        }
    }

    /// Connects, restores, and follows what is wanted until the connection breaks; returns why it did.
    async fn serve(&self, generation: u64, backoff: &mut Backoff) -> String {
        let line = match self.server.dial().await {
            Ok(line) => Arc::new(line),
            Err(error) => return error.to_string(),
        };
        self.outbound.open(&line);
        // However this ends, nobody goes on reading.
        let _broken = line.broken.clone().drop_guard();
        let mut feed = self.feed(generation);
        let reading = {
            let line = Arc::clone(&line);
            // A task of its own, which is woken for nothing but what comes in.
            self.tasks.spawn(async move { line.read(&mut feed).await })
        };
        let reason = self.speak(&line, generation, backoff).await;
        line.broken.cancel();
        match reading.await {
            // Whoever reads knows best why the others found it broken.
            Ok(read) if reason == BROKE => read.to_owned(),
            Ok(_) => reason,
            Err(_) => {
                // The subscriber panicked, and nobody told of the end.
                self.feed(generation).broke("reading failed");
                "reading failed".to_owned()
            }
        }
    }

    fn feed(&self, generation: u64) -> Feed {
        Feed::new(
            self.keys.clone(),
            self.node_channel.clone(),
            self.incarnation.clone(),
            generation,
            Arc::clone(&self.standing),
            Arc::clone(&self.outbound),
        )
    }

    async fn speak(&self, line: &Arc<Line>, generation: u64, backoff: &mut Backoff) -> String {
        let greeting = match self.server.greet(line).await {
            Ok(greeting) => greeting,
            Err(reason) => return reason,
        };
        self.learned.subscription_client.store(greeting.client, Ordering::Relaxed);
        if let Err(reason) = self.restore(line).await {
            return reason;
        }
        if !self.standing.whole(generation) {
            return BROKE.to_owned();
        }
        self.outbound.attach(line);
        let up = Instant::now();
        tracing::debug!(redis = self.server.masked(), generation, "subscription is whole");
        self.progress.send_replace(Progress::Whole);

        // Neither is dropped half way: callers whose round is cut short stay in line for the next connection.
        let pings = || {
            let line = Arc::clone(line);
            async move { line.ask(&[b"PING"]).await.is_ok() }.boxed()
        };
        let watching = async {
            let reason =
                watch_over(&line.broken, self.ping_timeout, &*self.subscriber, pings, || line.heard()).await;
            line.broken.cancel();
            reason
        };
        let following = async {
            let reason = self.follow(line).await;
            line.broken.cancel();
            reason
        };
        let (watched, followed) = tokio::join!(watching, following);
        backoff.ended(up.elapsed());
        followed.unwrap_or_else(|| watched.to_owned())
    }

    async fn restore(&self, line: &Line) -> Result<(), String> {
        self.send(true, std::slice::from_ref(&self.node_channel), line).await?;
        let round = self.subscriptions.attach(&line.broken);
        self.carry_out(round, line).await
    }

    /// Returns why a command failed, or nothing if the connection was found broken otherwise.
    async fn follow(&self, line: &Line) -> Option<String> {
        loop {
            tokio::select! {
                () = self.subscriptions.changed.notified() => {}
                () = line.broken.cancelled() => return None,
            }
            let round = self.subscriptions.round();
            if let Err(reason) = self.carry_out(round, line).await {
                return Some(reason);
            }
        }
    }

    async fn carry_out(&self, round: Round, line: &Line) -> Result<(), String> {
        let (waiting, leaving): (Vec<_>, Vec<_>) =
            round.waiting.into_iter().partition(|waiting| waiting.wants);
        let subscribed = match self.send_subscribes(&round.subscribe, line).await {
            Ok(()) if line.broken.is_cancelled() => Err(BROKE.to_owned()),
            subscribed => subscribed,
        };
        if subscribed.is_ok() {
            tell(waiting);
        } else {
            self.subscriptions.put_back(waiting);
        }
        let unsubscribed = match subscribed {
            Ok(()) => self.send_unsubscribes(&round.unsubscribe, line).await,
            Err(reason) => Err(reason),
        };
        // If that failed, the connection goes, and what it was subscribed to with it.
        tell(leaving);
        unsubscribed
    }

    async fn send_subscribes(&self, topics: &[Topic], line: &Line) -> Result<(), String> {
        for topics in topics.chunks(TOPICS_MAX) {
            self.send(true, &self.channels(topics), line).await?;
            self.subscriptions.confirm(topics);
        }
        Ok(())
    }

    async fn send_unsubscribes(&self, topics: &[Topic], line: &Line) -> Result<(), String> {
        for topics in topics.chunks(TOPICS_MAX) {
            self.send(false, &self.channels(topics), line).await?;
        }
        Ok(())
    }

    fn channels(&self, topics: &[Topic]) -> Vec<String> {
        topics.iter().flat_map(|topic| self.keys.topic_channels(topic)).collect()
    }

    async fn send(&self, subscribe: bool, channels: &[String], line: &Line) -> Result<(), String> {
        let command = if subscribe { "subscribe" } else { "unsubscribe" };
        let sent = Instant::now();
        let answered = tokio::select! {
            answered = tokio::time::timeout(self.command_timeout, line.subscribe(subscribe, channels)) => answered,
            () = line.broken.cancelled() => return Err(BROKE.to_owned()),
        };
        match answered {
            Ok(Ok(())) => {
                self.subscriber.observe(command, sent.elapsed());
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(format!("{command} timed out")),
        }
    }
}
