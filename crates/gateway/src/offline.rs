//! The operations `send` and `online`, and durable messages that come by HTTP.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tidegate_core::offline::{
    Arrival, Full, HolderError, Letter, Quotas, SendError, Sender, Sent, Serial, Status, Stored, Unavailable,
};
use tidegate_core::registry::Place;
use tidegate_core::{EVENTS_RESERVED, ErrorCode};
use tidegate_msgpack::{Reader, Token, write};
use tidegate_protocol::value;
use tokio::time::Instant;

use crate::inbox::{ROUNDS_BURST, ROUNDS_PER_SECOND, Settling, Unsettled, Window};
use crate::node::{Inner, Node};
use crate::operation::{EVENT_DEFAULT, NIL, check_binary, entry, name_field};
use crate::reply::{Refusal, Reply};
use crate::session::{Deed, Session};
use crate::trace::Followed;

/// How long to wait before a registry that does not know a session is asked again whether it does now.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// What the argument of `send` says, checked against the session's grants and the limits.
pub(crate) fn letter(node: &Inner, session: &Session, argument: Option<&[u8]>) -> Result<Letter, Refusal> {
    let from = sender(session)?;
    let limits = &node.options.limits;
    let wanted = || Refusal::bad_request("the argument must be an object such as { to, data }");
    let mut reader = Reader::new(argument.unwrap_or(NIL));
    let Ok(Token::Map(entries)) = reader.token() else { return Err(wanted()) };
    let (mut to, mut event, mut data, mut id) = (None, EVENT_DEFAULT, NIL, None);
    for _ in 0..entries {
        let (key, value) = entry(&mut reader)?;
        match key {
            b"to" => to = Some(name_field("to", value, limits)?),
            b"event" => event = name_field("event", value, limits)?,
            b"data" => data = value,
            b"id" => id = Some(name_field("id", value, limits)?),
            // A field of a later version, or of the application's own.
            _ => {}
        }
    }
    let to = to.ok_or_else(|| Refusal::bad_request("to is missing: expected a user"))?;
    if !session.identity.grants.allows_send(to) {
        return Err(Refusal::new(ErrorCode::Forbidden, format!("no grant to send to user {to:?}")));
    }
    check_content(event, data, node.options.offline.message_bytes_max)?;
    Ok(Letter {
        to: Place { namespace: session.namespace().clone(), user: to.into() },
        from,
        event: event.into(),
        data: Bytes::copy_from_slice(data),
        id: id.map(Into::into),
        ttl: None,
    })
}

fn sender(session: &Session) -> Result<Sender, Refusal> {
    if !session.rule.offline {
        return Err(off());
    }
    session.holder().map(Sender::Session).ok_or_else(anonymous)
}

fn off() -> Refusal {
    Refusal::new(ErrorCode::NotEnabled, "durable messages are off in this namespace (offline.enabled)")
}

fn anonymous() -> Refusal {
    Refusal::new(ErrorCode::Unauthorized, "only a client with a user has durable messages")
}

/// What every durable message is held to.
fn check_content(event: &str, data: &[u8], bytes_max: usize) -> Result<(), Refusal> {
    if EVENTS_RESERVED.contains(&event) {
        return Err(Refusal::bad_request(format!("event {event:?} is reserved")));
    }
    let length = data.len();
    if length > bytes_max {
        let message =
            format!("data has {length} bytes, at most {bytes_max} (offline.message_bytes_max) are allowed");
        return Err(Refusal::new(ErrorCode::TooLarge, message));
    }
    check_binary(data)
}

/// What the argument of `online` says.
pub(crate) fn settling(
    node: &Inner,
    session: &Session,
    argument: Option<&[u8]>,
) -> Result<Settling, Refusal> {
    if !session.rule.offline {
        return Err(off());
    }
    if session.holding().is_none() {
        return Err(anonymous());
    }
    let mut settling = Settling::Each;
    let mut reader = Reader::new(argument.unwrap_or(NIL));
    match reader.token() {
        Ok(Token::Nil) => {}
        Ok(Token::Map(entries)) => {
            for _ in 0..entries {
                let (key, value) = entry(&mut reader)?;
                if key == b"ack" {
                    settling = match Reader::new(value).str() {
                        Ok("each") => Settling::Each,
                        Ok("none") => Settling::Written,
                        _ => return Err(Refusal::bad_request("ack must be \"each\" or \"none\"")),
                    };
                }
            }
        }
        // Callers who pass on whatever they have, as to `heartbeat`, mean nothing by it. `undefined` is one such thing.
        Ok(Token::Ext { .. }) => {}
        _ => return Err(Refusal::bad_request("the argument must be { ack } or nothing")),
    }
    if !session.inbox.allows_round(node.clock.now_ms()) {
        let message = format!(
            "more than {ROUNDS_BURST} times `online` in one go, and {ROUNDS_PER_SECOND} a second after that"
        );
        return Err(Refusal::new(ErrorCode::RateLimited, message));
    }
    Ok(settling)
}

