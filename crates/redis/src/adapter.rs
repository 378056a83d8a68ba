//! The wire of `@socket.io/redis-adapter` 8.3 and `@socket.io/redis-emitter` 5.1, for broadcasts.
//!
//! A payload is the MessagePack array `[uid, packet, opts]`: who sent it, `{ type, data, nsp }`, and
//! `{ rooms, except, flags }`. It is read without a look at the arguments, and written to the byte as a Node
//! server writes it. Which channel it travels on only saves traffic: the receivers follow from `opts` alone.

use std::borrow::Cow;

use bytes::Bytes;
use tidegate_core::{EVENTS_RESERVED, Flags, Namespace, PRESENCE_EVENTS, Publication, Room, Rooms};
use tidegate_msgpack::{self as msgpack, Reader, Token, write};

/// The Socket.IO packet type of an event. The adapter keeps it also for events with binary arguments.
pub(crate) const PACKET_EVENT: u64 = 2;

/// Most binary values in one event: what the parsers of Socket.IO's servers and clients accept.
const ATTACHMENTS_MAX: usize = 10;

/// What `@socket.io/redis-emitter` calls itself, as MessagePack. It orders the options in its own way.
const UID_EMITTER: &[u8] = b"\xa7emitter";

const FLAGS_NONE: &[u8] = b"\x80";
const FLAGS_VOLATILE: &[u8] = b"\x81\xa8volatile\xc3";

/// Flags of our own, which other servers pass over.
const FLAGS_PRESENCE: &[u8] = b"\x81\xa8presence\xc3";
const FLAGS_META: &[u8] = b"\x81\xa4meta\xc3";
const FLAGS_VOLATILE_META: &[u8] = b"\x82\xa8volatile\xc3\xa4meta\xc3";

/// Why a payload is not delivered. All of it is the fault of whoever published it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not the array that a broadcast is.
    #[error("malformed adapter payload")]
    Malformed,
    /// A packet that is not an event.
    #[error("adapter payload holds another packet than an event")]
    NotAnEvent,
    /// An event that only the library or the gateway may send.
    #[error("adapter payload holds a reserved event")]
    ReservedEvent,
    /// More binary values than a client accepts.
    #[error("adapter payload holds more than {ATTACHMENTS_MAX} binary values")]
    TooManyAttachments,
    /// The packet's namespace is not the one of the channel.
    #[error("adapter payload names another namespace than its channel")]
    NamespaceMismatch,
}

impl Refusal {
    /// The word for the counter of what was dropped.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "adapter_malformed",
            Self::NotAnEvent => "adapter_not_an_event",
            Self::ReservedEvent => "adapter_reserved_event",
            Self::TooManyAttachments => "adapter_too_many_attachments",
            Self::NamespaceMismatch => "adapter_namespace_mismatch",
        }
    }
}

impl From<msgpack::Error> for Refusal {
    fn from(_: msgpack::Error) -> Self {
        Self::Malformed
    }
}

