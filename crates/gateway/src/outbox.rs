//! The outbox: everything that leaves through one connection, and the write half itself.
//!
//! The common case costs one `send`: nothing waits, so the caller's bytes go straight to the socket, from whatever
//! task the caller runs on. Only what the socket would not take is queued, and then the connection's own task is
//! woken to write the rest, all of it in one vectored write.
//!
//! Over TLS the socket may have taken something and still hold its ciphertext, less than one record. Then it counts as
//! blocked, with a queue or without, and the connection's task lets that leave first.
//!
//! Bound: `outbox_bytes_max` bytes wait, counting a flat share per message beside its own. When a message would exceed
//! it, what the transport takes is written first; then the volatile messages that wait are dropped; if it still does
//! not fit, the connection is closed as a slow consumer. A message that alone exceeds the bound is no fault of its
//! receiver's: it is taken by an empty outbox and otherwise dropped. All of it is counted.

mod queue;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::task::Context;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tidegate_core::DisconnectReason;
use tokio::sync::oneshot;

pub(crate) use queue::{Binary, SLICES_MAX};
use queue::{ITEM_WEIGHT, Item, Queue, Sent, UNSENT_WEIGHT_MAX};

use crate::message::Message;
use crate::metrics::Metrics;
use crate::reactor::{Reactor, Readiness};
use crate::socket::Socket;

/// What a message that waits for a poll weighs beside its bytes, about: it is kept whole until it is known which
/// transport fetches it.
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

/// There is one for every connection: with the counts of its `Arc` it fits 160 bytes of the allocator.
const _: () = assert!(size_of::<Outbox>() <= 128);

/// The one way out of a connection. The hub, the timer and the drain hold outboxes and never connections.
pub(crate) struct Outbox {
    state: Mutex<State>,
    waker: AtomicWaker,
    tick: AtomicBool,
    /// See [`Outbox::send_away`].
    leaving: AtomicBool,
    /// What the socket is ready for, if the reactor waits for it.
    readiness: Readiness,
    /// Something for the connection's courier.
    news: AtomicBool,
    /// Joins that are not answered yet.
    joins: AtomicU32,
    terms: Arc<Terms>,
}

/// What the outboxes of a node have in common.
pub(crate) struct Terms {
    /// Most that waits in one of them.
    bytes_max: usize,
    metrics: Arc<Metrics>,
    /// What waits for their sockets.
    reactor: Arc<Reactor>,
}

impl Terms {
    pub(crate) fn new(bytes_max: usize, metrics: Arc<Metrics>, reactor: Arc<Reactor>) -> Arc<Self> {
        Arc::new(Self { bytes_max, metrics, reactor })
    }
}

impl Terms {
    /// Closes a socket, if there is one.
    fn retire(&self, socket: &mut Option<Socket>) {
        if let Some(place) = socket.take().and_then(|socket| socket.place()) {
            self.reactor.leave(place);
        }
    }
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
    /// There before the transport is a WebSocket, and until its connection lets go of it: an outbox may live longer.
    socket: Option<Socket>,
    /// What waits, in bytes, flat shares included.
    bytes: usize,
    /// Volatile messages among what waits.
    volatile: u32,
    /// What was ever queued, in bytes likewise: what is taken and does not wait any more has left.
    taken: u64,
    /// Somebody waits for something to leave.
    watched: bool,
    /// The socket refused bytes; the connection's task waits for it to take more.
    blocked: bool,
    /// Somebody who appends flushes soon, so nobody writes meanwhile: a fan-out with this outbox in its list, or the
    /// connection's own task between two messages of its client.
    dirty: bool,
    closed: Option<DisconnectReason>,
}

/// An idle connection has no queue.
enum Transport {
    WebSocket { binary: Binary, queue: Option<Box<Queue>> },
    Polling(Box<Polling>),
    Gone,
}

/// What waits for a polling client, and the poll that waits for it.
#[derive(Default)]
struct Polling {
    queue: VecDeque<Message>,
    waiting: Option<oneshot::Sender<Bytes>>,
}

impl State {
    /// Whether nothing waits, nor is left in the socket's own hands.
    fn has_left(&self) -> bool {
        self.bytes == 0 && !self.is_clogged()
    }

    fn is_clogged(&self) -> bool {
        self.socket.as_ref().is_some_and(Socket::is_clogged)
    }
}

