//! Writers of frames. Every message is one frame.

use bytes::Bytes;

use super::header::{FIN, HEADER_BYTES_MAX, LENGTH_16, LENGTH_64, MASKED};
use super::{CONTROL_BYTES_MAX, Opcode};

/// Appends the header of an unmasked, unfragmented frame whose payload of `len` bytes is to follow.
pub fn header(opcode: Opcode, len: usize, out: &mut Vec<u8>) {
    push_header(opcode, len, 0, out);
}

/// A server's whole frame. The payload of a text frame must be UTF-8, that of a control frame at most
/// [`CONTROL_BYTES_MAX`] bytes.
#[must_use]
pub fn frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(header_bytes(payload.len()) + payload.len());
    header(opcode, payload.len(), &mut out);
    out.extend_from_slice(payload);
    out.into()
}

/// A client's whole frame, under a mask that the caller drew anew from a source the sender of the payload cannot
/// foresee. The same conditions hold as for [`frame`].
#[must_use]
pub fn frame_masked(opcode: Opcode, payload: &[u8], mask: [u8; 4]) -> Bytes {
    let mut out = Vec::with_capacity(HEADER_BYTES_MAX + payload.len());
    push_header(opcode, payload.len(), MASKED, &mut out);
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    fastwebsockets::unmask(&mut out[start..], mask);
    out.into()
}

/// A server's close frame. Without a code there is no room for a reason, and it is left out; a reason too long for
/// a control frame is cut at a character boundary.
#[must_use]
pub fn close(code: Option<u16>, reason: &str) -> Bytes {
    let mut payload = Vec::new();
    if let Some(code) = code {
        payload.extend_from_slice(&code.to_be_bytes());
        let end = reason.floor_char_boundary(CONTROL_BYTES_MAX - payload.len());
        payload.extend_from_slice(&reason.as_bytes()[..end]);
    }
    frame(Opcode::Close, &payload)
}

fn push_header(opcode: Opcode, len: usize, masked: u8, out: &mut Vec<u8>) {
    out.push(FIN | opcode as u8);
    if let Ok(short) = u8::try_from(len)
        && short < LENGTH_16
    {
        out.push(masked | short);
    } else if let Ok(len) = u16::try_from(len) {
        out.push(masked | LENGTH_16);
        out.extend_from_slice(&len.to_be_bytes());
    } else {
        out.push(masked | LENGTH_64);
        out.extend_from_slice(&(len as u64).to_be_bytes());
    }
}

const fn header_bytes(len: usize) -> usize {
    match len {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_their_shortest_form() {
        let table: [(usize, &[u8]); 6] = [
            (0, &[0x82, 0]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (65_535, &[0x82, 126, 0xff, 0xff]),
            (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
            (1_000_000, &[0x82, 127, 0, 0, 0, 0, 0, 0x0f, 0x42, 0x40]),
        ];
        for (len, bytes) in table {
            let mut out = vec![7];
            header(Opcode::Binary, len, &mut out);
            assert_eq!(&out[1..], bytes, "{len}");
            let frame = frame(Opcode::Binary, &vec![5; len]);
            assert_eq!(&frame[..bytes.len()], bytes, "{len}");
            assert_eq!(frame.len(), header_bytes(len) + len);
        }
    }

    /// The examples of RFC 6455, 5.7.
    #[test]
    fn the_examples_of_the_standard() {
        assert_eq!(frame(Opcode::Text, b"Hello")[..], [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        assert_eq!(
            frame_masked(Opcode::Text, b"Hello", [0x37, 0xfa, 0x21, 0x3d])[..],
            [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]
        );
        assert_eq!(frame(Opcode::Ping, b"Hello")[..], [0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        assert_eq!(frame(Opcode::Pong, b"")[..], [0x8a, 0]);
    }

    #[test]
    fn a_close_holds_a_code_and_what_fits_of_a_reason() {
        assert_eq!(close(None, "ignored")[..], [0x88, 0]);
        assert_eq!(close(Some(1009), "")[..], [0x88, 2, 0x03, 0xf1]);
        assert_eq!(close(Some(1000), "ok")[..], [0x88, 4, 0x03, 0xe8, b'o', b'k']);
        // 61 characters of two bytes: 62 would make 126 bytes with the code.
        assert_eq!(close(Some(1000), &"é".repeat(80))[1], 2 + 122);
    }
}
