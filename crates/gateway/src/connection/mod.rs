//! A connection's life, on whichever transport: one task, one loop, one exit.
//!
//! Layout: this file holds the loop and the deadlines, `input` what arrives, `packet` and `plain` what it means in either
//! protocol, `entry` how a session begins, `ask` what it may then ask for, `courier` what is fetched from inboxes,
//! `ending` the exit and `close` what it is called. The loop is one hand-written poll, so that an idle connection is a small future with no buffer and
//! no timer of its own: it waits for its socket, its outbox and, while polling, for its requests.
//!
//! Architecture Invariant: all undoing hangs on the one exit of [`Connection::run`].

mod ask;
mod close;
mod courier;
mod ending;
mod entry;
mod input;
mod packet;
mod plain;

use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use smallvec::SmallVec;
use tidegate_core::registry::{EvictReason, Evicted};
use tidegate_core::{DisconnectReason, Namespace};
use tidegate_protocol::engineio::{Beat, Heartbeat};
use tidegate_protocol::plain::{Id, Request};
use tidegate_protocol::socketio::{self, Packet};
use tidegate_protocol::websocket::{self, Opcode};

use close::Close;
pub(crate) use input::Link;
pub(crate) use plain::Plain;

use crate::bucket::Bucket;
use crate::clock::unix_ms;
use crate::dialect::Dialect;
use crate::engines::EngineId;
use crate::enrolment::{Enrolled, Turned};
use crate::message::Message;
use crate::node::{Admitted, Inner};
use crate::outbox::{Outbox, Pushed};
use crate::reply::Refusal;
use crate::session::Session;

/// Messages handled in one go before other tasks of the worker get their turn: a millisecond or less, even when each
/// is answered. A client that floods its node must not be felt by others.
const MESSAGES_PER_TURN: u8 = 64;

/// Sessions of one connection. Pages use one to three namespaces; each costs two subscriptions.
const SESSIONS_MAX: usize = 64;

/// Namespaces whose end the client may not have heard of yet.
const ENDED_MAX: usize = 8;

/// Largest message before the client is authenticated, in bytes: a token fits, a flood does not.
pub(crate) const UNAUTHENTICATED_BYTES_MAX: usize = 16 * 1024;

/// How long a client of the plain protocol may take to say who it is. It has nothing else to do first.
const PLAIN_CONNECT_TIMEOUT_MS: u64 = 5_000;

/// From so late on a deadline says more of the node than of the client, in milliseconds.
const STALL_MS: u64 = 1_000;

/// How long what arrived meanwhile has to be read, in milliseconds.
const SECOND_LOOK_MS: u64 = 100;

/// How long a client may take to hang up after its last session was ended. Official clients do it at once, but look at
/// a DISCONNECT one tick later than at a close that came along with it, and would take it for a lost connection.
const HANG_UP_MS: u64 = 1_000;

/// Why the loop ends.
#[derive(Debug)]
pub(crate) struct Exit {
    pub(crate) reason: DisconnectReason,
    /// The close frame of a WebSocket. Without one it is what the reason is called in the plain protocol, and in Socket.IO a
    /// frame without a code, as stock servers send it.
    pub(crate) close: Option<Close>,
}

impl Exit {
    pub(crate) const fn because(reason: DisconnectReason) -> Self {
        Self { reason, close: None }
    }

    /// A client of the plain protocol is refused what there is no connection without.
    pub(crate) fn refused(refusal: &Refusal) -> Self {
        Self { reason: DisconnectReason::ForcedClose, close: Some(Close::refused(refusal)) }
    }
}

/// What a client speaks.
pub(crate) enum Speech {
    /// Socket.IO; which parser is known from its first packet on.
    SocketIo(socketio::Decoder),
    /// The plain protocol.
    Plain(Plain),
}

/// Something of a client's that must wait before it is looked at.
pub(crate) enum Held {
    Packet(Packet),
    Request(Request),
}

/// What a connection waited for.
pub(crate) enum Resume {
    /// A client that may be seated in a namespace, or why it may not; and what it calls the answer by.
    Connect(Namespace, Option<Id>, Result<Box<Enrolled>, Turned>),
    /// What was held while the node was deaf, and may be looked at now.
    Held(Held),
    /// Room in a queue.
    Input,
}