/// One broadcast on the wire. What the gateway has no use for is kept as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Who sent it, as one MessagePack value. A Node peer ignores what carries its own.
    pub uid: &'a [u8],
    /// The namespace; `/` when the packet names none.
    pub namespace: &'a str,
    /// Members of any of these receive it; empty means the whole namespace.
    pub rooms: Rooms,
    /// Members of any of these do not.
    pub except: Rooms,
    /// What the gateway knows of `flags_raw`.
    pub flags: Flags,
    /// The map of all flags, `compress` and `timeout` among them.
    pub flags_raw: &'a [u8],
    /// The event and its arguments, one MessagePack array.
    pub data: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// The envelope in which a node that calls itself `uid` (one MessagePack value) sends `publication`.
    #[must_use]
    pub fn of(publication: &'a Publication, uid: &'a [u8]) -> Self {
        Self {
            uid,
            namespace: publication.namespace.as_str(),
            rooms: publication.rooms.clone(),
            except: publication.except.clone(),
            flags: publication.flags,
            flags_raw: match publication.flags {
                // The gateway's own events are never volatile.
                Flags { presence: true, .. } => FLAGS_PRESENCE,
                Flags { volatile: true, meta: true, .. } => FLAGS_VOLATILE_META,
                Flags { volatile: true, .. } => FLAGS_VOLATILE,
                Flags { meta: true, .. } => FLAGS_META,
                Flags { .. } => FLAGS_NONE,
            },
            data: &publication.data,
        }
    }

    /// Reads a payload. The order of keys does not matter and further keys are skipped; a missing or null `nsp` is
    /// `/`, missing or null `rooms`, `except` and `flags` are empty.
    ///
    /// # Errors
    /// When it is no broadcast of an event that clients may be given.
    pub fn decode(payload: &'a [u8]) -> Result<Self, Refusal> {
        let mut reader = Reader::new(payload);
        if reader.array()? != 3 {
            return Err(Refusal::Malformed);
        }
        let uid = reader.value()?;
        let Packet { namespace, data, attachments } = Packet::read(&mut reader)?;
        let mut envelope = Self {
            uid,
            namespace,
            rooms: Rooms::new(),
            except: Rooms::new(),
            flags: Flags::default(),
            flags_raw: FLAGS_NONE,
            data,
        };
        for _ in 0..reader.map()? {
            match reader.token()? {
                Token::Str(b"rooms") => envelope.rooms = rooms(&mut reader)?,
                Token::Str(b"except") => envelope.except = rooms(&mut reader)?,
                Token::Str(b"flags") => (envelope.flags_raw, envelope.flags) = flags(&mut reader)?,
                Token::Str(_) => reader.skip()?,
                _ => return Err(Refusal::Malformed),
            }
        }
        if !reader.is_empty() {
            return Err(Refusal::Malformed);
        }
        check_event(data, attachments, envelope.flags.presence)?;
        Ok(envelope)
    }

    /// Writes the payload, in the order of keys of the adapter, or of the emitter where that is the sender.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // The fixed keys and headers take 45 bytes, names a few more.
        let mut out = Vec::with_capacity(self.data.len() + self.flags_raw.len() + self.namespace.len() + 128);
        write::array(&mut out, 3);
        out.extend_from_slice(self.uid);
        write::map(&mut out, 3);
        write::str(&mut out, "type");
        write::uint(&mut out, PACKET_EVENT);
        write::str(&mut out, "data");
        out.extend_from_slice(self.data);
        write::str(&mut out, "nsp");
        write::str(&mut out, self.namespace);
        write::map(&mut out, 3);
        push_rooms(&mut out, "rooms", &self.rooms);
        if self.uid == UID_EMITTER {
            self.push_flags(&mut out);
            push_rooms(&mut out, "except", &self.except);
        } else {
            push_rooms(&mut out, "except", &self.except);
            self.push_flags(&mut out);
        }
        out
    }

    fn push_flags(&self, out: &mut Vec<u8>) {
        write::str(out, "flags");
        out.extend_from_slice(self.flags_raw);
    }

    /// What is delivered, in `namespace`, which is this one's.
    #[must_use]
    pub fn into_publication(self, namespace: Namespace) -> Publication {
        Publication {
            namespace,
            rooms: self.rooms,
            except: self.except,
            flags: self.flags,
            data: Bytes::copy_from_slice(self.data),
        }
    }
}

pub(crate) fn push_rooms(out: &mut Vec<u8>, key: &str, rooms: &Rooms) {
    write::str(out, key);
    let count = u32::try_from(rooms.len()).expect("rooms in memory number less than four billion");
    write::array(out, count);
    for room in rooms {
        write::str(out, room.as_str());
    }
}

/// `{ type, data, nsp }`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) data: &'a [u8],
    /// How many binary values `data` holds.
    pub(crate) attachments: usize,
}

impl<'a> Packet<'a> {
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, Refusal> {
        let mut is_event = false;
        let (mut data, mut attachments) = (None, 0);
        let mut namespace = "/";
        for _ in 0..reader.map()? {
            match reader.token()? {
                Token::Str(b"type") => {
                    is_event = Reader::new(reader.value()?).token()? == Token::UInt(PACKET_EVENT);
                }
                Token::Str(b"data") => {
                    attachments = 0;
                    data = Some(reader.value_seen(|token| {
                        attachments += usize::from(matches!(token, Token::Bin(_)));
                    })?);
                }
                Token::Str(b"nsp") => {
                    namespace = match reader.token()? {
                        Token::Nil => "/",
                        Token::Str(name) => std::str::from_utf8(name).map_err(|_| Refusal::Malformed)?,
                        _ => return Err(Refusal::Malformed),
                    }
                }
                Token::Str(_) => reader.skip()?,
                _ => return Err(Refusal::Malformed),
            }
        }
        if !is_event {
            return Err(Refusal::NotAnEvent);
        }
        Ok(Self { namespace, data: data.ok_or(Refusal::Malformed)?, attachments })
    }
}

pub(crate) fn rooms(reader: &mut Reader<'_>) -> Result<Rooms, Refusal> {
    let count = match reader.token()? {
        Token::Nil => return Ok(Rooms::new()),
        Token::Array(count) => count,
        _ => return Err(Refusal::Malformed),
    };
    let mut rooms = Rooms::new();
    for _ in 0..count {
        // JavaScript callers name rooms with numbers, too; on a channel they are spelled in decimal.
        let room: Cow<'_, str> = match reader.token()? {
            Token::Str(name) => std::str::from_utf8(name).map_err(|_| Refusal::Malformed)?.into(),
            Token::UInt(number) => number.to_string().into(),
            Token::Int(number) => number.to_string().into(),
            _ => return Err(Refusal::Malformed),
        };
        rooms.push(Room::from(&*room));
    }
    Ok(rooms)
}

