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

/// Reads one message. `id_bytes_max` bounds an `id` that is a string.
///
/// A field `id` that is null counts as none. Of fields that occur twice the last one counts, as in JavaScript.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn decode(format: Format, message: Incoming<'_>, id_bytes_max: usize) -> Result<Request, Violation> {
    let mut wire = Vec::new();
    match (format, message) {
        (Format::Json, Incoming::Text(json)) => plain_json_to_wire(json, &mut wire)?,
        (Format::MessagePack, Incoming::Binary(bytes)) => msgpack_to_wire(bytes, &mut wire)?,
        (Format::Json, Incoming::Binary(_)) => return Err(Violation::BinaryUnasked),
        (Format::MessagePack, Incoming::Text(_)) => return Err(Violation::TextUnasked),
    }
    read(&wire, id_bytes_max)
}

fn read(wire: &[u8], id_bytes_max: usize) -> Result<Request, Violation> {
    let malformed = |error| Violation::Value(value::Error::MessagePack(error));
    let mut reader = Reader::new(wire);
    let Ok(entries) = reader.map() else { return Err(Violation::Object) };
    let (mut op, mut id) = (None, None);
    // Entries that stay, in one piece as far as nothing between them goes.
    let mut kept = Vec::with_capacity(wire.len());
    let (mut count, mut ids) = (0, Vec::new());
    for _ in 0..entries {
        let start = reader.position();
        let Token::Str(key) = reader.token().map_err(malformed)? else { return Err(Violation::Object) };
        let value = reader.value().map_err(malformed)?;
        let entry = &wire[start..reader.position()];
        match key {
            b"op" => op = Some(value),
            b"id" => {
                id = Some(value);
                ids.clear();
                ids.extend_from_slice(entry);
            }
            _ => {
                kept.extend_from_slice(entry);
                count += 1;
            }
        }
    }
    let op = op.ok_or(Violation::Op).and_then(|op| Reader::new(op).str().map_err(|_| Violation::Op))?;
    let id = id.map(|id| checked_id(id, id_bytes_max)).transpose()?.flatten();
    let keeps_id = op == SEND && matches!(id, Some((_, true)));
    let mut fields = Vec::with_capacity(kept.len() + ids.len() + 5);
    write::map(&mut fields, count + u32::from(keeps_id));
    if keeps_id {
        fields.extend_from_slice(&ids);
    }
    fields.extend_from_slice(&kept);
    Ok(Request { op: op.to_owned(), id: id.map(|(id, _)| id), fields })
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
