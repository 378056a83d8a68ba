//! Between clients' MessagePack and wire form (notepack.io 3.0.1): that of Socket.IO's MessagePack parser (notepack.io
//! 2.2.0), and the standard's, which the plain protocol speaks.
//!
//! They differ in extensions only, so a value without any is relayed as the bytes it came in, unless a string in it
//! is not UTF-8: a browser's reader throws on one and drops its connection, so nobody may be able to send it to others.
//! Such a string gets replacement characters, as when a Node server reads and writes it.

use tidegate_msgpack::{Error as Malformed, Reader, Token, write};

use super::extension::Extension;
use super::insertions::Insertions;
use super::{DEPTH_MAX, Error};

/// Appends a MessagePack client's value in wire form.
///
/// `undefined` becomes nil, or leaves its entry out of a map; a date becomes a timestamp, an `ArrayBuffer` bin, an
/// integer key a string, an unknown extension what notepack decodes it to, the array `[type, bytes]`; what is not UTF-8
/// in a string or a key becomes U+FFFD. Everything else keeps its bytes, floats of 32 bits and headers wider than needed
/// included.
///
/// # Errors
/// [`Error::MessagePack`] or [`Error::TooDeep`] when `msgpack` is not one complete value, [`Error::Key`] for a map key
/// that is neither a string nor an integer; `out` may then hold part of the value.
pub fn client_to_wire(msgpack: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    to_wire(msgpack, Origin::SocketIo, out)
}

/// Appends a value in standard MessagePack in wire form.
///
/// The timestamp extension and those of the application keep their bytes; what Socket.IO's parser writes as type 0 is
/// taken as it means it there. A timestamp of a length that the standard does not have would throw in its readers, and
/// becomes the array `[type, bytes]`. The rest is as in [`client_to_wire`].
///
/// # Errors
/// As [`client_to_wire`].
pub fn msgpack_to_wire(msgpack: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    to_wire(msgpack, Origin::Standard, out)
}

/// Whose extensions a value has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    SocketIo,
    Standard,
}

impl Origin {
    fn read(self, kind: i8, data: &[u8], header: u8) -> Extension<'_> {
        match self {
            Self::SocketIo => Extension::of_client(kind, data, header),
            Self::Standard => Extension::of_wire(kind, data, header),
        }
    }

    /// Whether an extension is in wire form as it stands.
    fn is_wire(self, kind: i8, data: &[u8], header: u8) -> bool {
        self == Self::Standard
            && match Extension::of_wire(kind, data, header) {
                Extension::Date(_) => kind == Extension::TIMESTAMP,
                Extension::Unknown(..) => kind != Extension::TIMESTAMP,
                Extension::Undefined | Extension::Bytes(_) => false,
            }
    }
}

fn to_wire(msgpack: &[u8], origin: Origin, out: &mut Vec<u8>) -> Result<(), Error> {
    let mut reader = Reader::new(msgpack);
    if is_wire(&mut reader, origin, 0)? {
        if !reader.is_empty() {
            return Err(Malformed::Trailing.into());
        }
        out.extend_from_slice(msgpack);
        return Ok(());
    }
    let mut transcoder = Transcoder {
        bytes: msgpack,
        origin,
        reader: Reader::new(msgpack),
        insertions: Insertions::default(),
        out,
    };
    if let Written::Nothing = transcoder.value(0)? {
        write::nil(transcoder.out);
    }
    let Transcoder { reader, insertions, out, .. } = transcoder;
    if !reader.is_empty() {
        return Err(Malformed::Trailing.into());
    }
    insertions.apply(out, &[]);
    Ok(())
}

/// Appends a wire value as a MessagePack client reads it: a timestamp becomes the client's date, what is not
/// UTF-8 in a string or a key becomes U+FFFD, everything else keeps its bytes.
///
/// # Errors
/// [`Error::MessagePack`] when `wire` is not one complete value; `out` may then hold part of it.
pub fn wire_to_client(wire: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    relay(wire, out, |kind, data, header, out| match Extension::of_wire(kind, data, header) {
        // A client that is given its own date back, or another extension, already reads it.
        Extension::Date(unix_ms) if kind < 0 => {
            out.extend_from_slice(&[0xd7, 0x00]);
            out.extend_from_slice(&unix_ms.to_be_bytes());
            true
        }
        _ => false,
    })
}

/// Appends a wire value in standard MessagePack: what Socket.IO's parsers write as extension type 0 becomes nil, a
/// timestamp or bin, what is not UTF-8 in a string or a key U+FFFD, and a timestamp of no length that the standard has
/// the array `[type, bytes]`; everything else keeps its bytes.
///
/// # Errors
/// [`Error::MessagePack`] when `wire` is not one complete value; `out` may then hold part of it.
pub fn wire_to_msgpack(wire: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    relay(wire, out, |kind, data, header, out| {
        if Origin::Standard.is_wire(kind, data, header) {
            return false;
        }
        match Extension::of_wire(kind, data, header) {
            Extension::Undefined => write::nil(out),
            Extension::Date(unix_ms) => write::timestamp_ms(out, unix_ms),
            Extension::Bytes(bytes) => write::bin(out, bytes),
            Extension::Unknown(kind, bytes) => write_unknown(out, kind, bytes),
        }
        true
    })
}

