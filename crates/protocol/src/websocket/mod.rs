//! WebSocket frames (RFC 6455): a reader for either side, and writers.
//!
//! The reader is cancel-safe by construction, holds nothing while no frame is under way, lends complete messages
//! from the input without a copy, and grows by what arrives, never by what a header claims. No extension is
//! supported, so reserved bits are refused and `permessage-deflate` must not be negotiated.
//!
//! The HTTP handshake is not here, nor the answers a reader owes: who reads a ping sends the pong, who reads a close
//! or a [`Violation`] sends a close.

mod decoder;
mod encode;
mod header;

pub use decoder::{Decoder, Incoming, Input};
pub use encode::{close, frame, frame_masked, header};

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Opcode {
    /// A further frame of a fragmented message.
    Continuation = 0x0,
    /// A text message, or its first frame.
    Text = 0x1,
    /// A binary message, or its first frame.
    Binary = 0x2,
    /// The sender is about to end the connection.
    Close = 0x8,
    /// Asks for a pong with the same payload.
    Ping = 0x9,
    /// Answers a ping.
    Pong = 0xa,
}

impl Opcode {
    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// Which side of the connection reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A server: its peer must mask every frame (RFC 6455, 5.1).
    Server,
    /// A client: its peer must not mask.
    Client,
}

/// Most payload bytes of a control frame (RFC 6455, 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

/// How the peer broke the protocol. The connection ends: send a close frame with [`Violation::close_code`] and read
/// no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    /// A reserved bit is set, though no extension was negotiated.
    #[error("reserved bits set")]
    ReservedBits,
    /// The opcode has no meaning.
    #[error("unknown opcode")]
    Opcode,
    /// A client's frame without a mask.
    #[error("frame of a client is not masked")]
    NotMasked,
    /// A server's frame with a mask.
    #[error("frame of a server is masked")]
    Masked,
    /// The length could have been written in fewer bytes, or has its highest bit set.
    #[error("length is not in its shortest form")]
    Length,
    /// A control frame that is fragmented.
    #[error("fragmented control frame")]
    ControlFragmented,
    /// A control frame of more than [`CONTROL_BYTES_MAX`] bytes.
    #[error("control frame of more than {CONTROL_BYTES_MAX} bytes")]
    ControlTooLong,
    /// A continuation, but no message is under way.
    #[error("continuation of no message")]
    Continuation,
    /// A new message before the one under way ended.
    #[error("message inside a fragmented message")]
    Interleaved,
    /// A close payload of one byte, or a close code that must not be sent.
    #[error("invalid close code")]
    CloseCode,
    /// A text message or a close reason that is not UTF-8.
    #[error("text is not utf-8")]
    Utf8,
    /// A message, whole or fragmented, of more bytes than allowed.
    #[error("message too large")]
    TooLarge,
}

impl Violation {
    /// The code for the close frame (RFC 6455, 7.4.1).
    #[must_use]
    pub const fn close_code(&self) -> u16 {
        match self {
            Self::Utf8 => 1007,
            Self::TooLarge => 1009,
            _ => 1002,
        }
    }
}
