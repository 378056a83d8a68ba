//! The outbox: everything that leaves through one connection, and the write half itself.
//!
//! The common case costs one `send`: nothing waits, so the caller's bytes go straight to the socket, from whatever
//! task the caller runs on. Only what the socket would not take is queued, and then the connection's own task is
//! woken to write the rest, all of it in one vectored write.
//!
//! Bound: `outbox_bytes_max` bytes wait, counting a flat share per message beside its own. When a message would exceed
//! it, what the transport takes is written first; then the volatile messages that wait are dropped; if it still does
//! not fit, the connection is closed as a slow consumer. A message that alone exceeds the bound is no fault of its
//! receiver's: it is taken by an empty outbox and otherwise dropped. All of it is counted.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::Context;

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tidegate_core::DisconnectReason;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::oneshot;

use crate::message::Message;
use crate::metrics::Metrics;

/// Slices of one vectored write. The kernel takes 1,024; past 64 the gain per message is lost in the noise, and the
/// array must fit a stack frame.
const SLICES_MAX: usize = 64;

/// What a message that waits weighs beside its bytes, about: its place in the queue, and on polling, where messages are
/// kept whole until it is known which transport fetches them, the message itself.
const ITEM_WEIGHT: usize = 64;
const MESSAGE_WEIGHT: usize = 320;

/// What one push did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// Written out or waiting to be.
    Taken,
    /// A volatile message that could not leave at once.
    Dropped,
    /// The outbox is closed.
    Closed,
}

/// How a poll ended.
pub(crate) enum Poll {
    /// What waited, as a payload.
    Ready(Bytes),
    /// Nothing waits; the payload comes through here. The sender is dropped when the connection ends.
    Pending(oneshot::Receiver<Bytes>),
    /// Another poll is pending already.
    Overlap,
    /// This is not a polling connection, or it is over.
    Gone,
}

/// The one way out of a connection. The hub, the timer and the drain hold outboxes and never connections.
pub(crate) struct Outbox {
    state: Mutex<State>,
    waker: AtomicWaker,
    tick: AtomicBool,
    /// Joins that are not answered yet.
    joins: AtomicU32,
    bytes_max: usize,
    metrics: Arc<Metrics>,
}

/// A join of this connection's client that is not answered yet. When the last one is dropped, the connection's task
/// is woken to go on.
pub(crate) struct PendingJoin(Arc<Outbox>);

impl PendingJoin {
    pub(crate) fn new(outbox: &Arc<Outbox>) -> Self {
        outbox.joins.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(outbox))
    }
}

impl Drop for PendingJoin {
    fn drop(&mut self) {
        if self.0.joins.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.waker.wake();
        }
    }
}

struct State {
    transport: Transport,
    /// What waits, in bytes, flat shares included.
    bytes: usize,
    /// Volatile messages among what waits.
    volatile: usize,
    /// The socket refused bytes; the connection's task waits for it to take more.
    blocked: bool,
    /// Somebody who appends flushes soon, so nobody writes meanwhile: a fan-out with this outbox in its list, or the
    /// connection's own task between two messages of its client.
    dirty: bool,
    closed: Option<DisconnectReason>,
}

enum Transport {
    WebSocket { stream: OwnedWriteHalf, binary: Binary, queue: VecDeque<Item> },
    Polling { queue: VecDeque<Message>, waiting: Option<oneshot::Sender<Bytes>> },
    Gone,
}

/// How a client on a WebSocket takes binary messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binary {
    Frames,
    /// As base64 in text frames, which is what `b64=1` in its query asks for.
    Base64,
}

impl Binary {
    fn form(self, message: &Message) -> &Bytes {
        match self {
            Self::Frames => message.websocket(),
            Self::Base64 => message.websocket_text(),
        }
    }
}

struct Item {
    bytes: Bytes,
    /// May still be dropped: volatile, and no byte of it has left.
    volatile: bool,
    /// Some bytes of it have left, so the rest must follow before anything else can.
    started: bool,
}

impl Item {
    fn whole(bytes: Bytes, volatile: bool) -> Self {
        Self { bytes, volatile, started: false }
    }

    fn weight(&self) -> usize {
        self.bytes.len() + ITEM_WEIGHT
    }
}

