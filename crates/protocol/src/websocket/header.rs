//! A frame's header: up to fourteen bytes before the payload (RFC 6455, 5.2).

use super::{CONTROL_BYTES_MAX, Opcode, Role, Violation};

/// Longest header: two bytes, eight of length, four of mask.
pub(super) const HEADER_BYTES_MAX: usize = 14;

pub(super) const FIN: u8 = 0x80;
pub(super) const MASKED: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const LENGTH: u8 = 0x7f;
pub(super) const LENGTH_16: u8 = 126;
pub(super) const LENGTH_64: u8 = 127;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) opcode: Opcode,
    pub(super) fin: bool,
    /// Zero where frames are not masked, which masks with no effect.
    pub(super) mask: [u8; 4],
    pub(super) payload_bytes: u64,
}

impl Header {
    /// Reads a header from the front of `bytes` and tells how many bytes it has. `None` while there are too few of
    /// them to tell. What is wrong is told from the same bytes however many follow.
    pub(super) fn parse(bytes: &[u8], role: Role) -> Result<Option<(Self, usize)>, Violation> {
        let &[first, second, ref rest @ ..] = bytes else {
            return Ok(None);
        };
        if first & RESERVED != 0 {
            return Err(Violation::ReservedBits);
        }
        let opcode = Opcode::from_bits(first & OPCODE).ok_or(Violation::Opcode)?;
        let fin = first & FIN != 0;
        match (role, second & MASKED != 0) {
            (Role::Server, false) => return Err(Violation::NotMasked),
            (Role::Client, true) => return Err(Violation::Masked),
            _ => {}
        }
        let length = second & LENGTH;
        if opcode.is_control() {
            if !fin {
                return Err(Violation::ControlFragmented);
            }
            if usize::from(length) > CONTROL_BYTES_MAX {
                return Err(Violation::ControlTooLong);
            }
        }
        let (payload_bytes, rest) = match length {
            LENGTH_16 => {
                let Some((length, rest)) = rest.split_first_chunk() else {
                    return Ok(None);
                };
                let length = u64::from(u16::from_be_bytes(*length));
                if length < u64::from(LENGTH_16) {
                    return Err(Violation::Length);
                }
                (length, rest)
            }
            LENGTH_64 => {
                let Some((length, rest)) = rest.split_first_chunk() else {
                    return Ok(None);
                };
                let length = u64::from_be_bytes(*length);
                if length <= u64::from(u16::MAX) || length > i64::MAX as u64 {
                    return Err(Violation::Length);
                }
                (length, rest)
            }
            _ => (u64::from(length), rest),
        };
        let (mask, rest) = match role {
            Role::Server => {
                let Some((mask, rest)) = rest.split_first_chunk() else {
                    return Ok(None);
                };
                (*mask, rest)
            }
            Role::Client => ([0; 4], rest),
        };
        Ok(Some((Self { opcode, fin, mask, payload_bytes }, bytes.len() - rest.len())))
    }
}
