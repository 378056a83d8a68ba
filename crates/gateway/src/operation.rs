//! The operations that clients may ask for: their arguments, their limits, their grants.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::{BoxFuture, FutureExt as _};

use tidegate_core::offline::HolderError;
use tidegate_core::{EVENTS_RESERVED, ErrorCode, Flags, MessageId, Publication, Room, Rooms};
use tidegate_msgpack::{Reader, Token, write};
use tidegate_protocol::socketio::ATTACHMENTS_MAX;
use tidegate_protocol::value::Binary;
use tokio::time::Instant;

use crate::clock::unix_ms;
use crate::inbox::Unsettled;
use crate::namespaces::Operation;
use crate::node::Inner;
use crate::offline;
use crate::options::Limits;
use crate::presence::{self, Question};
use crate::reply::{Refusal, Reply};
use crate::session::{Deed, Session};

/// MessagePack's nil.
pub(crate) const NIL: &[u8] = &[0xc0];

/// The name of a publication's event when its publisher gives none.
pub(crate) const EVENT_DEFAULT: &str = "message";

/// How often a session's signs of life are written into the registry, in milliseconds.
const SEEN_EVERY_MS: u64 = 10_000;

/// Most users of one `presence { users }`; each costs the registry a look.
const USERS_MAX: u32 = 100;

/// One event of a client's, taken apart.
pub(crate) struct Event<'a> {
    /// None for an event that is called by a number; no operation is.
    pub(crate) name: Option<&'a str>,
    /// The arguments behind the name.
    arguments: Reader<'a>,
    count: u32,
}

impl<'a> Event<'a> {
    /// Takes the array `data` apart, which the decoder has checked.
    pub(crate) fn read(data: &'a [u8]) -> Result<Self, tidegate_msgpack::Error> {
        let mut arguments = Reader::new(data);
        let count = arguments.array()?.saturating_sub(1);
        let name = Reader::new(arguments.value()?).str().ok();
        Ok(Self { name, arguments, count })
    }

    /// The one argument of an operation; others behind it are ignored, as handlers in JavaScript do.
    pub(crate) fn argument(&mut self) -> Option<&'a [u8]> {
        if self.count == 0 {
            return None;
        }
        self.arguments.value().ok()
    }
}

/// Carries out one operation, or refuses it. What comes back must be over before the session does anything else.
pub(crate) fn perform(
    node: &Arc<Inner>,
    session: &Arc<Session>,
    operation: Operation,
    argument: Option<&[u8]>,
    deed: Deed,
    reply: Reply,
) -> Option<BoxFuture<'static, ()>> {
    if !session.rule.operations.contains(operation) {
        let refusal = Refusal::new(ErrorCode::NotEnabled, "this operation is off in this namespace");
        if operation == Operation::Send {
            node.metrics.offline_rejected(refusal.code);
        }
        reply.refuse(&refusal);
        return None;
    }
    let limits = &node.options.limits;
    let refusal = match operation {
        Operation::Join => match joinable(session, argument, limits) {
            Ok(room) => {
                node.join(session, room, reply);
                return None;
            }
            Err(refusal) => refusal,
        },
        Operation::Leave => match leavable(session, argument, limits) {
            Ok(room) => {
                node.leave(session, &room);
                reply.ok();
                return None;
            }
            Err(refusal) => refusal,
        },
        Operation::Publish | Operation::Broadcast => match outgoing(node, session, operation, argument) {
            Ok((publication, id)) => {
                node.publish(deed, publication, id, reply);
                return None;
            }
            Err(refusal) => refusal,
        },
        Operation::Heartbeat => {
            let now = unix_ms();
            if now.saturating_sub(session.seen_at_ms.load(Ordering::Relaxed)) >= SEEN_EVERY_MS {
                session.seen_at_ms.store(now, Ordering::Relaxed);
                node.refresh(session);
            }
            // Answered after everything that the client has acknowledged before it.
            if !matches!(session.inbox.unsettled(), Unsettled::Nothing) {
                return Some(beat(Arc::clone(node), Arc::clone(session), deed, reply).boxed());
            }
            // The moment that others are told, too.
            answer_heartbeat(reply, now);
            return None;
        }
        Operation::Presence => match asked(session, argument, limits) {
            Ok(question) => {
                let (registry, namespace) = (Arc::clone(&node.registry), session.namespace().clone());
                let (session, broker) = (Arc::clone(session), Arc::clone(&node.broker));
                let begin = move || session.begin(&broker);
                return Some(presence::answer(registry, namespace, question, begin, reply).boxed());
            }
            Err(refusal) => refusal,
        },
        Operation::Send => match offline::letter(node, session, argument) {
            Ok(letter) => {
                let (node, session) = (Arc::clone(node), Arc::clone(session));
                return Some(offline::send(node, session, letter, deed, reply).boxed());
            }
            Err(refusal) => {
                node.metrics.offline_rejected(refusal.code);
                refusal
            }
        },
        Operation::Online => match offline::settling(node, session, argument) {
            Ok(settling) => {
                let (node, session) = (Arc::clone(node), Arc::clone(session));
                return Some(offline::online(node, session, settling, deed, reply).boxed());
            }
            Err(refusal) => refusal,
        },
    };
    reply.refuse(&refusal);
    None
}