impl Outbox {
    pub(crate) fn websocket(
        stream: OwnedWriteHalf,
        binary: Binary,
        bytes_max: usize,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self::new(Transport::WebSocket { stream, binary, queue: VecDeque::new() }, bytes_max, metrics)
    }

    pub(crate) fn polling(bytes_max: usize, metrics: Arc<Metrics>) -> Self {
        Self::new(Transport::Polling { queue: VecDeque::new(), waiting: None }, bytes_max, metrics)
    }

    fn new(transport: Transport, bytes_max: usize, metrics: Arc<Metrics>) -> Self {
        Self {
            state: Mutex::new(State {
                transport,
                bytes: 0,
                volatile: 0,
                blocked: false,
                dirty: false,
                closed: None,
            }),
            waker: AtomicWaker::new(),
            tick: AtomicBool::new(false),
            joins: AtomicU32::new(0),
            bytes_max,
            metrics,
        }
    }

    /// Sends a message: at once if nothing waits before it, else after what waits.
    pub(crate) fn push(&self, message: &Message) -> Pushed {
        self.push_state(&mut self.state.lock(), message)
    }

    fn push_state(&self, state: &mut State, message: &Message) -> Pushed {
        if state.closed.is_some() {
            return Pushed::Closed;
        }
        match &mut state.transport {
            Transport::WebSocket { stream, binary, queue } => {
                if queue.is_empty() && !state.blocked && !state.dirty {
                    let bytes = binary.form(message);
                    match stream.try_write(bytes) {
                        Ok(written) if written == bytes.len() => return Pushed::Taken,
                        Ok(written) => {
                            let rest = Item { bytes: bytes.slice(written..), volatile: false, started: true };
                            state.bytes += rest.weight();
                            self.metrics.outbox_grew(rest.weight());
                            queue.push_back(rest);
                            state.blocked = true;
                            self.waker.wake();
                            return Pushed::Taken;
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            state.blocked = true;
                            self.waker.wake();
                        }
                        Err(_) => {
                            self.close_state(state, DisconnectReason::TransportError);
                            return Pushed::Closed;
                        }
                    }
                }
                self.append_state(state, message)
            }
            Transport::Polling { queue, waiting } => {
                if queue.is_empty()
                    && !state.dirty
                    && let Some(poll) = waiting.take()
                {
                    match poll.send(message.polling().clone()) {
                        Ok(()) => return Pushed::Taken,
                        // The poll went away between two looks; the message waits for the next.
                        Err(_) => *waiting = None,
                    }
                }
                self.append_state(state, message)
            }
            Transport::Gone => Pushed::Closed,
        }
    }

    /// Runs `first` and sends `message`, and nothing can be sent between the two. `first` must not touch this
    /// outbox.
    pub(crate) fn push_after<T>(&self, message: &Message, first: impl FnOnce() -> T) -> T {
        let mut state = self.state.lock();
        let result = first();
        self.push_state(&mut state, message);
        result
    }

    /// Queues a message without writing. Returns whether the caller must [`Outbox::flush`] later; it need not when
    /// somebody else already will.
    pub(crate) fn append(&self, message: &Message) -> bool {
        let mut state = self.state.lock();
        if state.closed.is_some() {
            return false;
        }
        let state = &mut *state;
        if self.append_state(state, message) != Pushed::Taken || state.blocked || state.dirty {
            return false;
        }
        state.dirty = true;
        true
    }

    fn append_state(&self, state: &mut State, message: &Message) -> Pushed {
        let volatile = message.is_volatile();
        let weight = match &state.transport {
            Transport::WebSocket { .. } if volatile && state.blocked => {
                self.metrics.dropped("volatile", 1);
                return Pushed::Dropped;
            }
            Transport::WebSocket { binary, .. } => binary.form(message).len() + ITEM_WEIGHT,
            Transport::Polling { .. } => message.polling().len() + MESSAGE_WEIGHT,
            Transport::Gone => return Pushed::Closed,
        };
        if state.bytes + weight > self.bytes_max
            && let Some(refused) = self.make_room(state, weight, volatile)
        {
            return refused;
        }
        state.bytes += weight;
        state.volatile += usize::from(volatile);
        self.metrics.outbox_grew(weight);
        match &mut state.transport {
            Transport::WebSocket { binary, queue, .. } => {
                queue.push_back(Item::whole(binary.form(message).clone(), volatile));
            }
            Transport::Polling { queue, .. } => queue.push_back(message.clone()),
            Transport::Gone => {}
        }
        Pushed::Taken
    }

