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
use tidegate_core::offline::{Arrival, Message as Stored, Page, Serial, Settled, Span};
use tidegate_msgpack::write;
use tidegate_protocol::socketio;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::bucket::Bucket;
use crate::message::Message;
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
    settling_on: SettlingOn,
}

/// What was acknowledged, in this round or an earlier one, and is not known yet to be settled.
#[derive(Default)]
struct SettlingOn {
    /// What the store is yet to be told.
    waiting: Vec<Serial>,
    /// What it is being told.
    under_way: Vec<Serial>,
    /// The registrar knows that there is something.
    is_queued: bool,
    /// The session has lost its place: nothing of it will be settled.
    is_lost: bool,
    changed: Arc<Notify>,
}

/// Whether everything that was acknowledged is settled.
pub(crate) enum Unsettled {
    /// It is.
    Nothing,
    /// Not yet; there is news when this is notified.
    Something(Arc<Notify>),
    /// It never will be: the session lost its place.
    Lost,
}

struct Outstanding {
    serial: Serial,
    /// Its encoded size: one byte of a text may be six of JSON.
    weight: usize,
    /// The id of the acknowledgement that settles it; or, where none is asked for, how much the outbox has taken with
    /// it ([`Outbox::taken`]).
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
    pub(crate) fn begin(&self, settling: Settling, backlog: Serial, window: &Window, now_ms: u64) {
        let mut inbox = self.0.lock();
        let (mut round, mut previous, mut settling_on) = (0, VecDeque::new(), SettlingOn::default());
        let mut rounds = Bucket::full(now_ms, ROUNDS_BURST - 1);
        if let Some(mut open) = inbox.take() {
            (round, previous, settling_on, rounds) =
                (open.round + 1, open.previous, open.settling_on, open.rounds);
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
            settling_on,
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
            let told = encode(session, None, |data| {
                write::array(data, 2);
                write::str(data, "offline_message_ack");
                write::map(data, 1);
                write::str(data, "count");
                write::uint(data, count);
            });
            told.map(|told| session.outbox.push(&told));
        }
    }

    /// The client has acknowledged something. Whether it is one of the inbox's messages, which is to be settled now, by
    /// the registrar.
    pub(crate) fn acknowledged(&self, id: u64) -> bool {
        let mut inbox = self.0.lock();
        let Some(open) = inbox.as_mut() else { return false };
        if open.settling == Settling::Each
            && let Some(outstanding) = take(&mut open.outstanding, id)
        {
            open.take_off(&outstanding);
            return true;
        }
        let Some(late) = take(&mut open.previous, id) else { return false };
        open.settling_on.waiting.push(late.serial);
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
        let mut inbox = self.0.lock();
        let Some(open) = inbox.as_mut() else { return false };
        let settling_on = &mut open.settling_on;
        !settling_on.waiting.is_empty()
            && !settling_on.is_lost
            && !std::mem::replace(&mut settling_on.is_queued, true)
    }

    /// The registrar could not be told.
    pub(crate) fn not_queued(&self) {
        if let Some(open) = self.0.lock().as_mut() {
            open.settling_on.is_queued = false;
        }
    }

    /// What the store is to be told now. It must be told what came of it: [`Inbox::settled`].
    pub(crate) fn settle(&self) -> Vec<Serial> {
        let mut inbox = self.0.lock();
        let Some(open) = inbox.as_mut() else { return Vec::new() };
        let settling_on = &mut open.settling_on;
        settling_on.is_queued = false;
        settling_on.under_way.append(&mut settling_on.waiting);
        settling_on.under_way.clone()
    }

    /// What came of it; nothing, if nobody knows. What is not settled is to be told again.
    pub(crate) fn settled(&self, outcome: Option<Settled>) {
        let mut inbox = self.0.lock();
        let Some(open) = inbox.as_mut() else { return };
        let settling_on = &mut open.settling_on;
        let mut under_way = std::mem::take(&mut settling_on.under_way);
        match outcome {
            Some(Settled::Deleted(_)) => {}
            Some(Settled::Displaced) => settling_on.is_lost = true,
            Some(Settled::Absent) | None => {
                under_way.append(&mut settling_on.waiting);
                settling_on.waiting = under_way;
                return;
            }
        }
        settling_on.changed.notify_waiters();
    }

