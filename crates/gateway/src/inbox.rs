//! One session's way through its inbox: what it was given, what it has acknowledged, and what it has yet to read.
//!
//! A session that said `online` is given its backlog first and then what comes, each message once a round and in the
//! order of its serial, so far as a window of unacknowledged ones allows. What comes is pushed there and then when the
//! session has everything before it; in every other case it is *behind*, and its connection reads on from where it is
//! (`connection/courier`). Nothing waits here: what a session cannot take yet stays in the store.
//!
//! Whatever is pushed has been checked in this order, and why is in ARCHITECTURE.md: it was received, the node was found
//! to hear, the session was found not to be over.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_core::offline::{Arrival, Message as Stored, Page, Serial, Span};
use tidegate_msgpack::write;
use tidegate_protocol::socketio;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::message::Message;
use crate::node::Inner;
use crate::session::Session;

/// When a message counts as settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settling {
    /// When the client has acknowledged it.
    Each,
    /// When it was written out.
    Written,
}

/// What a session may have that is not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) messages_max: usize,
    /// Also of the first one a message alone may exceed it.
    pub(crate) bytes_max: usize,
}

/// The inbox of one session. Nothing but an empty box until the session says that it is ready.
#[derive(Default)]
pub(crate) struct Inbox(Mutex<Option<Box<Open>>>);

/// The inbox of a session that is ready.
struct Open {
    round: u64,
    settling: Settling,
    /// Everything up to here was given to the client in this round.
    cursor: Serial,
    /// Up to here it is backlog; none once that has been given.
    backlog: Option<Serial>,
    /// Messages of the backlog that were given in this round.
    replayed: u64,
    /// There may be something behind the cursor that was not given yet.
    is_behind: bool,
    /// The connection is about to read, or reads.
    is_reading: bool,
    /// Given and not settled, in the order of their serials.
    outstanding: VecDeque<Outstanding>,
    outstanding_bytes: usize,
    /// Acknowledged by the client, and not known yet to be settled.
    unsettled: usize,
    settled: Arc<Notify>,
}

struct Outstanding {
    serial: Serial,
    weight: usize,
    /// The id of the acknowledgement that settles it; or, where none is asked for, how much the outbox has taken with
    /// it ([`Outbox::taken`](crate::outbox::Outbox::taken)).
    by: u64,
}

/// What is to be read next, for one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) round: u64,
    pub(crate) span: Span,
}

impl Inbox {
    /// Begins a round: everything up to `backlog` is replayed. What was outstanding is given again.
    pub(crate) fn begin(&self, settling: Settling, backlog: Serial) {
        let mut inbox = self.0.lock();
        let (round, settled) =
            inbox.as_ref().map_or_else(Default::default, |open| (open.round + 1, Arc::clone(&open.settled)));
        *inbox = Some(Box::new(Open {
            round,
            settling,
            cursor: Serial::ZERO,
            backlog: Some(backlog),
            replayed: 0,
            is_behind: true,
            is_reading: false,
            outstanding: VecDeque::new(),
            outstanding_bytes: 0,
            unsettled: 0,
            settled,
        }));
    }

    /// There may be news that the session was not told of.
    pub(crate) fn fall_behind(&self) -> bool {
        let mut inbox = self.0.lock();
        let Some(open) = &mut *inbox else { return false };
        open.is_behind = true;
        true
    }

    /// A message was stored. It is given at once if the session has everything before it.
    pub(crate) fn arrived(&self, node: &Inner, session: &Session, arrival: &Arrival) {
        let mut inbox = self.0.lock();
        let Some(open) = &mut *inbox else { return };
        let is_next = open.backlog.is_none()
            && !open.is_behind
            && open.cursor == arrival.before
            && open.has_room(&node.window());
        match &arrival.message {
            Some(message) if is_next && node.pulse.check(Instant::now()).is_ok() => {
                if session.is_over() {
                    return;
                }
                open.cursor = arrival.serial;
                open.give(node, session, message);
            }
            _ => {
                open.is_behind = true;
                drop(inbox);
                session.outbox.wake_news();
            }
        }
    }

    /// What the connection is to read now, if anything. It must tell what came of it: [`Inbox::read`] or
    /// [`Inbox::unread`].
    pub(crate) fn wanted(&self, window: &Window) -> Option<Wanted> {
        let mut inbox = self.0.lock();
        let open = inbox.as_mut()?;
        if !open.is_behind || open.is_reading || !open.has_room(window) {
            return None;
        }
        open.is_reading = true;
        open.is_behind = false;
        let span = Span {
            after: open.cursor,
            until: open.backlog,
            messages_max: window.messages_max - open.outstanding.len(),
            bytes_max: window.bytes_max.saturating_sub(open.outstanding_bytes).max(1),
        };
        Some(Wanted { round: open.round, span })
    }

    /// Nothing was read, and it is to be tried again.
    pub(crate) fn unread(&self, round: u64) {
        if let Some(open) = self.0.lock().as_mut().filter(|open| open.round == round) {
            open.is_reading = false;
            open.is_behind = true;
        }
    }

