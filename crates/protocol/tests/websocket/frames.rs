//! Frames right and wrong, messages that own their payload, and streams of frames for property tests.

use proptest::prelude::*;
use tidegate_protocol::websocket::{Decoder, Incoming, Input, Opcode, Role, Violation, frame_masked};

pub(crate) const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A message that outlives the buffer it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
}

impl From<Incoming<'_>> for Message {
    fn from(incoming: Incoming<'_>) -> Self {
        match incoming {
            Incoming::Text(text) => Self::Text(text.to_owned()),
            Incoming::Binary(data) => Self::Binary(data.to_vec()),
            Incoming::Ping(data) => Self::Ping(data.to_vec()),
            Incoming::Pong(data) => Self::Pong(data.to_vec()),
            Incoming::Close(code) => Self::Close(code),
        }
    }
}

/// Reads `bytes`, handed over in pieces of the lengths `cuts` (the rest in one), until they end, a violation or a
/// close.
pub(crate) fn read(
    mut decoder: Decoder,
    bytes: &[u8],
    cuts: impl IntoIterator<Item = usize>,
) -> (Vec<Message>, Option<Violation>) {
    let mut messages = Vec::new();
    let mut rest = bytes.to_vec();
    let mut cuts = cuts.into_iter();
    while !rest.is_empty() {
        let cut = cuts.next().unwrap_or(rest.len()).min(rest.len());
        let mut piece: Vec<u8> = rest.drain(..cut).collect();
        let mut input = Input::new(&mut piece);
        loop {
            match decoder.next(&mut input) {
                Ok(Some(incoming)) => messages.push(incoming.into()),
                Ok(None) => break,
                Err(violation) => return (messages, Some(violation)),
            }
            if matches!(messages.last(), Some(Message::Close(_))) {
                return (messages, None);
            }
        }
        assert!(input.is_empty() && input.remaining().is_empty(), "None means that all was used");
    }
    (messages, None)
}

/// A frame with every freedom to be wrong: `first` and the length byte as they are given.
pub(crate) fn raw(first: u8, mask: Option<[u8; 4]>, length: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    bytes.extend_from_slice(length);
    if let Some(mask) = mask {
        bytes[1] |= 0x80;
        bytes.extend_from_slice(&mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    } else {
        bytes.extend_from_slice(payload);
    }
    bytes
}

/// A frame that may lack the FIN bit, as the peer of `role` writes it.
pub(crate) fn fragment(role: Role, fin: bool, opcode: Opcode, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut bytes = match role {
        Role::Server => frame_masked(opcode, payload, mask).to_vec(),
        Role::Client => tidegate_protocol::websocket::frame(opcode, payload).to_vec(),
    };
    if !fin {
        bytes[0] &= 0x7f;
    }
    bytes
}

/// Something a peer says: a message in one or more frames, with control frames between them, or a control frame.
#[derive(Clone, Debug)]
pub(crate) struct Utterance {
    message: Message,
    /// Lengths of the fragments before the last.
    fragments: Vec<usize>,
    /// Comes after the first fragment, if there is one.
    amid: Option<Message>,
    mask: [u8; 4],
}

impl Utterance {
    /// Appends the frames to `bytes`, and what a reader makes of them to `messages`.
    fn write(&self, role: Role, bytes: &mut Vec<u8>, messages: &mut Vec<Message>) {
        let (mut opcode, mut payload) = match &self.message {
            Message::Text(text) => (Opcode::Text, text.as_bytes()),
            Message::Binary(data) => (Opcode::Binary, &data[..]),
            control => {
                Self::write_control(control, role, self.mask, bytes);
                messages.push(control.clone());
                return;
            }
        };
        for (index, length) in self.fragments.iter().enumerate() {
            let (front, rest) = payload.split_at((*length).min(payload.len()));
            bytes.extend(fragment(role, false, opcode, front, self.mask));
            if let (0, Some(control)) = (index, &self.amid) {
                Self::write_control(control, role, self.mask, bytes);
                messages.push(control.clone());
            }
            opcode = Opcode::Continuation;
            payload = rest;
        }
        bytes.extend(fragment(role, true, opcode, payload, self.mask));
        messages.push(self.message.clone());
    }

    fn write_control(control: &Message, role: Role, mask: [u8; 4], bytes: &mut Vec<u8>) {
        let (opcode, data) = match control {
            Message::Ping(data) => (Opcode::Ping, data),
            Message::Pong(data) => (Opcode::Pong, data),
            other => panic!("not generated as a control frame: {other:?}"),
        };
        bytes.extend(fragment(role, true, opcode, data, mask));
    }
}

fn control() -> impl Strategy<Value = Message> {
    let data = prop::collection::vec(any::<u8>(), 0..=125);
    prop_oneof![data.clone().prop_map(Message::Ping), data.prop_map(Message::Pong)]
}

fn utterance() -> impl Strategy<Value = Utterance> {
    // The lengths meet every form of the length field; 65 536 is rare because it is slow to cut at every byte.
    let data = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..140),
        1 => prop::collection::vec(any::<u8>(), 65_530..65_540),
    ];
    let message = prop_oneof![
        3 => "\\PC{0,60}".prop_map(Message::Text),
        3 => data.prop_map(Message::Binary),
        1 => control(),
    ];
    (message, prop::collection::vec(0usize..40, 0..4), prop::option::of(control()), any::<[u8; 4]>())
        .prop_map(|(message, fragments, amid, mask)| Utterance { message, fragments, amid, mask })
}

/// A valid stream as the peer of `role` writes it, and the messages in it.
pub(crate) fn stream(role: Role) -> impl Strategy<Value = (Vec<u8>, Vec<Message>)> {
    prop::collection::vec(utterance(), 0..6).prop_map(move |utterances| {
        let (mut bytes, mut messages) = (Vec::new(), Vec::new());
        for utterance in &utterances {
            utterance.write(role, &mut bytes, &mut messages);
        }
        (bytes, messages)
    })
}

pub(crate) fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Server), Just(Role::Client)]
}
