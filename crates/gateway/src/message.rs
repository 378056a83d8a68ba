//! A message on its way out: encoded once, framed at most once per transport, shared by every receiver.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tidegate_protocol::engineio::payload;
use tidegate_protocol::socketio::{Encoded, Head};
use tidegate_protocol::websocket::{self, Opcode};

/// Cheap to clone; the bytes exist once per node and (dialect, transport), and only once somebody needs them.
#[derive(Clone, Debug)]
pub(crate) struct Message(Arc<Forms>);

#[derive(Debug)]
struct Forms {
    source: Source,
    volatile: bool,
    websocket: OnceLock<Bytes>,
    websocket_text: OnceLock<Bytes>,
    polling: OnceLock<Bytes>,
}

#[derive(Debug)]
enum Source {
    /// An Engine.IO packet that is complete as it stands, such as a ping.
    Engine(&'static str),
    /// The same, with data.
    EngineOwned(String),
    /// A Socket.IO packet.
    Packet(Encoded),
    /// WebSocket frames, which no other transport knows: control frames, and all of the plain protocol.
    Frame(Bytes),
}

impl Message {
    pub(crate) fn packet(encoded: Encoded, volatile: bool) -> Self {
        Self::new(Source::Packet(encoded), volatile)
    }

    pub(crate) fn engine(packet: &'static str) -> Self {
        Self::new(Source::Engine(packet), false)
    }

    pub(crate) fn engine_owned(packet: String) -> Self {
        Self::new(Source::EngineOwned(packet), false)
    }

    /// One or more whole WebSocket frames.
    pub(crate) fn frame(frames: Bytes, volatile: bool) -> Self {
        Self::new(Source::Frame(frames), volatile)
    }

    fn new(source: Source, volatile: bool) -> Self {
        Self(Arc::new(Forms {
            source,
            volatile,
            websocket: OnceLock::new(),
            websocket_text: OnceLock::new(),
            polling: OnceLock::new(),
        }))
    }

    pub(crate) fn is_volatile(&self) -> bool {
        self.0.volatile
    }

    /// About how long it is in any form, in bytes.
    pub(crate) fn weight(&self) -> usize {
        match &self.0.source {
            Source::Engine(packet) => packet.len(),
            Source::EngineOwned(packet) => packet.len(),
            Source::Frame(frame) => frame.len(),
            Source::Packet(encoded) => {
                let (head, text) = match &encoded.head {
                    Head::Text(text) => (0, text.len()),
                    Head::Binary(bytes) => (bytes.len(), 0),
                };
                let binary = head + encoded.attachments.iter().map(Bytes::len).sum::<usize>();
                // As base64, which some transports need.
                text + binary.div_ceil(3) * 4
            }
        }
    }

    /// All its WebSocket frames, one after the other.
    pub(crate) fn websocket(&self) -> &Bytes {
        self.0.websocket.get_or_init(|| match &self.0.source {
            Source::Engine(packet) => websocket::frame(Opcode::Text, packet.as_bytes()),
            Source::EngineOwned(packet) => websocket::frame(Opcode::Text, packet.as_bytes()),
            Source::Packet(encoded) => packet_frames(encoded),
            Source::Frame(frame) => frame.clone(),
        })
    }

    /// The same for a client that takes no binary frames: each piece of the polling payload in a text frame.
    pub(crate) fn websocket_text(&self) -> &Bytes {
        if let Source::Engine(_) | Source::EngineOwned(_) | Source::Frame(_) = self.0.source {
            return self.websocket();
        }
        self.0.websocket_text.get_or_init(|| {
            let mut out = Vec::new();
            for piece in self.polling().split(|byte| *byte == payload::SEPARATOR) {
                websocket::header(Opcode::Text, piece.len(), &mut out);
                out.extend_from_slice(piece);
            }
            out.into()
        })
    }

    /// All its pieces of a polling payload, joined by the separator.
    pub(crate) fn polling(&self) -> &Bytes {
        self.0.polling.get_or_init(|| {
            let mut out = Vec::new();
            match &self.0.source {
                Source::Engine(packet) => payload::push_text(&mut out, packet),
                Source::EngineOwned(packet) => payload::push_text(&mut out, packet),
                Source::Frame(_) => payload::push_text(&mut out, "6"),
                Source::Packet(encoded) => {
                    match &encoded.head {
                        Head::Text(text) => {
                            out.reserve(text.len() + 1);
                            out.push(b'4');
                            out.extend_from_slice(text);
                        }
                        Head::Binary(bytes) => payload::push_binary(&mut out, bytes),
                    }
                    for attachment in &encoded.attachments {
                        payload::push_binary(&mut out, attachment);
                    }
                }
            }
            out.into()
        })
    }
}

fn packet_frames(encoded: &Encoded) -> Bytes {
    let attachments: usize = encoded.attachments.iter().map(|bytes| bytes.len() + HEADER_BYTES_MAX).sum();
    let (opcode, head, digit) = match &encoded.head {
        Head::Text(text) => (Opcode::Text, text, Some(b'4')),
        Head::Binary(bytes) => (Opcode::Binary, bytes, None),
    };
    let mut out = Vec::with_capacity(HEADER_BYTES_MAX + 1 + head.len() + attachments);
    websocket::header(opcode, head.len() + usize::from(digit.is_some()), &mut out);
    out.extend(digit);
    out.extend_from_slice(head);
    for attachment in &encoded.attachments {
        websocket::header(Opcode::Binary, attachment.len(), &mut out);
        out.extend_from_slice(attachment);
    }
    out.into()
}

/// Longest header of an unmasked frame.
const HEADER_BYTES_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn binary_event() -> Message {
        Message::packet(
            Encoded {
                head: Head::Text(Bytes::from_static(b"51-[\"e\",{\"_placeholder\":true,\"num\":0}]")),
                attachments: vec![Bytes::from_static(&[1, 2, 3])],
            },
            false,
        )
    }

    #[test]
    fn a_binary_event_is_one_text_and_one_binary_frame() {
        let message = binary_event();
        let frames = message.websocket();
        assert_eq!(frames[0], 0x81);
        assert_eq!(usize::from(frames[1]), 39);
        assert_eq!(frames[2], b'4');
        assert_eq!(frames[41..], [0x82, 3, 1, 2, 3]);
    }

    #[test]
    fn the_same_event_polled_is_two_pieces() {
        let message = binary_event();
        let text = std::str::from_utf8(message.polling()).unwrap();
        assert_eq!(text, "451-[\"e\",{\"_placeholder\":true,\"num\":0}]\u{1e}bAQID");
    }

    #[test]
    fn a_client_without_binary_frames_gets_base64_in_text_frames() {
        let message = binary_event();
        let frames = message.websocket_text();
        assert_eq!(frames[..2], [0x81, 39]);
        assert_eq!(frames[41..], *b"\x81\x05bAQID");
    }

    #[test]
    fn forms_are_made_once_and_shared() {
        let message = binary_event();
        let other = message.clone();
        assert_eq!(message.websocket().as_ptr(), other.websocket().as_ptr());
    }
}
