//! From a client's messages to requests.

use tidegate_msgpack::{Reader, Token, write};

use super::{Format, Id, Request};
use crate::value::{self, msgpack_to_wire, plain_json_to_wire};

/// The operation whose `id` is more than a correlation.
const SEND: &str = "send";

/// A message as it came in its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// Of a text frame.
    Text(&'a str),
    /// Of a binary frame.
    Binary(&'a [u8]),
}

/// What makes a message none. The connection has to be closed: nobody can tell what its sender meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A text message where MessagePack was agreed on.
    #[error("a text message on a MessagePack connection")]
    TextUnasked,
    /// A binary message where JSON was agreed on.
    #[error("a binary message on a JSON connection")]
    BinaryUnasked,
    /// Not one value, or one that cannot travel.
    #[error("the message cannot be read: {0}")]
    Value(#[from] value::Error),
    /// Something else than an object.
    #[error("the message must be an object")]
    Object,
    /// `op` is missing, or no string.
    #[error("op must be a string")]
    Op,
    /// `op` is longer than it may be.
    #[error("op has {bytes} bytes, at most {bytes_max} are allowed")]
    OpTooLong {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        bytes_max: usize,
    },
    /// `id` is neither a string nor a number.
    #[error("id must be a string or a number")]
    Id,
    /// `id` is longer than it may be.
    #[error("id has {bytes} bytes, at most {bytes_max} are allowed")]
    IdTooLong {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        bytes_max: usize,
    },
}

/// Reads one message. `name_bytes_max` bounds its `op`, and its `id` if that is a string.
///
/// A field `id` that is null counts as none. Of fields that occur twice the last one counts, as in JavaScript.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn decode(format: Format, message: Incoming<'_>, name_bytes_max: usize) -> Result<Request, Violation> {
    let mut fields = Vec::new();
    match (format, message) {
        (Format::Json, Incoming::Text(json)) => plain_json_to_wire(json, &mut fields)?,
        (Format::MessagePack, Incoming::Binary(bytes)) => msgpack_to_wire(bytes, &mut fields)?,
        (Format::Json, Incoming::Binary(_)) => return Err(Violation::BinaryUnasked),
        (Format::MessagePack, Incoming::Text(_)) => return Err(Violation::TextUnasked),
    }
    let Found { op, id } = Found::read(&fields)?;
    let op = op.ok_or(Violation::Op).and_then(|op| Reader::new(op).str().map_err(|_| Violation::Op))?;
    if op.len() > name_bytes_max {
        return Err(Violation::OpTooLong { bytes: op.len(), bytes_max: name_bytes_max });
    }
    let op = op.to_owned();
    let (id, is_string) = match id.map(|id| checked_id(id, name_bytes_max)).transpose()?.flatten() {
        Some((id, is_string)) => (Some(id), is_string),
        None => (None, false),
    };
    if op == SEND && !is_string {
        fields = without_id(&fields)?;
    }
    Ok(Request { op, id, fields })
}

/// The fields that every message may have, each one whole value.
#[derive(Default)]
struct Found<'a> {
    op: Option<&'a [u8]>,
    id: Option<&'a [u8]>,
}

impl<'a> Found<'a> {
    fn read(wire: &'a [u8]) -> Result<Self, Violation> {
        let mut reader = Reader::new(wire);
        let mut found = Self::default();
        let Ok(entries) = reader.map() else { return Err(Violation::Object) };
        for _ in 0..entries {
            let Token::Str(key) = reader.token().map_err(malformed)? else { return Err(Violation::Object) };
            let value = reader.value().map_err(malformed)?;
            match key {
                b"op" => found.op = Some(value),
                b"id" => found.id = Some(value),
                _ => {}
            }
        }
        Ok(found)
    }
}

fn malformed(error: tidegate_msgpack::Error) -> Violation {
    Violation::Value(value::Error::MessagePack(error))
}

/// The same map without its entries `id`.
fn without_id(wire: &[u8]) -> Result<Vec<u8>, Violation> {
    let mut reader = Reader::new(wire);
    let mut kept = Vec::with_capacity(wire.len());
    let mut count = 0;
    for _ in 0..reader.map().map_err(malformed)? {
        let start = reader.position();
        let key = reader.str();
        reader.skip().map_err(malformed)?;
        if key != Ok("id") {
            kept.extend_from_slice(&wire[start..reader.position()]);
            count += 1;
        }
    }
    let mut out = Vec::with_capacity(kept.len() + 5);
    write::map(&mut out, count);
    out.extend_from_slice(&kept);
    Ok(out)
}

/// The id, and whether it is a string; none if it is null.
fn checked_id(wire: &[u8], bytes_max: usize) -> Result<Option<(Id, bool)>, Violation> {
    let is_string = match Reader::new(wire).token() {
        Ok(Token::Nil) => return Ok(None),
        Ok(Token::UInt(_) | Token::Int(_)) => false,
        Ok(Token::F32(number)) if number.is_finite() => false,
        Ok(Token::F64(number)) if number.is_finite() => false,
        Ok(Token::Str(text)) if text.len() <= bytes_max => true,
        Ok(Token::Str(text)) => return Err(Violation::IdTooLong { bytes: text.len(), bytes_max }),
        _ => return Err(Violation::Id),
    };
    Ok(Some((Id(wire.into()), is_string)))
}
