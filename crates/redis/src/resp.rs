//! RESP3, as far as the bus needs it: commands out, frames in.
//!
//! Source: the specification at <https://redis.io/docs/latest/develop/reference/protocol-spec/>. Streamed strings and
//! aggregates, which no server sends, are refused. Frames are read where they lie; nothing is copied or allocated.

/// Most bytes of one frame. Redis cuts off a subscriber that it owes 32 MiB, unless it is told otherwise
/// (`client-output-buffer-limit pubsub`), so that no larger push gets through.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

/// Most bytes of a line: a length, a number, a status or an error.
const LINE_BYTES_MAX: usize = 4_096;

/// Not RESP, or more than is taken of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server does not speak RESP3")]
pub struct Malformed;

/// One element, the beginning of one for those that hold others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Token<'a> {
    /// A status, without the sign.
    Status(&'a [u8]),
    /// An error, simple or bulk.
    Error(&'a [u8]),
    /// An integer.
    Integer(i64),
    /// A string, verbatim ones with their format.
    Bulk(&'a [u8]),
    /// Nothing, in any of its three spellings.
    Null,
    /// A double, a boolean or a big number, as it is spelled.
    Other(&'a [u8]),
    /// So many elements follow, or pairs of them for maps: an array, a set, a map.
    Aggregate(usize),
    /// So many elements follow that nobody asked for.
    Push(usize),
    /// So many elements follow that say something about the next.
    Attribute(usize),
}

impl Token<'_> {
    /// How many elements belong to it.
    fn holds(&self) -> usize {
        match *self {
            Self::Aggregate(count) | Self::Push(count) => count,
            // And the element that it is about.
            Self::Attribute(count) => count + 1,
            _ => 0,
        }
    }
}

/// Reads tokens from the front of some bytes.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    missing: usize,
}

impl<'a> Reader<'a> {
    /// A reader of `bytes`, which may end anywhere.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, missing: 0 }
    }

    /// How many bytes were read.
    #[must_use]
    pub const fn position(&self) -> usize {
        self.at
    }

    /// After a token that is not all there: how many bytes more it takes at least.
    #[must_use]
    pub const fn missing(&self) -> usize {
        self.missing
    }

    /// The next token; none if the bytes end before it does.
    ///
    /// # Errors
    /// When what stands there cannot become one.
    pub fn token(&mut self) -> Result<Option<Token<'a>>, Malformed> {
        let Some((line, end)) = self.line()? else { return Ok(None) };
        let Some((&sign, rest)) = line.split_first() else { return Err(Malformed) };
        let token = match sign {
            b'+' => Token::Status(rest),
            b'-' => Token::Error(rest),
            b':' => Token::Integer(number(rest)?),
            b'_' if rest.is_empty() => Token::Null,
            b',' | b'#' | b'(' if !rest.is_empty() => Token::Other(rest),
            b'$' | b'*' if rest == b"-1" => Token::Null,
            b'$' | b'=' | b'!' => {
                let Some(text) = self.bulk(end, length(rest)?)? else { return Ok(None) };
                self.at = end + text.len() + 2;
                return Ok(Some(if sign == b'!' { Token::Error(text) } else { Token::Bulk(text) }));
            }
            b'*' | b'~' => Token::Aggregate(length(rest)?),
            b'%' => Token::Aggregate(pairs(rest)?),
            b'|' => Token::Attribute(pairs(rest)?),
            b'>' => Token::Push(length(rest)?),
            _ => return Err(Malformed),
        };
        self.at = end;
        Ok(Some(token))
    }

    /// Reads over what belongs to `token`, which was read last. False if the bytes end before it does.
    ///
    /// # Errors
    /// When something in it is no token, or it is too large.
    pub fn skip(&mut self, token: &Token<'_>) -> Result<bool, Malformed> {
        let mut left = token.holds();
        while left > 0 {
            // A push belongs between frames; what it interrupts could not be told from it.
            let token = match self.token()? {
                Some(Token::Push(_)) => return Err(Malformed),
                Some(token) => token,
                None => return Ok(false),
            };
            left = left - 1 + token.holds();
            if self.at > FRAME_BYTES_MAX || left > FRAME_BYTES_MAX {
                return Err(Malformed);
            }
        }
        Ok(true)
    }

    /// The line that begins here, without its end, and where the next begins.
    fn line(&mut self) -> Result<Option<(&'a [u8], usize)>, Malformed> {
        let rest = &self.bytes[self.at..];
        let within = &rest[..rest.len().min(LINE_BYTES_MAX)];
        let Some(length) = within.iter().position(|byte| *byte == b'\r') else {
            self.missing = 1;
            return if within.len() == LINE_BYTES_MAX { Err(Malformed) } else { Ok(None) };
        };
        match rest.get(length + 1) {
            Some(b'\n') => Ok(Some((&rest[..length], self.at + length + 2))),
            Some(_) => Err(Malformed),
            None => {
                self.missing = 1;
                Ok(None)
            }
        }
    }

    /// `length` bytes from `start`, behind which a line ends.
    fn bulk(&mut self, start: usize, length: usize) -> Result<Option<&'a [u8]>, Malformed> {
        let end = start + length;
        if self.bytes.len() < end + 2 {
            self.missing = end + 2 - self.bytes.len();
            return Ok(None);
        }
        if &self.bytes[end..end + 2] != b"\r\n" {
            return Err(Malformed);
        }
        Ok(Some(&self.bytes[start..end]))
    }
}

