//! One connection whose wire is our own: publications and subscriptions go out, answers and messages come in.
//!
//! Everybody who sends writes to the socket there and then; what it does not take is written by the task that reads.
//! Answers come in the order of commands, so what is expected stands in a queue. In RESP3 a command and a message are
//! told apart, and one connection does for both: an answer and a message that is on its way to the same node come in
//! one read, and what a node was subscribed to when it published is what it was subscribed to on this connection.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use parking_lot::{Mutex, MutexGuard};
use tidegate_core::broker::Done;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::resp::{self, Frame};
use crate::stream::Stream;

/// What is read at a time, and what the buffer goes back to after a large message.
const READ_BYTES: usize = 16 * 1024;

/// What is kept of the buffer for writing; a batch that was larger leaves no more behind.
const WRITE_BYTES_KEPT: usize = 64 * 1024;

/// One publication on its way.
pub(crate) struct Sent {
    /// Whoever waits for the outcome, unless told already.
    pub(crate) done: Option<Done>,
    /// When it is told that the outcome is unknown.
    pub(crate) deadline: Instant,
    /// The last of its batch.
    pub(crate) last: bool,
}

/// What became of a command: the answer as it came, or the reason why it was refused.
pub(crate) type Outcome = Result<Vec<u8>, String>;

/// An answer that is due.
enum Expected {
    /// To a PUBLISH.
    Published(Sent),
    /// To a command with one answer.
    Answer(oneshot::Sender<Outcome>),
    /// To a SUBSCRIBE or UNSUBSCRIBE: so many confirmations, which are pushes.
    Confirmations { subscribe: bool, left: usize, then: Option<oneshot::Sender<Outcome>> },
}

#[derive(Default)]
struct Wire {
    /// What the socket has not taken, from `taken` on.
    unsent: Vec<u8>,
    taken: usize,
    /// As long as what is in flight: one batch of publications, and a command or two.
    expected: VecDeque<Expected>,
    over: bool,
}

/// The connection.
pub(crate) struct Line {
    socket: Stream,
    wire: Mutex<Wire>,
    /// Whether something is unsent. Read without the lock by the task that would send it.
    blocked: AtomicBool,
    /// The task is to look again, at what is unsent and what it was poked for.
    look: Notify,
    poked: AtomicBool,
    /// How many times something has come in.
    heard: AtomicU64,
    /// Cancelled by whoever finds the connection unusable; it ends then.
    pub(crate) broken: CancellationToken,
}

/// What a line brings beside the answers to commands.
pub(crate) trait Sink {
    /// A message. Never blocks.
    fn message(&mut self, channel: &[u8], payload: &[u8]);

    /// A publication was answered; the error is the server's reason to refuse it.
    fn answered(&mut self, sent: Sent, outcome: Result<(), &[u8]>);

    /// Somebody has [poked](Line::poke) the line's task, and it is its turn.
    fn poked(&mut self);

    /// The line broke. Told before anything on its way is given up.
    fn broke(&mut self, reason: &'static str);

    /// What became of a publication will not be known.
    fn gave_up(&mut self, sent: Sent);
}

impl Line {
    pub(crate) fn new(socket: Stream) -> Self {
        Self {
            socket,
            wire: Mutex::default(),
            blocked: AtomicBool::new(false),
            look: Notify::new(),
            poked: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            broken: CancellationToken::new(),
        }
    }

    /// A number that grows whenever something comes in.
    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Sends publications in one go: channel, payload, and what is expected.
    ///
    /// # Errors
    /// If the line is over. Whoever waits was not told.
    pub(crate) fn publish<C: AsRef<str>, P: AsRef<[u8]>>(
        &self,
        batch: impl Iterator<Item = (C, P, Sent)>,
    ) -> Result<(), Vec<Sent>> {
        let mut wire = self.wire.lock();
        if wire.over {
            return Err(batch.map(|(_, _, sent)| sent).collect());
        }
        let idle = wire.unsent.is_empty();
        for (channel, payload, sent) in batch {
            resp::publish(&mut wire.unsent, channel.as_ref(), payload.as_ref());
            wire.expected.push_back(Expected::Published(sent));
        }
        self.flush(wire, idle);
        Ok(())
    }