/// Stores what a session sends, and answers. A registry that lost the session is given a while to know it again.
pub(crate) async fn send(node: Arc<Inner>, session: Arc<Session>, letter: Letter, deed: Deed, reply: Reply) {
    let deadline = Instant::now() + node.options.pulse.hold;
    let followed = node.traces.as_ref().and_then(|traces| traces.begin("send"));
    let sent = loop {
        let sent = node.offline.send(letter.clone()).await;
        if sent != Err(SendError::Sender(HolderError::Absent))
            || !may_be_put_back(&node, &session, deadline).await
        {
            break sent;
        }
    };
    let sent = stored(&node, sent);
    if let Some(followed) = followed {
        trace(followed, &session, &sent);
    }
    match sent {
        Ok(sent) => reply.ok_with_id(&sent.serial.to_string(), 1, |out| {
            write::str(out, "status");
            write::str(out, sent.status.as_str());
        }),
        Err(Some(refusal)) => reply.refuse(&refusal),
        // It has lost its place: nothing is acknowledged to it any more.
        Err(None) => {}
    }
    // Whoever took its place was not answered before this was.
    drop(deed);
}

fn trace(mut followed: Followed, session: &Session, sent: &Result<Sent, Option<Refusal>>) {
    followed.note("tidegate.namespace", session.namespace().as_str());
    let error = match sent {
        Ok(sent) => {
            followed.note("tidegate.message", &sent.serial.to_string());
            followed.note("tidegate.status", sent.status.as_str());
            None
        }
        Err(Some(refusal)) => Some(refusal.code.as_str()),
        Err(None) => Some("displaced"),
    };
    followed.end(error);
}

/// Whether it is worth to ask again for a session that the registry does not know; after a while, in which it may have
/// been put back.
async fn may_be_put_back(node: &Inner, session: &Session, deadline: Instant) -> bool {
    let may = Instant::now() + RETRY_AFTER < deadline && !session.is_over();
    if may {
        node.registrar.miss(session);
        tokio::time::sleep(RETRY_AFTER).await;
    }
    may
}

/// Counts what became of a letter; nothing is to be said to a sender who lost its place.
fn stored(node: &Inner, outcome: Result<Sent, SendError>) -> Result<Sent, Option<Refusal>> {
    match outcome {
        Ok(sent) => {
            if sent.status != Status::Duplicate {
                node.metrics.offline_stored(&sent, &node.options.offline.quotas);
            }
            node.metrics.offline_expired.inc_by(sent.expired);
            Ok(sent)
        }
        Err(error) => Err(refusal(error, &node.options.offline.quotas).inspect(|refusal| {
            node.metrics.offline_rejected(refusal.code);
        })),
    }
}

/// What a failed send means for its sender.
fn refusal(error: SendError, quotas: &Quotas) -> Option<Refusal> {
    Some(match error {
        SendError::RateLimited { retry_after } => {
            let (max, seconds) = (quotas.sender_per_minute_max, retry_after.as_millis().div_ceil(1_000));
            let message = format!(
                "more than {max} messages a minute (offline.sender_per_minute_max); again in {seconds} s"
            );
            Refusal::new(ErrorCode::RateLimited, message)
        }
        SendError::Full(Full::Messages) => {
            let message = format!("the inbox holds {} messages (offline.messages_max)", quotas.messages_max);
            Refusal::new(ErrorCode::OfflineFull, message)
        }
        SendError::Full(Full::Bytes) => {
            let message =
                format!("the inbox holds no more than {} bytes (offline.bytes_max)", quotas.bytes_max);
            Refusal::new(ErrorCode::OfflineFull, message)
        }
        SendError::Sender(HolderError::Displaced) => return None,
        SendError::Sender(HolderError::Absent | HolderError::Unavailable(Unavailable)) => {
            let message = "whether the message was stored is unknown; send it again with the same id";
            Refusal::new(ErrorCode::Unavailable, message)
        }
    })
}

/// Makes a session ready, and answers. What it had acknowledged before is settled first, so that it does not come again.
pub(crate) async fn online(
    node: Arc<Inner>,
    session: Arc<Session>,
    settling: Settling,
    deed: Deed,
    reply: Reply,
) {
    let deadline = Instant::now() + node.options.pulse.hold;
    // What cannot be settled comes again.
    let _ = settled(&node, &session, deadline).await;
    match open(&node, &session, deadline).await {
        Ok(backlog) => {
            reply.ok();
            session.inbox.begin(settling, backlog, &node.window(), node.clock.now_ms());
            session.outbox.wake_news();
        }
        Err(HolderError::Displaced) => {}
        Err(HolderError::Absent | HolderError::Unavailable(_)) => {
            // Nobody is to count on it, as far as that is known.
            session.ready.store(session.inbox.is_open(), Ordering::Release);
            reply.refuse(&Refusal::new(ErrorCode::Unavailable, "the inbox cannot be reached"));
        }
    }
    drop(deed);
}