fn number(digits: &[u8]) -> Result<i64, Malformed> {
    // `parse` would take a plus sign, which is harmless.
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or(Malformed)
}

fn length(digits: &[u8]) -> Result<usize, Malformed> {
    let length = usize::try_from(number(digits)?).map_err(|_| Malformed)?;
    if length > FRAME_BYTES_MAX { Err(Malformed) } else { Ok(length) }
}

fn pairs(digits: &[u8]) -> Result<usize, Malformed> {
    Ok(2 * length(digits)?)
}

/// What a server sends at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Frame<'a> {
    /// A message of a channel.
    Message {
        /// The channel's name.
        channel: &'a [u8],
        /// What was published.
        payload: &'a [u8],
    },
    /// One channel more is subscribed to.
    Subscribed,
    /// One channel less is.
    Unsubscribed,
    /// Another push, of no interest.
    Push,
    /// An integer, in answer to a command.
    Integer(i64),
    /// A command failed, for this reason.
    Error(&'a [u8]),
    /// Any other answer, as it came.
    Answer(&'a [u8]),
}

/// The frame at the front of `bytes`, and its length. If it is not all there, how many bytes more it takes at least.
///
/// # Errors
/// When `bytes` cannot become a frame.
pub fn frame(bytes: &[u8]) -> Result<Result<(Frame<'_>, usize), usize>, Malformed> {
    let mut reader = Reader::new(bytes);
    let Some(token) = reader.token()? else { return Ok(Err(reader.missing())) };
    let frame = match token {
        Token::Integer(number) => Frame::Integer(number),
        Token::Error(reason) => Frame::Error(reason),
        Token::Push(count) => match push(&mut reader, count)? {
            Some(frame) => frame,
            None => return Ok(Err(reader.missing())),
        },
        token => {
            if !reader.skip(&token)? {
                return Ok(Err(reader.missing()));
            }
            Frame::Answer(&bytes[..reader.position()])
        }
    };
    if reader.position() > FRAME_BYTES_MAX {
        return Err(Malformed);
    }
    Ok(Ok((frame, reader.position())))
}

/// Reads a push of `count` elements.
fn push<'a>(reader: &mut Reader<'a>, count: usize) -> Result<Option<Frame<'a>>, Malformed> {
    let kind = match reader.token()? {
        Some(Token::Bulk(kind) | Token::Status(kind)) if count > 0 => kind,
        Some(_) => return Err(Malformed),
        None => return Ok(None),
    };
    if kind == b"message" && count == 3 {
        let Some(channel) = reader.token()? else { return Ok(None) };
        let Some(payload) = reader.token()? else { return Ok(None) };
        return match (channel, payload) {
            (Token::Bulk(channel), Token::Bulk(payload)) => Ok(Some(Frame::Message { channel, payload })),
            _ => Err(Malformed),
        };
    }
    if !reader.skip(&Token::Aggregate(count - 1))? {
        return Ok(None);
    }
    Ok(Some(match kind {
        b"subscribe" => Frame::Subscribed,
        b"unsubscribe" => Frame::Unsubscribed,
        _ => Frame::Push,
    }))
}