fn answer_heartbeat(reply: Reply, now_ms: u64) {
    reply.ok_with(1, |out| {
        write::str(out, "ts");
        write::uint(out, now_ms);
    });
}

/// A heartbeat that waits for acknowledgements to be settled.
async fn beat(node: Arc<Inner>, session: Arc<Session>, deed: Deed, reply: Reply) {
    let deadline = Instant::now() + node.options.pulse.hold;
    match offline::settled(&node, &session, deadline).await {
        Ok(()) => answer_heartbeat(reply, unix_ms()),
        // It has lost its place, and will hear so.
        Err(HolderError::Displaced) => {}
        Err(_) => reply.refuse(&Refusal::new(
            ErrorCode::Unavailable,
            "not everything that was acknowledged is known to be settled",
        )),
    }
    drop(deed);
}

/// The room of `join`, checked against the session's grants.
fn joinable(session: &Session, argument: Option<&[u8]>, limits: &Limits) -> Result<Room, Refusal> {
    let room = room_argument(argument, limits)?;
    let grants = &session.identity.grants;
    if !grants.allows_join(room) {
        return Err(forbidden("join", room));
    }
    if Room::is_socket_id(room) && !grants.literally_names_join(room) {
        return Err(socket_room(room));
    }
    Ok(Room::from(room))
}

/// The room of `leave`, which needs no grant, and which no socket's own room may be.
fn leavable(session: &Session, argument: Option<&[u8]>, limits: &Limits) -> Result<Room, Refusal> {
    let room = room_argument(argument, limits)?;
    if Room::is_socket_id(room) && !session.identity.grants.literally_names_join(room) {
        return Err(socket_room(room));
    }
    Ok(Room::from(room))
}

fn forbidden(verb: &str, room: &str) -> Refusal {
    Refusal::new(ErrorCode::Forbidden, format!("no grant to {verb} room {room:?}"))
}

fn socket_room(room: &str) -> Refusal {
    Refusal::new(ErrorCode::Forbidden, format!("room {room:?} has the shape of a socket id"))
}

/// `"room"` or `{ room }`.
fn room_argument<'a>(argument: Option<&'a [u8]>, limits: &Limits) -> Result<&'a str, Refusal> {
    let missing = || Refusal::bad_request("room is missing: expected a string or { room }");
    let argument = argument.ok_or_else(missing)?;
    let mut reader = Reader::new(argument);
    match reader.token() {
        Ok(Token::Str(name)) => checked_name("room", name, limits),
        Ok(Token::Map(entries)) => {
            let mut room = None;
            for _ in 0..entries {
                let (key, value) = entry(&mut reader)?;
                if key == b"room" {
                    room = Some(name_field("room", value, limits)?);
                }
            }
            room.ok_or_else(missing)
        }
        _ => Err(Refusal::bad_request("room must be a string or { room }")),
    }
}

