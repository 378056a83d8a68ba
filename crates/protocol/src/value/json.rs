//! From JSON text to wire form. This is the hot path of everything a default client sends.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use tidegate_msgpack::{Reader, Token, write};

use super::insertions::Insertions;
use super::scan::plain_len;
use super::{BINARY_KEY, DEPTH_MAX, Error};

/// Padding may be missing, as many encoders leave it out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The integers of this size and below are those a double holds without a gap: 2^53.
const INTEGRAL_MAX: f64 = 9_007_199_254_740_992.0;

/// Appends one JSON value in wire form.
///
/// The text is read as strictly as RFC 8259 says. Numbers become what a Node server would write for the same double:
/// an integral one up to 2^53 is an integer (`1.0`, `1e3`, `-0` too), any other a float64, one too large for a double
/// is infinite; integers in plain digits stay exact as far as 64 bits go. A lone surrogate in an escape becomes
/// U+FFFD.
///
/// With attachments, an object with `"_placeholder": true` is replaced by the attachment its `num` names, wherever
/// the keys stand and whatever else the object holds, as in socket.io-parser. Each attachment can be placed once:
/// no encoder places it twice, and a packet would otherwise grow with every mention. Without attachments such an
/// object is an ordinary one.
///
/// # Errors
/// [`Error::Json`], [`Error::Utf8`], [`Error::TooDeep`], [`Error::Placeholder`]; `out` may then hold part of the value.
pub fn json_to_wire(json: &[u8], attachments: &[Bytes], out: &mut Vec<u8>) -> Result<(), Error> {
    let json = simdutf8::basic::from_utf8(json).map_err(|_| Error::Utf8)?;
    parse(json, attachments.len(), false, out)?.apply(out, attachments);
    Ok(())
}

/// Appends one JSON value of the plain protocol in wire form: as [`json_to_wire`] without attachments, and an object
/// whose only field is [`BINARY_KEY`] with a string becomes the bytes of that base64.
///
/// # Errors
/// [`Error::Json`], [`Error::TooDeep`], [`Error::Base64`]; `out` may then hold part of the value.
pub fn plain_json_to_wire(json: &str, out: &mut Vec<u8>) -> Result<(), Error> {
    parse(json, 0, true, out)?.apply(out, &[]);
    Ok(())
}

/// A value in wire form whose attachments are still missing.
#[derive(Debug)]
pub(crate) struct Draft {
    wire: Vec<u8>,
    insertions: Insertions,
}

impl Draft {
    /// Reads JSON text that refers to so many attachments.
    pub(crate) fn new(json: &str, attachments: usize) -> Result<Self, Error> {
        let mut wire = Vec::with_capacity(json.len());
        let insertions = parse(json, attachments, false, &mut wire)?;
        Ok(Draft { wire, insertions })
    }

    /// What is known of the value: a placeholder's bytes are still missing, and containers with 16 elements or more
    /// have no length yet.
    pub(crate) fn unfinished(&self) -> &[u8] {
        &self.wire
    }

    /// The value, with as many attachments as were announced.
    pub(crate) fn finish(mut self, attachments: &[Bytes]) -> Vec<u8> {
        self.insertions.apply(&mut self.wire, attachments);
        self.wire
    }
}

fn parse(json: &str, attachments: usize, is_plain: bool, out: &mut Vec<u8>) -> Result<Insertions, Error> {
    // A value is rarely longer in MessagePack than in JSON; only short floats are.
    out.reserve(json.len());
    let mut text = Text {
        json,
        at: 0,
        out,
        insertions: Insertions::default(),
        placed: vec![false; attachments],
        is_plain,
        unescaped: Vec::new(),
    };
    text.skip_space();
    text.value(0)?;
    text.skip_space();
    if text.at < json.len() { Err(text.error()) } else { Ok(text.insertions) }
}

struct Text<'a> {
    json: &'a str,
    at: usize,
    out: &'a mut Vec<u8>,
    insertions: Insertions,
    /// Which attachments have been placed. Empty when there are none, and placeholders are then not looked for.
    placed: Vec<bool>,
    /// Whether [`BINARY_KEY`] means something.
    is_plain: bool,
    /// Room for a string with escapes, whose length is known only at its end.
    unescaped: Vec<u8>,
}