    /// Whether everything that was acknowledged is settled.
    pub(crate) fn unsettled(&self) -> Unsettled {
        let inbox = self.0.lock();
        match inbox.as_ref().map(|open| &open.settling_on) {
            Some(on) if on.is_lost => Unsettled::Lost,
            Some(on) if !on.waiting.is_empty() || !on.under_way.is_empty() => {
                Unsettled::Something(Arc::clone(&on.changed))
            }
            _ => Unsettled::Nothing,
        }
    }
}

/// Takes out what the acknowledgement of this id is about.
fn take(outstanding: &mut VecDeque<Outstanding>, id: u64) -> Option<Outstanding> {
    let at = outstanding.binary_search_by_key(&id, |outstanding| outstanding.by).ok()?;
    outstanding.remove(at)
}

impl Open {
    fn has_room(&self, window: &Window) -> bool {
        self.outstanding.len() < window.messages_max
            && (self.outstanding.is_empty() || self.outstanding_bytes < window.bytes_max)
    }

    fn take_off(&mut self, outstanding: &Outstanding) {
        self.outstanding_bytes -= outstanding.weight;
        self.settling_on.waiting.push(outstanding.serial);
    }

    /// Pushes a message: backlog as `offline_message`, what comes live as the event itself. False if the outbox has no
    /// room for it now.
    fn give(&mut self, node: &Inner, session: &Session, message: &Stored) -> bool {
        let asks = self.settling == Settling::Each;
        let id = asks.then(|| node.acknowledgements.next_id());
        let encoded = if self.backlog.is_some() {
            encode(session, id, |data| write_backlog(data, message))
        } else {
            encode(session, id, |data| write_live(data, message))
        };
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

/// An event of the inbox's, for a session.
fn encode(session: &Session, id: Option<u64>, write: impl FnOnce(&mut Vec<u8>)) -> Option<Message> {
    let mut data = Vec::with_capacity(256);
    write(&mut data);
    match socketio::encode::event(session.parser, session.namespace.as_str(), id, &data) {
        Ok(encoded) => Some(Message::packet(encoded, false)),
        Err(error) => {
            tracing::error!(%error, "failed to encode a durable message");
            None
        }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

    use tidegate_core::memory::Exchange;

    use super::*;
    use crate::outbox::Poll;
    use crate::rig::Rig;

    fn serial(ms: u64) -> Serial {
        Serial { ms, number: 0 }
    }

    fn stored(ms: u64, data: &str) -> Stored {
        let mut value = Vec::new();
        write::str(&mut value, data);
        Stored {
            serial: serial(ms),
            from: None,
            node: tidegate_core::NodeId::parse("a").unwrap(),
            event: "e".into(),
            data: value.into(),
        }
    }

    fn page(messages: Vec<Stored>, upto: u64) -> Page {
        Page { messages, upto: serial(upto), has_more: false, expired: 0 }
    }

    fn arrival(before: u64, message: Stored) -> Arrival {
        Arrival {
            namespace: "/".into(),
            sessions: Vec::new(),
            before: serial(before),
            serial: message.serial,
            message: Some(message),
        }
    }

    /// What waits for the client of a polling session.
    fn polled(session: &Session) -> String {
        match session.outbox.poll() {
            Poll::Ready(payload) => String::from_utf8(payload.to_vec()).unwrap(),
            _ => String::new(),
        }
    }

    fn count(text: &str, what: &str) -> usize {
        text.matches(what).count()
    }

    /// A node and a session without anything in its inbox, which has heard so.
    async fn live(settling: Settling) -> (Rig, Arc<Session>) {
        let rig = Rig::start(&Exchange::new(), "a").await;
        let session = rig.seat("ann").await;
        session.inbox.begin(settling, Serial::ZERO, &rig.inner().window(), 0);
        for _ in 0..2 {
            let wanted = session.inbox.wanted(&rig.inner().window(), &session.outbox).unwrap();
            session.inbox.read(rig.inner(), &session, &wanted, &page(vec![], 0));
        }
        assert_eq!(session.inbox.wanted(&rig.inner().window(), &session.outbox), None);
        assert_eq!(count(&polled(&session), r#"["offline_message_ack",{"count":0}]"#), 1);
        (rig, session)
    }

    #[tokio::test]
    async fn nothing_is_given_twice_while_a_page_is_on_its_way() {
        let (rig, session) = live(Settling::Each).await;
        let node = rig.inner();
        session.inbox.fall_behind();
        let wanted = session.inbox.wanted(&node.window(), &session.outbox).unwrap();
        // Stored after the page was read, and heard of before it came.
        session.inbox.arrived(node, &session, &arrival(0, stored(1, "one")));
        session.inbox.read(node, &session, &wanted, &page(vec![], 0));
        assert_eq!(polled(&session), "");
        let wanted = session.inbox.wanted(&node.window(), &session.outbox).unwrap();
        assert_eq!(wanted.span.after, Serial::ZERO);
        session.inbox.read(node, &session, &wanted, &page(vec![stored(1, "one"), stored(2, "two")], 2));
        session.inbox.arrived(node, &session, &arrival(2, stored(3, "three")));
        let given = polled(&session);
        for data in ["one", "two", "three"] {
            assert_eq!(count(&given, data), 1, "{given}");
        }
        // A late word of something that was read: a look, and nothing more.
        session.inbox.arrived(node, &session, &arrival(1, stored(2, "two")));
        let wanted = session.inbox.wanted(&node.window(), &session.outbox).unwrap();
        assert_eq!(wanted.span.after, serial(3));
        session.inbox.read(node, &session, &wanted, &page(vec![], 3));
        assert_eq!(polled(&session), "");
        rig.node.drain().await;
    }

    #[tokio::test]
    async fn an_inbox_that_began_anew_is_read_from_its_beginning() {
        let (rig, session) = live(Settling::Each).await;
        let node = rig.inner();
        session.inbox.arrived(node, &session, &arrival(0, stored(7, "old")));
        session.inbox.arrived(node, &session, &arrival(0, stored(3, "new")));
        let wanted = session.inbox.wanted(&node.window(), &session.outbox).unwrap();
        session.inbox.read(node, &session, &wanted, &page(vec![], 3));
        let wanted = session.inbox.wanted(&node.window(), &session.outbox).unwrap();
        assert_eq!(wanted.span.after, Serial::ZERO);
        session.inbox.read(node, &session, &wanted, &page(vec![stored(3, "new")], 3));
        let given = polled(&session);
        assert_eq!((count(&given, "old"), count(&given, "new")), (1, 1), "{given}");
        session.inbox.arrived(node, &session, &arrival(3, stored(4, "newer")));
        assert_eq!(count(&polled(&session), "newer"), 1);
        rig.node.drain().await;
    }

    #[tokio::test]
    async fn what_does_not_fit_waits_in_the_store() {
        let (rig, session) = live(Settling::Each).await;
        let node = rig.inner();
        // Each of these takes six times as much in JSON; the outbox is bounded by a mebibyte.
        let large = |ms| stored(ms, &"\u{1}".repeat(40_000));
        session.inbox.fall_behind();
        let wanted = session.inbox.wanted(&node.window(), &session.outbox).unwrap();
        session.inbox.read(node, &session, &wanted, &page((1..=10).map(large).collect(), 10));
        assert_eq!(session.outbox.closed(), None);
        assert!(!session.outbox.has_room_for(240_000));
        // Nothing more is read before something has left.
        assert_eq!(session.inbox.wanted(&node.window(), &session.outbox), None);
        assert_eq!(count(&polled(&session), r#"["e""#), 2);
        assert!(session.outbox.take_news(), "the courier is woken");
        // The window counts what it really takes, too.
        assert_eq!(
            session.inbox.wanted(&node.window(), &session.outbox).map(|wanted| wanted.span.after),
            Some(serial(2))
        );
        rig.node.drain().await;
    }

    #[tokio::test]
    async fn what_was_not_written_is_not_settled() {
        let (rig, session) = live(Settling::Written).await;
        let node = rig.inner();
        session.outbox.take_news();
        session.inbox.arrived(node, &session, &arrival(0, stored(1, "one")));
        assert_eq!(session.inbox.written(&session), (false, true));
        assert!(!session.inbox.is_to_be_queued());
        assert!(!session.outbox.take_news(), "nothing has left");
        assert_eq!(count(&polled(&session), "one"), 1);
        assert!(session.outbox.take_news());
        assert_eq!(session.inbox.written(&session), (true, false));
        assert!(session.inbox.is_to_be_queued());
        assert!(!session.inbox.is_to_be_queued(), "once is enough");
        assert_eq!(session.inbox.settle(), [serial(1)]);
        // What closes the connection does not write it out.
        session.inbox.arrived(node, &session, &arrival(1, stored(2, "two")));
        session.outbox.close(tidegate_core::DisconnectReason::SlowConsumer);
        assert_eq!(session.inbox.written(&session), (false, true));
        rig.node.drain().await;
    }

    #[tokio::test]
    async fn rounds_have_their_rate() {
        let rig = Rig::start(&Exchange::new(), "a").await;
        let session = rig.seat("ann").await;
        let begin = |now_ms| {
            let may = session.inbox.allows_round(now_ms);
            if may {
                session.inbox.begin(Settling::Each, Serial::ZERO, &rig.inner().window(), now_ms);
            }
            may
        };
        let begun = |at: u64| (0..100).filter(|_| begin(at)).count();
        assert_eq!(begun(0), 16);
        assert_eq!((begun(499), begun(500), begun(1_000)), (0, 1, 1));
        assert_eq!(begun(60_000), 16);
        rig.node.drain().await;
    }

    #[tokio::test]
    async fn an_acknowledgement_of_an_earlier_round_counts() {
        let (rig, session) = live(Settling::Each).await;
        let node = rig.inner();
        let first = node.acknowledgements.next_id() + 1;
        session.inbox.arrived(node, &session, &arrival(0, stored(1, "one")));
        session.inbox.arrived(node, &session, &arrival(1, stored(2, "two")));
        session.inbox.begin(Settling::Each, serial(2), &node.window(), 0);
        let wanted = session.inbox.wanted(&node.window(), &session.outbox).unwrap();
        session.inbox.read(node, &session, &wanted, &page(vec![stored(1, "one"), stored(2, "two")], 2));
        assert_eq!(count(&polled(&session), "one"), 2, "it is given again");
        assert!(session.inbox.acknowledged(first));
        assert_eq!(session.inbox.settle(), [serial(1)]);
        session.inbox.settled(Some(Settled::Deleted(1)));
        // Once is enough.
        assert!(!session.inbox.acknowledged(first + 2));
        assert!(session.inbox.acknowledged(first + 3));
        assert_eq!(session.inbox.settle(), [serial(2)]);
        // Two rounds later still; but not for ever.
        session.inbox.begin(Settling::Each, serial(2), &node.window(), 0);
        assert!(session.inbox.acknowledged(first + 1));
        let few = Window { messages_max: 0, ..node.window() };
        session.inbox.begin(Settling::Each, serial(2), &few, 0);
        assert!(!session.inbox.acknowledged(first + 3));
        rig.node.drain().await;
    }

    #[tokio::test]
    async fn what_was_acknowledged_is_unsettled_until_the_store_says_so() {
        let (rig, session) = live(Settling::Each).await;
        let node = rig.inner();
        let is_unsettled = || matches!(session.inbox.unsettled(), Unsettled::Something(_));
        let first = node.acknowledgements.next_id() + 1;
        session.inbox.arrived(node, &session, &arrival(0, stored(1, "one")));
        session.inbox.arrived(node, &session, &arrival(1, stored(2, "two")));
        assert!(!session.inbox.acknowledged(first - 1) && !is_unsettled());
        assert!(session.inbox.acknowledged(first + 1) && is_unsettled());
        assert_eq!(session.inbox.settle(), [serial(2)]);
        assert!(session.inbox.acknowledged(first) && !session.inbox.acknowledged(first));
        // Nobody answers; then the registry does not know the session.
        for outcome in [None, Some(Settled::Absent)] {
            session.inbox.settled(outcome);
            assert!(is_unsettled());
            assert_eq!(session.inbox.settle(), [serial(2), serial(1)]);
        }
        // Also over a new round.
        session.inbox.begin(Settling::Each, Serial::ZERO, &node.window(), 0);
        assert!(is_unsettled());
        session.inbox.settled(Some(Settled::Deleted(1)));
        assert!(matches!(session.inbox.unsettled(), Unsettled::Nothing));
        session.inbox.settled(Some(Settled::Displaced));
        assert!(matches!(session.inbox.unsettled(), Unsettled::Lost));
        rig.node.drain().await;
    }
}