    /// Makes room for a message that would exceed the bound, or says what becomes of it.
    fn make_room(&self, state: &mut State, weight: usize, volatile: bool) -> Option<Pushed> {
        if !state.blocked {
            // A batch is appended before anything of it is written; its receiver may be quick all the same.
            self.flush_state(state);
        }
        if state.closed.is_some() {
            return Some(Pushed::Closed);
        }
        if state.bytes == 0 || state.bytes + weight <= self.bytes_max {
            return None;
        }
        self.drop_volatile(state);
        if state.bytes == 0 || state.bytes + weight <= self.bytes_max {
            return None;
        }
        if volatile {
            self.metrics.dropped("volatile", 1);
            return Some(Pushed::Dropped);
        }
        if weight > self.bytes_max {
            self.metrics.dropped("too_large", 1);
            return Some(Pushed::Dropped);
        }
        self.close_state(state, DisconnectReason::SlowConsumer);
        Some(Pushed::Closed)
    }

    fn drop_volatile(&self, state: &mut State) {
        if state.volatile == 0 {
            return;
        }
        state.volatile = 0;
        let (mut messages, mut bytes) = (0, 0);
        match &mut state.transport {
            Transport::WebSocket { queue, .. } => queue.retain(|item| {
                if item.volatile {
                    messages += 1;
                    bytes += item.weight();
                }
                !item.volatile
            }),
            Transport::Polling { queue, .. } => queue.retain(|message| {
                if message.is_volatile() {
                    messages += 1;
                    bytes += message.polling().len() + MESSAGE_WEIGHT;
                }
                !message.is_volatile()
            }),
            Transport::Gone => {}
        }
        state.bytes -= bytes;
        self.metrics.outbox_shrank(bytes);
        self.metrics.dropped("volatile", messages);
    }

    /// Writes what waits, as far as the transport takes it.
    pub(crate) fn flush(&self) {
        let mut state = self.state.lock();
        state.dirty = false;
        self.flush_state(&mut state);
    }

    fn flush_state(&self, state: &mut State) {
        match &mut state.transport {
            Transport::WebSocket { stream, queue, .. } => {
                let mut failed = false;
                while !queue.is_empty() {
                    match write_queue(stream, queue) {
                        Ok(sent) => {
                            state.bytes -= sent.weight;
                            state.volatile -= sent.volatile;
                            self.metrics.outbox_shrank(sent.weight);
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            if !state.blocked {
                                state.blocked = true;
                                self.waker.wake();
                            }
                            return;
                        }
                        Err(_) => {
                            failed = true;
                            break;
                        }
                    }
                }
                state.blocked = false;
                // A connection that has caught up owns no queue, and neither does one that is lost.
                *queue = VecDeque::new();
                if failed {
                    self.metrics.outbox_shrank(state.bytes);
                    state.bytes = 0;
                    state.volatile = 0;
                    self.close_state(state, DisconnectReason::TransportError);
                }
            }
            Transport::Polling { queue, waiting } => {
                if queue.is_empty() {
                    return;
                }
                if let Some(poll) = waiting.take() {
                    let payload = drain_payload(queue);
                    self.metrics.outbox_shrank(state.bytes);
                    state.bytes = 0;
                    state.volatile = 0;
                    // A poll that went away takes its payload along: its connection is closed as aborted.
                    let _ = poll.send(payload);
                }
            }
            Transport::Gone => {}
        }
    }

    /// One GET of the polling transport.
    pub(crate) fn poll(&self) -> Poll {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Transport::Polling { queue, waiting } = &mut state.transport else {
            return Poll::Gone;
        };
        if waiting.as_ref().is_some_and(|poll| !poll.is_closed()) {
            return Poll::Overlap;
        }
        if !queue.is_empty() {
            let payload = drain_payload(queue);
            self.metrics.outbox_shrank(state.bytes);
            state.bytes = 0;
            state.volatile = 0;
            if state.closed.is_some() {
                self.waker.wake();
            }
            return Poll::Ready(payload);
        }
        let (sender, receiver) = oneshot::channel();
        *waiting = Some(sender);
        Poll::Pending(receiver)
    }

