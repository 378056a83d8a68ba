//! What a payload must be, by the packet's type.
//!
//! The checks look at the first byte of the wire form, which says the type even while a draft's lengths and
//! attachments are missing.

use tidegate_msgpack::{Reader, Token};

use super::{RESERVED_EVENTS, Violation};

/// Checks the payload of a CONNECT: an object.
pub(super) fn check_connect(wire: &[u8]) -> Result<(), Violation> {
    if is_map(wire) { Ok(()) } else { Err(Violation::Payload) }
}

/// Checks the payload of a CONNECT_ERROR: an object, or a string.
pub(super) fn check_connect_error(wire: &[u8]) -> Result<(), Violation> {
    let is_string = matches!(wire.first(), Some(0xa0..=0xbf | 0xd9..=0xdb));
    if is_map(wire) || is_string { Ok(()) } else { Err(Violation::Payload) }
}

/// Checks the payload of an ACK: an array.
pub(super) fn check_ack(wire: &[u8]) -> Result<(), Violation> {
    if matches!(wire.first(), Some(0x90..=0x9f | 0xdc | 0xdd)) { Ok(()) } else { Err(Violation::Payload) }
}

/// Checks the payload of an EVENT: an array whose first item is a name, a number or a string that is not reserved.
pub(super) fn check_event(wire: &[u8], length: Length) -> Result<(), Violation> {
    let head = match (wire.first(), length) {
        (Some(0x91..=0x9f), _) | (Some(0xdc | 0xdd), Length::Missing) => 1,
        (Some(0xdc), Length::Written) => 3,
        (Some(0xdd), Length::Written) => 5,
        _ => return Err(Violation::Payload),
    };
    match Reader::new(wire.get(head..).unwrap_or_default()).token() {
        Ok(Token::UInt(_) | Token::Int(_)) => Ok(()),
        // JSON has no word for the others, so a default client would be sent an event that no parser accepts.
        Ok(Token::F32(name)) if name.is_finite() => Ok(()),
        Ok(Token::F64(name)) if name.is_finite() => Ok(()),
        Ok(Token::Str(name)) if RESERVED_EVENTS.iter().any(|reserved| reserved.as_bytes() == name) => {
            Err(Violation::ReservedEvent)
        }
        Ok(Token::Str(_)) => Ok(()),
        _ => Err(Violation::Payload),
    }
}

/// Whether a container of 16 elements or more already has its length.
#[derive(Debug, Clone, Copy)]
pub(super) enum Length {
    Written,
    Missing,
}

fn is_map(wire: &[u8]) -> bool {
    matches!(wire.first(), Some(0x80..=0x8f | 0xde | 0xdf))
}