pub(crate) struct Connection {
    pub(crate) node: Arc<Inner>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) id: EngineId,
    link: Link,
    shard: u32,
    speech: Speech,
    /// One as a rule.
    sessions: SmallVec<[Arc<Session>; 1]>,
    heartbeat: Heartbeat,
    /// When the connection is closed for want of a namespace; gone with the first one joined.
    connect_deadline_ms: Option<NonZeroU64>,
    /// The deadline that the timer knows.
    armed_ms: u64,
    events: Bucket,
    /// Its client has asked for a namespace once.
    has_asked_to_connect: bool,
    /// CONNECTs behind the first, by the same measure as events and apart from them.
    connects: Option<Box<Bucket>>,
    /// Messages that may still be handled in this turn.
    turn: u8,
    /// What the node has ended of its sessions.
    ended: Option<Box<Ended>>,
    /// What must be over before more input is looked at.
    busy: Option<Pin<Box<dyn Future<Output = Resume> + Send>>>,
    /// An event that came behind a join which is not answered yet: what it publishes must reach its own client.
    deferred: Option<Box<Held>>,
    /// What is being read from an inbox.
    errand: Option<courier::Errand>,
    /// There may be something for the courier to do.
    has_news: bool,
    /// Whose turn it is to be read for.
    courier_turn: u8,
    _admitted: Admitted,
}

/// The sessions of a connection that its node ended.
#[derive(Default)]
struct Ended {
    /// Their namespaces; what the client sent there before it heard of it is ignored.
    namespaces: Vec<Namespace>,
    /// When the connection is closed if it still has no namespace: its last session was ended by the node, and the
    /// client, who is told so first, hangs up by itself as a rule.
    hang_up_ms: Option<u64>,
}

/// With the 112 bytes that the runtime keeps beside it, the task of a connection fits 384 bytes. The runtime aligns tasks to
/// 128, so that the sizes beside that are 256 and 512.
const _: () = assert!(size_of::<Life>() <= 272);

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The configuration bounds both to a day.
fn millis_u32(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// A connection's life, and what is left to do when it is over. Written by hand, since an async block keeps what it was
/// given beside what it does with it, and so would be twice the size of a connection.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every one of them is the large variant, nearly all the time"
)]
pub(crate) enum Life {
    Open(Connection),
    /// As large as everything else of an idle connection, and needed only once.
    Ending(Pin<Box<dyn Future<Output = DisconnectReason> + Send>>),
    Over,
}

impl Future for Life {
    type Output = DisconnectReason;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<DisconnectReason> {
        let life = self.get_mut();
        if let Self::Open(connection) = life {
            let exit = ready!(connection.poll(context));
            if let Self::Open(connection) = std::mem::replace(life, Self::Over) {
                *life = Self::Ending(Box::pin(connection.end(exit)));
            }
        }
        match life {
            Self::Ending(end) => {
                let reason = ready!(end.as_mut().poll(context));
                *life = Self::Over;
                Poll::Ready(reason)
            }
            Self::Open(_) | Self::Over => Poll::Pending,
        }
    }
}

impl Speech {
    /// A client of Socket.IO that has said nothing yet.
    pub(crate) fn socket_io(node: &Inner) -> Self {
        Self::SocketIo(socketio::Decoder::server(node.options.engine.payload_bytes_max))
    }
}

impl Connection {
    pub(crate) fn new(
        node: Arc<Inner>,
        outbox: Arc<Outbox>,
        id: EngineId,
        link: Link,
        speech: Speech,
        admitted: Admitted,
    ) -> Self {
        let now = node.clock.now_ms();
        let engine = &node.options.engine;
        let connect_timeout_ms = match speech {
            Speech::SocketIo(_) => millis(engine.connect_timeout),
            Speech::Plain(_) => millis(engine.connect_timeout).min(PLAIN_CONNECT_TIMEOUT_MS),
        };
        Self {
            shard: node.hub.assign(),
            link,
            speech,
            sessions: SmallVec::new(),
            heartbeat: Heartbeat::new(now, millis_u32(engine.ping_interval), millis_u32(engine.ping_timeout)),
            connect_deadline_ms: NonZeroU64::new(now + connect_timeout_ms),
            armed_ms: u64::MAX,
            events: Bucket::full(now, node.options.limits.events_burst),
            has_asked_to_connect: false,
            connects: None,
            turn: 0,
            ended: None,
            busy: None,
            deferred: None,
            errand: None,
            has_news: false,
            courier_turn: 0,
            node,
            outbox,
            id,
            _admitted: admitted,
        }
    }

