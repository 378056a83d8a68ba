//! One session's way through its inbox: what it was given, what it has acknowledged, and what it has yet to read.
//!
//! A session that said `online` is given its backlog first and then what comes, each message once a round and in the
//! order of its serial, so far as a window of unacknowledged ones allows. What comes is pushed there and then when the
//! session has everything before it; in every other case it is *behind*, and its connection reads on from where it is
//! (`connection/courier`). Nothing waits here: what a session cannot take yet stays in the store.
//!
//! Whatever is pushed has been checked in this order, and why is in ARCHITECTURE.md: it was received, the node was found
//! to hear, the session was found not to be over.

mod event;
mod settling;

use std::collections::VecDeque;

use parking_lot::Mutex;
use tidegate_core::offline::{Arrival, Message as Stored, Page, Serial, Settled, Span};
use tokio::time::Instant;

use self::event::{Told, encode};
use self::settling::Acknowledged;
pub(crate) use self::settling::Unsettled;
use crate::bucket::Bucket;
use crate::node::Inner;
use crate::outbox::{Outbox, Pushed};
use crate::session::Session;

/// When a message counts as settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settling {
    /// When the client has acknowledged it.
    Each,
    /// When it was written out.
    Written,
}

/// The part of the window that must be free before more is read into it.
const PAGE_SHARE: usize = 4;

/// Rounds that a session may begin in one go. Each of them gives a window of messages anew.
pub(crate) const ROUNDS_BURST: u32 = 16;

/// Rounds a second that a session may begin after that.
pub(crate) const ROUNDS_PER_SECOND: u32 = 2;

/// What a session may have that is not acknowledged.
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
    /// Given and not acknowledged, in the order of their serials.
    outstanding: VecDeque<Outstanding>,
    outstanding_bytes: usize,
    /// Given in earlier rounds and not acknowledged then: a client may do so late. Of the last [`ROUNDS_BURST`] rounds.
    previous: VecDeque<Outstanding>,
    rounds: Bucket,
    /// What the next message weighs, if the outbox had no room for it.
    next_weight: usize,
    unsettled: Acknowledged,
}

struct Outstanding {
    serial: Serial,
    /// Its encoded size: one byte of a text may be six of JSON.
    weight: usize,
    /// The id of the acknowledgement that settles it; or, where none is asked for, how much the outbox has taken with
    /// it ([`Outbox::taken`]).
    by: u64,
}

/// What a client names by its acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// The id of the packet that asked for it, in Socket.IO.
    Packet(u64),
    /// The message itself, in the plain protocol.
    Message(Serial),
    /// Of the plain protocol likewise: the number of a broadcast, and none of the inbox's messages.
    Broadcast(u64),
}

/// What is to be read next, for one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) round: u64,
    pub(crate) span: Span,
}

