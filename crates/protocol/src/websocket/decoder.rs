//! The reader: bytes in, messages out.

use std::ops::Range;

use super::header::{HEADER_BYTES_MAX, Header};
use super::{Opcode, Role, Violation};

/// Least room added for a message that arrives in pieces. More is added only when as much has arrived, so a header
/// that claims a large message costs this much and not what it claims.
const GROWTH_BYTES_MIN: usize = 4096;

/// Bytes read from the peer, and how far they were used.
#[derive(Debug)]
pub struct Input<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> Input<'a> {
    /// What the peer sent next. The decoder unmasks in place, so the bytes are spent afterwards.
    pub const fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// What the decoder has not used.
    #[must_use]
    pub fn remaining(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    /// Whether everything was used.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Uses at most `count` bytes: unmasks them and tells where they are.
    fn take(&mut self, count: u64, mask: &mut [u8; 4]) -> Range<usize> {
        let left = self.bytes.len() - self.at;
        let count = usize::try_from(count).map_or(left, |count| count.min(left));
        let range = self.at..self.at + count;
        self.at = range.end;
        if *mask != [0; 4] {
            fastwebsockets::unmask(&mut self.bytes[range.clone()], *mask);
            mask.rotate_left(count % 4);
        }
        range
    }
}

/// What the peer sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// A ping; a pong with the same payload is owed.
    Ping(&'a [u8]),
    /// A pong.
    Pong(&'a [u8]),
    /// A close, with its code when it has one. A close is owed unless one was sent, and nothing after it counts: the
    /// caller reads no further.
    Close(Option<u16>),
}

/// Reads the frames of one connection. While no frame and no fragmented message is under way it owns no memory
/// besides itself.
#[derive(Debug)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
    message_bytes_max: u32,
    role: Role,
}

/// What has arrived of what is not complete.
#[derive(Debug, Default)]
struct Partial {
    /// The front of a header, `header_bytes` of it.
    header: [u8; HEADER_BYTES_MAX],
    header_bytes: u8,
    /// The frame whose payload is arriving; `payload_bytes` is what is missing of it, and the mask is turned to where
    /// it goes on.
    frame: Option<Header>,
    /// Text or Binary while a fragmented message is under way.
    message: Option<Opcode>,
    /// The payload so far, of the message under way or of the unfragmented frame.
    body: Vec<u8>,
    /// The payload so far of a control frame, which may come amid a fragmented message.
    control: Vec<u8>,
    /// Which of the two was lent to the caller by the call before.
    lent: Option<Lent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lent {
    Body,
    Control,
}

/// Where a complete payload lies.
enum Place {
    Input(Range<usize>),
    Partial(Lent),
}

impl Decoder {
    /// A decoder for the side `role` of a connection that takes messages of at most `message_bytes_max` bytes, however
    /// fragmented. Limits of 4 GiB and more count as 4 GiB less one byte.
    #[must_use]
    pub fn new(role: Role, message_bytes_max: usize) -> Self {
        let message_bytes_max = u32::try_from(message_bytes_max).unwrap_or(u32::MAX);
        Self { partial: None, message_bytes_max, role }
    }