    /// Sends a command with one answer.
    ///
    /// # Errors
    /// The server's, or that the connection broke.
    pub(crate) async fn ask(&self, arguments: &[&[u8]]) -> Outcome {
        let (then, answer) = oneshot::channel();
        self.send(arguments, Expected::Answer(then));
        answer.await.unwrap_or_else(|_| Err(BROKE.to_owned()))
    }

    /// Subscribes to `channels`, or the contrary, and waits for all confirmations.
    ///
    /// # Errors
    /// As for [`Line::ask`].
    pub(crate) async fn subscribe(&self, subscribe: bool, channels: &[String]) -> Result<(), String> {
        if channels.is_empty() {
            return Ok(());
        }
        let verb: &[u8] = if subscribe { b"SUBSCRIBE" } else { b"UNSUBSCRIBE" };
        let (then, answer) = oneshot::channel();
        let expected = Expected::Confirmations { subscribe, left: channels.len(), then: Some(then) };
        let mut arguments = Vec::with_capacity(channels.len() + 1);
        arguments.push(verb);
        arguments.extend(channels.iter().map(String::as_bytes));
        self.send(&arguments, expected);
        answer.await.unwrap_or_else(|_| Err(BROKE.to_owned())).map(drop)
    }

    /// Sends a command. If the line is over, what is expected is dropped, which whoever waits notices.
    fn send(&self, arguments: &[&[u8]], expected: Expected) {
        let mut wire = self.wire.lock();
        if wire.over {
            return;
        }
        let idle = wire.unsent.is_empty();
        resp::command(&mut wire.unsent, arguments.iter().copied());
        wire.expected.push_back(expected);
        self.flush(wire, idle);
    }

    /// Writes what was just appended, unless something before it is still unsent.
    fn flush(&self, mut wire: MutexGuard<'_, Wire>, idle: bool) {
        if idle && !self.write(&mut wire) {
            self.blocked.store(true, Ordering::Release);
            drop(wire);
            self.look.notify_one();
        }
    }

    /// Has the line's task tell its sink so when its turn comes.
    pub(crate) fn poke(&self) {
        self.poked.store(true, Ordering::Release);
        self.look.notify_one();
    }

    /// Writes what the socket takes; false if that is not all.
    fn write(&self, wire: &mut Wire) -> bool {
        while wire.taken < wire.unsent.len() {
            match self.socket.try_write(&wire.unsent[wire.taken..]) {
                Ok(count) => wire.taken += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(_) => {
                    self.broken.cancel();
                    break;
                }
            }
        }
        match self.socket.flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => self.broken.cancel(),
            Ok(()) => {}
        }
        wire.unsent.clear();
        wire.unsent.shrink_to(WRITE_BYTES_KEPT);
        wire.taken = 0;
        true
    }

    /// Tells publications whose time is over that their outcome is unknown, through `tell`, and returns when the next
    /// one's will be.
    pub(crate) fn expire(&self, now: Instant, tell: impl Fn(Done)) -> Option<Instant> {
        let mut overdue = Vec::new();
        let mut next = None;
        for expected in &mut self.wire.lock().expected {
            let Expected::Published(sent) = expected else { continue };
            if sent.done.is_none() {
                continue;
            }
            if sent.deadline > now {
                next = Some(sent.deadline);
                break;
            }
            overdue.extend(sent.done.take());
        }
        overdue.into_iter().for_each(tell);
        next
    }