/// Copies a value, but for the strings that are not UTF-8 and the extensions that `replace` writes something else for,
/// which must be one value.
fn relay(
    wire: &[u8],
    out: &mut Vec<u8>,
    mut replace: impl FnMut(i8, &[u8], u8, &mut Vec<u8>) -> bool,
) -> Result<(), Error> {
    out.reserve(wire.len());
    let mut reader = Reader::new(wire);
    // What was read but not yet appended starts here.
    let mut copied = 0;
    // An element is replaced by one element, so no length changes and nesting need not be followed.
    let mut values_left = 1_u64;
    while values_left > 0 {
        let start = reader.position();
        values_left -= 1;
        match reader.token()? {
            Token::Array(length) => values_left += u64::from(length),
            Token::Map(length) => values_left += u64::from(length) * 2,
            // Whoever else publishes on Redis need not have checked it.
            Token::Str(text) if !is_utf8(text) => {
                out.extend_from_slice(&wire[copied..start]);
                push_lossy(out, text);
                copied = reader.position();
            }
            Token::Ext { kind, data, header } => {
                out.extend_from_slice(&wire[copied..start]);
                copied = if replace(kind, data, header, out) { reader.position() } else { start };
            }
            _ => {}
        }
    }
    if !reader.is_empty() {
        return Err(Malformed::Trailing.into());
    }
    out.extend_from_slice(&wire[copied..]);
    Ok(())
}

/// An extension as notepack decodes one that it does not know.
fn write_unknown(out: &mut Vec<u8>, kind: i8, bytes: &[u8]) {
    write::array(out, 2);
    write::int(out, i64::from(kind));
    write::bin(out, bytes);
}

/// Reads one value and tells whether it is in wire form as it stands. On false the reader has stopped early.
fn is_wire(reader: &mut Reader<'_>, origin: Origin, depth: usize) -> Result<bool, Error> {
    match reader.token()? {
        Token::Array(length) => {
            let depth = deeper(depth)?;
            for _ in 0..length {
                if !is_wire(reader, origin, depth)? {
                    return Ok(false);
                }
            }
        }
        Token::Map(length) => {
            let depth = deeper(depth)?;
            for _ in 0..length {
                if !matches!(reader.token()?, Token::Str(key) if is_utf8(key))
                    || !is_wire(reader, origin, depth)?
                {
                    return Ok(false);
                }
            }
        }
        Token::Str(text) => return Ok(is_utf8(text)),
        Token::Ext { kind, data, header } => return Ok(origin.is_wire(kind, data, header)),
        _ => {}
    }
    Ok(true)
}

fn is_utf8(text: &[u8]) -> bool {
    simdutf8::basic::from_utf8(text).is_ok()
}

/// Appends a string with U+FFFD for what is not UTF-8 in it, one per maximal part as JavaScript has it.
#[cold]
fn push_lossy(out: &mut Vec<u8>, text: &[u8]) {
    write::str(out, &String::from_utf8_lossy(text));
}

fn deeper(depth: usize) -> Result<usize, Error> {
    if depth < DEPTH_MAX { Ok(depth + 1) } else { Err(Error::TooDeep) }
}

struct Transcoder<'a> {
    bytes: &'a [u8],
    origin: Origin,
    reader: Reader<'a>,
    insertions: Insertions,
    out: &'a mut Vec<u8>,
}

enum Written {
    Value,
    /// The value was `undefined`, which has no wire form.
    Nothing,
}

impl Transcoder<'_> {
    fn value(&mut self, depth: usize) -> Result<Written, Error> {
        let start = self.reader.position();
        match self.reader.token()? {
            Token::Array(length) => self.array(length, deeper(depth)?)?,
            Token::Map(length) => self.map(length, deeper(depth)?)?,
            Token::Ext { kind, data, header } if self.origin.is_wire(kind, data, header) => self.relay(start),
            Token::Ext { kind, data, header } => match self.origin.read(kind, data, header) {
                Extension::Undefined => return Ok(Written::Nothing),
                Extension::Date(unix_ms) => write::timestamp_ms(self.out, unix_ms),
                Extension::Bytes(bytes) => write::bin(self.out, bytes),
                Extension::Unknown(kind, bytes) => {
                    deeper(depth)?;
                    write_unknown(self.out, kind, bytes);
                }
            },
            Token::Str(text) => self.string(start, text),
            _ => self.relay(start),
        }
        Ok(Written::Value)
    }

    /// Appends what was read since `start` as it came.
    fn relay(&mut self, start: usize) {
        self.out.extend_from_slice(&self.bytes[start..self.reader.position()]);
    }

    /// Appends the string that was read since `start`.
    fn string(&mut self, start: usize, text: &[u8]) {
        if is_utf8(text) { self.relay(start) } else { push_lossy(self.out, text) }
    }

    fn array(&mut self, length: u32, depth: usize) -> Result<(), Error> {
        write::array(self.out, length);
        for _ in 0..length {
            if let Written::Nothing = self.value(depth)? {
                write::nil(self.out);
            }
        }
        Ok(())
    }

    fn map(&mut self, length: u32, depth: usize) -> Result<(), Error> {
        let head = self.out.len();
        self.out.push(0);
        let mut written = 0;
        for _ in 0..length {
            let entry = self.out.len();
            self.key()?;
            match self.value(depth)? {
                Written::Value => written += 1,
                Written::Nothing => self.out.truncate(entry),
            }
        }
        self.insertions.close_map(self.out, head, written);
        Ok(())
    }

    fn key(&mut self) -> Result<(), Error> {
        let start = self.reader.position();
        match self.reader.token()? {
            Token::Str(key) => self.string(start, key),
            Token::UInt(key) => write::str(self.out, itoa::Buffer::new().format(key)),
            Token::Int(key) => write::str(self.out, itoa::Buffer::new().format(key)),
            _ => return Err(Error::Key),
        }
        Ok(())
    }
}