    /// Lives until the peer, the node or the cluster ends it, and says why it ended.
    pub(crate) fn run(self) -> Life {
        Life::Open(self)
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Exit> {
        // Before any look at the outbox.
        self.outbox.register(context);
        self.turn = MESSAGES_PER_TURN;
        if !self.outbox.is_leaving() {
            self.poll_courier(context);
        }
        while self.turn > 0 {
            self.turn -= 1;
            if let Some(reason) = self.outbox.closed() {
                return Poll::Ready(Exit::because(reason));
            }
            if (self.outbox.take_tick() || self.armed_ms == u64::MAX)
                && let Err(exit) = self.on_time()
            {
                return Poll::Ready(exit);
            }
            self.outbox.poll_flush(context);
            if self.outbox.is_leaving() {
                return self.poll_answers(context).map(Exit::because);
            }
            if self.errand.is_none() && (self.has_news || self.outbox.has_news()) {
                self.poll_courier(context);
            }
            let progress = if let Some(busy) = &mut self.busy {
                let Poll::Ready(resume) = busy.as_mut().poll(context) else { return Poll::Pending };
                self.busy = None;
                self.resume(resume)
            } else if self.deferred.is_some() {
                if !self.may_go_on() {
                    return Poll::Pending;
                }
                self.deferred.take().map_or(Ok(()), |held| self.resume(Resume::Held(*held)))
            } else {
                let Poll::Ready(progress) = self.poll_input(context) else { return Poll::Pending };
                progress
            };
            if let Err(exit) = progress {
                return Poll::Ready(exit);
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Waits until its client knows what became of everything that it began.
    fn poll_answers(&mut self, context: &mut Context<'_>) -> Poll<DisconnectReason> {
        if let Some(busy) = &mut self.busy {
            // An answer is given on the way. What else it leads to is not for this node any more: a place that was claimed
            // is given back.
            drop(ready!(busy.as_mut().poll(context)));
            self.busy = None;
        }
        // Each is asked, for each has to know that it is waited for; the last deed and the last join wake this task.
        let waiting = self.sessions.iter().filter(|session| !session.is_idle()).count();
        if waiting == 0 && self.outbox.is_joined() {
            Poll::Ready(DisconnectReason::ServerShuttingDown)
        } else {
            Poll::Pending
        }
    }

    /// Does what is due and arms the next deadline.
    fn on_time(&mut self) -> Result<(), Exit> {
        let now = self.node.clock.now_ms();
        self.tell_evicted()?;
        if self.armed_ms != u64::MAX && now > self.armed_ms.saturating_add(STALL_MS) {
            // The node stood still. What has arrived meanwhile is looked at before anybody is taken for silent.
            self.arm(now + SECOND_LOOK_MS);
            return Ok(());
        }
        let mut next = loop {
            match self.heartbeat.poll(now) {
                Beat::Wait(until) => break until,
                Beat::Ping => {
                    self.outbox.push(&match self.speech {
                        Speech::SocketIo(_) => Message::engine("2"),
                        Speech::Plain(_) => Message::frame(websocket::frame(Opcode::Ping, b""), false),
                    });
                }
                Beat::Dead => return Err(Exit::because(DisconnectReason::PingTimeout)),
            }
        };
        if let Some(deadline) = self.connect_deadline_ms.map(NonZeroU64::get) {
            if now < deadline {
                next = next.min(deadline);
            } else if self.busy.is_none() {
                let close = self.is_plain().then_some(Close::UNINTRODUCED);
                return Err(Exit { reason: DisconnectReason::ForcedClose, close });
            } else {
                // It has said who it is in time. What it waits for has a limit of its own.
                next = next.min(now + HANG_UP_MS);
            }
        }
        if let Some(expires_ms) = self.expire(now)? {
            next = next.min(expires_ms);
        }
        if let Some(hang_up_ms) = self.hang_up(now)? {
            next = next.min(hang_up_ms);
        }
        // A deadline that the timer still knows, and that is no later, wakes the connection in time to look again.
        if self.armed_ms <= now || next < self.armed_ms {
            self.arm(next);
        }
        Ok(())
    }

    /// When the client must have hung up whose last session was ended.
    fn hang_up(&mut self, now: u64) -> Result<Option<u64>, Exit> {
        let Some(ended) = &mut self.ended else { return Ok(None) };
        let Some(hang_up_ms) = ended.hang_up_ms else { return Ok(None) };
        if !self.sessions.is_empty() {
            ended.hang_up_ms = None;
        } else if self.busy.is_some() {
            // It is coming back, which may take as long as a fence.
            ended.hang_up_ms = Some(now + HANG_UP_MS);
        } else if now >= hang_up_ms {
            return Err(Exit::because(DisconnectReason::ServerNamespaceDisconnect));
        }
        Ok(ended.hang_up_ms)
    }

    fn arm(&mut self, at_ms: u64) {
        self.armed_ms = at_ms;
        self.node.timer.arm(at_ms, Arc::downgrade(&self.outbox));
    }

    /// Arms a deadline if it is earlier than the one the timer knows.
    fn arm_earlier(&mut self, at_ms: u64) {
        if at_ms < self.armed_ms {
            self.arm(at_ms);
        }
    }

    /// Ends the sessions whose token has expired. Returns when the next one will, on the node's clock.
    fn expire(&mut self, now: u64) -> Result<Option<u64>, Exit> {
        if self.sessions.iter().all(|session| session.identity.expires_at.is_none()) {
            return Ok(None);
        }
        let unix = unix_ms();
        let expired =
            |session: &&Arc<Session>| session.expires_unix_ms().is_some_and(|expires_ms| expires_ms <= unix);
        for session in self.sessions.iter().filter(expired) {
            self.node.end(session, Evicted { reason: EvictReason::Expired, by: None }, None);
        }
        self.tell_evicted()?;
        // Of one that has ended, and is told so on the way out, nothing is due any more.
        let living = self.sessions.iter().filter(|session| !session.is_over());
        let next = living.filter_map(|session| session.expires_unix_ms()).min();
        Ok(next.map(|expires_ms| now + expires_ms.saturating_sub(unix)))
    }

    /// Tells the client of every session that was evicted. A connection of the plain protocol ends with its session.
    fn tell_evicted(&mut self) -> Result<(), Exit> {
        while let Some(index) = self.sessions.iter().position(|session| session.is_over()) {
            if self.outbox.closed().is_some() {
                // It is told on the way out.
                return Ok(());
            }
            let session = Arc::clone(&self.sessions[index]);
            // Of one that ended in another way the transport is closed already, which says all there is to say.
            let Some(evicted) = session.evicted() else {
                self.sessions.swap_remove(index);
                continue;
            };
            for message in self.farewells(&session, &evicted) {
                if self.outbox.push(&message) == Pushed::Closed {
                    // As above.
                    return Ok(());
                }
            }
            self.sessions.swap_remove(index);
            if self.is_plain() {
                let reason = DisconnectReason::ServerNamespaceDisconnect;
                return Err(Exit { reason, close: Some(Close::evicted(evicted.reason)) });
            }
            let ended = self.ended.get_or_insert_default();
            if ended.namespaces.len() == ENDED_MAX {
                ended.namespaces.remove(0);
            }
            ended.namespaces.push(session.namespace().clone());
            if self.sessions.is_empty() {
                ended.hang_up_ms = Some(self.node.clock.now_ms() + HANG_UP_MS);
            }
        }
        Ok(())
    }

    /// What an evicted session's client is told: why, and in Socket.IO that it has ended in its namespace, after which
    /// official clients stay away. In the plain protocol the close frame says that.
    fn farewells(&self, session: &Session, evicted: &Evicted) -> Vec<Message> {
        let namespace = session.namespace().as_str();
        let mut messages = Vec::new();
        match session.dialect.evicted(namespace, evicted) {
            Ok(message) => messages.push(message),
            Err(error) => tracing::error!(%error, "failed to encode an eviction"),
        }
        if let Dialect::SocketIo(parser) = session.dialect {
            messages.push(Message::packet(socketio::encode::disconnect(parser, namespace), false));
        }
        messages
    }

    /// Whether what was deferred may be looked at: joins are answered, and so is everything else before a goodbye.
    fn may_go_on(&self) -> bool {
        let is_goodbye =
            matches!(self.deferred.as_deref(), Some(Held::Request(request)) if request.op == "close");
        self.outbox.is_joined() && (!is_goodbye || self.sessions.iter().all(|session| session.is_idle()))
    }

    /// What the client speaks.
    ///
    /// # Errors
    /// Before its first packet, in Socket.IO.
    fn dialect(&self) -> Result<Dialect, Exit> {
        match &self.speech {
            Speech::SocketIo(packets) => {
                packets.parser().map(Dialect::SocketIo).ok_or(Exit::because(DisconnectReason::ForcedClose))
            }
            Speech::Plain(plain) => Ok(Dialect::Plain(plain.format())),
        }
    }

    /// Whether input must wait: for an answer, or for other tasks' turns.
    fn is_held(&self) -> bool {
        self.busy.is_some() || self.deferred.is_some() || self.turn == 0
    }

    fn session(&self, namespace: &str) -> Option<usize> {
        self.sessions.iter().position(|session| session.namespace().as_str() == namespace)
    }

    fn is_joined(&self, namespace: &Namespace) -> bool {
        self.session(namespace.as_str()).is_some()
    }
}

#[cfg(test)]
mod tests;
