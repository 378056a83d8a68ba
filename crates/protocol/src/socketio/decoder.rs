//! From a connection's messages to packets.

use bytes::Bytes;

use super::messagepack::{self, Sender};
use super::payload::{Length, check_ack, check_connect, check_connect_error, check_event};
use super::text::{Kind, Text};
use super::{Packet, Parser, Violation};
use crate::value::Draft;

/// Reads one connection's messages. Idle it is 16 bytes; the state of a packet whose attachments are still to come
/// is boxed and freed with the last of them.
#[derive(Debug)]
pub struct Decoder {
    bytes_max: u32,
    parser: Option<Parser>,
    sender: Sender,
    pending: Option<Box<Pending>>,
}

/// A packet whose attachments are still to come.
#[derive(Debug)]
struct Pending {
    namespace: String,
    id: Option<u64>,
    is_event: bool,
    draft: Draft,
    attachments: Vec<Bytes>,
    attachments_due: usize,
    bytes_left: usize,
}

impl Decoder {
    /// A decoder of what clients send. Which parser the client speaks is learnt from its first message.
    ///
    /// `bytes_max` bounds one packet: its text and all its attachments together, at most 4 GiB. (A stock server
    /// bounds each frame alone, so that a packet may reach eleven times the bound; a gateway that wants the same
    /// passes that.)
    #[must_use]
    pub fn server(bytes_max: usize) -> Self {
        let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX);
        Decoder { bytes_max, parser: None, sender: Sender::Client, pending: None }
    }

    /// A decoder of what a server sends to a client that speaks `parser`.
    #[must_use]
    pub fn client(parser: Parser, bytes_max: usize) -> Self {
        Decoder { parser: Some(parser), sender: Sender::Server, ..Decoder::server(bytes_max) }
    }

    /// The parser the peer speaks; `None` until a client's first message.
    #[must_use]
    pub fn parser(&self) -> Option<Parser> {
        self.parser
    }

    /// Reads a text message (without Engine.IO's `4`). `None` means that attachments are due, or that the packet asks
    /// for nothing: an EVENT without a payload, an ACK without an id.
    ///
    /// # Errors
    /// A [`Violation`]; the connection has to be closed.
    pub fn text(&mut self, text: &str) -> Result<Option<Packet>, Violation> {
        if *self.parser.get_or_insert(Parser::Text) == Parser::MessagePack {
            return Err(Violation::TextUnasked);
        }
        if self.pending.is_some() {
            return Err(Violation::TextWhileAssembling);
        }
        let bytes_left = self.room_after(text.len(), self.bytes_max as usize)?;
        let Text { kind, attachments, namespace, id, payload } = Text::split(text)?;
        if kind == Kind::ConnectError && self.sender == Sender::Client {
            return Err(Violation::Direction);
        }
        let namespace = namespace.to_owned();
        if payload.is_empty() {
            return without_payload(kind, attachments, namespace, id);
        }
        if kind == Kind::Disconnect {
            return Err(Violation::Payload);
        }
        let draft = Draft::new(payload, attachments)?;
        match kind {
            Kind::Event => check_event(draft.unfinished(), Length::Missing)?,
            Kind::Ack => check_ack(draft.unfinished())?,
            Kind::ConnectError => check_connect_error(draft.unfinished())?,
            Kind::Connect | Kind::Disconnect => check_connect(draft.unfinished())?,
        }
        if attachments > 0 {
            let is_event = kind == Kind::Event;
            let (attachments, attachments_due) = (Vec::with_capacity(attachments), attachments);
            let pending =
                Pending { namespace, id, is_event, draft, attachments, attachments_due, bytes_left };
            self.pending = Some(Box::new(pending));
            return Ok(None);
        }
        let data = draft.finish(&[]);
        Ok(match kind {
            Kind::Event => Some(Packet::Event { namespace, id, data }),
            Kind::Ack => id.map(|id| Packet::Ack { namespace, id, data }),
            Kind::ConnectError => Some(Packet::ConnectError { namespace, data }),
            Kind::Connect | Kind::Disconnect => Some(Packet::Connect { namespace, auth: Some(data) }),
        })
    }

    /// Reads a binary message: an attachment, or a packet of the MessagePack parser.
    ///
    /// # Errors
    /// A [`Violation`]; the connection has to be closed.
    pub fn binary(&mut self, bytes: &[u8]) -> Result<Option<Packet>, Violation> {
        match self.parser.get_or_insert(Parser::MessagePack) {
            Parser::MessagePack => {
                self.room_after(bytes.len(), self.bytes_max as usize)?;
                messagepack::decode(bytes, self.sender)
            }
            Parser::Text => self.attachment(bytes),
        }
    }

    fn attachment(&mut self, bytes: &[u8]) -> Result<Option<Packet>, Violation> {
        let mut pending = self.pending.take().ok_or(Violation::BinaryUnasked)?;
        pending.bytes_left = self.room_after(bytes.len(), pending.bytes_left)?;
        pending.attachments.push(Bytes::copy_from_slice(bytes));
        if pending.attachments.len() < pending.attachments_due {
            self.pending = Some(pending);
            return Ok(None);
        }
        let Pending { namespace, id, is_event, draft, attachments, .. } = *pending;
        let data = draft.finish(&attachments);
        Ok(match is_event {
            true => Some(Packet::Event { namespace, id, data }),
            false => id.map(|id| Packet::Ack { namespace, id, data }),
        })
    }

    fn room_after(&self, bytes: usize, room: usize) -> Result<usize, Violation> {
        room.checked_sub(bytes).ok_or(Violation::TooLarge { bytes_max: self.bytes_max })
    }
}

/// A packet whose text ends before a payload. Stock servers tolerate it in every type but the binary ones, whose
/// attachments then have no place.
fn without_payload(
    kind: Kind,
    attachments: usize,
    namespace: String,
    id: Option<u64>,
) -> Result<Option<Packet>, Violation> {
    if attachments > 0 {
        return Err(Violation::Payload);
    }
    match kind {
        Kind::Connect => Ok(Some(Packet::Connect { namespace, auth: None })),
        Kind::Disconnect => Ok(Some(Packet::Disconnect { namespace })),
        Kind::Event => Ok(None),
        // Stock calls the acknowledgement callback without arguments.
        Kind::Ack => Ok(id.map(|id| Packet::Ack { namespace, id, data: vec![0x90] })),
        Kind::ConnectError => Err(Violation::Payload),
    }
}