impl Text<'_> {
    fn error(&self) -> Error {
        Error::Json { at: self.at }
    }

    fn peek(&self) -> Option<u8> {
        self.json.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> Result<(), Error> {
        if self.peek() != Some(byte) {
            return Err(self.error());
        }
        self.at += 1;
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<(), Error> {
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b't') => self.literal("true", 0xc3),
            Some(b'f') => self.literal("false", 0xc2),
            Some(b'n') => self.literal("null", 0xc0),
            _ => Err(self.error()),
        }
    }

    fn literal(&mut self, word: &str, byte: u8) -> Result<(), Error> {
        if !self.json.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.error());
        }
        self.at += word.len();
        self.out.push(byte);
        Ok(())
    }

    /// Steps past the opening bracket; false when the container is empty.
    fn open(&mut self, depth: usize, close: u8) -> Result<bool, Error> {
        if depth > DEPTH_MAX {
            return Err(Error::TooDeep);
        }
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(close) {
            self.at += 1;
            return Ok(false);
        }
        Ok(true)
    }

    /// Steps past what follows an element; false when it was the closing bracket.
    fn another(&mut self, close: u8) -> Result<bool, Error> {
        self.skip_space();
        let another = match self.peek() {
            Some(b',') => true,
            Some(byte) if byte == close => false,
            _ => return Err(self.error()),
        };
        self.at += 1;
        self.skip_space();
        Ok(another)
    }

    fn array(&mut self, depth: usize) -> Result<(), Error> {
        let head = self.out.len();
        self.out.push(0);
        let mut length = 0;
        let mut another = self.open(depth, b']')?;
        while another {
            self.value(depth)?;
            length += 1;
            another = self.another(b']')?;
        }
        self.insertions.close_array(self.out, head, length);
        Ok(())
    }

    fn object(&mut self, depth: usize) -> Result<(), Error> {
        let (head, noted) = (self.out.len(), self.insertions.len());
        self.out.push(0);
        let mut placeholder = Placeholder::default();
        let mut length = 0;
        // Where the string under the first key begins, if that key is the one for bytes.
        let mut base64 = None;
        let mut another = self.open(depth, b'}')?;
        while another {
            let key = self.out.len();
            if self.peek() != Some(b'"') {
                return Err(self.error());
            }
            self.string()?;
            self.skip_space();
            self.take(b':')?;
            self.skip_space();
            let value = self.out.len();
            self.value(depth)?;
            if !self.placed.is_empty() {
                placeholder.entry(&self.out[key..value], &self.out[value..]);
            }
            if self.is_plain && length == 0 && is_binary_key(&self.out[key..value]) {
                base64 = Some(value);
            }
            length += 1;
            another = self.another(b'}')?;
        }
        if placeholder.is {
            self.out.truncate(head);
            self.insertions.truncate(noted);
            return self.place(placeholder.number);
        }
        if let Some(value) = base64
            && length == 1
            && let Ok(Token::Str(text)) = Reader::new(&self.out[value..]).token()
        {
            let bytes = BASE64.decode(text).map_err(|_| Error::Base64)?;
            self.out.truncate(head);
            write::bin(self.out, &bytes);
            return Ok(());
        }
        self.insertions.close_map(self.out, head, length);
        Ok(())
    }

    fn place(&mut self, number: Option<usize>) -> Result<(), Error> {
        let number = number.ok_or(Error::Placeholder)?;
        match self.placed.get_mut(number) {
            Some(placed) if !*placed => *placed = true,
            _ => return Err(Error::Placeholder),
        }
        self.insertions.place_attachment(self.out, number);
        Ok(())
    }

    fn string(&mut self) -> Result<(), Error> {
        self.at += 1;
        let start = self.at;
        self.at += plain_len(&self.json.as_bytes()[start..]);
        if self.peek() == Some(b'"') {
            write::str(self.out, &self.json[start..self.at]);
            self.at += 1;
            return Ok(());
        }
        self.unescaped.clear();
        self.unescaped.extend_from_slice(&self.json.as_bytes()[start..self.at]);
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                // The text ends, or a control character stands here bare.
                _ => return Err(self.error()),
            }
            let start = self.at;
            self.at += plain_len(&self.json.as_bytes()[start..]);
            self.unescaped.extend_from_slice(&self.json.as_bytes()[start..self.at]);
        }
        self.at += 1;
        write::str_bytes(self.out, &self.unescaped);
        Ok(())
    }

    fn escape(&mut self) -> Result<(), Error> {
        self.at += 1;
        let byte = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => byte,
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => return self.unicode_escape(),
            _ => return Err(self.error()),
        };
        self.at += 1;
        self.unescaped.push(byte);
        Ok(())
    }

    /// Reads `uXXXX`, and a second escape when the two are a surrogate pair.
    fn unicode_escape(&mut self) -> Result<(), Error> {
        let unit = self.code_unit()?;
        let mut scalar = char::from_u32(unit);
        if (0xd800..0xdc00).contains(&unit) && self.json.as_bytes()[self.at..].starts_with(b"\\u") {
            let first_end = self.at;
            self.at += 1;
            let second = self.code_unit()?;
            if (0xdc00..0xe000).contains(&second) {
                scalar = char::from_u32(0x1_0000 + ((unit - 0xd800) << 10) + (second - 0xdc00));
            } else {
                // The first one is alone; the second is read again on its own.
                self.at = first_end;
            }
        }
        let scalar = scalar.unwrap_or(char::REPLACEMENT_CHARACTER);
        self.unescaped.extend_from_slice(scalar.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    fn code_unit(&mut self) -> Result<u32, Error> {
        self.at += 1;
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16)).ok_or(self.error())?;
            unit = unit << 4 | digit;
            self.at += 1;
        }
        Ok(unit)
    }

    fn number(&mut self) -> Result<(), Error> {
        let start = self.at;
        let negative = self.peek() == Some(b'-');
        if negative {
            self.at += 1;
        }
        let mut integer = Some(0_u64);
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => {
                while let Some(digit @ b'0'..=b'9') = self.peek() {
                    integer = integer
                        .and_then(|value| value.checked_mul(10))
                        .and_then(|value| value.checked_add(u64::from(digit - b'0')));
                    self.at += 1;
                }
            }
            _ => return Err(self.error()),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
            integer = None;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
            integer = None;
        }
        match integer {
            Some(value) if !negative => write::uint(self.out, value),
            Some(value) if value <= i64::MIN.unsigned_abs() => {
                write::int(self.out, value.cast_signed().wrapping_neg());
            }
            _ => {
                let value: f64 = self.json[start..self.at].parse().map_err(|_| self.error())?;
                write_double(self.out, value);
            }
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Error> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { Err(self.error()) } else { Ok(()) }
    }
}

fn write_double(out: &mut Vec<u8>, value: f64) {
    if value.abs() <= INTEGRAL_MAX && value.trunc() == value {
        // The cast is exact within the bound; -0 becomes 0, as in notepack.
        write::int(out, value as i64);
    } else {
        write::f64(out, value);
    }
}

fn is_binary_key(wire: &[u8]) -> bool {
    Reader::new(wire).str() == Ok(BINARY_KEY)
}

/// What an object's entries say about it being a placeholder. A key's last occurrence counts, as in JavaScript.
#[derive(Default)]
struct Placeholder {
    is: bool,
    number: Option<usize>,
}

impl Placeholder {
    /// Looks at one entry, both halves in wire form.
    fn entry(&mut self, key: &[u8], value: &[u8]) {
        match key {
            b"\xac_placeholder" => self.is = value == [0xc3],
            b"\xa3num" => {
                self.number = match Reader::new(value).token() {
                    Ok(Token::UInt(number)) => usize::try_from(number).ok(),
                    _ => None,
                };
            }
            _ => {}
        }
    }
}
