//! The queue of publications.
//!
//! One batch is on its way at a time. A publication that finds none pokes the line's task, which sends it with all that is
//! published before its turn comes, such as the rest of what one client sent in one go; whatever queues up before the
//! answers makes the next batch. So an idle node sends at once, a busy one few large batches, and the order is kept.

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
    /// The connection while its subscription is being made whole.
    opening: Option<Arc<Line>>,
    /// The batch on its way. If there is none and there is a line that is not broken, the queue is empty, or the line poked.
    flight: Option<Flight>,
    poked: bool,
    /// Whether the time of what is here is watched.
    watched: bool,
}

struct Flight {
    line: Arc<Line>,
    since: Instant,
    /// When the time of its first publication is over.
    deadline: Instant,
    weight: usize,
    /// What had come in over the line when it was last looked at.
    heard: u64,
}

impl Flight {
    fn new(line: &Arc<Line>, since: Instant, deadline: Instant, weight: usize) -> Self {
        Self { line: Arc::clone(line), since, deadline, weight, heard: line.heard() }
    }
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
        self.poked = false;
        let line = self.line.as_ref().filter(|line| self.flight.is_none() && !line.broken.is_cancelled())?;
        let line = Arc::clone(line);
        let deadline = self.queue.front()?.deadline;
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
        self.flight = Some(Flight::new(&line, Instant::now(), deadline, weight));
        Some((line, self.queue.drain(..count).collect()))
    }

    /// The batch on its way is not any more; returns since when it was.
    fn land(&mut self) -> Option<Instant> {
        let Flight { since, weight, .. } = self.flight.take()?;
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
        state.queue.push_back(entry);
        if state.flight.is_none()
            && !state.poked
            && let Some(line) = state.line.clone()
        {
            state.poked = true;
            drop(state);
            line.poke();
        }
    }

    /// The line's task has its turn.
    pub(crate) fn depart(&self) {
        let next = self.state.lock().take_off();
        self.send_next(next);
    }

    /// Nobody else sends meanwhile: the batch is the one on its way.
    fn send_next(&self, next: Option<(Arc<Line>, Vec<Entry>)>) {
        if let Some((line, batch)) = next {
            let last = batch.len() - 1;
            let parts = batch.into_iter().enumerate().map(|(index, entry)| entry.into_parts(index == last));
            if let Err(refused) = line.publish(parts) {
                refused.into_iter().for_each(|sent| self.gave_up(sent));
            }
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

    /// A line that is to be attached once its subscription is whole.
    pub(crate) fn open(&self, line: &Arc<Line>) {
        self.state.lock().opening = Some(Arc::clone(line));
    }

    /// Sends over `line` from now on.
    pub(crate) fn attach(&self, line: &Arc<Line>) {
        let next = {
            let mut state = self.state.lock();
            if line.broken.is_cancelled() {
                // Whoever reads there has told of its end already, or will.
                return;
            }
            state.opening = None;
            state.line = Some(Arc::clone(line));
            state.take_off()
        };
        self.send_next(next);
    }

    /// The line broke. What is on its way is given up by whoever reads there.
    pub(crate) fn detach(&self) {
        self.shorten(|state| {
            state.line = None;
            state.opening = None;
            state.land();
        });
    }

    /// Gives up what is written and not answered, with its connection, and a connection that is being made with it: either
    /// may lead where nobody should be led any more.
    pub(crate) fn reset(&self) {
        let lines = {
            let state = self.state.lock();
            [state.line.clone(), state.opening.clone()]
        };
        lines.iter().flatten().for_each(|line| line.broken.cancel());
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

    /// Resolves once everything accepted before [`Outbound::close`] has an outcome, which is told right then.
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
        let mut stuck = None;
        let mut first = None;
        if let Some(flight) = &mut state.flight {
            if flight.since + self.timeout <= now {
                // A connection over which something comes is slow, and does not stand still.
                let heard = flight.line.heard();
                if heard == flight.heard {
                    tracing::debug!("publishing timed out");
                    flight.line.broken.cancel();
                } else {
                    (flight.since, flight.heard) = (now, heard);
                }
            }
            stuck = Some(flight.since + self.timeout).filter(|stuck| *stuck > now);
            first = Some(flight.deadline).filter(|deadline| *deadline > now);
        }
        let queued = state.queue.front().map(|entry| entry.deadline);
        let next = [queued, sent, first, stuck].into_iter().flatten().min();
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc;
    use tokio::task::JoinSet;

    use super::*;
    use crate::line::Sink;
    use crate::stream::Stream;

    const TIMEOUT: Duration = Duration::from_secs(10);

    /// What a broker does with a line.
    struct Broker(Arc<Outbound>);

    impl Sink for Broker {
        fn message(&mut self, _: &[u8], _: &[u8]) {}

        fn answered(&mut self, sent: Sent, outcome: Result<(), &[u8]>) {
            self.0.answered(sent, outcome);
        }

        fn poked(&mut self) {
            self.0.depart();
        }

        fn broke(&mut self, _: &'static str) {
            self.0.detach();
        }

        fn gave_up(&mut self, sent: Sent) {
            self.0.gave_up(sent);
        }
    }

    type Told = (u32, Result<(), Error>);

    struct Scene {
        outbound: Arc<Outbound>,
        told: mpsc::Receiver<Told>,
        tell: mpsc::Sender<Told>,
        reading: JoinSet<()>,
    }

    impl Scene {
        fn new() -> Self {
            let outbound = Arc::new(Outbound::new(1 << 20, TIMEOUT));
            let (tell, told) = mpsc::channel(1_000);
            Self { outbound, told, tell, reading: JoinSet::new() }
        }

        /// A line that is read, and the server's end of it.
        async fn line(&mut self) -> (Arc<Line>, TcpStream) {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
            let line = Arc::new(Line::new(Stream::plain(near.unwrap())));
            let (reading, mut broker) = (Arc::clone(&line), Broker(Arc::clone(&self.outbound)));
            self.reading.spawn(async move {
                reading.read(&mut broker).await;
            });
            (line, far.unwrap().0)
        }

        fn push(&self, number: u32) {
            let tell = self.tell.clone();
            let done = Done::call(move |outcome| tell.try_send((number, outcome)).unwrap());
            self.outbound.push("c".to_owned(), format!("{number:03}").into_bytes(), done);
        }

        async fn expect(&mut self, outcome: Result<(), Error>, numbers: impl IntoIterator<Item = u32>) {
            for number in numbers {
                let told = tokio::time::timeout(TIMEOUT / 2, self.told.recv()).await.unwrap().unwrap();
                assert_eq!(told, (number, outcome));
            }
        }
    }

    /// Reads so many publications from a line.
    async fn heard(server: &mut TcpStream, numbers: impl IntoIterator<Item = u32>) {
        for number in numbers {
            let expected = format!("*3\r\n$7\r\nPUBLISH\r\n$1\r\nc\r\n$3\r\n{number:03}\r\n");
            let mut found = vec![0; expected.len()];
            tokio::time::timeout(TIMEOUT / 2, server.read_exact(&mut found)).await.unwrap().unwrap();
            assert_eq!(String::from_utf8(found).unwrap(), expected);
        }
    }

    async fn answer(server: &mut TcpStream, count: usize) {
        server.write_all(&b":1\r\n".repeat(count)).await.unwrap();
    }

    #[tokio::test]
    async fn what_comes_while_a_batch_is_on_its_way_makes_the_next() {
        let mut scene = Scene::new();
        let (line, mut server) = scene.line().await;
        (0..3).for_each(|number| scene.push(number));
        scene.outbound.attach(&line);
        heard(&mut server, 0..3).await;
        let count = u32::try_from(BATCH_ENTRIES_MAX).unwrap();
        (3..4 + count).for_each(|number| scene.push(number));
        assert_eq!(server.try_read(&mut [0; 9]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        answer(&mut server, 3).await;
        scene.expect(Ok(()), 0..3).await;
        heard(&mut server, 3..3 + count).await;
        assert_eq!(server.try_read(&mut [0; 9]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        answer(&mut server, BATCH_ENTRIES_MAX).await;
        heard(&mut server, [3 + count]).await;
        scene.outbound.close();
        answer(&mut server, 1).await;
        scene.outbound.flushed().await;
        scene.expect(Ok(()), 3..4 + count).await;
        assert_eq!(scene.outbound.state.lock().bytes, 0);
    }

    #[tokio::test]
    async fn what_is_on_its_way_is_given_up_with_its_line_and_the_rest_waits_for_the_next() {
        let mut scene = Scene::new();
        let (line, mut server) = scene.line().await;
        scene.outbound.attach(&line);
        scene.push(0);
        heard(&mut server, [0]).await;
        (1..3).for_each(|number| scene.push(number));
        scene.outbound.reset();
        scene.expect(Err(Error::Unavailable), [0]).await;
        let (line, _server) = scene.line().await;
        scene.outbound.open(&line);
        scene.outbound.reset();
        assert!(line.broken.is_cancelled(), "one that is being made is given up, too");
        let (line, mut server) = scene.line().await;
        scene.outbound.attach(&line);
        heard(&mut server, [1, 2]).await;
        answer(&mut server, 2).await;
        scene.expect(Ok(()), [1, 2]).await;
        assert_eq!(scene.outbound.state.lock().bytes, 0);
    }

    /// Otherwise what is sent there would count as under way for ever, and the next line would be found stuck.
    #[tokio::test]
    async fn a_line_that_ended_before_it_is_attached_takes_nothing() {
        let mut scene = Scene::new();
        let (line, server) = scene.line().await;
        drop(server);
        scene.reading.join_next().await.unwrap().unwrap();
        scene.push(0);
        scene.outbound.attach(&line);
        scene.push(1);
        assert!(scene.told.try_recv().is_err());
        let (line, mut server) = scene.line().await;
        scene.outbound.attach(&line);
        heard(&mut server, [0, 1]).await;
        answer(&mut server, 2).await;
        scene.expect(Ok(()), [0, 1]).await;
    }

    #[tokio::test]
    async fn whose_time_is_over_is_told_and_a_silent_line_given_up() {
        let mut scene = Scene::new();
        let now = Instant::now();
        scene.push(0);
        let due = scene.outbound.expire(now).unwrap();
        assert!(due >= now + TIMEOUT);
        assert!(scene.outbound.expire(due).is_none());
        scene.expect(Err(Error::Unavailable), [0]).await;

        // On its way, and over a line on which something comes in.
        let (line, mut server) = scene.line().await;
        scene.outbound.attach(&line);
        scene.push(1);
        heard(&mut server, [1]).await;
        scene.push(2);
        let due = scene.outbound.expire(Instant::now()).unwrap();
        server.write_all(b"+").await.unwrap();
        while line.heard() == 0 {
            tokio::task::yield_now().await;
        }
        let late = due + TIMEOUT / 2;
        let next = scene.outbound.expire(late).unwrap();
        scene.expect(Err(Error::Unavailable), [2, 1]).await;
        assert_eq!(next, late + TIMEOUT);
        assert!(!line.broken.is_cancelled());
        // Silent for as long again.
        scene.outbound.expire(next);
        assert!(line.broken.is_cancelled());
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_says_when_there_is_room() {
        let mut scene = Scene::new();
        scene.outbound = Arc::new(Outbound::new(10 * (ENTRY_OVERHEAD + 4), TIMEOUT));
        (0..5).for_each(|number| scene.push(number));
        assert!(scene.outbound.ready().is_none());
        (5..11).for_each(|number| scene.push(number));
        scene.expect(Err(Error::Unavailable), [10]).await;
        let mut ready = scene.outbound.ready().unwrap();
        assert!(ready.as_mut().now_or_never().is_none());
        let (line, mut server) = scene.line().await;
        scene.outbound.attach(&line);
        heard(&mut server, 0..10).await;
        answer(&mut server, 10).await;
        ready.await;
        scene.expect(Ok(()), 0..10).await;
    }
}
