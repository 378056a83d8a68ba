//! From packets to the messages of one connection.
//!
//! A broadcast is encoded once per parser; the result is shared bytes. The MessagePack form has its keys in the
//! order in which a stock server writes them, though readers do not mind.

use bytes::Bytes;

use super::Parser;
use crate::value;

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
/// When `data` is not one value in wire form, or holds more than [`ATTACHMENTS_MAX`](super::ATTACHMENTS_MAX)
/// binary values and the parser is the default one.
pub fn event(parser: Parser, namespace: &str, id: Option<u64>, data: &[u8]) -> Result<Encoded, value::Error> {
    let _ = (parser, namespace, id, data);
    Err(value::Error::Utf8)
}

/// Encodes an acknowledgement. `data` is a wire array of its arguments.
///
/// # Errors
/// As [`event`].
pub fn ack(parser: Parser, namespace: &str, id: u64, data: &[u8]) -> Result<Encoded, value::Error> {
    let _ = (parser, namespace, id, data);
    Err(value::Error::Utf8)
}

/// Encodes a CONNECT. `data` is a wire map: `{ sid }` from a server, credentials from a client.
///
/// # Errors
/// As [`event`], and when `data` holds binary values and the parser is the default one, which cannot carry them
/// there.
pub fn connect(parser: Parser, namespace: &str, data: Option<&[u8]>) -> Result<Encoded, value::Error> {
    let _ = (parser, namespace, data);
    Err(value::Error::Utf8)
}

/// Encodes the refusal of a CONNECT. `data` is a wire map `{ message, data? }`.
///
/// # Errors
/// As [`connect`].
pub fn connect_error(parser: Parser, namespace: &str, data: &[u8]) -> Result<Encoded, value::Error> {
    let _ = (parser, namespace, data);
    Err(value::Error::Utf8)
}

/// Encodes a DISCONNECT.
#[must_use]
pub fn disconnect(parser: Parser, namespace: &str) -> Encoded {
    let _ = (parser, namespace);
    Encoded { head: Head::Text(Bytes::new()), attachments: Vec::new() }
}
