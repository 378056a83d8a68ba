//! The cursor over MessagePack bytes.

use crate::{DEPTH_MAX, Error, Token};

/// A cursor over MessagePack. It borrows its input, never allocates, and a clone is a bookmark.
///
/// After an error the position is unspecified; drop the reader.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A cursor at the first byte.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0 }
    }

    /// Whether every byte has been read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// How many bytes have been read.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }

    /// The bytes that have not been read yet.
    #[must_use]
    pub fn remaining(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// Reads one scalar, or the head of one container.
    ///
    /// # Errors
    /// [`Error::Truncated`] when the input ends inside it, also when a container claims more elements than could
    /// fit in the bytes that are left; [`Error::Reserved`] for 0xc1.
    pub fn token(&mut self) -> Result<Token<'a>, Error> {
        let [header] = self.take::<1>()?;
        Ok(match header {
            0x00..=0x7f => Token::UInt(u64::from(header)),
            0x80..=0x8f => self.map_head(u32::from(header & 0x0f))?,
            0x90..=0x9f => self.array_head(u32::from(header & 0x0f))?,
            0xa0..=0xbf => Token::Str(self.slice(usize::from(header & 0x1f))?),
            0xc0 => Token::Nil,
            0xc1 => return Err(Error::Reserved),
            0xc2 => Token::Bool(false),
            0xc3 => Token::Bool(true),
            0xc4 | 0xd9 => {
                let length = u32::from(u8::from_be_bytes(self.take()?));
                self.blob(header, length)?
            }
            0xc5 | 0xda => {
                let length = u32::from(u16::from_be_bytes(self.take()?));
                self.blob(header, length)?
            }
            0xc6 | 0xdb => {
                let length = u32::from_be_bytes(self.take()?);
                self.blob(header, length)?
            }
            0xc7 => {
                let length = u32::from(u8::from_be_bytes(self.take()?));
                self.ext(header, length)?
            }
            0xc8 => {
                let length = u32::from(u16::from_be_bytes(self.take()?));
                self.ext(header, length)?
            }
            0xc9 => {
                let length = u32::from_be_bytes(self.take()?);
                self.ext(header, length)?
            }
            0xca => Token::F32(f32::from_be_bytes(self.take()?)),
            0xcb => Token::F64(f64::from_be_bytes(self.take()?)),
            0xcc => Token::UInt(u64::from(u8::from_be_bytes(self.take()?))),
            0xcd => Token::UInt(u64::from(u16::from_be_bytes(self.take()?))),
            0xce => Token::UInt(u64::from(u32::from_be_bytes(self.take()?))),
            0xcf => Token::UInt(u64::from_be_bytes(self.take()?)),
            0xd0 => integer(i64::from(i8::from_be_bytes(self.take()?))),
            0xd1 => integer(i64::from(i16::from_be_bytes(self.take()?))),
            0xd2 => integer(i64::from(i32::from_be_bytes(self.take()?))),
            0xd3 => integer(i64::from_be_bytes(self.take()?)),
            0xd4..=0xd8 => self.ext(header, 1 << (header - 0xd4))?,
            0xdc => {
                let length = u32::from(u16::from_be_bytes(self.take()?));
                self.array_head(length)?
            }
            0xdd => {
                let length = u32::from_be_bytes(self.take()?);
                self.array_head(length)?
            }
            0xde => {
                let length = u32::from(u16::from_be_bytes(self.take()?));
                self.map_head(length)?
            }
            0xdf => {
                let length = u32::from_be_bytes(self.take()?);
                self.map_head(length)?
            }
            0xe0..=0xff => Token::Int(i64::from(header.cast_signed())),
        })
    }

    /// Skips one whole value, containers with all they hold.
    ///
    /// # Errors
    /// As [`token`](Self::token), and [`Error::TooDeep`] beyond [`DEPTH_MAX`] nested containers.
    pub fn skip(&mut self) -> Result<(), Error> {
        self.walk(|_| {})
    }

    /// Skips one whole value and shows `visit` every token of it.
    fn walk(&mut self, mut visit: impl FnMut(&Token<'a>)) -> Result<(), Error> {
        let token = self.token()?;
        visit(&token);
        let mut values_left = match values_inside(token) {
            0 => return Ok(()),
            inside => inside,
        };
        // The values still to come in each container around the present one, outermost first.
        let mut around = [0_u64; DEPTH_MAX];
        let mut depth = 1;
        loop {
            while values_left == 0 {
                depth -= 1;
                if depth == 0 {
                    return Ok(());
                }
                values_left = around[depth];
            }
            values_left -= 1;
            let token = self.token()?;
            visit(&token);
            if !matches!(token, Token::Array(_) | Token::Map(_)) {
                continue;
            }
            // An empty container is a level too, so that the bound does not depend on what a container holds.
            if depth == DEPTH_MAX {
                return Err(Error::TooDeep);
            }
            around[depth] = values_left;
            depth += 1;
            values_left = values_inside(token);
        }
    }

    /// Reads the bytes of one whole value, its header included.
    ///
    /// # Errors
    /// As [`skip`](Self::skip).
    pub fn value(&mut self) -> Result<&'a [u8], Error> {
        let start = self.at;
        self.skip()?;
        Ok(&self.bytes[start..self.at])
    }

    /// Reads the bytes of one whole value and shows `visit` every token of it, in order.
    ///
    /// # Errors
    /// As [`skip`](Self::skip), after `visit` has seen what stands before the fault.
    pub fn value_seen(&mut self, visit: impl FnMut(&Token<'a>)) -> Result<&'a [u8], Error> {
        let start = self.at;
        self.walk(visit)?;
        Ok(&self.bytes[start..self.at])
    }

    /// Reads a string.
    ///
    /// # Errors
    /// [`Error::Type`] for anything else, [`Error::Utf8`] when it is not text; otherwise as [`token`](Self::token).
    pub fn str(&mut self) -> Result<&'a str, Error> {
        match self.token()? {
            Token::Str(bytes) => std::str::from_utf8(bytes).map_err(|_| Error::Utf8),
            _ => Err(Error::Type { expected: "a string" }),
        }
    }

    /// Reads the head of an array and returns how many values follow.
    ///
    /// # Errors
    /// [`Error::Type`] for anything else; otherwise as [`token`](Self::token).
    pub fn array(&mut self) -> Result<u32, Error> {
        match self.token()? {
            Token::Array(length) => Ok(length),
            _ => Err(Error::Type { expected: "an array" }),
        }
    }

    /// Reads the head of a map and returns how many entries follow.
    ///
    /// # Errors
    /// [`Error::Type`] for anything else; otherwise as [`token`](Self::token).
    pub fn map(&mut self) -> Result<u32, Error> {
        match self.token()? {
            Token::Map(length) => Ok(length),
            _ => Err(Error::Type { expected: "a map" }),
        }
    }

    /// Reads an integer that is zero or more.
    ///
    /// # Errors
    /// [`Error::Type`] for anything else; otherwise as [`token`](Self::token).
    pub fn uint(&mut self) -> Result<u64, Error> {
        match self.token()? {
            Token::UInt(value) => Ok(value),
            _ => Err(Error::Type { expected: "an unsigned integer" }),
        }
    }

    /// Reads a boolean.
    ///
    /// # Errors
    /// [`Error::Type`] for anything else; otherwise as [`token`](Self::token).
    pub fn bool(&mut self) -> Result<bool, Error> {
        match self.token()? {
            Token::Bool(value) => Ok(value),
            _ => Err(Error::Type { expected: "a boolean" }),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (bytes, _) = self.remaining().split_first_chunk::<N>().ok_or(Error::Truncated)?;
        self.at += N;
        Ok(*bytes)
    }

    fn slice(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let bytes = self.remaining().get(..length).ok_or(Error::Truncated)?;
        self.at += length;
        Ok(bytes)
    }

    fn blob(&mut self, header: u8, length: u32) -> Result<Token<'a>, Error> {
        let bytes = self.slice(length as usize)?;
        Ok(if header <= 0xc6 { Token::Bin(bytes) } else { Token::Str(bytes) })
    }

    fn ext(&mut self, header: u8, length: u32) -> Result<Token<'a>, Error> {
        let [kind] = self.take::<1>()?;
        let data = self.slice(length as usize)?;
        Ok(Token::Ext { kind: kind.cast_signed(), data, header })
    }

    // Every element takes at least one byte, so a length that cannot fit is known to be wrong at once; nobody
    // above has to fear it.
    fn array_head(&self, length: u32) -> Result<Token<'a>, Error> {
        if length as usize > self.bytes.len() - self.at {
            return Err(Error::Truncated);
        }
        Ok(Token::Array(length))
    }

    fn map_head(&self, length: u32) -> Result<Token<'a>, Error> {
        if length as usize > (self.bytes.len() - self.at) / 2 {
            return Err(Error::Truncated);
        }
        Ok(Token::Map(length))
    }
}

fn integer<'a>(value: i64) -> Token<'a> {
    u64::try_from(value).map_or(Token::Int(value), Token::UInt)
}

fn values_inside(token: Token<'_>) -> u64 {
    match token {
        Token::Array(length) => u64::from(length),
        Token::Map(length) => u64::from(length) * 2,
        _ => 0,
    }
}
