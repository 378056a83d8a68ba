//! From wire form to JSON text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tidegate_msgpack::{DEPTH_MAX, Error as Malformed, Reader, Token};

use super::extension::Extension;
use super::scan::plain_len;
use super::{BINARY_KEY, Error, date};

/// Appends a wire value as the JSON text that a stock server sends for it; every binary value in it is pushed to
/// `attachments` and leaves a placeholder numbered by its place there.
///
/// Strings that are not UTF-8 are printed with replacement characters, NaN and infinities as null, dates in ISO form,
/// integer keys as strings, and an unknown extension as notepack decodes it: the array `[type, bytes]`.
///
/// # Errors
/// [`Error::MessagePack`] or [`Error::TooDeep`] when `wire` is not one complete value, [`Error::Key`] for a map key
/// that JSON cannot have; `out` and `attachments` may then hold part of the value.
pub fn wire_to_json(wire: &[u8], out: &mut Vec<u8>, attachments: &mut Vec<Bytes>) -> Result<(), Error> {
    wire_to_json_bounded(wire, out, attachments, usize::MAX)
}

/// The same, but refuses the value with [`Error::Attachments`] once `attachments` would exceed `attachments_max`.
pub(crate) fn wire_to_json_bounded(
    wire: &[u8],
    out: &mut Vec<u8>,
    attachments: &mut Vec<Bytes>,
    attachments_max: usize,
) -> Result<(), Error> {
    print(wire, out, Binary::Attachments { attachments, attachments_max })
}

/// Appends a wire value as JSON text of the plain protocol: the same, but bytes stand in it as the object
/// `{ "$binary": base64 }`.
///
/// # Errors
/// [`Error::MessagePack`], [`Error::TooDeep`] and [`Error::Key`], likewise.
pub fn wire_to_plain_json(wire: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    print(wire, out, Binary::Base64)
}

fn print(wire: &[u8], out: &mut Vec<u8>, binary: Binary<'_>) -> Result<(), Error> {
    out.reserve(json_len_hint(wire));
    let mut printer = Printer { wire: Reader::new(wire), out, binary };
    if let Printed::Undefined = printer.value(0)? {
        printer.out.extend_from_slice(b"null");
    }
    if printer.wire.is_empty() { Ok(()) } else { Err(Malformed::Trailing.into()) }
}

/// How long the JSON text of a value is likely to be: quotes, commas and colons add about a third to a message of
/// short strings and small numbers.
pub(crate) fn json_len_hint(wire: &[u8]) -> usize {
    wire.len() + wire.len() / 2
}

struct Printer<'a> {
    wire: Reader<'a>,
    out: &'a mut Vec<u8>,
    binary: Binary<'a>,
}

/// Where bytes go.
enum Binary<'a> {
    /// Beside the text.
    Attachments { attachments: &'a mut Vec<Bytes>, attachments_max: usize },
    /// Into the text.
    Base64,
}

enum Printed {
    Value,
    /// Nothing was printed, because JSON has no word for it.
    Undefined,
}

