//! What a server says. A broadcast is encoded once per format; the result is shared bytes.

use bytes::Bytes;
use tidegate_msgpack::{Error as Malformed, Reader, write};

use super::Format;
use crate::value::{self, wire_to_msgpack, wire_to_plain_json};
use crate::websocket::{self, Opcode};

/// What an event is acknowledged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt<'a> {
    /// The id of a durable message.
    Durable(&'a str),
    /// The number of a broadcast whose server asked for acknowledgements.
    Broadcast(u64),
}

/// A message as its whole frame. `wire` is a map in wire form.
///
/// # Errors
/// When `wire` is not one value in wire form.
pub fn message(format: Format, wire: &[u8]) -> Result<Bytes, value::Error> {
    let opcode = match format {
        Format::Json => Opcode::Text,
        Format::MessagePack => Opcode::Binary,
    };
    Ok(websocket::frame(opcode, &payload(format, wire)?))
}

/// A message as what its frame holds: the UTF-8 of JSON, or MessagePack. `wire` is a map in wire form.
///
/// # Errors
/// When `wire` is not one value in wire form.
pub fn payload(format: Format, wire: &[u8]) -> Result<Vec<u8>, value::Error> {
    let mut out = Vec::new();
    match format {
        Format::Json => wire_to_plain_json(wire, &mut out)?,
        Format::MessagePack => wire_to_msgpack(wire, &mut out)?,
    }
    Ok(out)
}

/// `{ op: "event", event, args, meta?, message? }` as its whole frame. `data` is a wire array `[event, arguments...]`; with
/// `has_meta` the second of two arguments is told as `meta`, and not as an argument.
///
/// # Errors
/// When `data` is not such an array in wire form.
pub fn event(
    format: Format,
    data: &[u8],
    has_meta: bool,
    receipt: Option<Receipt<'_>>,
) -> Result<Bytes, value::Error> {
    let mut reader = Reader::new(data);
    let arguments = reader.array()?.checked_sub(1).ok_or(Malformed::Truncated)?;
    let name = reader.value()?;
    let rest = reader.remaining();
    let mut meta = None;
    if has_meta && arguments == 2 {
        meta = Some((reader.value()?, reader.value()?));
    }
    let mut wire = Vec::with_capacity(data.len() + 64);
    write::map(&mut wire, 3 + u32::from(meta.is_some()) + u32::from(receipt.is_some()));
    write::str(&mut wire, "op");
    write::str(&mut wire, "event");
    write::str(&mut wire, "event");
    wire.extend_from_slice(name);
    write::str(&mut wire, "args");
    if let Some((argument, meta)) = meta {
        write::array(&mut wire, 1);
        wire.extend_from_slice(argument);
        write::str(&mut wire, "meta");
        wire.extend_from_slice(meta);
    } else {
        write::array(&mut wire, arguments);
        wire.extend_from_slice(rest);
    }
    match receipt {
        Some(Receipt::Durable(id)) => {
            write::str(&mut wire, "message");
            write::str(&mut wire, id);
        }
        Some(Receipt::Broadcast(number)) => {
            write::str(&mut wire, "message");
            write::uint(&mut wire, number);
        }
        None => {}
    }
    message(format, &wire)
}