/// The argument of `presence`: `{ room }` or `{ users: [] }`, checked against the session's grants.
fn asked(session: &Session, argument: Option<&[u8]>, limits: &Limits) -> Result<Question, Refusal> {
    if !session.rule.presence {
        return Err(Refusal::new(ErrorCode::NotEnabled, "presence is off in this namespace"));
    }
    let wanted = || Refusal::bad_request("the argument must be { room } or { users: [] }");
    let grants = &session.identity.grants;
    let mut reader = Reader::new(argument.unwrap_or(NIL));
    let Ok(Token::Map(entries)) = reader.token() else { return Err(wanted()) };
    let (mut room, mut users) = (None, None);
    for _ in 0..entries {
        let (key, value) = entry(&mut reader)?;
        match key {
            b"room" => room = Some(name_field("room", value, limits)?),
            b"users" => users = Some(names_field("users", value, limits)?),
            _ => {}
        }
    }
    match (room, users) {
        (Some(room), None) => {
            if !grants.allows_join(room) {
                return Err(forbidden("join", room));
            }
            Ok(Question::Room(Room::from(room)))
        }
        (None, Some(users)) => {
            if let Some(user) = users.iter().find(|user| !grants.allows_send(user)) {
                return Err(Refusal::new(ErrorCode::Forbidden, format!("no grant to send to user {user:?}")));
            }
            Ok(Question::Users(users))
        }
        _ => Err(wanted()),
    }
}

fn names_field(field: &'static str, value: &[u8], limits: &Limits) -> Result<Vec<Arc<str>>, Refusal> {
    let mut reader = Reader::new(value);
    let count =
        reader.array().map_err(|_| Refusal::bad_request(format!("{field} must be a list of strings")))?;
    if count > USERS_MAX {
        let message = format!("{field} has {count} entries, at most {USERS_MAX} are allowed");
        return Err(Refusal::new(ErrorCode::TooLarge, message));
    }
    let mut names: Vec<Arc<str>> = Vec::new();
    for _ in 0..count {
        let name = name_field(field, reader.value().map_err(malformed)?, limits)?;
        if !names.iter().any(|known| **known == *name) {
            names.push(name.into());
        }
    }
    Ok(names)
}

fn malformed(_: tidegate_msgpack::Error) -> Refusal {
    Refusal::bad_request("the argument cannot be read")
}

pub(crate) fn entry<'a>(reader: &mut Reader<'a>) -> Result<(&'a [u8], &'a [u8]), Refusal> {
    let Token::Str(key) = reader.token().map_err(malformed)? else {
        return Err(Refusal::bad_request("the argument has a key that is no string"));
    };
    Ok((key, reader.value().map_err(malformed)?))
}

pub(crate) fn name_field<'a>(
    field: &'static str,
    value: &'a [u8],
    limits: &Limits,
) -> Result<&'a str, Refusal> {
    match Reader::new(value).token() {
        Ok(Token::Str(name)) => checked_name(field, name, limits),
        _ => Err(Refusal::bad_request(format!("{field} must be a string"))),
    }
}

fn checked_name<'a>(field: &'static str, name: &'a [u8], limits: &Limits) -> Result<&'a str, Refusal> {
    let max = limits.name_bytes_max;
    if name.is_empty() {
        return Err(Refusal::bad_request(format!("{field} must not be empty")));
    }
    if name.len() > max {
        let length = name.len();
        return Err(Refusal::bad_request(format!(
            "{field} has {length} bytes, at most {max} (limits.name_bytes_max) are allowed"
        )));
    }
    std::str::from_utf8(name).map_err(|_| Refusal::bad_request(format!("{field} must be valid Unicode")))
}

fn bool_field(field: &'static str, value: &[u8]) -> Result<bool, Refusal> {
    match Reader::new(value).token() {
        Ok(Token::Bool(set)) => Ok(set),
        _ => Err(Refusal::bad_request(format!("{field} must be true or false"))),
    }
}

/// The argument of `publish` and `broadcast`.
#[derive(Default)]
struct Outgoing<'a> {
    room: Option<&'a str>,
    event: Option<&'a str>,
    data: Option<&'a [u8]>,
    echo: bool,
    volatile: bool,
}