/// The socket of a transport that is a WebSocket.
fn live(socket: &Option<Socket>) -> &Socket {
    socket.as_ref().expect("it is set before the transport is a WebSocket, and taken after that is gone")
}

impl Outbox {
    pub(crate) fn websocket(socket: Socket, binary: Binary, terms: Arc<Terms>) -> Arc<Self> {
        let this = Arc::new(Self::new(Transport::Gone, terms));
        // What has arrived already is noted at once, and there must be somewhere to note it.
        this.take_socket(&mut this.state.lock(), socket, binary, None, &Arc::downgrade(&this));
        this
    }

    pub(crate) fn polling(terms: Arc<Terms>) -> Self {
        Self::new(Transport::Polling(Box::default()), terms)
    }

    fn new(transport: Transport, terms: Arc<Terms>) -> Self {
        Self {
            state: Mutex::new(State {
                transport,
                socket: None,
                bytes: 0,
                volatile: 0,
                taken: 0,
                watched: false,
                blocked: false,
                dirty: false,
                closed: None,
            }),
            waker: AtomicWaker::new(),
            tick: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            readiness: Readiness::new(),
            news: AtomicBool::new(false),
            joins: AtomicU32::new(0),
            terms,
        }
    }

    /// Becomes the one way to the client at the other end of `socket`. If the kernel cannot watch that, the connection is
    /// over.
    fn take_socket(
        &self,
        state: &mut State,
        socket: Socket,
        binary: Binary,
        queue: Option<Box<Queue>>,
        this: &Weak<Self>,
    ) {
        match socket.watched(&self.terms.reactor, Weak::clone(this)) {
            Ok(socket) => {
                state.socket = Some(socket);
                state.transport = Transport::WebSocket { binary, queue };
            }
            Err(error) => {
                tracing::warn!(%error, "failed to watch a client's socket");
                state.transport = Transport::Gone;
                self.close_state(state, DisconnectReason::TransportError);
            }
        }
    }

    /// What the reactor notes of its socket.
    pub(crate) fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// The socket is ready for something, says the reactor.
    pub(crate) fn wake_ready(&self, noted: u8) {
        // Who was told and has not looked yet need not be told again: it may have something else to wait for.
        if self.readiness.note(noted) != 0 {
            self.waker.wake();
        }
    }

    /// Its socket, which is in `place` at the reactor, takes no more: has it noted when it does again.
    ///
    /// # Errors
    /// When the kernel has no room for that.
    pub(crate) fn watch_writes(&self, socket: &TcpStream, place: u32) -> io::Result<()> {
        self.terms.reactor.watch_writes(socket, place)
    }