    /// Takes the next message or control frame out of `input`. `None` means that `input` is used up; what was
    /// incomplete at its end is kept here, so the next call goes on with the bytes that follow.
    ///
    /// What is returned is borrowed from `input` when it lies there whole and unfragmented, otherwise from the
    /// decoder, which frees it on the next call. Hence call until `None` before going idle.
    ///
    /// # Errors
    ///
    /// The first thing the peer did wrong. Neither the decoder nor the input is of use afterwards.
    pub fn next<'s>(&'s mut self, input: &'s mut Input<'_>) -> Result<Option<Incoming<'s>>, Violation> {
        self.free_lent();
        let (opcode, place) = loop {
            let Some(frame) = self.frame(input)? else {
                return Ok(None);
            };
            if let Some(complete) = self.payload(frame, input) {
                break complete;
            }
            if input.is_empty() {
                return Ok(None);
            }
        };
        let payload = match place {
            Place::Input(range) => &input.bytes[range],
            Place::Partial(lent) => {
                let partial = self.partial.as_ref().expect("it was put there just now");
                match lent {
                    Lent::Body => &partial.body[..],
                    Lent::Control => &partial.control[..],
                }
            }
        };
        incoming(opcode, payload).map(Some)
    }

    /// Forgets what the last call lent out, and all partial state unless a message is under way around it.
    fn free_lent(&mut self) {
        let Some(partial) = &mut self.partial else {
            return;
        };
        match partial.lent.take() {
            Some(Lent::Control) if partial.message.is_some() => partial.control = Vec::new(),
            Some(_) => self.partial = None,
            None => {}
        }
    }

    /// The frame whose payload comes next in the input, checked against what is under way. `None` if the input ends
    /// before its header does.
    fn frame(&mut self, input: &mut Input<'_>) -> Result<Option<Header>, Violation> {
        if let Some(frame) = self.partial.as_mut().and_then(|partial| partial.frame.take()) {
            return Ok(Some(frame));
        }
        let Some(frame) = self.header(input)? else {
            return Ok(None);
        };
        if frame.opcode.is_control() {
            return Ok(Some(frame));
        }
        let under_way = self.partial.as_ref().filter(|partial| partial.message.is_some());
        let so_far = match (frame.opcode, under_way) {
            (Opcode::Continuation, None) => return Err(Violation::Continuation),
            (Opcode::Continuation, Some(partial)) => partial.body.len() as u64,
            (_, Some(_)) => return Err(Violation::Interleaved),
            (_, None) => 0,
        };
        if so_far + frame.payload_bytes > u64::from(self.message_bytes_max) {
            return Err(Violation::TooLarge);
        }
        Ok(Some(frame))
    }

    /// The next header, put together from what was kept of it and the input.
    fn header(&mut self, input: &mut Input<'_>) -> Result<Option<Header>, Violation> {
        let kept = self.partial.as_ref().map_or(0, |partial| usize::from(partial.header_bytes));
        if kept == 0 {
            if let Some((header, bytes)) = Header::parse(input.remaining(), self.role)? {
                input.at += bytes;
                return Ok(Some(header));
            }
            if input.is_empty() {
                return Ok(None);
            }
        }
        let partial = self.partial.get_or_insert_default();
        let fresh = input.remaining().len().min(HEADER_BYTES_MAX - kept);
        partial.header[kept..kept + fresh].copy_from_slice(&input.remaining()[..fresh]);
        let Some((header, bytes)) = Header::parse(&partial.header[..kept + fresh], self.role)? else {
            // Fewer than HEADER_BYTES_MAX bytes, since that many always make a header.
            partial.header_bytes = (kept + fresh) as u8;
            input.at += fresh;
            return Ok(None);
        };
        partial.header_bytes = 0;
        input.at += bytes - kept;
        Ok(Some(header))
    }

    /// Uses the payload of `frame`, as far as it has arrived. Tells what is complete and where it lies, `None` if
    /// there is more to come.
    fn payload(&mut self, mut frame: Header, input: &mut Input<'_>) -> Option<(Opcode, Place)> {
        let control = frame.opcode.is_control();
        let amid = self.partial.as_ref().is_some_and(|partial| {
            if control {
                !partial.control.is_empty()
            } else {
                partial.message.is_some() || !partial.body.is_empty()
            }
        });
        let piece = input.take(frame.payload_bytes, &mut frame.mask);
        frame.payload_bytes -= piece.len() as u64;
        let complete = frame.payload_bytes == 0;
        if complete && !amid && frame.fin {
            // What is left of a partial state only held this frame's header, unless a message is under way.
            self.partial.take_if(|partial| partial.message.is_none());
            return Some((frame.opcode, Place::Input(piece)));
        }

        let partial = self.partial.get_or_insert_default();
        let buffer = if control { &mut partial.control } else { &mut partial.body };
        append(buffer, &input.bytes[piece], frame.payload_bytes);
        if !complete {
            partial.frame = Some(frame);
            return None;
        }
        if control {
            partial.lent = Some(Lent::Control);
            return Some((frame.opcode, Place::Partial(Lent::Control)));
        }
        let opcode = partial.message.unwrap_or(frame.opcode);
        if !frame.fin {
            partial.message = Some(opcode);
            return None;
        }
        partial.message = None;
        partial.lent = Some(Lent::Body);
        Some((opcode, Place::Partial(Lent::Body)))
    }
}

/// Appends a piece of a frame that misses `missing` bytes after it. Doubling keeps the copying linear; the frame's
/// end keeps the doubling from overshooting.
fn append(buffer: &mut Vec<u8>, piece: &[u8], missing: u64) {
    if buffer.capacity() - buffer.len() < piece.len() {
        let ahead = buffer.len().max(GROWTH_BYTES_MIN);
        let ahead = usize::try_from(missing).map_or(ahead, |missing| missing.min(ahead));
        buffer.reserve_exact(piece.len() + ahead);
    }
    buffer.extend_from_slice(piece);
}

fn incoming(opcode: Opcode, payload: &[u8]) -> Result<Incoming<'_>, Violation> {
    Ok(match opcode {
        Opcode::Text => Incoming::Text(utf8(payload)?),
        Opcode::Binary => Incoming::Binary(payload),
        Opcode::Ping => Incoming::Ping(payload),
        Opcode::Pong => Incoming::Pong(payload),
        Opcode::Close => Incoming::Close(close_code(payload)?),
        Opcode::Continuation => unreachable!("a message has the opcode of its first frame"),
    })
}

