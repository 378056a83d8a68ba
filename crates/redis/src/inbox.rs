//! What an inbox holds for a message: one MessagePack array, whose last element is the data as it came.
//!
//! | 0 | 1 | 2 | 3 |
//! |---|---|---|---|
//! | the sending user, nil for the operator | the event | the node that stored it | the data |
//!
//! Its length is what the message counts against the quota in bytes. Scripts keep it as it is and never look inside.

use bytes::Bytes;
use tidegate_core::NodeId;
use tidegate_core::offline::{Letter, Message, Serial};
use tidegate_msgpack::{Reader, Token, write};

/// What is stored for `letter`.
pub(crate) fn encode(letter: &Letter, node: &NodeId) -> Vec<u8> {
    let mut out = Vec::with_capacity(letter.data.len() + letter.event.len() + 96);
    write::array(&mut out, 4);
    match letter.from.user() {
        Some(user) => write::str(&mut out, user),
        None => write::nil(&mut out),
    }
    write::str(&mut out, &letter.event);
    write::str(&mut out, node.as_str());
    out.extend_from_slice(&letter.data);
    out
}

/// The message that is stored as `raw`. None when no version known here has written it.
pub(crate) fn decode(serial: Serial, raw: Vec<u8>) -> Option<Message> {
    let mut reader = Reader::new(&raw);
    if reader.array().ok()? < 4 {
        return None;
    }
    let from = match reader.token().ok()? {
        Token::Nil => None,
        Token::Str(user) => Some(std::str::from_utf8(user).ok()?.into()),
        _ => return None,
    };
    let event = reader.str().ok()?.into();
    let node = NodeId::parse(reader.str().ok()?).ok()?;
    let start = reader.position();
    reader.skip().ok()?;
    let end = reader.position();
    Some(Message { serial, from, node, event, data: Bytes::from(raw).slice(start..end) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

    use proptest::prelude::*;
    use tidegate_core::offline::{Holder, Sender};
    use tidegate_core::registry::Place;
    use tidegate_core::{ClaimId, Namespace, SessionId};

    use super::*;

    fn place(user: &str) -> Place {
        Place { namespace: Namespace::root(), user: user.into() }
    }

    fn letter(from: Option<&str>, event: &str, data: &[u8]) -> Letter {
        let mut value = Vec::new();
        write::bin(&mut value, data);
        let session =
            |user| Holder { place: place(user), session: SessionId::random(), claim: ClaimId::random() };
        Letter {
            to: place("bob"),
            from: from.map_or(Sender::Operator, |user| Sender::Session(session(user))),
            event: event.into(),
            data: value.into(),
            id: None,
            ttl: None,
        }
    }

    proptest! {
        #[test]
        fn messages_are_read_again(from: Option<String>, event: String, data: Vec<u8>, ms: u64, number: u64) {
            let letter = letter(from.as_deref(), &event, &data);
            let node = NodeId::random();
            let serial = Serial { ms, number };
            let raw = encode(&letter, &node);
            let weight = raw.len();
            let message = decode(serial, raw).unwrap();
            prop_assert_eq!(message.from.as_deref(), from.as_deref());
            prop_assert_eq!(&*message.event, &*event);
            prop_assert_eq!(&message.data, &letter.data);
            prop_assert_eq!((message.serial, &message.node), (serial, &node));
            // The memory's store counts about as much.
            prop_assert!(weight.abs_diff(message.weight()) <= 16, "{} and {}", weight, message.weight());
        }

        #[test]
        fn any_bytes_are_survived(raw in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(Serial::ZERO, raw);
        }

        #[test]
        fn any_damage_is_survived(data: Vec<u8>, at: prop::sample::Index, byte: u8) {
            let mut raw = encode(&letter(Some("ann"), "e", &data), &NodeId::random());
            let at = at.index(raw.len());
            raw[at] = byte;
            let _ = decode(Serial::ZERO, raw);
        }
    }
}
