//! The offline port: durable messages, which wait for a user until one of its devices has acknowledged them.
//!
//! Each place has an *inbox*, an ordered list of messages. What is stored is acknowledged to its sender only then, and
//! stays until a session of the place settles it or until it expires. A session says that it is *ready*; from then on
//! its node is told of every message that comes, and the session is given the backlog first and then what comes, in
//! the order of the inbox. Messages are named by their [`Serial`], which orders them.
//!
//! Nothing that was promised is ever thrown away to make room: an inbox that is full refuses its senders.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::ids::{ClaimId, Namespace, NodeId, SessionId};
use crate::registry::Place;

/// What a node needs from the thing that keeps messages for users who are away.
///
/// One per node and incarnation, beside its [`SessionRegistry`](crate::SessionRegistry), whose claims it compares. The
/// contract, which one test suite holds every implementation to:
/// - For one place, everything happens one after the other, each step whole or not at all.
/// - A message of which [`OfflineStore::send`] has said that it is stored is given to whoever reads, until it is
///   settled, cleared or has expired; in the order of the serials, which is the order of the sends' answers.
/// - A step that names a claim does nothing unless that claim holds the place: who was displaced reads nothing, settles
///   nothing and sends nothing.
/// - The node of every session that was ready when a message was stored is told of it in that step
///   ([`Subscriber::arrived`](crate::Subscriber::arrived)), at most once, in the order of the serials. What it is not
///   told, because the subscription broke, it finds by reading.
/// - What expires or is settled counts no more against the quotas.
pub trait OfflineStore: Send + Sync + 'static {
    /// Stores a message for a place, unless that place or its sender has used up its quota. With an idempotency key that
    /// the same sender has used before for this place, nothing is stored, and the first message's serial is told.
    fn send(&self, letter: Letter) -> BoxFuture<'static, Result<Sent, SendError>>;

    /// Makes a session ready, which it stays until it ends. Returns the latest serial of its inbox: everything up to
    /// there is backlog, and of all that follows its node is told.
    fn open(&self, holder: Holder) -> BoxFuture<'static, Result<Serial, HolderError>>;

    /// The next messages of the holder's inbox, in order.
    fn read(&self, holder: Holder, span: Span) -> BoxFuture<'static, Result<Page, HolderError>>;

    /// Deletes messages that sessions have acknowledged; of one that does not hold its place, nothing. Says of each
    /// settlement what became of it, in their order.
    fn settle(&self, settlements: Vec<Settlement>) -> BoxFuture<'static, Result<Vec<Settled>, Unavailable>>;

    /// What waits in an inbox.
    fn stored(&self, place: Place) -> BoxFuture<'static, Result<Stored, Unavailable>>;

    /// Deletes everything that waits in an inbox. Returns how many messages.
    fn clear(&self, place: Place) -> BoxFuture<'static, Result<u64, Unavailable>>;

    /// Ends what it keeps open. Whoever asks afterwards is told that it is unavailable.
    fn close(&self) -> BoxFuture<'static, ()>;
}

/// What one sender, and what one inbox, may take up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Most messages of an inbox.
    pub messages_max: u64,
    /// Most bytes of an inbox, by [`Message::weight`].
    pub bytes_max: u64,
    /// How long a message waits at most.
    pub age_max: Duration,
    /// How long an idempotency key is remembered.
    pub id_ttl: Duration,
    /// Most messages of one sender in one minute, which begins with the first of them; 0 is no limit. Attempts count.
    pub sender_per_minute_max: u64,
    /// How many replicas must have a message before its sender is told that it is stored.
    pub wait_replicas: u32,
}

impl Default for Quotas {
    /// The documented defaults.
    fn default() -> Self {
        Self {
            messages_max: 1_000,
            bytes_max: 16 << 20,
            age_max: Duration::from_secs(7 * 24 * 60 * 60),
            id_ttl: Duration::from_secs(24 * 60 * 60),
            sender_per_minute_max: 120,
            wait_replicas: 0,
        }
    }
}

/// Where a message stands in its inbox: Unix milliseconds of when it was stored, and a number among those of one
/// millisecond. It is written `ms-number`, as Redis writes the ids of stream entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial {
    /// When it was stored, in Unix milliseconds by the store's clock.
    pub ms: u64,
    /// Tells those of one millisecond apart.
    pub number: u64,
}

impl Serial {
    /// Before every message.
    pub const ZERO: Self = Self { ms: 0, number: 0 };

    /// The serial that `text` spells.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (ms, number) = text.split_once('-')?;
        let digits = |part: &str| {
            let plain = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            if plain { part.parse().ok() } else { None }
        };
        Some(Self { ms: digits(ms)?, number: digits(number)? })
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.number)
    }
}

/// A session and the claim by which it holds its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The place.
    pub place: Place,
    /// The session.
    pub session: SessionId,
    /// Its claim.
    pub claim: ClaimId,
}

/// Who sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A session, within its user's quota. Its user is named as the sender.
    Session(Holder),
    /// The operator, who knows what it does: no quota per minute, and no name.
    Operator,
}

impl Sender {
    /// The name that recipients are told, and idempotency keys are compared under.
    #[must_use]
    pub fn user(&self) -> Option<&Arc<str>> {
        match self {
            Self::Session(holder) => Some(&holder.place.user),
            Self::Operator => None,
        }
    }
}