/// Appends a command to `out`.
pub fn command<'a>(out: &mut Vec<u8>, arguments: impl ExactSizeIterator<Item = &'a [u8]>) {
    header(out, b'*', arguments.len());
    for argument in arguments {
        header(out, b'$', argument.len());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends a PUBLISH of `payload` on `channel` to `out`.
pub fn publish(out: &mut Vec<u8>, channel: &str, payload: &[u8]) {
    out.reserve(channel.len() + payload.len() + 64);
    out.extend_from_slice(b"*3\r\n$7\r\nPUBLISH\r\n");
    for argument in [channel.as_bytes(), payload] {
        header(out, b'$', argument.len());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}

fn header(out: &mut Vec<u8>, sign: u8, number: usize) {
    out.push(sign);
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(bytes: &[u8]) -> Frame<'_> {
        let (frame, length) = frame(bytes).expect("RESP").expect("a whole frame");
        assert_eq!(length, bytes.len());
        frame
    }

    #[test]
    fn frames_are_told_apart() {
        for (bytes, expected) in [
            (&b":12\r\n"[..], Frame::Integer(12)),
            (b"-NOPERM no\r\n", Frame::Error(b"NOPERM no")),
            (b"!5\r\nERR x\r\n", Frame::Error(b"ERR x")),
            (b"+PONG\r\n", Frame::Answer(b"+PONG\r\n")),
            (b"$-1\r\n", Frame::Answer(b"$-1\r\n")),
            (
                b"%2\r\n$2\r\nid\r\n:3\r\n+x\r\n*1\r\n,1.5\r\n",
                Frame::Answer(b"%2\r\n$2\r\nid\r\n:3\r\n+x\r\n*1\r\n,1.5\r\n"),
            ),
            (b"|1\r\n+k\r\n_\r\n:7\r\n", Frame::Answer(b"|1\r\n+k\r\n_\r\n:7\r\n")),
            (
                b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\n\r\n\r\n",
                Frame::Message { channel: b"c", payload: b"\r\n" },
            ),
            (b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n", Frame::Subscribed),
            (b">3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n", Frame::Unsubscribed),
            (b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n", Frame::Push),
        ] {
            assert_eq!(whole(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_is_no_resp_is_refused() {
        for bytes in [
            &b"\r\n"[..],
            b"?\r\n",
            b":\r\n",
            b":1x\r\n",
            b"+a\rb",
            b"$-2\r\n",
            b"$3\r\nabcd\r\n",
            b"$99999999999\r\n",
            b"$67108865\r\n",
            b"*3\r\n>1\r\n",
            b"$?\r\n",
            b">0\r\n+x\r\n",
            b">1\r\n:1\r\n",
            b">3\r\n$7\r\nmessage\r\n:1\r\n:2\r\n",
            b"HTTP/1.1 400 Bad Request\r\n",
        ] {
            assert_eq!(frame(bytes), Err(Malformed), "{}", bytes.escape_ascii());
        }
        assert_eq!(frame(&[b'+'; LINE_BYTES_MAX]), Err(Malformed));
        // An array of arrays of arrays: many elements in few bytes.
        assert_eq!(frame(&b"*60000000\r\n".repeat(3)), Err(Malformed));
    }

    #[test]
    fn a_large_payload_is_announced() {
        let begun = b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1000000\r\nabc";
        assert_eq!(frame(begun), Ok(Err(1_000_000 - 3 + 2)));
    }

    #[test]
    fn commands_are_arrays_of_strings() {
        let mut out = Vec::new();
        command(&mut out, [&b"SUBSCRIBE"[..], b"a", b""].into_iter());
        assert_eq!(out, b"*3\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n$0\r\n\r\n");
        out.clear();
        publish(&mut out, "ch", b"\x00\r\n");
        assert_eq!(out, b"*3\r\n$7\r\nPUBLISH\r\n$2\r\nch\r\n$3\r\n\x00\r\n\r\n");
    }

    proptest! {
        /// However the bytes are cut, a frame is seen when it is whole, and what is missing never overshoots it.
        #[test]
        fn a_frame_is_whole_or_not_there(
            channel in proptest::collection::vec(any::<u8>(), 0..20),
            payload in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut bytes = b">3\r\n$7\r\nmessage\r\n".to_vec();
            for part in [&channel, &payload] {
                header(&mut bytes, b'$', part.len());
                bytes.extend_from_slice(part);
                bytes.extend_from_slice(b"\r\n");
            }
            for cut in 0..bytes.len() {
                match frame(&bytes[..cut]) {
                    Ok(Err(missing)) => prop_assert!(missing > 0 && cut + missing <= bytes.len()),
                    other => prop_assert!(false, "{:?} at {}", other, cut),
                }
            }
            let length = bytes.len();
            bytes.extend_from_slice(b":1\r\n");
            let expected = Frame::Message { channel: &channel, payload: &payload };
            prop_assert_eq!(frame(&bytes), Ok(Ok((expected, length))));
        }

        /// Whatever comes is read to an end or refused, and a command is read back as what it was made of.
        #[test]
        fn anything_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Ok((_, length))) = frame(&bytes) {
                prop_assert!(length > 0 && length <= bytes.len());
            }
            let mut out = Vec::new();
            command(&mut out, bytes.chunks(7));
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.token(), Ok(Some(Token::Aggregate(bytes.chunks(7).len()))));
            for chunk in bytes.chunks(7) {
                prop_assert_eq!(reader.token(), Ok(Some(Token::Bulk(chunk))));
            }
            prop_assert_eq!(reader.position(), out.len());
        }
    }
}
