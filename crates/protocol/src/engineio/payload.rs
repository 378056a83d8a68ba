//! The body of a polling request or answer: packets joined by the record separator.
//!
//! A binary message travels as `b` followed by base64 of the standard alphabet, without a type digit. An empty body
//! is one empty packet, and so an error.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::{Packet, ParseError, decode_text};

/// The byte between two packets.
pub const SEPARATOR: u8 = 0x1e;

const BINARY: u8 = b'b';

/// We write padding; what Node reads without it, we read too.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// One packet of a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A packet that came as text.
    Packet(Packet<'a>),
    /// A binary message.
    Binary(Vec<u8>),
}

/// Decodes the packets of `body` one after the other. The iterator ends after the first error, since nothing behind
/// it can be trusted. A body of `n` bytes yields at most `n + 1` pieces.
pub fn decode(body: &str) -> Pieces<'_> {
    Pieces { rest: Some(body) }
}

/// The iterator of [`decode`].
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    rest: Option<&'a str>,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Result<Piece<'a>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.take()?;
        let text = match memchr::memchr(SEPARATOR, rest.as_bytes()) {
            Some(at) => {
                self.rest = Some(&rest[at + 1..]);
                &rest[..at]
            }
            None => rest,
        };
        let piece = piece(text);
        if piece.is_err() {
            self.rest = None;
        }
        Some(piece)
    }
}

impl std::iter::FusedIterator for Pieces<'_> {}

/// Decodes one piece. A WebSocket text frame of a client that was told to avoid binary (`forceBase64` in JavaScript)
/// has this form as well.
///
/// # Errors
///
/// What [`decode_text`] refuses, and base64 that is not of the standard alphabet. Padding may be missing; white
/// space, the URL-safe alphabet and stray trailing bits, which Node lets pass, are refused.
pub fn piece(text: &str) -> Result<Piece<'_>, ParseError> {
    match text.as_bytes() {
        [BINARY, base64 @ ..] => BASE64.decode(base64).map(Piece::Binary).map_err(|_| ParseError::Base64),
        _ => decode_text(text).map(Piece::Packet),
    }
}

/// Appends a text packet, type digit included, to a payload. The packet must not hold [`SEPARATOR`], which no JSON
/// text does.
pub fn push_text(out: &mut Vec<u8>, packet: &str) {
    separate(out);
    out.extend_from_slice(packet.as_bytes());
}

/// Appends a binary message to a payload.
pub fn push_binary(out: &mut Vec<u8>, data: &[u8]) {
    separate(out);
    out.push(BINARY);
    let start = out.len();
    // Four characters for every three bytes begun: the padded form is exactly that long.
    out.resize(start + data.len().div_ceil(3) * 4, 0);
    BASE64.encode_slice(data, &mut out[start..]).expect("the room was computed from the length");
}

fn separate(out: &mut Vec<u8>) {
    if !out.is_empty() {
        out.push(SEPARATOR);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;

    use super::*;

    fn all(body: &str) -> Vec<Result<Piece<'_>, ParseError>> {
        decode(body).collect()
    }

    #[test]
    fn packets_are_split_at_the_separator() {
        assert_eq!(
            all("4hello\u{1e}2\u{1e}4€\u{1e}bAQIDBA=="),
            [
                Ok(Piece::Packet(Packet::Text("hello"))),
                Ok(Piece::Packet(Packet::Ping(""))),
                Ok(Piece::Packet(Packet::Text("€"))),
                Ok(Piece::Binary(vec![1, 2, 3, 4])),
            ]
        );
    }

    #[test]
    fn nothing_is_read_behind_the_first_error() {
        assert_eq!(all(""), [Err(ParseError::Empty)]);
        assert_eq!(all("4a\u{1e}"), [Ok(Piece::Packet(Packet::Text("a"))), Err(ParseError::Empty)]);
        assert_eq!(all("\u{1e}4a"), [Err(ParseError::Empty)]);
        assert_eq!(all("abc\u{1e}4a"), [Err(ParseError::Type)]);
        assert_eq!(
            all("4a\u{1e}b!!\u{1e}4b"),
            [Ok(Piece::Packet(Packet::Text("a"))), Err(ParseError::Base64)]
        );
    }

    #[test]
    fn padding_may_be_missing_and_garbage_is_refused() {
        for text in ["bAQ==", "bAQ"] {
            assert_eq!(piece(text), Ok(Piece::Binary(vec![1])), "{text}");
        }
        assert_eq!(piece("b"), Ok(Piece::Binary(Vec::new())));
        assert_eq!(piece("b+/8="), Ok(Piece::Binary(vec![0xfb, 0xff])));
        for text in ["bA", "bA===", "b-_8=", "bAQ==AQ==", "bAQ ==", "b=", "bAé"] {
            assert_eq!(piece(text), Err(ParseError::Base64), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_padded_and_separated() {
        let mut out = Vec::new();
        push_binary(&mut out, &[1]);
        push_text(&mut out, "42[]");
        push_binary(&mut out, &[]);
        push_binary(&mut out, &[1, 2, 3]);
        assert_eq!(out, b"bAQ==\x1e42[]\x1eb\x1ebAQID");
    }

    proptest! {
        #[test]
        fn a_payload_comes_back_as_it_was_pushed(
            packets in prop::collection::vec(
                prop_oneof![
                    "[^\u{1e}]{0,40}".prop_map(|data| Err(format!("4{data}"))),
                    prop::collection::vec(any::<u8>(), 0..40).prop_map(Ok),
                ],
                1..12,
            )
        ) {
            let mut out = Vec::new();
            for packet in &packets {
                match packet {
                    Ok(data) => push_binary(&mut out, data),
                    Err(text) => push_text(&mut out, text),
                }
            }
            let body = String::from_utf8(out).unwrap();
            let pieces: Vec<_> = decode(&body).map(Result::unwrap).collect();
            let pushed: Vec<_> = packets
                .iter()
                .map(|packet| match packet {
                    Ok(data) => Piece::Binary(data.clone()),
                    Err(text) => Piece::Packet(Packet::Text(&text[1..])),
                })
                .collect();
            prop_assert_eq!(pieces, pushed);
        }

        #[test]
        fn any_body_ends(body in "[0-9b\u{1e}a-c=é]{0,60}") {
            let pieces = all(&body);
            prop_assert!(pieces.len() <= body.len() + 1);
            let errors = pieces.iter().filter(|piece| piece.is_err()).count();
            prop_assert!(errors == 0 || (errors == 1 && pieces.last().unwrap().is_err()));
        }
    }
}