async fn open(node: &Inner, session: &Session, deadline: Instant) -> Result<Serial, HolderError> {
    let Some(holder) = session.holder() else { return Err(HolderError::Displaced) };
    // First, so that a registry that has lost the session gets to know it as ready.
    session.ready.store(true, Ordering::Release);
    loop {
        match node.offline.open(holder.clone()).await {
            Err(HolderError::Absent) if may_be_put_back(node, session, deadline).await => {}
            outcome => return outcome,
        }
    }
}

/// Resolves when everything that the session has acknowledged is settled.
///
/// # Errors
/// When that is not so at `deadline`, or never will be.
pub(crate) async fn settled(
    node: &Inner,
    session: &Arc<Session>,
    deadline: Instant,
) -> Result<(), HolderError> {
    loop {
        let changed = match session.inbox.unsettled() {
            Unsettled::Nothing => return Ok(()),
            Unsettled::Lost => return Err(HolderError::Displaced),
            // Whoever waits for its end is not kept waiting.
            Unsettled::Something(_) if session.is_over() => return Err(HolderError::Displaced),
            Unsettled::Something(changed) => changed,
        };
        // It may have been turned away before, for want of room.
        node.registrar.settle(session);
        let mut notified = std::pin::pin!(changed.notified());
        // Registered before the next look, so that nothing in between is missed.
        notified.as_mut().enable();
        if matches!(session.inbox.unsettled(), Unsettled::Something(_))
            && tokio::time::timeout_at(deadline, notified).await.is_err()
        {
            return Err(Unavailable.into());
        }
    }
}

/// A durable message that comes by HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Post {
    /// Whose inbox.
    pub to: Place,
    /// The event.
    pub event: Arc<str>,
    /// The data, as JSON.
    pub data: String,
    /// The idempotency key.
    pub id: Option<Arc<str>>,
    /// How long it waits, if less than others do.
    pub ttl: Option<Duration>,
}

/// Why a message was not stored, for whoever asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The code.
    pub code: ErrorCode,
    /// What is wrong; it names the field and the limit.
    pub message: String,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { code: refusal.code, message: refusal.message.into_owned() }
    }
}

impl Node {
    /// Stores a message for a user in the operator's name. Returns its id, and what became of it.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn post(&self, post: Post) -> Result<(String, &'static str), Refused> {
        let node = &self.0;
        let Post { to, event, data, id, ttl } = post;
        let value = self
            .postable(&to, &event, &data)
            .inspect_err(|refusal| node.metrics.offline_rejected(refusal.code))?;
        let letter = Letter { to, from: Sender::Operator, event, data: value.into(), id, ttl };
        let sent = stored(node, node.offline.send(letter).await).map_err(|refusal| {
            // The operator holds no place that it could lose.
            refusal.unwrap_or_else(|| Refusal::new(ErrorCode::Unavailable, "the store does not answer"))
        })?;
        Ok((sent.serial.to_string(), sent.status.as_str()))
    }

    /// How many messages wait for a user, and how many bytes they take.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn waiting(&self, place: Place) -> Result<(u64, u64), Unavailable> {
        let Stored { count, bytes, expired } = self.0.offline.stored(place).await?;
        self.0.metrics.offline_expired.inc_by(expired);
        Ok((count, bytes))
    }

    /// Deletes everything that waits for a user. Returns how many messages.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn clear(&self, place: Place) -> Result<u64, Unavailable> {
        self.0.offline.clear(place).await
    }

    /// The data as it is stored, if it may be.
    fn postable(&self, to: &Place, event: &str, data: &str) -> Result<Vec<u8>, Refusal> {
        match self.0.rule(&to.namespace) {
            Some(rule) if rule.offline => {}
            Some(_) => return Err(off()),
            None => return Err(Refusal::new(ErrorCode::NotFound, "there is no such namespace")),
        }
        let mut value = Vec::with_capacity(data.len());
        value::json_to_wire(data.as_bytes(), &[], &mut value)
            .map_err(|error| Refusal::bad_request(format!("data: {error}")))?;
        check_content(event, &value, self.0.options.offline.message_bytes_max)?;
        Ok(value)
    }
}

impl Inner {
    /// A message was stored for sessions of this node.
    pub(crate) fn arrived(&self, arrival: &Arrival) {
        for session in arrival.sessions.iter().filter_map(|session| self.hub.find(*session)) {
            session.inbox.arrived(self, &session, arrival);
        }
    }

    /// What one session may have that is not settled.
    pub(crate) fn window(&self) -> Window {
        Window {
            messages_max: self.options.offline.window,
            bytes_max: self.options.limits.outbox_bytes_max / 2,
        }
    }
}