impl<'a> Outgoing<'a> {
    fn read(argument: Option<&'a [u8]>, limits: &Limits) -> Result<Self, Refusal> {
        let mut reader = Reader::new(argument.unwrap_or(NIL));
        let Ok(Token::Map(entries)) = reader.token() else {
            return Err(Refusal::bad_request("the argument must be an object such as { room, data }"));
        };
        let mut read = Self::default();
        for _ in 0..entries {
            let (key, value) = entry(&mut reader)?;
            match key {
                b"room" => read.room = Some(name_field("room", value, limits)?),
                b"event" => read.event = Some(name_field("event", value, limits)?),
                b"data" => read.data = Some(value),
                b"echo" => read.echo = bool_field("echo", value)?,
                b"volatile" => read.volatile = bool_field("volatile", value)?,
                // A field of a later version, or of the application's own.
                _ => {}
            }
        }
        Ok(read)
    }
}

/// Checks what becomes of `data` with Socket.IO's default parser, which clients in the room may have.
pub(crate) fn check_binary(data: &[u8]) -> Result<(), Refusal> {
    let Binary { count, has_placeholder } =
        Binary::of(data).map_err(|_| Refusal::bad_request("data cannot be read"))?;
    if count > ATTACHMENTS_MAX {
        return Err(Refusal::new(
            ErrorCode::TooLarge,
            format!("data holds {count} binary values, at most {ATTACHMENTS_MAX} are allowed"),
        ));
    }
    if count > 0 && has_placeholder {
        return Err(Refusal::bad_request(
            "data holds an object with _placeholder: true beside binary values, for one of which it would be taken",
        ));
    }
    Ok(())
}

/// A checked publication and its id.
fn outgoing(
    node: &Inner,
    session: &Session,
    operation: Operation,
    argument: Option<&[u8]>,
) -> Result<(Publication, MessageId), Refusal> {
    let asked = Outgoing::read(argument, &node.options.limits)?;
    let event = asked.event.unwrap_or(EVENT_DEFAULT);
    if EVENTS_RESERVED.contains(&event) {
        return Err(Refusal::bad_request(format!("event {event:?} is reserved")));
    }
    // JSON has no undefined and leaves the field out; a stock server would hand on undefined, which arrives as null.
    let data = asked.data.unwrap_or(NIL);
    let grants = &session.identity.grants;
    let room = match operation {
        Operation::Broadcast => {
            if !grants.allows_broadcast() {
                return Err(Refusal::new(ErrorCode::Forbidden, "no grant to publish to every room"));
            }
            None
        }
        _ => {
            let room = asked.room.ok_or_else(|| Refusal::bad_request("room is missing"))?;
            if !grants.allows_publish(room) {
                return Err(forbidden("publish to", room));
            }
            if Room::is_socket_id(room) && !grants.literally_names_publish(room) {
                return Err(socket_room(room));
            }
            Some(room)
        }
    };
    check_binary(data)?;
    let now = unix_ms();
    let id = MessageId::new(now);
    let mut out = Vec::with_capacity(data.len() + event.len() + 160);
    write::array(&mut out, 3);
    write::str(&mut out, event);
    out.extend_from_slice(data);
    write_meta(&mut out, node, session, id, room, now);
    let mut except = Rooms::new();
    if !asked.echo {
        except.push(session.own_room());
    }
    let publication = Publication {
        namespace: session.namespace().clone(),
        rooms: room.map(Room::from).into_iter().collect(),
        except,
        flags: Flags { volatile: asked.volatile, meta: true, ..Flags::default() },
        data: out.into(),
    };
    Ok((publication, id))
}

/// `{ id, room?, from, node, ts }`.
fn write_meta(
    out: &mut Vec<u8>,
    node: &Inner,
    session: &Session,
    id: MessageId,
    room: Option<&str>,
    now: u64,
) {
    write::map(out, 4 + u32::from(room.is_some()));
    write::str(out, "id");
    write::str(out, id.as_str());
    if let Some(room) = room {
        write::str(out, "room");
        write::str(out, room);
    }
    write::str(out, "from");
    match &session.identity.user {
        Some(user) => write::str(out, user),
        None => write::nil(out),
    }
    write::str(out, "node");
    write::str(out, node.options.node.as_str());
    write::str(out, "ts");
    write::uint(out, now);
}