    /// Reads what a client on a WebSocket has sent, at most a buffer full; nothing is the end. For its connection's task
    /// only.
    pub(crate) fn poll_read(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> std::task::Poll<io::Result<usize>> {
        // Before the look at what is noted.
        self.register(context);
        match &self.state.lock().socket {
            Some(socket) => socket.poll_read(context, buffer),
            None => std::task::Poll::Ready(Ok(0)),
        }
    }

    /// Closes the socket, whoever holds the outbox still. The last thing that a connection does.
    pub(crate) fn let_go(&self) {
        let mut state = self.state.lock();
        state.transport = Transport::Gone;
        self.terms.retire(&mut state.socket);
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
            Transport::WebSocket { binary, queue } => {
                if queue.is_none() && !state.blocked && !state.dirty {
                    let bytes = binary.form(message);
                    match live(&state.socket).write(bytes) {
                        Ok(written) if written == bytes.len() => {
                            self.wait_if_clogged(state);
                            return Pushed::Taken;
                        }
                        Ok(written) => {
                            let rest = Item { bytes: bytes.slice(written..), volatile: false, started: true };
                            state.bytes += rest.weight();
                            state.taken += rest.weight() as u64;
                            self.terms.metrics.outbox_grew(rest.weight());
                            queue.get_or_insert_default().push(rest);
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
            Transport::Polling(polling) => {
                // If the poll went away between two looks, the message waits for the next.
                if polling.queue.is_empty()
                    && !state.dirty
                    && let Some(poll) = polling.waiting.take()
                    && poll.send(message.polling().clone()).is_ok()
                {
                    return Pushed::Taken;
                }
                self.append_state(state, message)
            }
            Transport::Gone => Pushed::Closed,
        }
    }

    /// What a socket over TLS has taken may still be there.
    fn wait_if_clogged(&self, state: &mut State) {
        if live(&state.socket).is_clogged() {
            state.blocked = true;
            self.waker.wake();
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
                self.terms.metrics.dropped("volatile", 1);
                return Pushed::Dropped;
            }
            Transport::WebSocket { binary, .. } => binary.form(message).len() + ITEM_WEIGHT,
            Transport::Polling(_) => message.polling().len() + MESSAGE_WEIGHT,
            Transport::Gone => return Pushed::Closed,
        };
        if state.bytes + weight > self.terms.bytes_max
            && let Some(refused) = self.make_room(state, weight, volatile)
        {
            return refused;
        }
        state.bytes += weight;
        state.taken += weight as u64;
        state.volatile += u32::from(volatile);
        self.terms.metrics.outbox_grew(weight);
        match &mut state.transport {
            Transport::WebSocket { binary, queue, .. } => {
                queue.get_or_insert_default().push(Item::whole(binary.form(message).clone(), volatile));
            }
            Transport::Polling(polling) => polling.queue.push_back(message.clone()),
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
        if volatile && state.blocked {
            self.terms.metrics.dropped("volatile", 1);
            return Some(Pushed::Dropped);
        }
        if state.bytes == 0 || state.bytes + weight <= self.terms.bytes_max {
            return None;
        }
        self.drop_volatile(state);
        if state.bytes == 0 || state.bytes + weight <= self.terms.bytes_max {
            return None;
        }
        if volatile {
            self.terms.metrics.dropped("volatile", 1);
            return Some(Pushed::Dropped);
        }
        if weight > self.terms.bytes_max {
            self.terms.metrics.dropped("too_large", 1);
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
            Transport::WebSocket { queue, .. } => {
                if let Some(waiting) = queue {
                    (messages, bytes) = waiting.drop_volatile();
                    if waiting.is_empty() {
                        *queue = None;
                    }
                }
            }
            Transport::Polling(polling) => polling.queue.retain(|message| {
                if message.is_volatile() {
                    messages += 1;
                    bytes += message.polling().len() + MESSAGE_WEIGHT;
                }
                !message.is_volatile()
            }),
            Transport::Gone => {}
        }
        state.bytes -= bytes;
        // It has not left.
        state.taken -= bytes as u64;
        self.terms.metrics.outbox_shrank(bytes);
        self.terms.metrics.dropped("volatile", messages);
    }

    /// Writes what waits, as far as the transport takes it.
    pub(crate) fn flush(&self) {
        let mut state = self.state.lock();
        state.dirty = false;
        self.flush_state(&mut state);
    }

    fn flush_state(&self, state: &mut State) {
        match &mut state.transport {
            Transport::WebSocket { queue, .. } => {
                let mut failed = false;
                loop {
                    let waiting = queue.as_deref_mut().filter(|waiting| !waiting.is_empty());
                    let written = match waiting {
                        Some(waiting) => waiting.write(live(&state.socket)),
                        None if live(&state.socket).is_clogged() => {
                            live(&state.socket).flush().map(|()| Sent::default())
                        }
                        None => break,
                    };
                    match written {
                        Ok(sent) => {
                            state.bytes -= sent.weight;
                            state.volatile -= sent.volatile;
                            self.terms.metrics.outbox_shrank(sent.weight);
                            if state.watched {
                                self.wake_news();
                            }
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
                if state.watched {
                    // A read may have taken along what was left.
                    self.wake_news();
                }
                // A connection that has caught up owns no queue, and neither does one that is lost.
                *queue = None;
                if failed {
                    self.terms.metrics.outbox_shrank(state.bytes);
                    state.bytes = 0;
                    state.volatile = 0;
                    self.close_state(state, DisconnectReason::TransportError);
                }
            }
            Transport::Polling(polling) => {
                if polling.queue.is_empty() {
                    return;
                }
                // A poll that went away meanwhile leaves what waits for the next, or for the WebSocket.
                if let Some(poll) = polling.waiting.take()
                    && poll.send(payload(&polling.queue)).is_ok()
                {
                    polling.queue = VecDeque::new();
                    self.emptied(state);
                }
            }
            Transport::Gone => {}
        }
    }

    /// A poll has fetched everything.
    fn emptied(&self, state: &mut State) {
        self.terms.metrics.outbox_shrank(state.bytes);
        state.bytes = 0;
        state.volatile = 0;
        if state.watched {
            self.wake_news();
        }
        if state.closed.is_some() {
            // Its task waits for that.
            self.waker.wake();
        }
    }

    /// One GET of the polling transport.
    pub(crate) fn poll(&self) -> Poll {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Transport::Polling(polling) = &mut state.transport else {
            return Poll::Gone;
        };
        let Polling { queue, waiting } = &mut **polling;
        if waiting.as_ref().is_some_and(|poll| !poll.is_closed()) {
            return Poll::Overlap;
        }
        if !queue.is_empty() {
            let payload = payload(queue);
            *queue = VecDeque::new();
            self.emptied(state);
            return Poll::Ready(payload);
        }
        let (sender, receiver) = oneshot::channel();
        *waiting = Some(sender);
        Poll::Pending(receiver)
    }

    /// Answers a pending poll with `message` alone. Without one, nothing happens.
    pub(crate) fn answer_poll(&self, message: &Message) {
        if let Transport::Polling(polling) = &mut self.state.lock().transport
            && let Some(poll) = polling.waiting.take()
        {
            let _ = poll.send(message.polling().clone());
        }
    }

    /// Moves what waits from polling to the WebSocket that the client upgraded to. A poll that is still pending is
    /// answered with `noop`.
    pub(crate) fn upgrade(self: &Arc<Self>, socket: Socket, binary: Binary, noop: &Message) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Transport::Polling(polling) = &mut state.transport else {
            return;
        };
        if let Some(poll) = polling.waiting.take() {
            let _ = poll.send(noop.polling().clone());
        }
        self.terms.metrics.outbox_shrank(state.bytes);
        // What has left so far; the same messages weigh differently from here on.
        let left = state.taken - state.bytes as u64;
        let mut queue = Queue::default();
        for message in &polling.queue {
            queue.push(Item::whole(binary.form(message).clone(), message.is_volatile()));
        }
        state.bytes = queue.weight();
        state.taken = left + state.bytes as u64;
        self.terms.metrics.outbox_grew(state.bytes);
        let queue = (!queue.is_empty()).then(|| Box::new(queue));
        self.take_socket(state, socket, binary, queue, &Arc::downgrade(self));
        self.flush_state(state);
    }

    /// Ends the connection: nothing more is taken, and its task is woken to leave. The first reason stays.
    pub(crate) fn close(&self, reason: DisconnectReason) {
        let mut state = self.state.lock();
        self.close_state(&mut state, reason);
    }

    /// Has the connection end as soon as its client has been told what became of all that it began. It hears nothing of its
    /// client any more until then, and takes what others have for it.
    pub(crate) fn send_away(&self) {
        self.leaving.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether the connection is to end so.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
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
        self.terms.metrics.outbox_shrank(state.bytes);
        state.bytes = 0;
        state.volatile = 0;
        match &mut state.transport {
            Transport::WebSocket { queue, .. } => {
                if let Some(rest) = queue.take().and_then(|mut waiting| waiting.take_started()) {
                    state.bytes = rest.weight();
                    self.terms.metrics.outbox_grew(state.bytes);
                    queue.get_or_insert_default().push(rest);
                }
            }
            Transport::Polling(polling) => polling.queue = VecDeque::new(),
            Transport::Gone => {}
        }
    }

    /// Holds writes back until [`Outbox::flush`], which the caller must call: what its client sent in one go is
    /// answered in one go.
    pub(crate) fn cork(&self) {
        self.state.lock().dirty = true;
    }

    /// One more message of a connection that is ending, taken even though the outbox is closed.
    pub(crate) fn push_parting(&self, message: &Message) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let weight = match &mut state.transport {
            Transport::WebSocket { binary, queue, .. } => {
                let item = Item::whole(binary.form(message).clone(), false);
                let weight = item.weight();
                queue.get_or_insert_default().push(item);
                weight
            }
            Transport::Polling(polling) => {
                polling.queue.push_back(message.clone());
                message.polling().len() + MESSAGE_WEIGHT
            }
            Transport::Gone => return,
        };
        state.bytes += weight;
        self.terms.metrics.outbox_grew(weight);
        self.flush_state(state);
    }

    /// The last message of a connection, taken even though the outbox is closed. Returns whether everything has
    /// left; if not, the connection's task goes on flushing for a while.
    pub(crate) fn push_last(&self, websocket: Bytes, last: &Message, idle: &Message) -> bool {
        let mut state = self.state.lock();
        let state = &mut *state;
        match &mut state.transport {
            Transport::WebSocket { queue, .. } => {
                let last = Item::whole(websocket, false);
                state.bytes += last.weight();
                self.terms.metrics.outbox_grew(last.weight());
                queue.get_or_insert_default().push(last);
                self.flush_state(state);
                state.has_left()
            }
            Transport::Polling(polling) => {
                let Polling { queue, waiting } = &mut **polling;
                if waiting.as_ref().is_none_or(oneshot::Sender::is_closed) {
                    *waiting = None;
                    queue.push_back(idle.clone());
                }
                queue.push_back(last.clone());
                self.terms.metrics.outbox_shrank(state.bytes);
                state.bytes = queue.iter().map(|message| message.polling().len() + MESSAGE_WEIGHT).sum();
                self.terms.metrics.outbox_grew(state.bytes);
                self.flush_state(state);
                state.bytes == 0
            }
            Transport::Gone => true,
        }
    }

    /// Gives up the transport and everything that still waits for it.
    pub(crate) fn abandon(&self) {
        let mut state = self.state.lock();
        self.terms.metrics.outbox_shrank(state.bytes);
        state.bytes = 0;
        if let Transport::WebSocket { .. } = std::mem::replace(&mut state.transport, Transport::Gone) {
            live(&state.socket).finish();
        }
    }

    /// Whether nothing waits.
    pub(crate) fn is_drained(&self) -> bool {
        self.state.lock().has_left()
    }

    /// Whether something of this size, in bytes, may be added that need not leave now: half of the bound is for what
    /// must. One that is larger than that has room where nothing waits.
    pub(crate) fn has_room_for(&self, bytes: usize) -> bool {
        let state = self.state.lock();
        state.bytes == 0 || state.bytes + bytes <= self.terms.bytes_max / 2
    }

    /// A mark behind everything that was pushed so far; see [`Outbox::has_written`].
    pub(crate) fn taken(&self) -> u64 {
        self.state.lock().taken
    }

    /// Whether everything before the mark was taken by the transport. It may say so late, never early.
    pub(crate) fn has_written(&self, mark: u64) -> bool {
        let state = self.state.lock();
        let taken = state.taken - state.bytes as u64;
        let unsent = if state.is_clogged() { UNSENT_WEIGHT_MAX as u64 } else { 0 };
        state.closed.is_none() && (state.has_left() || taken >= mark + unsent)
    }

    /// Wakes the courier once something has left, or now if nothing waits.
    pub(crate) fn watch(&self) {
        let mut state = self.state.lock();
        state.watched = true;
        if state.has_left() {
            self.wake_news();
        }
    }

    /// The courier need not be woken any more.
    pub(crate) fn unwatch(&self) {
        self.state.lock().watched = false;
    }

    /// Wakes the connection's courier.
    pub(crate) fn wake_news(&self) {
        self.news.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether there is something for the courier.
    pub(crate) fn has_news(&self) -> bool {
        self.news.load(Ordering::Acquire)
    }

    pub(crate) fn take_news(&self) -> bool {
        // Most looks find nothing, and a write is what makes other cores read again.
        self.has_news() && self.news.swap(false, Ordering::AcqRel)
    }

    /// Whether the client is on a WebSocket now.
    pub(crate) fn is_websocket(&self) -> bool {
        matches!(self.state.lock().transport, Transport::WebSocket { .. })
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
            let Transport::WebSocket { .. } = &state.transport else {
                return;
            };
            // Before the look at what is noted.
            self.register(context);
            match live(&state.socket).poll_write_ready(context) {
                std::task::Poll::Pending => return,
                std::task::Poll::Ready(()) => {
                    state.blocked = false;
                    self.flush_state(state);
                }
            }
        }
    }
}

#[cfg(test)]
impl Outbox {
    /// Whether somebody is to flush it.
    pub(crate) fn is_dirty(&self) -> bool {
        self.state.lock().dirty
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        self.terms.metrics.outbox_shrank(state.bytes);
        self.terms.retire(&mut state.socket);
    }
}

/// Everything that waits, as one payload.
fn payload(queue: &VecDeque<Message>) -> Bytes {
    if let [only] = queue.as_slices().0
        && queue.len() == 1
    {
        return only.polling().clone();
    }
    let mut payload = Vec::with_capacity(queue.iter().map(|message| message.polling().len() + 1).sum());
    for message in queue {
        if !payload.is_empty() {
            payload.push(tidegate_protocol::engineio::payload::SEPARATOR);
        }
        payload.extend_from_slice(message.polling());
    }
    payload.into()
}