    /// Reads until the connection breaks, and returns why it did. What was expected then is given up.
    pub(crate) async fn read(&self, sink: &mut (impl Sink + Send)) -> &'static str {
        // Also if the sink panics.
        let _broken = self.broken.clone().drop_guard();
        let reason = self.read_all(sink).await;
        // First, so that nobody is told `Ok` for the sake of this connection after the subscriber was told of its end.
        self.broken.cancel();
        sink.broke(reason);
        let expected = {
            let mut wire = self.wire.lock();
            wire.over = true;
            wire.unsent = Vec::new();
            std::mem::take(&mut wire.expected)
        };
        for expected in expected {
            // Whoever else waits sees that nobody is there any more to answer.
            if let Expected::Published(sent) = expected {
                sink.gave_up(sent);
            }
        }
        reason
    }

    async fn read_all(&self, sink: &mut (impl Sink + Send)) -> &'static str {
        let mut buffer = Buffer::default();
        let broken = self.broken.cancelled();
        let look = self.look.notified();
        tokio::pin!(broken, look);
        loop {
            let more = std::future::poll_fn(|context| {
                if broken.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Err(BROKE));
                }
                while look.as_mut().poll(context).is_ready() {
                    look.set(self.look.notified());
                }
                if self.poked.swap(false, Ordering::AcqRel) {
                    return Poll::Ready(Ok(None));
                }
                if self.blocked.load(Ordering::Acquire)
                    && let Poll::Ready(Err(_)) = self.poll_write(context)
                {
                    return Poll::Ready(Err(BROKE));
                }
                self.poll_read(context, &mut buffer).map_ok(Some)
            });
            match more.await {
                Err(reason) => return reason,
                Ok(None) => sink.poked(),
                Ok(Some(more)) => {
                    if let Err(reason) = self.take_frames(&mut buffer, sink) {
                        return reason;
                    }
                    if more {
                        // Whoever is to deliver what was just handed on gets a turn.
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }

    /// Reads once. True if there may be more.
    fn poll_read(&self, context: &mut Context<'_>, buffer: &mut Buffer) -> Poll<Result<bool, &'static str>> {
        let room = buffer.room();
        let asked = room.len();
        match ready!(self.socket.poll_read(context, room)) {
            Ok(0) | Err(_) => Poll::Ready(Err("disconnected")),
            Ok(count) => {
                self.heard.fetch_add(1, Ordering::Relaxed);
                buffer.end += count;
                Poll::Ready(Ok(self.socket.may_have_more(count, asked)))
            }
        }
    }

    /// Writes what was left unsent, until the socket takes no more.
    fn poll_write(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.socket.poll_write_ready(context))?;
            let mut wire = self.wire.lock();
            if self.write(&mut wire) {
                self.blocked.store(false, Ordering::Release);
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn take_frames(&self, buffer: &mut Buffer, sink: &mut impl Sink) -> Result<(), &'static str> {
        loop {
            match resp::frame(buffer.filled()) {
                Ok(Ok((frame, length))) => {
                    match frame {
                        Frame::Message { channel, payload } => sink.message(channel, payload),
                        Frame::Push => {}
                        frame => self.answered(frame, sink)?,
                    }
                    buffer.start += length;
                }
                Ok(Err(missing)) => {
                    buffer.make_room(missing);
                    return Ok(());
                }
                Err(resp::Malformed) => return Err("what the server sends is not RESP3, or too large"),
            }
        }
    }

    fn answered(&self, frame: Frame<'_>, sink: &mut impl Sink) -> Result<(), &'static str> {
        let mut wire = self.wire.lock();
        if let Frame::Subscribed | Frame::Unsubscribed = frame {
            let confirmed = match wire.expected.front_mut() {
                Some(Expected::Confirmations { subscribe, left, then })
                    if *subscribe == (frame == Frame::Subscribed) =>
                {
                    *left -= 1;
                    if *left > 0 {
                        return Ok(());
                    }
                    then.take()
                }
                _ if frame == Frame::Subscribed => return Ok(()),
                _ => {
                    return Err("the server ended a subscription");
                }
            };
            wire.expected.pop_front();
            drop(wire);
            if let Some(then) = confirmed {
                // An error only means that the caller gave up.
                let _ = then.send(Ok(Vec::new()));
            }
            return Ok(());
        }
        let expected = wire.expected.pop_front();
        drop(wire);
        match (expected, frame) {
            (Some(Expected::Published(sent)), Frame::Error(reason)) => sink.answered(sent, Err(reason)),
            (Some(Expected::Published(sent)), _) => sink.answered(sent, Ok(())),
            // A refusal is all there is; a confirmation is a push.
            (Some(Expected::Confirmations { then: Some(then), .. }), Frame::Error(reason)) => {
                let _ = then.send(Err(String::from_utf8_lossy(reason).into_owned()));
            }
            (Some(Expected::Answer(then)), frame) => {
                let outcome = match frame {
                    Frame::Error(reason) => Err(String::from_utf8_lossy(reason).into_owned()),
                    Frame::Answer(answer) => Ok(answer.to_vec()),
                    _ => Ok(Vec::new()),
                };
                let _ = then.send(outcome);
            }
            (Some(Expected::Confirmations { .. }) | None, _) => {
                return Err("the server answers what it was not asked");
            }
        }
        Ok(())
    }
}

/// What is said where nobody knows more.
pub(crate) const BROKE: &str = "connection broke";

/// What was read and is not taken yet: `bytes[start..end]`.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Where to read to. Never empty.
    fn room(&mut self) -> &mut [u8] {
        if self.end == self.bytes.len() {
            self.bytes.resize(self.end + READ_BYTES, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// Moves the beginning of a frame to the front, and has room for what is missing of it, as far as that is known.
    fn make_room(&mut self, missing: usize) {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let wanted = (self.end + missing).max(READ_BYTES);
        if self.bytes.len() < wanted {
            self.bytes.resize(wanted, 0);
        } else if wanted <= READ_BYTES && self.bytes.len() > READ_BYTES {
            // The large message is over.
            self.bytes.truncate(READ_BYTES);
            self.bytes.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use tidegate_core::broker::Error;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc;
    use tokio::task::JoinSet;

    use super::*;

    /// What a sink was told, in words.
    struct Told(mpsc::Sender<String>);

    impl Told {
        fn tell(&self, what: String) {
            self.0.try_send(what).unwrap();
        }
    }

    impl Sink for Told {
        fn message(&mut self, channel: &[u8], payload: &[u8]) {
            self.tell(format!("{}: {} bytes", channel.escape_ascii(), payload.len()));
        }

        fn answered(&mut self, sent: Sent, outcome: Result<(), &[u8]>) {
            let outcome = outcome.map_err(|reason| reason.escape_ascii().to_string());
            self.tell(format!("answered {outcome:?}, last: {}", sent.last));
        }

        fn poked(&mut self) {
            self.tell("poked".to_owned());
        }

        fn broke(&mut self, reason: &'static str) {
            self.tell(format!("broke: {reason}"));
        }

        fn gave_up(&mut self, sent: Sent) {
            self.tell(format!("gave up, last: {}", sent.last));
        }
    }

    /// A line, what it tells, and the server's end.
    struct Scene {
        line: Arc<Line>,
        told: mpsc::Receiver<String>,
        server: Option<TcpStream>,
        reading: JoinSet<&'static str>,
    }

    impl Scene {
        async fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (near, far) =
                tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
            let line = Arc::new(Line::new(Stream::plain(near.unwrap())));
            let (tell, told) = mpsc::channel(16);
            let mut reading = JoinSet::new();
            reading.spawn({
                let line = Arc::clone(&line);
                async move { line.read(&mut Told(tell)).await }
            });
            Self { line, told, server: Some(far.unwrap().0), reading }
        }

        fn publish(&self, payloads: &[&[u8]]) -> Result<(), usize> {
            let last = payloads.len() - 1;
            let deadline = Instant::now() + Duration::from_secs(60);
            let batch = payloads.iter().enumerate().map(|(index, payload)| {
                ("ch", *payload, Sent { done: Some(Done::nobody()), deadline, last: index == last })
            });
            self.line.publish(batch).map_err(|refused| refused.len())
        }

        async fn heard(&mut self, expected: &[u8]) {
            let mut heard = vec![0; expected.len()];
            self.server.as_mut().unwrap().read_exact(&mut heard).await.unwrap();
            assert_eq!(heard.escape_ascii().to_string(), expected.escape_ascii().to_string());
        }

        async fn say(&mut self, bytes: &[u8]) {
            self.server.as_mut().unwrap().write_all(bytes).await.unwrap();
        }

        async fn expect(&mut self, told: &[&str]) {
            for what in told {
                assert_eq!(self.told.recv().await.unwrap(), *what);
            }
        }
    }

    #[tokio::test]
    async fn answers_find_who_asked_and_messages_pass_them() {
        let mut scene = Scene::new().await;
        scene.publish(&[b"1", b"2"]).unwrap();
        let line = Arc::clone(&scene.line);
        let ping: [&[u8]; 1] = [b"PING"];
        let mut asking = std::pin::pin!(line.ask(&ping));
        assert!(asking.as_mut().now_or_never().is_none());
        scene.heard(b"*3\r\n$7\r\nPUBLISH\r\n$2\r\nch\r\n$1\r\n1\r\n").await;
        scene.heard(b"*3\r\n$7\r\nPUBLISH\r\n$2\r\nch\r\n$1\r\n2\r\n*1\r\n$4\r\nPING\r\n").await;
        scene.say(b":1\r\n>3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$1\r\n1\r\n-NOPERM no\r\n+PO").await;
        scene
            .expect(&[
                "answered Ok(()), last: false",
                "ch: 1 bytes",
                "answered Err(\"NOPERM no\"), last: true",
            ])
            .await;
        scene.say(b"NG\r\n").await;
        assert_eq!(asking.await, Ok(b"+PONG\r\n".to_vec()));
    }

    #[tokio::test]
    async fn a_subscription_is_confirmed_by_its_last_channel() {
        let mut scene = Scene::new().await;
        let line = Arc::clone(&scene.line);
        let channels = ["a".to_owned(), "b".to_owned()];
        let mut both = std::pin::pin!(line.subscribe(true, &channels));
        assert!(both.as_mut().now_or_never().is_none());
        scene.publish(&[b"x"]).unwrap();
        scene.heard(b"*3\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n$1\r\nb\r\n").await;
        scene.heard(b"*3\r\n$7\r\nPUBLISH\r\n$2\r\nch\r\n$1\r\nx\r\n").await;
        scene.say(b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n").await;
        scene.say(b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$0\r\n\r\n").await;
        scene.expect(&["a: 0 bytes"]).await;
        assert!(both.as_mut().now_or_never().is_none());
        scene.say(b">3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n:1\r\n").await;
        assert_eq!(both.await, Ok(()));
        scene.expect(&["answered Ok(()), last: true"]).await;

        // An error ends all of it.
        let (refused, ()) = tokio::join!(line.subscribe(true, &channels), scene.say(b"-NOPERM a\r\n"));
        assert_eq!(refused, Err("NOPERM a".to_owned()));
        let confirmation = b">3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0\r\n";
        let (ended, ()) = tokio::join!(line.subscribe(false, &channels[..1]), scene.say(confirmation));
        assert_eq!(ended, Ok(()));
    }

    #[tokio::test]
    async fn what_the_server_may_not_say_breaks_the_line() {
        for (said, reason) in [
            (&b">3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0\r\n"[..], "the server ended a subscription"),
            (b":1\r\n:1\r\n", "the server answers what it was not asked"),
            (b"HTTP/1.1 400\r\n", "what the server sends is not RESP3, or too large"),
        ] {
            let mut scene = Scene::new().await;
            scene.say(said).await;
            scene.expect(&[&format!("broke: {reason}")]).await;
            assert_eq!(scene.reading.join_next().await.unwrap().unwrap(), reason);
            assert!(scene.line.broken.is_cancelled());
            assert_eq!(scene.line.ask(&[b"PING"]).await, Err(BROKE.to_owned()));
        }
    }

    #[tokio::test]
    async fn what_is_on_its_way_when_the_line_breaks_is_given_up() {
        let mut scene = Scene::new().await;
        scene.publish(&[b"1", b"2"]).unwrap();
        let line = Arc::clone(&scene.line);
        let ping: [&[u8]; 1] = [b"PING"];
        let mut asking = std::pin::pin!(line.ask(&ping));
        assert!(asking.as_mut().now_or_never().is_none());
        scene.say(b":1\r\n").await;
        scene.expect(&["answered Ok(()), last: false"]).await;
        scene.server = None;
        scene.expect(&["broke: disconnected", "gave up, last: true"]).await;
        assert_eq!(asking.await, Err(BROKE.to_owned()));
        assert_eq!(scene.publish(&[b"3", b"4"]), Err(2));
    }

    #[tokio::test]
    async fn what_the_socket_does_not_take_is_sent_when_it_does() {
        let mut scene = Scene::new().await;
        // More than any socket takes at once, in both directions.
        let payload = vec![b'.'; 16 << 20];
        scene.publish(&[&payload]).unwrap();
        scene.publish(&[b"behind"]).unwrap();
        let mut head = b"*3\r\n$7\r\nPUBLISH\r\n$2\r\nch\r\n".to_vec();
        head.extend_from_slice(format!("${}\r\n", payload.len()).as_bytes());
        scene.heard(&head).await;
        scene.heard(&payload).await;
        scene.heard(b"\r\n*3\r\n$7\r\nPUBLISH\r\n$2\r\nch\r\n$6\r\nbehind\r\n").await;
        let mut message = b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n".to_vec();
        message.extend_from_slice(format!("${}\r\n", payload.len()).as_bytes());
        message.extend_from_slice(&payload);
        message.extend_from_slice(b"\r\n:1\r\n");
        scene.say(&message).await;
        scene.expect(&["a: 16777216 bytes", "answered Ok(()), last: true"]).await;
    }

    #[tokio::test]
    async fn whose_time_is_over_is_told_once() {
        let mut scene = Scene::new().await;
        let now = Instant::now();
        let (tell, mut told) = mpsc::channel(2);
        let batch = [1, 2].map(|seconds| {
            let tell = tell.clone();
            let done = Done::call(move |outcome| tell.try_send((seconds, outcome)).unwrap());
            let deadline = now + Duration::from_secs(seconds);
            ("ch", b"", Sent { done: Some(done), deadline, last: seconds == 2 })
        });
        assert!(scene.line.publish(batch.into_iter()).is_ok());
        let expire = |seconds| {
            scene
                .line
                .expire(now + Duration::from_secs(seconds), |done| done.tell(Err(Error::Unavailable)))
                .map(|next| (next - now).as_secs())
        };
        assert_eq!(expire(0), Some(1));
        assert_eq!(expire(1), Some(2));
        assert_eq!(expire(1), Some(2));
        assert_eq!(told.recv().await, Some((1, Err(Error::Unavailable))));
        assert_eq!(expire(2), None);
        assert_eq!(told.recv().await, Some((2, Err(Error::Unavailable))));
        // The answers come all the same, and are nobody's.
        scene.say(b":1\r\n:1\r\n").await;
        scene.expect(&["answered Ok(()), last: false", "answered Ok(()), last: true"]).await;
        assert!(told.try_recv().is_err());
    }
}