impl Printer<'_> {
    fn value(&mut self, depth: usize) -> Result<Printed, Error> {
        match self.wire.token()? {
            Token::Nil => self.out.extend_from_slice(b"null"),
            Token::Bool(true) => self.out.extend_from_slice(b"true"),
            Token::Bool(false) => self.out.extend_from_slice(b"false"),
            Token::UInt(value) => self.integer(value),
            Token::Int(value) => self.integer(value),
            Token::F32(value) => self.float(f64::from(value)),
            Token::F64(value) => self.float(value),
            Token::Str(bytes) => self.string(bytes),
            Token::Bin(bytes) => self.bytes(bytes)?,
            Token::Array(length) => self.array(length, depth + 1)?,
            Token::Map(length) => self.object(length, depth + 1)?,
            Token::Ext { kind, data, header } => match Extension::of_wire(kind, data, header) {
                Extension::Undefined => return Ok(Printed::Undefined),
                Extension::Date(unix_ms) => self.date(unix_ms),
                Extension::Bytes(bytes) => self.bytes(bytes)?,
                Extension::Unknown(kind, bytes) => {
                    self.out.push(b'[');
                    self.integer(kind);
                    self.out.push(b',');
                    self.bytes(bytes)?;
                    self.out.push(b']');
                }
            },
        }
        Ok(Printed::Value)
    }

    fn array(&mut self, length: u32, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(Error::TooDeep);
        }
        self.out.push(b'[');
        for index in 0..length {
            if index > 0 {
                self.out.push(b',');
            }
            if let Printed::Undefined = self.value(depth)? {
                self.out.extend_from_slice(b"null");
            }
        }
        self.out.push(b']');
        Ok(())
    }

    fn object(&mut self, length: u32, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(Error::TooDeep);
        }
        self.out.push(b'{');
        let first = self.out.len();
        for _ in 0..length {
            let entry = self.out.len();
            if entry > first {
                self.out.push(b',');
            }
            self.key()?;
            self.out.push(b':');
            if let Printed::Undefined = self.value(depth)? {
                self.out.truncate(entry);
            }
        }
        self.out.push(b'}');
        Ok(())
    }

    fn key(&mut self) -> Result<(), Error> {
        match self.wire.token()? {
            Token::Str(bytes) => self.string(bytes),
            Token::UInt(value) => self.quoted_integer(value),
            Token::Int(value) => self.quoted_integer(value),
            _ => return Err(Error::Key),
        }
        Ok(())
    }

    fn integer(&mut self, value: impl itoa::Integer) {
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    fn quoted_integer(&mut self, value: impl itoa::Integer) {
        self.out.push(b'"');
        self.integer(value);
        self.out.push(b'"');
    }

    fn float(&mut self, value: f64) {
        if !value.is_finite() {
            self.out.extend_from_slice(b"null");
        } else if value == 0.0 {
            // JavaScript drops the sign of -0.
            self.out.push(b'0');
        } else {
            let mut buffer = zmij::Buffer::new();
            let digits = buffer.format_finite(value);
            self.out.extend_from_slice(digits.strip_suffix(".0").unwrap_or(digits).as_bytes());
        }
    }

    fn date(&mut self, unix_ms: i64) {
        let start = self.out.len();
        self.out.push(b'"');
        if date::push_iso(self.out, unix_ms) {
            self.out.push(b'"');
        } else {
            self.out.truncate(start);
            self.out.extend_from_slice(b"null");
        }
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Binary::Attachments { attachments, attachments_max } = &mut self.binary else {
            self.base64(bytes);
            return Ok(());
        };
        if attachments.len() >= *attachments_max {
            return Err(Error::Attachments);
        }
        let number = attachments.len();
        attachments.push(Bytes::copy_from_slice(bytes));
        self.out.extend_from_slice(b"{\"_placeholder\":true,\"num\":");
        self.integer(number);
        self.out.push(b'}');
        Ok(())
    }

    fn base64(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(b"{\"");
        self.out.extend_from_slice(BINARY_KEY.as_bytes());
        self.out.extend_from_slice(b"\":\"");
        let start = self.out.len();
        // Three bytes make four characters, and a value fits in memory many times over.
        self.out.resize(start + bytes.len().div_ceil(3) * 4, 0);
        let written = STANDARD.encode_slice(bytes, &mut self.out[start..]).unwrap_or_default();
        self.out.truncate(start + written);
        self.out.extend_from_slice(b"\"}");
    }

    fn string(&mut self, bytes: &[u8]) {
        self.out.push(b'"');
        match simdutf8::basic::from_utf8(bytes) {
            Ok(text) => push_escaped(self.out, text.as_bytes()),
            Err(_) => push_escaped(self.out, String::from_utf8_lossy(bytes).as_bytes()),
        }
        self.out.push(b'"');
    }
}

/// Escapes what `JSON.stringify` escapes, and nothing else.
fn push_escaped(out: &mut Vec<u8>, mut text: &[u8]) {
    loop {
        let (plain, rest) = text.split_at(plain_len(text));
        out.extend_from_slice(plain);
        let Some((special, rest)) = rest.split_first() else { return };
        match special {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let (high, low) = (HEX[usize::from(control >> 4)], HEX[usize::from(control & 0x0f)]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
        text = rest;
    }
}
