//! Socket.IO v5 packets, for the default parser (text with binary attachments) and for
//! `socket.io-msgpack-parser` (one MessagePack map per packet).
//!
//! [`Decoder`] turns a connection's messages into [`Packet`]s, [`encode`] does the reverse. Both leave Engine.IO's
//! framing to [`engineio`](crate::engineio): a text message comes without its type digit `4`.
//!
//! Packet format: <https://socket.io/docs/v4/socket-io-protocol/>, and where that is silent, what
//! socket.io-parser 4.2.7 and socket.io-msgpack-parser 3.0.2 do.

mod decoder;
pub mod encode;
mod messagepack;
mod payload;
mod text;
mod violation;

pub use decoder::Decoder;
pub use encode::{Encoded, Head};
pub use violation::Violation;

/// How many binary attachments one packet of the default parser may have. Stock clients and servers close the
/// connection on more (`maxAttachments`, socket.io-parser 4.2.7).
pub const ATTACHMENTS_MAX: usize = 10;

/// Event names that no packet may carry; the libraries raise these events themselves.
pub const RESERVED_EVENTS: [&str; 6] =
    ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];

/// The largest acknowledgement id, 2^53 - 1: the last integer a JavaScript peer counts to without a gap.
pub const ID_MAX: u64 = (1 << 53) - 1;

/// Which of the two parsers a connection speaks. It is chosen by the client's first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Parser {
    /// The default parser of Socket.IO: JSON text, binary values beside it as attachments.
    Text,
    /// `socket.io-msgpack-parser`: one MessagePack map per packet.
    MessagePack,
}

/// One packet. Data is in the wire form that [`value`](crate::value) describes, whatever the parser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// A client asks to join a namespace, or a server says that it has.
    Connect {
        /// The namespace, as it was sent.
        namespace: String,
        /// The payload, a map: credentials from a client, `{ sid }` from a server.
        auth: Option<Vec<u8>>,
    },
    /// The peer leaves a namespace.
    Disconnect {
        /// The namespace, as it was sent.
        namespace: String,
    },
    /// An event.
    Event {
        /// The namespace, as it was sent.
        namespace: String,
        /// Present when the sender wants an acknowledgement; at most [`ID_MAX`].
        id: Option<u64>,
        /// An array that is not empty. Its first item is the event's name: a string that is not one of
        /// [`RESERVED_EVENTS`], or a finite number.
        data: Vec<u8>,
    },
    /// The acknowledgement of an event.
    Ack {
        /// The namespace, as it was sent.
        namespace: String,
        /// The id that the event carried; at most [`ID_MAX`].
        id: u64,
        /// An array of the acknowledgement's arguments.
        data: Vec<u8>,
    },
    /// A server refuses a namespace. Never decoded from a client.
    ConnectError {
        /// The namespace, as it was sent.
        namespace: String,
        /// A map `{ message, data? }`, or a string from an old server.
        data: Vec<u8>,
    },
}

impl Packet {
    /// The namespace the packet belongs to.
    #[must_use]
    pub fn namespace(&self) -> &str {
        match self {
            Packet::Connect { namespace, .. }
            | Packet::Disconnect { namespace }
            | Packet::Event { namespace, .. }
            | Packet::Ack { namespace, .. }
            | Packet::ConnectError { namespace, .. } => namespace,
        }
    }
}