fn utf8(bytes: &[u8]) -> Result<&str, Violation> {
    simdutf8::basic::from_utf8(bytes).map_err(|_| Violation::Utf8)
}

/// Reads a close payload: nothing, or a code that may be sent (RFC 6455, 7.4, and the codes registered since) and a
/// reason, which nobody needs.
fn close_code(payload: &[u8]) -> Result<Option<u16>, Violation> {
    if payload.is_empty() {
        return Ok(None);
    }
    let (code, reason) = payload.split_first_chunk().ok_or(Violation::CloseCode)?;
    let code = u16::from_be_bytes(*code);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::CloseCode);
    }
    utf8(reason)?;
    Ok(Some(code))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::super::{frame, frame_masked};
    use super::*;

    const MASK: [u8; 4] = [1, 2, 3, 4];

    /// Feeds `bytes` and counts the messages they complete.
    fn feed(decoder: &mut Decoder, bytes: &[u8]) -> usize {
        let mut bytes = bytes.to_vec();
        let mut input = Input::new(&mut bytes);
        let mut messages = 0;
        while decoder.next(&mut input).unwrap().is_some() {
            messages += 1;
        }
        messages
    }

    fn held(decoder: &Decoder) -> usize {
        decoder.partial.as_ref().map_or(0, |partial| partial.body.capacity() + partial.control.capacity())
    }

    #[test]
    fn nothing_is_held_between_messages() {
        let mut decoder = Decoder::new(Role::Server, 1 << 20);
        let message = frame_masked(Opcode::Binary, &[7; 100_000], MASK);
        let ping = frame_masked(Opcode::Ping, b"ping", MASK);
        for cut in [0, 1, 5, 13, 14, 15, 99_999] {
            assert_eq!(feed(&mut decoder, &message[..cut]), 0);
            assert_eq!(decoder.partial.is_some(), cut > 0);
            assert_eq!(feed(&mut decoder, &message[cut..]), 1);
            assert!(decoder.partial.is_none(), "after a cut at {cut}");
        }
        for cut in [1, 3, 6, 8] {
            assert_eq!(feed(&mut decoder, &ping[..cut]), 0);
            assert_eq!(feed(&mut decoder, &ping[cut..]), 1);
            assert!(decoder.partial.is_none(), "after a cut at {cut}");
        }
    }

    #[test]
    fn only_the_message_is_held_around_a_control_frame() {
        let mut decoder = Decoder::new(Role::Server, 1 << 20);
        let mut first = frame_masked(Opcode::Text, b"a", MASK).to_vec();
        first[0] &= 0x7f;
        let ping = frame_masked(Opcode::Ping, b"ping", MASK);
        feed(&mut decoder, &first);
        assert_eq!(feed(&mut decoder, &ping[..8]), 0);
        assert_eq!(feed(&mut decoder, &ping[8..]), 1);
        assert_eq!(decoder.partial.as_ref().unwrap().control.capacity(), 0);
        assert_eq!(feed(&mut decoder, &frame_masked(Opcode::Continuation, b"b", MASK)), 1);
        assert!(decoder.partial.is_none());
    }

    #[test]
    fn memory_follows_what_arrived_and_not_what_was_claimed() {
        let bytes_max = 1 << 30;
        let mut decoder = Decoder::new(Role::Client, bytes_max);
        let mut header = vec![0x82, 127];
        header.extend_from_slice(&(bytes_max as u64).to_be_bytes());
        feed(&mut decoder, &header);
        assert_eq!(held(&decoder), 0);
        let mut arrived = 0;
        while arrived < 100_000 {
            feed(&mut decoder, &[0; 100]);
            arrived += 100;
            assert!(held(&decoder) <= (2 * arrived + 100).max(arrived + GROWTH_BYTES_MIN));
        }
    }

    #[test]
    fn a_message_in_two_pieces_takes_no_more_than_its_size() {
        let mut decoder = Decoder::new(Role::Client, 1 << 20);
        let message = frame(Opcode::Binary, &[1; 5000]);
        feed(&mut decoder, &message[..4000]);
        assert_eq!(held(&decoder), 5000);
    }

    #[test]
    fn a_huge_limit_is_capped() {
        let mut decoder = Decoder::new(Role::Client, usize::MAX);
        let mut claim = vec![0x82, 127, 0, 0, 0, 1, 0, 0, 0, 0];
        assert_eq!(decoder.next(&mut Input::new(&mut claim)), Err(Violation::TooLarge));
    }
}
