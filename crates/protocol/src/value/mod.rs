//! Event data on its way between the three encodings it meets.
//!
//! | from | to | function |
//! |---|---|---|
//! | JSON text with attachments | wire form | [`json_to_wire`] |
//! | a MessagePack client's value | wire form | [`client_to_wire`] |
//! | wire form | JSON text with attachments | [`wire_to_json`] |
//! | wire form | a MessagePack client's value | [`wire_to_client`] |
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
//! Everything is transcoded as a stream; no function builds a tree. A receiver gets what a stock Node server would
//! have given it, with these differences, each to the receiver's good: integers beyond 2^53 keep all their digits,
//! a float that happens to be integral stays a float between MessagePack peers, and a key that occurs twice in an
//! object is relayed twice (a JavaScript receiver keeps the last one, as the server would have).

use bytes::Bytes;

/// How many arrays and objects may be nested in a value that a peer sends.
///
/// Eight levels below what the MessagePack reader follows ([`tidegate_msgpack::DEPTH_MAX`]): the value travels
/// inside packets and envelopes that nest too, and must still be readable where it arrives.
pub const DEPTH_MAX: usize = tidegate_msgpack::DEPTH_MAX - 8;

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
    /// A map key that is neither a string nor an integer.
    #[error("map key is neither a string nor an integer")]
    Key,
    /// Not MessagePack.
    #[error(transparent)]
    MessagePack(#[from] tidegate_msgpack::Error),
}

/// Appends one JSON value in wire form.
///
/// With attachments, an object with `"_placeholder": true` is replaced by the attachment its `num` names. Each
/// attachment can be placed once. Without attachments such an object is an ordinary one.
///
/// # Errors
/// See [`Error`]; `out` may then hold part of the value.
pub fn json_to_wire(json: &[u8], attachments: &[Bytes], out: &mut Vec<u8>) -> Result<(), Error> {
    let _ = (json, attachments, out);
    Err(Error::Utf8)
}

/// Appends a MessagePack client's value in wire form.
///
/// # Errors
/// See [`Error`]; `out` may then hold part of the value.
pub fn client_to_wire(msgpack: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let _ = (msgpack, out);
    Err(Error::Utf8)
}

/// Appends a wire value as JSON text; every binary value in it is pushed to `attachments` and leaves a placeholder.
///
/// # Errors
/// See [`Error`]; `out` and `attachments` may then hold part of the value.
pub fn wire_to_json(wire: &[u8], out: &mut Vec<u8>, attachments: &mut Vec<Bytes>) -> Result<(), Error> {
    let _ = (wire, out, attachments);
    Err(Error::Utf8)
}

/// Appends a wire value as a MessagePack client reads it.
///
/// # Errors
/// See [`Error`]; `out` may then hold part of the value.
pub fn wire_to_client(wire: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let _ = (wire, out);
    Err(Error::Utf8)
}

/// How many attachments [`wire_to_json`] would make of this value.
///
/// # Errors
/// [`Error::MessagePack`] when it is not one complete value.
pub fn count_binary(wire: &[u8]) -> Result<usize, Error> {
    let _ = wire;
    Err(Error::Utf8)
}
