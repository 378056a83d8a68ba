//! The wire of `@socket.io/redis-adapter` 8.3 and `@socket.io/redis-emitter` 5.1, for what servers ask of each other.
//!
//! A payload is a JSON object if it begins with `{`, and otherwise a MessagePack map. Its `type` says what it is:
//!
//! | type | request | answer |
//! |---|---|---|
//! | 0 | `{ uid, requestId, rooms }` | `{ requestId, sockets: [id] }` |
//! | 1 | `{ uid, requestId }` | `{ requestId, rooms }` |
//! | 2, 3 | join, leave: `{ uid, opts, rooms }`; older peers `{ sid, room, requestId }` | none; `{ requestId }` |
//! | 4 | disconnect: `{ uid, opts, close }`; older peers `{ sid, close, requestId }` | none; `{ requestId }` |
//! | 5 | `{ uid, requestId, opts }` | `{ requestId, sockets: [{ id, handshake, rooms, data }] }` |
//! | 6 | `{ uid, requestId?, data: [event, ...] }` | if it has an id: `{ type: 6, requestId, data }` |
//! | 7 | `{ uid, requestId, packet, opts }` in MessagePack | `{ type: 8, requestId, clientCount }`, then for each acknowledgement `{ type: 9, requestId, packet }` in MessagePack |
//!
//! `opts` is `{ rooms, except, flags? }`, `packet` that of a broadcast. Nodes add two keys that other servers pass
//! over: `node`, who asks or answers, and in an answer to 2, 3 and 4 `matched`, how many sockets it was done to. A
//! node that asks gives these an id, too, and is answered by nodes only.
//!
//! An answer names no type where the request did; it is told apart by its keys.

mod answer;
mod date;
mod request;
#[cfg(test)]
mod tests;

pub use answer::{Answered, decode_answer, encode_answer};
pub use request::{decode_request, encode_request};

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize};
use tidegate_core::{Room, Rooms};
use tidegate_msgpack as msgpack;

use crate::adapter;

const IDS: u64 = 0;
const ALL_ROOMS: u64 = 1;
const JOIN: u64 = 2;
const LEAVE: u64 = 3;
const DISCONNECT: u64 = 4;
const FETCH: u64 = 5;
const SERVER_SIDE_EMIT: u64 = 6;
const BROADCAST: u64 = 7;
const CLIENT_COUNT: u64 = 8;
const ACKNOWLEDGEMENT: u64 = 9;

/// Why a payload is passed over. All of it is the fault of whoever published it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not the object that a request is.
    #[error("malformed request of another server")]
    MalformedRequest,
    /// A type of request that version 8 of the adapter does not know.
    #[error("unknown request of another server")]
    UnknownRequest,
    /// Not the object that an answer is.
    #[error("malformed answer of another server")]
    MalformedAnswer,
    /// The request wants something broadcast that is not.
    #[error(transparent)]
    Broadcast(#[from] adapter::Refusal),
}

impl Refusal {
    /// The word for the counter of what was dropped.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::MalformedRequest => "request_malformed",
            Self::UnknownRequest => "request_unknown",
            Self::MalformedAnswer => "answer_malformed",
            Self::Broadcast(refusal) => refusal.reason(),
        }
    }
}

impl From<msgpack::Error> for Refusal {
    fn from(_: msgpack::Error) -> Self {
        Self::MalformedRequest
    }
}

fn is_json(payload: &[u8]) -> bool {
    payload.first() == Some(&b'{')
}

/// Reads a string, or nothing where there is null.
fn text<'a>(reader: &mut msgpack::Reader<'a>) -> Result<Option<&'a str>, msgpack::Error> {
    match reader.token()? {
        msgpack::Token::Nil => Ok(None),
        msgpack::Token::Str(text) => std::str::from_utf8(text).map(Some).map_err(|_| msgpack::Error::Utf8),
        _ => Err(msgpack::Error::Type { expected: "a string" }),
    }
}

/// The name of a room in JSON. JavaScript callers name rooms with numbers, too; they are spelled in decimal.
#[derive(Debug)]
struct Name(Room);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrInteger;

        impl Visitor<'_> for TextOrInteger {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a room")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name(Room::from(name)))
            }

            fn visit_u64<E>(self, name: u64) -> Result<Name, E> {
                Ok(Name(Room::from(name.to_string())))
            }

            fn visit_i64<E>(self, name: i64) -> Result<Name, E> {
                Ok(Name(Room::from(name.to_string())))
            }
        }

        deserializer.deserialize_any(TextOrInteger)
    }
}

/// Names of rooms in JSON; null is none.
fn rooms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Rooms, D::Error> {
    let names = Option::<Vec<Name>>::deserialize(deserializer)?;
    Ok(names.unwrap_or_default().into_iter().map(|Name(room)| room).collect())
}

/// A string that is borrowed from JSON where it holds no escape.
type Text<'a> = Cow<'a, str>;

/// Writes JSON.
fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings, integers and lists of them, written to memory, cannot fail")
}
