//! The plain protocol of `/ws`: one JSON object per text frame, or one MessagePack map per binary frame.
//!
//! [`decode`] turns a client's message into a [`Request`], [`encode`] writes what a server says. Fields are in the wire
//! form that [`value`](crate::value) describes, whatever the format, so that an operation's argument is the same map
//! here and in Socket.IO.
//!
//! The protocol is our own; its page is `crates/docs/plain-protocol.md`.

mod decode;
pub mod encode;

pub use decode::{Incoming, Violation, decode};

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// One JSON object per text frame.
    Json,
    /// One MessagePack map per binary frame.
    MessagePack,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Json, Self::MessagePack];

    /// The subprotocol that a client asks for it by.
    #[must_use]
    pub const fn subprotocol(self) -> &'static str {
        match self {
            Self::Json => "tidegate.v1.json",
            Self::MessagePack => "tidegate.v1.msgpack",
        }
    }

    /// The format of the first subprotocol in a client's list that there is one for; `list` is the value of
    /// `Sec-WebSocket-Protocol`, or several of them joined by commas. None if it knows none of ours.
    #[must_use]
    pub fn negotiate(list: &str) -> Option<Self> {
        list.split(',')
            .find_map(|name| Self::ALL.into_iter().find(|format| format.subprotocol() == name.trim()))
    }
}

/// What a client's message is called by: the reply carries it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id(Box<[u8]>);

impl Id {
    /// A string or a number in wire form.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        &self.0
    }
}

/// One message of a client's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What it asks for. Not checked: there may be no such thing.
    pub op: String,
    /// Present when the client wants a reply.
    pub id: Option<Id>,
    /// All its fields, as one map in wire form; but the `id` of a `send` is in it only if it is a string, since there it
    /// makes the message the same one when it is sent again.
    pub fields: Vec<u8>,
}

impl Request {
    /// The value of a field. The last one of its name counts, as in JavaScript.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        let mut reader = tidegate_msgpack::Reader::new(&self.fields);
        let mut found = None;
        for _ in 0..reader.map().ok()? {
            let key = reader.str();
            let value = reader.value().ok()?;
            if key == Ok(name) {
                found = Some(value);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_known_subprotocol_is_taken() {
        assert_eq!(Format::negotiate("tidegate.v1.json"), Some(Format::Json));
        assert_eq!(
            Format::negotiate("soap, tidegate.v1.msgpack , tidegate.v1.json"),
            Some(Format::MessagePack)
        );
        assert_eq!(Format::negotiate("tidegate.v2.json"), None);
        assert_eq!(Format::negotiate(""), None);
    }
}
