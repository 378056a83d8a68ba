//! One packet: a type digit and its data.

/// What a packet is for. The value of each variant is its digit on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PacketType {
    /// The server's handshake answer.
    Open = 0,
    /// Either side ends the session.
    Close = 1,
    /// The server asks for a sign of life; a client asks with data `probe` on a WebSocket it wants to upgrade to.
    Ping = 2,
    /// The answer to a ping.
    Pong = 3,
    /// Carries a packet of the protocol above.
    Message = 4,
    /// The client moves to the transport this packet arrives on.
    Upgrade = 5,
    /// Nothing; releases a pending poll.
    Noop = 6,
}

impl PacketType {
    /// The ASCII digit this type has on the wire.
    #[must_use]
    pub const fn digit(self) -> u8 {
        b'0' + self as u8
    }

    const fn from_digit(digit: u8) -> Option<Self> {
        Some(match digit {
            b'0' => Self::Open,
            b'1' => Self::Close,
            b'2' => Self::Ping,
            b'3' => Self::Pong,
            b'4' => Self::Message,
            b'5' => Self::Upgrade,
            b'6' => Self::Noop,
            _ => return None,
        })
    }
}

/// A packet that arrived as text, with its data borrowed from the input.
///
/// Which packets a peer may send is for the connection to judge: a client's `Ping` decodes fine here, although a v4
/// server closes over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// The handshake answer, as JSON. [`Opened::decode`](super::Opened::decode) reads it.
    Open(&'a str),
    /// End of the session. Data after the digit is ignored, here and in `Upgrade` and `Noop`.
    Close,
    /// A ping and its data, which is empty or `probe`.
    Ping(&'a str),
    /// A pong and its data.
    Pong(&'a str),
    /// A text message. Binary messages have no type digit: they are whole WebSocket frames, or `b` pieces of a
    /// [polling payload](super::payload).
    Text(&'a str),
    /// The client moves here.
    Upgrade,
    /// Nothing.
    Noop,
}

impl Packet<'_> {
    /// The type of this packet.
    #[must_use]
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Open(_) => PacketType::Open,
            Self::Close => PacketType::Close,
            Self::Ping(_) => PacketType::Ping,
            Self::Pong(_) => PacketType::Pong,
            Self::Text(_) => PacketType::Message,
            Self::Upgrade => PacketType::Upgrade,
            Self::Noop => PacketType::Noop,
        }
    }
}

/// Why bytes are not Engine.IO. The session they came in closes, with the reason `parse error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A packet of no bytes.
    #[error("empty packet")]
    Empty,
    /// The first character is no type digit.
    #[error("unknown packet type")]
    Type,
    /// A `b` piece is not base64 of the standard alphabet.
    #[error("invalid base64 in a binary packet")]
    Base64,
}

/// Decodes one packet of a WebSocket text frame.
///
/// # Errors
///
/// An empty packet or an unknown type digit. That includes the `b` form, which has no type digit; a caller that also
/// serves clients without binary support uses [`payload::piece`](super::payload::piece).
pub fn decode_text(frame: &str) -> Result<Packet<'_>, ParseError> {
    let digit = *frame.as_bytes().first().ok_or(ParseError::Empty)?;
    let packet_type = PacketType::from_digit(digit).ok_or(ParseError::Type)?;
    let data = &frame[1..];
    Ok(match packet_type {
        PacketType::Open => Packet::Open(data),
        PacketType::Close => Packet::Close,
        PacketType::Ping => Packet::Ping(data),
        PacketType::Pong => Packet::Pong(data),
        PacketType::Message => Packet::Text(data),
        PacketType::Upgrade => Packet::Upgrade,
        PacketType::Noop => Packet::Noop,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_decodes_and_borrows_its_data() {
        let table = [
            ("0{\"sid\":\"a\"}", Packet::Open("{\"sid\":\"a\"}")),
            ("1", Packet::Close),
            ("2", Packet::Ping("")),
            ("2probe", Packet::Ping("probe")),
            ("3", Packet::Pong("")),
            ("3probe", Packet::Pong("probe")),
            ("4", Packet::Text("")),
            ("42[\"é\"]", Packet::Text("2[\"é\"]")),
            ("5", Packet::Upgrade),
            ("6", Packet::Noop),
        ];
        for (frame, packet) in table {
            assert_eq!(decode_text(frame), Ok(packet), "{frame}");
            assert_eq!(packet.packet_type().digit(), frame.as_bytes()[0]);
        }
    }

    #[test]
    fn data_of_types_that_have_none_is_ignored() {
        assert_eq!(decode_text("1now"), Ok(Packet::Close));
        assert_eq!(decode_text("5x"), Ok(Packet::Upgrade));
        assert_eq!(decode_text("6é"), Ok(Packet::Noop));
    }

    #[test]
    fn what_has_no_type_is_refused() {
        assert_eq!(decode_text(""), Err(ParseError::Empty));
        for frame in ["7", "9x", "abc", "bAQID", " 4", "é", "/", ":", "\u{1e}"] {
            assert_eq!(decode_text(frame), Err(ParseError::Type), "{frame:?}");
        }
    }
}
