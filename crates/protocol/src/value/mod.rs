//! Event data on its way between the three encodings it meets.
//!
//! | from | to | function |
//! |---|---|---|
//! | JSON text with attachments | wire form | [`json_to_wire`] |
//! | a MessagePack client's value | wire form | [`client_to_wire`] |
//! | wire form | JSON text with attachments | [`wire_to_json`] |
//! | wire form | a MessagePack client's value | [`wire_to_client`] |
//! | JSON text of the plain protocol | wire form | [`plain_json_to_wire`] |
//! | standard MessagePack | wire form | [`msgpack_to_wire`] |
//! | wire form | JSON text of the plain protocol | [`wire_to_plain_json`] |
//! | wire form | standard MessagePack | [`wire_to_msgpack`] |
//!
//! The *wire form* is MessagePack as `@socket.io/redis-adapter` 8.3.0 writes it (notepack.io 3.0.1). A MessagePack
//! client uses `socket.io-msgpack-parser` 3.0.2 (notepack.io 2.2.0), which differs in three things, all written as
//! extension type 0 and told apart by the header byte alone:
//!
//! | value in JavaScript | a client's MessagePack | wire form | JSON |
//! |---|---|---|---|
//! | `undefined` in an array | `d4 00 00` | nil | `null` |
//! | `undefined` in an object | `d4 00 00` | the entry is left out | the entry is left out |
//! | `Date` | `d7 00`, milliseconds in 64 bits | timestamp, extension -1 | ISO string |
//! | `ArrayBuffer`, typed array | `c7`/`c8`/`c9`, length, `00` | bin | attachment |
//! | `Buffer` | bin | bin | attachment |
//! | `NaN`, `Infinity` | float64 | float64 | `null` |
//!
//! The [plain protocol](crate::plain) writes bytes into JSON as an object with the one field [`BINARY_KEY`], and its
//! MessagePack is the standard's: nothing is undefined, a date is the timestamp extension, bytes are bin.
//!
//! Everything is transcoded as a stream; no function builds a tree. A receiver gets what a stock Node server would
//! have given it, with these differences, each to the receiver's good: integers beyond 2^53 keep all their digits,
//! integral doubles beyond 2^64 keep their value (notepack writes an unrelated integer), a float that happens to be
//! integral stays a float between MessagePack peers, and a key that occurs twice in an object is relayed twice (a
//! JavaScript receiver keeps the last one, as the server would have).

mod client;
mod date;
mod extension;
mod insertions;
mod json;
mod scan;
mod text;

use tidegate_msgpack::{Reader, Token};

pub use client::{client_to_wire, msgpack_to_wire, wire_to_client, wire_to_msgpack};
use extension::Extension;
pub(crate) use json::Draft;
pub use json::{json_to_wire, plain_json_to_wire};
pub(crate) use text::{json_len_hint, wire_to_json_bounded};
pub use text::{wire_to_json, wire_to_plain_json};

/// How many arrays and objects may be nested in a value that a peer sends.
///
/// Eight levels below what the MessagePack reader follows ([`tidegate_msgpack::DEPTH_MAX`]): the value travels
/// inside packets and envelopes that nest too, and must still be readable where it arrives.
pub const DEPTH_MAX: usize = tidegate_msgpack::DEPTH_MAX - 8;

/// The one field of an object that stands for bytes in JSON of the plain protocol; its value is their base64.
pub const BINARY_KEY: &str = "$binary";

/// Why a value could not be transcoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not JSON (RFC 8259).
    #[error("not json at byte {at}")]
    Json {
        /// The offset of the byte that could not be there.
        at: usize,
    },
    /// JSON text that is not UTF-8.
    #[error("json text is not utf-8")]
    Utf8,
    /// More than [`DEPTH_MAX`] containers inside one another.
    #[error("value is nested too deep")]
    TooDeep,
    /// A placeholder for an attachment that does not exist, or that another placeholder already took.
    #[error("placeholder does not stand for an attachment of its own")]
    Placeholder,
    /// More binary values than the packet may carry as attachments.
    #[error("value holds more binary values than a packet may carry")]
    Attachments,
    /// An object whose only field is [`BINARY_KEY`] with a string that is not base64.
    #[error("{BINARY_KEY} is not base64")]
    Base64,
    /// A map key that is neither a string nor an integer.
    #[error("map key is neither a string nor an integer")]
    Key,
    /// Not MessagePack.
    #[error(transparent)]
    MessagePack(#[from] tidegate_msgpack::Error),
}

/// What a value holds that Socket.IO's default parser sends beside the text, as attachments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Binary {
    /// How many attachments [`wire_to_json`] would make of it.
    pub count: usize,
    /// It also holds an object with `"_placeholder": true`. Beside attachments, clients take that for one of them, or find
    /// that there is no such attachment and hang up.
    pub has_placeholder: bool,
}

impl Binary {
    /// Looks through a value.
    ///
    /// # Errors
    /// [`Error::MessagePack`] when it is not one complete value, [`Error::TooDeep`], or [`Error::Key`].
    pub fn of(wire: &[u8]) -> Result<Self, Error> {
        let mut found = Self::default();
        let mut reader = Reader::new(wire);
        found.look(&mut reader, 0)?;
        if reader.is_empty() { Ok(found) } else { Err(tidegate_msgpack::Error::Trailing.into()) }
    }

    fn look(&mut self, reader: &mut Reader<'_>, depth: usize) -> Result<(), Error> {
        if depth > tidegate_msgpack::DEPTH_MAX {
            return Err(Error::TooDeep);
        }
        match reader.token()? {
            Token::Array(length) => {
                for _ in 0..length {
                    self.look(reader, depth + 1)?;
                }
            }
            Token::Map(length) => {
                for _ in 0..length {
                    let is_mark = match reader.token()? {
                        Token::Str(key) => key == b"_placeholder",
                        Token::UInt(_) | Token::Int(_) => false,
                        _ => return Err(Error::Key),
                    };
                    self.has_placeholder |= is_mark && reader.remaining().first() == Some(&0xc3);
                    self.look(reader, depth + 1)?;
                }
            }
            Token::Bin(_) => self.count += 1,
            Token::Ext { kind, data, header } => {
                let extension = Extension::of_wire(kind, data, header);
                self.count += usize::from(matches!(extension, Extension::Bytes(_) | Extension::Unknown(..)));
            }
            _ => {}
        }
        Ok(())
    }
}