/// A message that is to be stored. Names and sizes have passed the limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Whose inbox.
    pub to: Place,
    /// Who sends it.
    pub from: Sender,
    /// The event that a live session gets it as.
    pub event: Arc<str>,
    /// One MessagePack value, in the value forms of a [`Publication`](crate::Publication).
    pub data: Bytes,
    /// The idempotency key.
    pub id: Option<Arc<str>>,
    /// How long it waits, if that is less than [`Quotas::age_max`].
    pub ttl: Option<Duration>,
}

/// A message of which its sender can be sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its serial, or that of the first with this idempotency key.
    pub serial: Serial,
    /// What became of it.
    pub status: Status,
    /// How many messages were found expired on the way.
    pub expired: u64,
    /// How many messages wait in the inbox with it; none are counted for a duplicate.
    pub count: u64,
    /// Their size, by [`Message::weight`].
    pub bytes: u64,
}

/// What became of a message that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Stored, and a session was ready for it.
    Live,
    /// Stored; no session was ready.
    Stored,
    /// It had been stored before.
    Duplicate,
}

impl Status {
    /// The word in acknowledgements and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Stored => "stored",
            Self::Duplicate => "duplicate",
        }
    }
}

/// A message as it waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its serial.
    pub serial: Serial,
    /// The sending user; none when the operator sent it.
    pub from: Option<Arc<str>>,
    /// The node that stored it.
    pub node: NodeId,
    /// The event.
    pub event: Arc<str>,
    /// The data.
    pub data: Bytes,
}

/// What a message counts beside the bytes of its names and its data: the head of what is stored.
const MESSAGE_HEAD_BYTES: usize = 16;

impl Message {
    /// What it counts against [`Quotas::bytes_max`], in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        let from = self.from.as_ref().map_or(0, |from| from.len());
        self.data.len() + self.event.len() + self.node.as_str().len() + from + MESSAGE_HEAD_BYTES
    }
}

/// Which messages to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Those behind this one.
    pub after: Serial,
    /// Up to and including this one; all that there are if none.
    pub until: Option<Serial>,
    /// Most messages; at least one.
    pub messages_max: usize,
    /// Most bytes by [`Message::weight`], of which a first message may take more.
    pub bytes_max: usize,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The messages.
    pub messages: Vec<Message>,
    /// Everything up to here has been read: where the next page begins.
    pub upto: Serial,
    /// Whether there is more behind it, within the span.
    pub has_more: bool,
    /// How many were found expired.
    pub expired: u64,
}

/// What a session has acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The session.
    pub holder: Holder,
    /// The messages.
    pub serials: Vec<Serial>,
}

/// What became of a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Its messages are not there any more. This many it deleted; the others had been settled by another device, or had
    /// expired.
    Deleted(u64),
    /// The session lost its place: they are there, for whoever has it.
    Displaced,
    /// The registry does not know the session: they are there, and can be settled once it does again.
    Absent,
}

/// What waits in an inbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// How many messages.
    pub count: u64,
    /// Their size, by [`Message::weight`].
    pub bytes: u64,
    /// How many were found expired.
    pub expired: u64,
}

/// A node is told of a message for sessions of its own that are ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The namespace.
    pub namespace: Namespace,
    /// The sessions.
    pub sessions: Vec<SessionId>,
    /// The serial before it in its inbox. Whoever has everything up to there has missed nothing.
    pub before: Serial,
    /// Its serial.
    pub serial: Serial,
    /// The message, unless it is large: then it is to be read.
    pub message: Option<Message>,
}

/// The store cannot be reached, or not in time, or too few replicas have what was written: the outcome is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("offline store unavailable")]
pub struct Unavailable;

/// Why a session can do nothing in its inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HolderError {
    /// It lost its place.
    #[error("the session lost its place")]
    Displaced,
    /// The registry does not know it: it lost it, and the node will put it back.
    #[error("the session is not in the registry")]
    Absent,
    /// As above.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why a message was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The sender has used up its quota of this minute.
    #[error("the sender has sent its share of this minute")]
    RateLimited {
        /// When the next minute begins.
        retry_after: Duration,
    },
    /// The inbox is full.
    #[error("the inbox is full")]
    Full(Full),
    /// The sender lost its place, or is not known; see [`HolderError`].
    #[error(transparent)]
    Sender(#[from] HolderError),
}

impl From<Unavailable> for SendError {
    fn from(unavailable: Unavailable) -> Self {
        Self::Sender(unavailable.into())
    }
}

/// Which quota of an inbox is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// [`Quotas::messages_max`].
    Messages,
    /// [`Quotas::bytes_max`].
    Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_read_as_they_are_written() {
        let serial = Serial { ms: 1_790_000_000_123, number: 7 };
        assert_eq!(Serial::parse(&serial.to_string()), Some(serial));
        for bad in ["", "-", "1-", "-1", "1", "+1-1", "1--1", "1-1-1", "18446744073709551616-0", "a-1"] {
            assert_eq!(Serial::parse(bad), None, "{bad}");
        }
        assert!(Serial { ms: 9, number: 9 } < Serial { ms: 10, number: 0 });
    }
}