    /// Answers a pending poll with `message` alone. Without one, nothing happens.
    pub(crate) fn answer_poll(&self, message: &Message) {
        if let Transport::Polling { waiting, .. } = &mut self.state.lock().transport
            && let Some(poll) = waiting.take()
        {
            let _ = poll.send(message.polling().clone());
        }
    }

    /// Moves what waits from polling to the WebSocket that the client upgraded to. A poll that is still pending is
    /// answered with `noop`.
    pub(crate) fn upgrade(&self, stream: OwnedWriteHalf, binary: Binary, noop: &Message) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Transport::Polling { queue, waiting } = &mut state.transport else {
            return;
        };
        if let Some(poll) = waiting.take() {
            let _ = poll.send(noop.polling().clone());
        }
        self.metrics.outbox_shrank(state.bytes);
        let queue: VecDeque<Item> = std::mem::take(queue)
            .iter()
            .map(|message| Item::whole(binary.form(message).clone(), message.is_volatile()))
            .collect();
        state.bytes = queue.iter().map(Item::weight).sum();
        self.metrics.outbox_grew(state.bytes);
        state.transport = Transport::WebSocket { stream, binary, queue };
        self.flush_state(state);
    }

    /// Ends the connection: nothing more is taken, and its task is woken to leave. The first reason stays.
    pub(crate) fn close(&self, reason: DisconnectReason) {
        let mut state = self.state.lock();
        self.close_state(&mut state, reason);
    }

    fn close_state(&self, state: &mut State, reason: DisconnectReason) {
        if state.closed.is_none() {
            state.closed = Some(reason);
            if matches!(reason, DisconnectReason::SlowConsumer | DisconnectReason::TransportError) {
                // Nobody will read it.
                self.discard(state);
            }
            self.waker.wake();
        }
    }

    /// Drops what waits, but for the rest of a frame that has begun to leave: a close frame may follow it.
    fn discard(&self, state: &mut State) {
        self.metrics.outbox_shrank(state.bytes);
        state.bytes = 0;
        state.volatile = 0;
        match &mut state.transport {
            Transport::WebSocket { queue, .. } => {
                let rest = std::mem::take(queue).pop_front().filter(|item| item.started);
                if let Some(rest) = rest {
                    state.bytes = rest.weight();
                    self.metrics.outbox_grew(state.bytes);
                    queue.push_back(rest);
                }
            }
            Transport::Polling { queue, .. } => *queue = VecDeque::new(),
            Transport::Gone => {}
        }
    }

    /// Holds writes back until [`Outbox::flush`], which the caller must call: what its client sent in one go is
    /// answered in one go.
    pub(crate) fn cork(&self) {
        self.state.lock().dirty = true;
    }

    /// The last message of a connection, taken even though the outbox is closed. Returns whether everything has
    /// left; if not, the connection's task goes on flushing for a while.
    pub(crate) fn push_last(&self, websocket: Bytes, polling: &Message, polling_idle: &Message) -> bool {
        let mut state = self.state.lock();
        let state = &mut *state;
        match &mut state.transport {
            Transport::WebSocket { queue, .. } => {
                let last = Item::whole(websocket, false);
                state.bytes += last.weight();
                self.metrics.outbox_grew(last.weight());
                queue.push_back(last);
                self.flush_state(state);
                state.bytes == 0
            }
            Transport::Polling { queue, waiting } => {
                if waiting.as_ref().is_none_or(oneshot::Sender::is_closed) {
                    *waiting = None;
                    queue.push_back(polling_idle.clone());
                }
                queue.push_back(polling.clone());
                self.metrics.outbox_shrank(state.bytes);
                state.bytes = queue.iter().map(|message| message.polling().len() + MESSAGE_WEIGHT).sum();
                self.metrics.outbox_grew(state.bytes);
                self.flush_state(state);
                state.bytes == 0
            }
            Transport::Gone => true,
        }
    }

    /// Gives up the transport and everything that still waits for it.
    pub(crate) fn abandon(&self) {
        let mut state = self.state.lock();
        self.metrics.outbox_shrank(state.bytes);
        state.bytes = 0;
        state.transport = Transport::Gone;
    }

    /// Whether nothing waits.
    pub(crate) fn is_drained(&self) -> bool {
        self.state.lock().bytes == 0
    }

    /// Why the connection must end, once it must.
    pub(crate) fn closed(&self) -> Option<DisconnectReason> {
        self.state.lock().closed
    }

    /// Wakes the connection's task to look at its deadlines.
    pub(crate) fn wake_tick(&self) {
        self.tick.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether every join has been answered.
    pub(crate) fn is_joined(&self) -> bool {
        self.joins.load(Ordering::Acquire) == 0
    }

    pub(crate) fn take_tick(&self) -> bool {
        self.tick.swap(false, Ordering::AcqRel)
    }

    /// The connection's task waits here: it is woken on close, on a tick, and when the socket blocked.
    pub(crate) fn register(&self, context: &Context<'_>) {
        self.waker.register(context.waker());
    }

    /// Called from the connection's task only, since a socket keeps one waker per direction: if bytes wait for the
    /// socket, arranges for a wake when it takes more, or writes at once if it does already.
    pub(crate) fn poll_flush(&self, context: &mut Context<'_>) {
        let mut state = self.state.lock();
        let state = &mut *state;
        while state.blocked {
            let Transport::WebSocket { stream, .. } = &state.transport else {
                return;
            };
            match stream.as_ref().poll_write_ready(context) {
                std::task::Poll::Pending => return,
                // An error shows in the write that follows.
                std::task::Poll::Ready(_) => {
                    state.blocked = false;
                    self.flush_state(state);
                }
            }
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.metrics.outbox_shrank(self.state.get_mut().bytes);
    }
}

/// What one write took out of a queue.
#[derive(Default)]
struct Sent {
    weight: usize,
    volatile: usize,
}

/// Writes up to [`SLICES_MAX`] items at once and removes what was taken.
fn write_queue(stream: &OwnedWriteHalf, queue: &mut VecDeque<Item>) -> io::Result<Sent> {
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let mut count = 0;
    for (slice, item) in slices.iter_mut().zip(queue.iter()) {
        *slice = IoSlice::new(&item.bytes);
        count += 1;
    }
    let written = stream.try_write_vectored(&slices[..count])?;
    if written == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    let (mut sent, mut rest) = (Sent::default(), written);
    while rest > 0 {
        let Some(front) = queue.front_mut() else { break };
        if front.volatile {
            front.volatile = false;
            sent.volatile += 1;
        }
        if rest >= front.bytes.len() {
            rest -= front.bytes.len();
            sent.weight += front.weight();
            queue.pop_front();
        } else {
            front.bytes.advance(rest);
            front.started = true;
            sent.weight += rest;
            rest = 0;
        }
    }
    Ok(sent)
}

fn drain_payload(queue: &mut VecDeque<Message>) -> Bytes {
    let queue = std::mem::take(queue);
    if let [only] = queue.as_slices().0
        && queue.len() == 1
    {
        return only.polling().clone();
    }
    let mut payload = Vec::with_capacity(queue.iter().map(|message| message.polling().len() + 1).sum());
    for message in &queue {
        if !payload.is_empty() {
            payload.push(tidegate_protocol::engineio::payload::SEPARATOR);
        }
        payload.extend_from_slice(message.polling());
    }
    payload.into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::BytesMut;
    use tidegate_protocol::socketio::{Encoded, Head};
    use tokio::io::AsyncReadExt as _;
    use tokio::net::tcp::OwnedReadHalf;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const BYTES_MAX: usize = 64 * 1024;

    fn text(text: &str, volatile: bool) -> Message {
        let head = Head::Text(Bytes::copy_from_slice(text.as_bytes()));
        Message::packet(Encoded { head, attachments: Vec::new() }, volatile)
    }

    fn metrics() -> Arc<Metrics> {
        Arc::new(Metrics::new("test", "test").unwrap())
    }

    /// An outbox on a socket, its own reading half, which must live, and the peer.
    async fn pair(metrics: &Arc<Metrics>) -> (Arc<Outbox>, OwnedReadHalf, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (read, write) = stream.into_split();
        (Arc::new(Outbox::websocket(write, Binary::Frames, BYTES_MAX, Arc::clone(metrics))), read, peer)
    }

    /// Pushes until the socket takes no more.
    fn fill(outbox: &Outbox) -> usize {
        let chunk = text(&"x".repeat(8 * 1024), false);
        let mut pushed = 0;
        while !outbox.state.lock().blocked {
            assert_eq!(outbox.push(&chunk), Pushed::Taken);
            pushed += 1;
        }
        pushed
    }

    async fn read_all(peer: &mut TcpStream, out: &mut BytesMut) {
        while let Ok(Ok(1..)) = tokio::time::timeout(Duration::from_millis(200), peer.read_buf(out)).await {}
    }

    async fn flush_when_writable(outbox: &Outbox) {
        let drained = poll_fn_drained(outbox);
        tokio::time::timeout(Duration::from_secs(5), drained).await.unwrap();
    }

    fn poll_fn_drained(outbox: &Outbox) -> impl Future<Output = ()> + '_ {
        std::future::poll_fn(move |context| {
            outbox.register(context);
            outbox.poll_flush(context);
            if outbox.is_drained() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
    }

    #[tokio::test]
    async fn what_the_socket_takes_never_waits() {
        let (outbox, _read, mut peer) = pair(&metrics()).await;
        assert_eq!(outbox.push(&text("2[\"a\"]", false)), Pushed::Taken);
        assert!(outbox.is_drained());
        let mut frame = [0; 9];
        peer.read_exact(&mut frame).await.unwrap();
        assert_eq!(&frame, b"\x81\x0742[\"a\"]");
    }

    #[tokio::test]
    async fn what_waits_leaves_in_order_and_whole() {
        let (outbox, _read, mut peer) = pair(&metrics()).await;
        let mut expected = BytesMut::new();
        let chunk = text(&"x".repeat(8 * 1024), false);
        for _ in 0..fill(&outbox) {
            expected.extend_from_slice(chunk.websocket());
        }
        for number in 0..100 {
            let message = text(&format!("2[\"n\",{number}]"), false);
            assert_eq!(outbox.push(&message), Pushed::Taken);
            expected.extend_from_slice(message.websocket());
        }
        let mut received = BytesMut::new();
        let reading = async {
            while received.len() < expected.len() {
                assert!(peer.read_buf(&mut received).await.unwrap() > 0);
            }
        };
        tokio::join!(reading, flush_when_writable(&outbox));
        assert!(received == expected, "{} bytes of {}", received.len(), expected.len());
        let state = outbox.state.lock();
        let Transport::WebSocket { queue, .. } = &state.transport else { panic!("a WebSocket") };
        assert_eq!(queue.capacity(), 0, "a connection that has caught up owns no queue");
    }

    #[tokio::test]
    async fn a_volatile_message_does_not_wait_for_a_blocked_socket() {
        let metrics = metrics();
        let (outbox, _read, _peer) = pair(&metrics).await;
        fill(&outbox);
        assert_eq!(outbox.push(&text("2[\"v\"]", true)), Pushed::Dropped);
        assert_eq!(outbox.push(&text("2[\"d\"]", false)), Pushed::Taken);
        assert!(metrics.text().unwrap().contains("tidegate_dropped_total{reason=\"volatile\"} 1"));
    }

    #[tokio::test]
    async fn a_full_outbox_drops_volatile_messages_and_then_the_connection() {
        let metrics = metrics();
        let outbox = Outbox::polling(1_600, Arc::clone(&metrics));
        assert_eq!(outbox.push(&text(&"v".repeat(600), true)), Pushed::Taken);
        assert_eq!(outbox.push(&text(&"d".repeat(600), false)), Pushed::Taken);
        assert!(metrics.text().unwrap().contains("tidegate_dropped_total{reason=\"volatile\"} 1"));
        // Another volatile one is not worth the connection, a durable one is.
        assert_eq!(outbox.push(&text(&"v".repeat(600), true)), Pushed::Dropped);
        assert_eq!(outbox.closed(), None);
        assert_eq!(outbox.push(&text(&"d".repeat(600), false)), Pushed::Closed);
        assert_eq!(outbox.closed(), Some(DisconnectReason::SlowConsumer));
        assert!(outbox.is_drained());
        assert!(metrics.text().unwrap().contains("tidegate_outbox_bytes 0"));
    }

    #[tokio::test]
    async fn a_batch_beyond_the_bound_does_not_close_a_receiver_that_keeps_up() {
        let (outbox, _read, mut peer) = pair(&metrics()).await;
        let chunk = text(&"z".repeat(20 * 1024), false);
        let reading = async {
            let mut received = BytesMut::new();
            while received.len() < 40 * chunk.websocket().len() {
                assert!(peer.read_buf(&mut received).await.unwrap() > 0);
            }
        };
        let appending = async {
            for _ in 0..40 {
                outbox.append(&chunk);
                assert_eq!(outbox.closed(), None);
                if outbox.state.lock().blocked {
                    flush_when_writable(&outbox).await;
                }
            }
            outbox.flush();
            flush_when_writable(&outbox).await;
        };
        tokio::join!(reading, appending);
    }

    #[tokio::test]
    async fn one_message_beyond_the_bound_is_not_its_receivers_fault() {
        let metrics = metrics();
        let outbox = Outbox::polling(1_000, Arc::clone(&metrics));
        assert_eq!(outbox.push(&text(&"d".repeat(2_000), false)), Pushed::Taken, "an empty outbox takes it");
        assert_eq!(outbox.push(&text(&"d".repeat(2_000), false)), Pushed::Dropped);
        assert_eq!(outbox.closed(), None);
        assert!(metrics.text().unwrap().contains("tidegate_dropped_total{reason=\"too_large\"} 1"));
    }

    #[tokio::test]
    async fn corked_messages_leave_together() {
        let (outbox, _read, mut peer) = pair(&metrics()).await;
        outbox.cork();
        outbox.push(&text("2[1]", false));
        outbox.push(&text("2[2]", false));
        assert!(!outbox.is_drained());
        outbox.flush();
        assert!(outbox.is_drained());
        outbox.push(&text("2[3]", false));
        assert!(outbox.is_drained(), "a flush takes the cork out");
        let mut received = [0; 21];
        peer.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"\x81\x0542[1]\x81\x0542[2]\x81\x0542[3]");
    }

    #[tokio::test]
    async fn a_slow_consumer_is_closed_at_its_bound() {
        let (outbox, _read, mut peer) = pair(&metrics()).await;
        fill(&outbox);
        let chunk = text(&"y".repeat(8 * 1024), false);
        let mut waiting = 0;
        while outbox.push(&chunk) == Pushed::Taken {
            waiting += 1;
            assert!(waiting <= BYTES_MAX / (8 * 1024), "more than the bound waits");
        }
        assert_eq!(outbox.closed(), Some(DisconnectReason::SlowConsumer));
        read_all(&mut peer, &mut BytesMut::new()).await;
    }

    #[tokio::test]
    async fn an_upgrade_carries_over_what_waits() {
        let metrics = metrics();
        let polling = Outbox::polling(BYTES_MAX, Arc::clone(&metrics));
        polling.push(&text("2[\"first\"]", false));
        polling.push(&text("2[\"second\"]", false));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (_read, write) = listener.accept().await.unwrap().0.into_split();
        polling.upgrade(write, Binary::Frames, &Message::engine("6"));
        polling.push(&text("2[\"third\"]", false));
        let mut received = vec![0; 2 + 11 + 2 + 12 + 2 + 11];
        peer.read_exact(&mut received).await.unwrap();
        assert_eq!(received, b"\x81\x0b42[\"first\"]\x81\x0c42[\"second\"]\x81\x0b42[\"third\"]");
        assert!(metrics.text().unwrap().contains("tidegate_outbox_bytes 0"));
    }

    #[tokio::test]
    async fn a_poll_takes_everything_that_waits_and_a_second_one_overlaps() {
        let outbox = Outbox::polling(BYTES_MAX, metrics());
        outbox.push(&text("2[1]", false));
        outbox.push(&text("2[2]", false));
        let Poll::Ready(payload) = outbox.poll() else { panic!("something waits") };
        assert_eq!(payload, "42[1]\u{1e}42[2]");
        let Poll::Pending(pending) = outbox.poll() else { panic!("nothing waits") };
        assert!(matches!(outbox.poll(), Poll::Overlap));
        outbox.push(&text("2[3]", false));
        assert_eq!(pending.await.unwrap(), "42[3]");
    }

    #[tokio::test]
    async fn a_batch_is_appended_and_flushed_once() {
        let (outbox, _read, mut peer) = pair(&metrics()).await;
        assert!(outbox.append(&text("2[1]", false)), "the first of a batch asks for a flush");
        assert!(!outbox.append(&text("2[2]", false)), "the second need not");
        assert!(!outbox.is_drained());
        outbox.flush();
        assert!(outbox.is_drained());
        let mut received = [0; 14];
        peer.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"\x81\x0542[1]\x81\x0542[2]");
    }
}
