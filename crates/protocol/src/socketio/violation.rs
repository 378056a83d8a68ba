//! Why a packet closes the connection.

use crate::value;

/// A fault of the peer after which the connection is closed (a stock server's disconnect reason is `forced close`).
/// Nothing the decoder says afterwards has a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The packet has no known type.
    #[error("unknown packet type")]
    Type,
    /// A CONNECT_ERROR packet from a client, or another packet that only the other side may send.
    #[error("packet of a type that this side may not send")]
    Direction,
    /// The number of attachments is missing, zero, or above [`ATTACHMENTS_MAX`](super::ATTACHMENTS_MAX).
    #[error("illegal number of attachments")]
    Attachments,
    /// The namespace is missing or is not a string.
    #[error("illegal namespace")]
    Namespace,
    /// The acknowledgement id is not an integer from 0 to [`ID_MAX`](super::ID_MAX).
    #[error("illegal acknowledgement id")]
    Id,
    /// The payload does not fit the packet's type.
    #[error("payload does not fit the packet type")]
    Payload,
    /// The event's name is one of [`RESERVED_EVENTS`](super::RESERVED_EVENTS).
    #[error("reserved event name")]
    ReservedEvent,
    /// The payload is not a value, or its placeholders do not fit its attachments.
    #[error("payload cannot be read: {0}")]
    Value(#[from] value::Error),
    /// A MessagePack packet that is not one map with string keys.
    #[error("packet is not messagepack: {0}")]
    MessagePack(#[from] tidegate_msgpack::Error),
    /// A text message while attachments were due.
    #[error("text instead of an attachment")]
    TextWhileAssembling,
    /// A binary message that no packet announced.
    #[error("unannounced binary message")]
    BinaryUnasked,
    /// A text message on a connection that speaks MessagePack.
    #[error("text on a messagepack connection")]
    TextUnasked,
    /// A packet, its attachments included, is larger than the decoder's bound.
    #[error("packet is larger than {bytes_max} bytes")]
    TooLarge {
        /// The bound that was exceeded.
        bytes_max: u32,
    },
}