    /// A page was read, by a node that was found to hear since.
    pub(crate) fn read(&self, node: &Inner, session: &Session, wanted: &Wanted, page: &Page) {
        let mut inbox = self.0.lock();
        let Some(open) = inbox.as_mut().filter(|open| open.round == wanted.round) else { return };
        open.is_reading = false;
        if session.is_over() {
            return;
        }
        for message in &page.messages {
            // Only one that was read again from the beginning, see below, can be outstanding.
            let is_known = open.outstanding.back().is_some_and(|last| message.serial <= last.serial)
                && open.outstanding.iter().any(|known| known.serial == message.serial);
            if !is_known {
                open.give(node, session, message);
            }
        }
        if page.upto < wanted.span.after {
            // The inbox began anew, with smaller serials: its store lost it.
            open.cursor = Serial::ZERO;
            open.is_behind = true;
            return;
        }
        open.cursor = page.upto;
        if page.has_more {
            open.is_behind = true;
        } else if open.backlog.take().is_some() {
            // What came since the backlog was measured.
            open.is_behind = true;
            let count = open.replayed;
            push(session, None, |data| {
                write::array(data, 2);
                write::str(data, "offline_message_ack");
                write::map(data, 1);
                write::str(data, "count");
                write::uint(data, count);
            });
        }
    }

    /// The client has acknowledged something. Returns which message, if it is one of the inbox; it counts as unsettled
    /// until [`Inbox::settled`] says otherwise.
    pub(crate) fn acknowledged(&self, id: u64) -> Option<Serial> {
        let mut inbox = self.0.lock();
        let open = inbox.as_mut().filter(|open| open.settling == Settling::Each)?;
        let at = open.outstanding.binary_search_by_key(&id, |outstanding| outstanding.by).ok()?;
        let outstanding = open.outstanding.remove(at)?;
        open.take_off(&outstanding);
        Some(outstanding.serial)
    }

    /// What was written out, of a session that acknowledges nothing; it counts as unsettled likewise. Also whether
    /// anything is left to be looked for.
    pub(crate) fn written(&self, session: &Session) -> (Vec<Serial>, bool) {
        let mut inbox = self.0.lock();
        let Some(open) = inbox.as_mut().filter(|open| open.settling == Settling::Written) else {
            return (Vec::new(), false);
        };
        let mut written = Vec::new();
        while let Some(first) = open.outstanding.front() {
            if !session.outbox.has_written(first.by) {
                return (written, true);
            }
            let Some(first) = open.outstanding.pop_front() else { break };
            open.take_off(&first);
            written.push(first.serial);
        }
        (written, false)
    }

    /// So many messages are settled, or need not be.
    pub(crate) fn settled(&self, messages: usize) {
        if let Some(open) = self.0.lock().as_mut() {
            open.unsettled = open.unsettled.saturating_sub(messages);
            if open.unsettled == 0 {
                open.settled.notify_waiters();
            }
        }
    }

    /// Resolves once everything that was acknowledged is settled; nothing if it is already.
    pub(crate) fn unsettled(&self) -> Option<Arc<Notify>> {
        self.0.lock().as_ref().filter(|open| open.unsettled > 0).map(|open| Arc::clone(&open.settled))
    }
}

impl Open {
    fn has_room(&self, window: &Window) -> bool {
        self.outstanding.len() < window.messages_max
            && (self.outstanding.is_empty() || self.outstanding_bytes < window.bytes_max)
    }

    fn take_off(&mut self, outstanding: &Outstanding) {
        self.outstanding_bytes -= outstanding.weight;
        self.unsettled += 1;
    }

    /// Pushes a message: backlog as `offline_message`, what comes live as the event itself.
    fn give(&mut self, node: &Inner, session: &Session, message: &Stored) {
        let asks = self.settling == Settling::Each;
        let id = asks.then(|| node.acknowledgements.next_id());
        if self.backlog.is_some() {
            self.replayed += 1;
            push(session, id, |data| write_backlog(data, message));
        } else {
            push(session, id, |data| write_live(data, message));
        }
        let by = id.unwrap_or_else(|| session.outbox.taken());
        let weight = message.weight();
        self.outstanding.push_back(Outstanding { serial: message.serial, weight, by });
        self.outstanding_bytes += weight;
        node.metrics.offline_delivered.inc();
        if !asks {
            // The connection looks when it has left.
            session.outbox.watch();
        }
    }
}

/// Sends an event of the inbox's to a session.
fn push(session: &Session, id: Option<u64>, write: impl FnOnce(&mut Vec<u8>)) {
    let mut data = Vec::with_capacity(256);
    write(&mut data);
    match socketio::encode::event(session.parser, session.namespace.as_str(), id, &data) {
        Ok(encoded) => {
            session.outbox.push(&Message::packet(encoded, false));
        }
        // It was checked when it was stored.
        Err(error) => tracing::error!(%error, "failed to encode a durable message"),
    }
}

fn write_from(data: &mut Vec<u8>, message: &Stored) {
    write::str(data, "from");
    match &message.from {
        Some(user) => write::str(data, user),
        None => write::nil(data),
    }
}

/// `["offline_message", { id, from, event, data, sent_at }]`.
fn write_backlog(data: &mut Vec<u8>, message: &Stored) {
    write::array(data, 2);
    write::str(data, "offline_message");
    write::map(data, 5);
    write::str(data, "id");
    write::str(data, &message.serial.to_string());
    write_from(data, message);
    write::str(data, "event");
    write::str(data, &message.event);
    write::str(data, "data");
    data.extend_from_slice(&message.data);
    write::str(data, "sent_at");
    write::uint(data, message.serial.ms);
}

/// `[event, data, { id, from, node, ts }]`.
fn write_live(data: &mut Vec<u8>, message: &Stored) {
    write::array(data, 3);
    write::str(data, &message.event);
    data.extend_from_slice(&message.data);
    write::map(data, 4);
    write::str(data, "id");
    write::str(data, &message.serial.to_string());
    write_from(data, message);
    write::str(data, "node");
    write::str(data, message.node.as_str());
    write::str(data, "ts");
    write::uint(data, message.serial.ms);
}