pub(crate) fn flags<'a>(reader: &mut Reader<'a>) -> Result<(&'a [u8], Flags), Refusal> {
    let raw = reader.value()?;
    let mut inside = Reader::new(raw);
    let count = match inside.token()? {
        Token::Nil => return Ok((FLAGS_NONE, Flags::default())),
        Token::Map(count) => count,
        _ => return Err(Refusal::Malformed),
    };
    let mut flags = Flags::default();
    for _ in 0..count {
        match inside.token()? {
            Token::Str(b"volatile") => flags.volatile = inside.value()? == [0xc3],
            Token::Str(b"presence") => flags.presence = inside.value()? == [0xc3],
            Token::Str(b"meta") => flags.meta = inside.value()? == [0xc3],
            Token::Str(_) => inside.skip()?,
            _ => return Err(Refusal::Malformed),
        }
    }
    Ok((raw, flags))
}

fn is_one_of(events: &[&str], name: &[u8]) -> bool {
    events.iter().any(|event| event.as_bytes() == name)
}

/// Checks that `data`, one complete value with so many binary ones in it, is an event that clients may be given: with
/// `presence`, one of the gateway's own about it, and without, none of them.
pub(crate) fn check_event(data: &[u8], attachments: usize, presence: bool) -> Result<(), Refusal> {
    let mut reader = Reader::new(data);
    if reader.array()? == 0 {
        return Err(Refusal::Malformed);
    }
    match reader.token()? {
        Token::Str(name)
            if is_one_of(&EVENTS_RESERVED, name) && !(presence && is_one_of(&PRESENCE_EVENTS, name)) =>
        {
            return Err(Refusal::ReservedEvent);
        }
        Token::Str(_) | Token::UInt(_) | Token::Int(_) | Token::F32(_) | Token::F64(_) => {}
        _ => return Err(Refusal::Malformed),
    }
    if attachments > ATTACHMENTS_MAX { Err(Refusal::TooManyAttachments) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

    use proptest::prelude::*;

    use super::*;

    /// `[uid, packet, opts]` of MessagePack values that are given as bytes.
    fn payload(packet: &[u8], opts: &[u8]) -> Vec<u8> {
        [b"\x93\xa3uid", packet, opts].concat()
    }

    const PACKET: &[u8] = b"\x83\xa4type\x02\xa4data\x91\xa1e\xa3nsp\xa2/a";

    #[test]
    fn keys_may_come_in_any_order_and_with_strangers_between() {
        let payload = payload(
            b"\x84\xa1x\x92\x01\x80\xa3nsp\xa2/a\xa4data\x92\xa1e\x05\xa4type\x02",
            b"\x84\xa5flags\x82\xa8compress\xc2\xa8volatile\xc3\xa1y\xc0\xa6except\x91\xa1c\xa5rooms\x92\xa1a\x07",
        );
        let envelope = Envelope::decode(&payload).unwrap();
        assert_eq!(envelope.namespace, "/a");
        assert_eq!(envelope.rooms.as_slice(), [Room::from("a"), Room::from("7")]);
        assert_eq!(envelope.except.as_slice(), [Room::from("c")]);
        assert!(envelope.flags.volatile);
        assert_eq!(envelope.flags_raw, b"\x82\xa8compress\xc2\xa8volatile\xc3");
        assert_eq!(envelope.data, b"\x92\xa1e\x05");
    }

    #[test]
    fn what_is_missing_or_null_is_empty() {
        for opts in [&b"\x80"[..], b"\x83\xa5rooms\xc0\xa6except\xc0\xa5flags\xc0"] {
            for packet in
                [&b"\x82\xa4type\x02\xa4data\x91\xa1e"[..], b"\x83\xa4type\x02\xa4data\x91\xa1e\xa3nsp\xc0"]
            {
                let payload = payload(packet, opts);
                let envelope = Envelope::decode(&payload).unwrap();
                assert_eq!(envelope.namespace, "/");
                assert!(envelope.rooms.is_empty() && envelope.except.is_empty() && !envelope.flags.volatile);
                assert_eq!(envelope.flags_raw, FLAGS_NONE);
            }
        }
    }

    #[test]
    fn what_is_no_broadcast_is_refused() {
        let event = |data: &[u8]| payload(&[b"\x82\xa4type\x02\xa4data", data].concat(), b"\x80");
        let presence = |data: &[u8]| {
            let opts = [b"\x81\xa5flags", FLAGS_PRESENCE].concat();
            payload(&[b"\x82\xa4type\x02\xa4data", data].concat(), &opts)
        };
        let cases: [(&str, Vec<u8>, Refusal); 16] = [
            ("nothing", vec![], Refusal::Malformed),
            ("text", b"{\"uid\":1}".to_vec(), Refusal::Malformed),
            ("a pair", [b"\x92\xa3uid", PACKET].concat(), Refusal::Malformed),
            ("a trailing byte", payload(PACKET, b"\x80\xc0"), Refusal::Malformed),
            ("null options", payload(PACKET, b"\xc0"), Refusal::Malformed),
            ("a room that is a map", payload(PACKET, b"\x81\xa5rooms\x91\x80"), Refusal::Malformed),
            ("no data", payload(b"\x81\xa4type\x02", b"\x80"), Refusal::Malformed),
            ("no type", payload(b"\x81\xa4data\x91\xa1e", b"\x80"), Refusal::NotAnEvent),
            ("a binary event", payload(b"\x82\xa4type\x05\xa4data\x91\xa1e", b"\x80"), Refusal::NotAnEvent),
            ("an empty event", event(b"\x90"), Refusal::Malformed),
            ("an event without a name", event(b"\x91\xc0"), Refusal::Malformed),
            ("a library's event", event(b"\x91\xaadisconnect"), Refusal::ReservedEvent),
            ("the gateway's event", event(b"\x91\xa7evicted"), Refusal::ReservedEvent),
            ("the gateway's event", event(b"\x91\xadpresence_join"), Refusal::ReservedEvent),
            ("what is no presence event", presence(b"\x91\xa7evicted"), Refusal::ReservedEvent),
            (
                "eleven attachments",
                event(&[b"\x9c\xa1e", b"\xc4\x01x".repeat(11).as_slice()].concat()),
                Refusal::TooManyAttachments,
            ),
        ];
        for (what, payload, refusal) in cases {
            assert_eq!(Envelope::decode(&payload), Err(refusal), "{what}");
        }
        assert!(
            Envelope::decode(&event(&[b"\x9b\xa1e", b"\xc4\x01x".repeat(10).as_slice()].concat())).is_ok()
        );
        assert!(Envelope::decode(&event(b"\x91\x07")).is_ok(), "numbers are events, too");
        assert!(Envelope::decode(&presence(b"\x91\xadpresence_join")).unwrap().flags.presence);
    }

    #[test]
    fn every_shortened_payload_is_refused() {
        let whole = payload(PACKET, b"\x81\xa5rooms\x91\xa1a");
        assert!(Envelope::decode(&whole).is_ok());
        for length in 0..whole.len() {
            assert_eq!(
                Envelope::decode(&whole[..length]).unwrap_err().reason(),
                "adapter_malformed",
                "{length}"
            );
        }
    }

    fn publication() -> impl Strategy<Value = Publication> {
        let rooms = || prop::collection::vec(".{0,40}", 0..4);
        (rooms(), rooms(), any::<(bool, bool)>(), "[a-z]{1,30}", "/[a-z]{0,12}").prop_map(
            |(rooms, except, (volatile, meta), event, namespace)| {
                let mut data = Vec::new();
                write::array(&mut data, 2);
                write::str(&mut data, &format!("e{event}"));
                write::bin(&mut data, b"bytes");
                Publication {
                    namespace: Namespace::from(namespace),
                    rooms: rooms.into_iter().map(Room::from).collect(),
                    except: except.into_iter().map(Room::from).collect(),
                    flags: Flags { volatile, presence: false, meta },
                    data: data.into(),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(publication in publication(), emitter in any::<bool>()) {
            let uid = if emitter { UID_EMITTER } else { b"\xa6asukF3" };
            let payload = Bytes::from(Envelope::of(&publication, uid).encode());
            let envelope = Envelope::decode(&payload).unwrap();
            prop_assert_eq!(envelope.encode(), payload.to_vec());
            let namespace = Namespace::from(envelope.namespace);
            prop_assert_eq!(envelope.into_publication(namespace), publication);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Envelope::decode(&bytes);
        }

        #[test]
        fn any_damage_is_survived(publication in publication(), at in any::<prop::sample::Index>(), byte: u8) {
            let mut payload = Envelope::of(&publication, b"\xa6asukF3").encode();
            let at = at.index(payload.len());
            payload[at] = byte;
            if let Ok(envelope) = Envelope::decode(&payload) {
                prop_assert!(Envelope::decode(&envelope.encode()).is_ok());
            }
        }
    }
}
