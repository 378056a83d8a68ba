//! From packets to the messages of one connection.
//!
//! A broadcast is encoded once per parser; the result is shared bytes. The MessagePack form has its keys in the
//! order in which a stock server writes them, though readers do not mind.

use bytes::Bytes;
use tidegate_msgpack::write;

use super::{ATTACHMENTS_MAX, Parser};
use crate::value::{self, json_len_hint, wire_to_json_bounded};

/// A packet as messages: the head, then the attachments, in this order and with nothing between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The first message.
    pub head: Head,
    /// The binary messages that follow; always empty with the MessagePack parser.
    pub attachments: Vec<Bytes>,
}

/// The first message of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// The text of a packet of the default parser (UTF-8), without Engine.IO's `4`.
    Text(Bytes),
    /// A packet of the MessagePack parser.
    Binary(Bytes),
}

/// Encodes an event. `data` is a wire array `[event, arguments...]`.
///
/// # Errors
/// When `data` is not one value in wire form, or holds more than [`ATTACHMENTS_MAX`] binary values and the parser is
/// the default one.
pub fn event(parser: Parser, namespace: &str, id: Option<u64>, data: &[u8]) -> Result<Encoded, value::Error> {
    match parser {
        Parser::Text => text([b'2', b'5'], namespace, id, Some(data)),
        Parser::MessagePack => {
            let mut packet = MessagePack::new(3 + u32::from(id.is_some()), namespace, data.len());
            packet.kind(2);
            packet.data(data)?;
            if let Some(id) = id {
                packet.id(id);
            }
            Ok(packet.finish(namespace))
        }
    }
}

/// Encodes an acknowledgement. `data` is a wire array of its arguments.
///
/// # Errors
/// As [`event`].
pub fn ack(parser: Parser, namespace: &str, id: u64, data: &[u8]) -> Result<Encoded, value::Error> {
    match parser {
        Parser::Text => text([b'3', b'6'], namespace, Some(id), Some(data)),
        Parser::MessagePack => {
            let mut packet = MessagePack::new(4, namespace, data.len());
            packet.id(id);
            packet.kind(3);
            packet.data(data)?;
            Ok(packet.finish(namespace))
        }
    }
}

/// Encodes a CONNECT. `data` is a wire map: `{ sid }` from a server, credentials from a client.
///
/// # Errors
/// As [`event`], and when `data` holds binary values and the parser is the default one, which cannot carry them
/// there.
pub fn connect(parser: Parser, namespace: &str, data: Option<&[u8]>) -> Result<Encoded, value::Error> {
    match parser {
        Parser::Text => text([b'0', b'0'], namespace, None, data),
        Parser::MessagePack => {
            let mut packet = MessagePack::new(3, namespace, data.map_or(0, <[u8]>::len));
            packet.kind(0);
            match data {
                Some(data) => packet.data(data)?,
                None => packet.undefined(),
            }
            Ok(packet.finish(namespace))
        }
    }
}

/// Encodes the refusal of a CONNECT. `data` is a wire map `{ message, data? }`.
///
/// # Errors
/// As [`connect`].
pub fn connect_error(parser: Parser, namespace: &str, data: &[u8]) -> Result<Encoded, value::Error> {
    match parser {
        Parser::Text => text([b'4', b'4'], namespace, None, Some(data)),
        Parser::MessagePack => {
            let mut packet = MessagePack::new(3, namespace, data.len());
            packet.kind(4);
            packet.data(data)?;
            Ok(packet.finish(namespace))
        }
    }
}

/// Encodes a DISCONNECT.
#[must_use]
pub fn disconnect(parser: Parser, namespace: &str) -> Encoded {
    match parser {
        Parser::Text => text([b'1', b'1'], namespace, None, None).expect("there is no data to be refused"),
        Parser::MessagePack => {
            let mut packet = MessagePack::new(2, namespace, 0);
            packet.kind(1);
            packet.finish(namespace)
        }
    }
}

/// Writes a packet of the default parser. `types` are the digit without and with attachments; where both are the
/// same, attachments are refused.
fn text(
    types: [u8; 2],
    namespace: &str,
    id: Option<u64>,
    data: Option<&[u8]>,
) -> Result<Encoded, value::Error> {
    // A type, a count, two separators and an id take at most 21 bytes.
    let mut out = Vec::with_capacity(21 + namespace.len() + data.map_or(0, json_len_hint));
    out.push(types[0]);
    if namespace != "/" && !namespace.is_empty() {
        out.extend_from_slice(namespace.as_bytes());
        out.push(b',');
    }
    if let Some(id) = id {
        out.extend_from_slice(itoa::Buffer::new().format(id).as_bytes());
    }
    let mut attachments = Vec::new();
    if let Some(data) = data {
        let attachments_max = if types[0] == types[1] { 0 } else { ATTACHMENTS_MAX };
        wire_to_json_bounded(data, &mut out, &mut attachments, attachments_max)?;
    }
    if !attachments.is_empty() {
        // How many there are is known only now, and stands in front.
        let mut count = itoa::Buffer::new();
        let count = count.format(attachments.len()).bytes();
        out.splice(..1, std::iter::once(types[1]).chain(count).chain(std::iter::once(b'-')));
    }
    Ok(Encoded { head: Head::Text(out.into()), attachments })
}

/// A packet of the MessagePack parser, being written: a map of a known number of entries.
struct MessagePack(Vec<u8>);

impl MessagePack {
    fn new(entries: u32, namespace: &str, data_len: usize) -> Self {
        // The keys, the type, an id and the headers take at most 40 bytes.
        let mut out = Vec::with_capacity(40 + namespace.len() + data_len);
        write::map(&mut out, entries);
        MessagePack(out)
    }

    fn kind(&mut self, kind: u64) {
        write::str(&mut self.0, "type");
        write::uint(&mut self.0, kind);
    }

    fn id(&mut self, id: u64) {
        write::str(&mut self.0, "id");
        write::uint(&mut self.0, id);
    }

    fn data(&mut self, wire: &[u8]) -> Result<(), value::Error> {
        write::str(&mut self.0, "data");
        value::wire_to_client(wire, &mut self.0)
    }

    /// What a stock client sends when it has no credentials.
    fn undefined(&mut self) {
        write::str(&mut self.0, "data");
        write::ext(&mut self.0, 0, &[0]);
    }

    /// The namespace is the last entry, as the libraries write it.
    fn finish(mut self, namespace: &str) -> Encoded {
        write::str(&mut self.0, "nsp");
        write::str(&mut self.0, namespace);
        Encoded { head: Head::Binary(self.0.into()), attachments: Vec::new() }
    }
}