impl Inbox {
    /// Begins a round: everything up to `backlog` is replayed. What was outstanding is given again.
    pub(crate) fn begin(&self, settling: Settling, backlog: Serial, window: &Window, now_ms: u64) {
        let mut inbox = self.0.lock();
        let (mut round, mut previous, mut unsettled) = (0, VecDeque::new(), Acknowledged::default());
        let mut rounds = Bucket::full(now_ms, ROUNDS_BURST - 1);
        if let Some(mut open) = inbox.take() {
            (round, previous, unsettled, rounds) =
                (open.round + 1, open.previous, open.unsettled, open.rounds);
            if open.settling == Settling::Each {
                previous.append(&mut open.outstanding);
            }
            let remembered = (ROUNDS_BURST as usize).saturating_mul(window.messages_max);
            previous.drain(..previous.len().saturating_sub(remembered));
        }
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
            previous,
            rounds,
            next_weight: 0,
            unsettled,
        }));
    }

    /// Whether the session may begin a round now; it is counted as begun.
    pub(crate) fn allows_round(&self, now_ms: u64) -> bool {
        let mut inbox = self.0.lock();
        inbox.as_mut().is_none_or(|open| open.rounds.take(now_ms, ROUNDS_PER_SECOND, ROUNDS_BURST))
    }

    /// Whether the session has begun a round.
    pub(crate) fn is_open(&self) -> bool {
        self.0.lock().is_some()
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
        // Not while something is read: what comes of that would put the cursor back.
        let is_next = open.backlog.is_none()
            && !open.is_behind
            && !open.is_reading
            && open.cursor == arrival.before
            && open.has_room(&node.window());
        if is_next
            && let Some(message) = &arrival.message
            && node.pulse.check(Instant::now()).is_ok()
        {
            if session.is_over() {
                return;
            }
            if open.give(node, session, message) {
                open.cursor = arrival.serial;
                return;
            }
        }
        open.is_behind = true;
        drop(inbox);
        session.outbox.wake_news();
    }

    /// What the connection is to read now, if anything. It must tell what came of it: [`Inbox::read`] or
    /// [`Inbox::unread`].
    pub(crate) fn wanted(&self, window: &Window, outbox: &Outbox) -> Option<Wanted> {
        let mut inbox = self.0.lock();
        let open = inbox.as_mut()?;
        if !open.is_behind || open.is_reading || !open.has_room(window) {
            return None;
        }
        let free = window.messages_max - open.outstanding.len();
        if free < window.messages_max / PAGE_SHARE && !open.outstanding.is_empty() {
            // Not for every single acknowledgement.
            return None;
        }
        if !outbox.has_room_for(open.next_weight) {
            // The courier is woken when something has left.
            outbox.watch();
            return None;
        }
        open.is_reading = true;
        open.is_behind = false;
        let span = Span {
            after: open.cursor,
            until: open.backlog,
            messages_max: free,
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
        let window = node.window();
        open.cursor = wanted.span.after;
        for message in &page.messages {
            // Only one that was read again from the beginning, see below, can be outstanding.
            let is_known = open.outstanding.back().is_some_and(|last| message.serial <= last.serial)
                && open.outstanding.iter().any(|known| known.serial == message.serial);
            if !(is_known || open.has_room(&window) && open.give(node, session, message)) {
                // The rest is read again when there is room for it.
                open.is_behind = true;
                session.outbox.watch();
                return;
            }
            open.cursor = message.serial;
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
            let told = encode(session, None, Told::End(count));
            told.map(|told| session.outbox.push(&told));
        }
    }

    /// The client has acknowledged something. Whether it is one of the inbox's messages, which is to be settled now, by
    /// the registrar.
    pub(crate) fn acknowledged(&self, receipt: Receipt) -> bool {
        let mut inbox = self.0.lock();
        let Some(open) = inbox.as_mut() else { return false };
        if open.settling == Settling::Each
            && let Some(outstanding) = take(&mut open.outstanding, receipt)
        {
            open.take_off(&outstanding);
            return true;
        }
        let Some(late) = take(&mut open.previous, receipt) else { return false };
        open.unsettled.push(late.serial);
        // It may have been given again meanwhile, and need not be acknowledged twice.
        if let Some(at) = open.outstanding.iter().position(|again| again.serial == late.serial)
            && open.settling == Settling::Each
            && let Some(again) = open.outstanding.remove(at)
        {
            open.outstanding_bytes -= again.weight;
        }
        true
    }

    /// Takes note of what was written out to a client that acknowledges nothing. Whether there is something to be
    /// settled, and whether anything is left to be looked for.
    pub(crate) fn written(&self, session: &Session) -> (bool, bool) {
        let mut inbox = self.0.lock();
        let Some(open) = inbox.as_mut().filter(|open| open.settling == Settling::Written) else {
            return (false, false);
        };
        let mut is_any = false;
        while let Some(first) = open.outstanding.front() {
            if !session.outbox.has_written(first.by) {
                return (is_any, true);
            }
            let Some(first) = open.outstanding.pop_front() else { break };
            open.take_off(&first);
            is_any = true;
        }
        (is_any, false)
    }

    /// Whether the registrar is to be told that there is something to settle. It is told once, until it has looked.
    pub(crate) fn is_to_be_queued(&self) -> bool {
        self.0.lock().as_mut().is_some_and(|open| open.unsettled.is_to_be_queued())
    }

    /// The registrar could not be told.
    pub(crate) fn not_queued(&self) {
        if let Some(open) = self.0.lock().as_mut() {
            open.unsettled.not_queued();
        }
    }

    /// What the store is to be told now. It must be told what came of it: [`Inbox::settled`].
    pub(crate) fn settle(&self) -> Vec<Serial> {
        self.0.lock().as_mut().map_or_else(Vec::new, |open| open.unsettled.settle())
    }

    /// What came of it; nothing, if nobody knows. What is not settled is to be told again.
    pub(crate) fn settled(&self, outcome: Option<Settled>) {
        if let Some(open) = self.0.lock().as_mut() {
            open.unsettled.settled(outcome);
        }
    }

    /// Whether everything that was acknowledged is settled.
    pub(crate) fn unsettled(&self) -> Unsettled {
        self.0.lock().as_ref().map_or(Unsettled::Nothing, |open| open.unsettled.look())
    }
}

/// Takes out what the acknowledgement is about.
fn take(outstanding: &mut VecDeque<Outstanding>, receipt: Receipt) -> Option<Outstanding> {
    let at = match receipt {
        Receipt::Packet(id) => outstanding.binary_search_by_key(&id, |outstanding| outstanding.by).ok()?,
        // Several rounds are not in the order of their serials. What is acknowledged in turn stands in front.
        Receipt::Message(serial) => {
            outstanding.iter().position(|outstanding| outstanding.serial == serial)?
        }
        Receipt::Broadcast(_) => return None,
    };
    outstanding.remove(at)
}

impl Open {
    fn has_room(&self, window: &Window) -> bool {
        self.outstanding.len() < window.messages_max
            && (self.outstanding.is_empty() || self.outstanding_bytes < window.bytes_max)
    }

    fn take_off(&mut self, outstanding: &Outstanding) {
        self.outstanding_bytes -= outstanding.weight;
        self.unsettled.push(outstanding.serial);
    }

    /// Pushes a message: backlog as `offline_message`, what comes live as the event itself. False if the outbox has no
    /// room for it now.
    fn give(&mut self, node: &Inner, session: &Session, message: &Stored) -> bool {
        let asks = self.settling == Settling::Each;
        let id = asks.then(|| node.acknowledgements.next_id());
        let told = if self.backlog.is_some() { Told::Backlog(message) } else { Told::Live(message) };
        let encoded = encode(session, id, told);
        // One that cannot be encoded, though it was checked, must not keep those behind it back. It expires.
        let Some(encoded) = encoded else { return true };
        let weight = encoded.weight();
        if !session.outbox.has_room_for(weight) || session.outbox.push(&encoded) != Pushed::Taken {
            self.next_weight = weight;
            return false;
        }
        self.next_weight = 0;
        self.replayed += u64::from(self.backlog.is_some());
        let by = id.unwrap_or_else(|| session.outbox.taken());
        self.outstanding.push_back(Outstanding { serial: message.serial, weight, by });
        self.outstanding_bytes += weight;
        node.metrics.offline_delivered.inc();
        if !asks {
            // The courier looks when it has left.
            session.outbox.watch();
        }
        true
    }
}

#[cfg(test)]
mod tests;
