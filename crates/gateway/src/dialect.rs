//! What a session's client speaks, and the forms in which things leave for it.

use tidegate_core::Flags;
use tidegate_core::registry::Evicted;
use tidegate_msgpack::write;
use tidegate_protocol::plain::encode::Receipt;
use tidegate_protocol::plain::{self, Format};
use tidegate_protocol::socketio::{self, Parser};
use tidegate_protocol::value;

use crate::message::Message;

/// A protocol and how its values are written. A broadcast is encoded once for each that has a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    SocketIo(Parser),
    Plain(Format),
}

impl Dialect {
    /// How many there are.
    pub(crate) const COUNT: usize = 4;

    /// Its number among them.
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::SocketIo(Parser::Text) => 0,
            Self::SocketIo(Parser::MessagePack) => 1,
            Self::Plain(Format::Json) => 2,
            Self::Plain(Format::MessagePack) => 3,
        }
    }

    /// An event. `data` is a wire array `[event, arguments...]`, treated as `flags` say; `receipt` is the number that an
    /// acknowledgement is asked for by.
    ///
    /// # Errors
    /// When `data` is no such array, or holds more binary values than the client's parser takes.
    pub(crate) fn event(
        self,
        namespace: &str,
        data: &[u8],
        flags: Flags,
        receipt: Option<u64>,
    ) -> Result<Message, value::Error> {
        Ok(match self {
            Self::SocketIo(parser) => {
                Message::packet(socketio::encode::event(parser, namespace, receipt, data)?, flags.volatile)
            }
            Self::Plain(format) => {
                let frame = plain::encode::event(format, data, flags.meta, receipt.map(Receipt::Broadcast))?;
                Message::frame(frame, flags.volatile)
            }
        })
    }

    /// What a client is told whose session was ended by the node. The DISCONNECT that follows it in Socket.IO is not in it.
    ///
    /// # Errors
    /// Never: what we write is wire form.
    pub(crate) fn evicted(self, namespace: &str, evicted: &Evicted) -> Result<Message, value::Error> {
        let mut data = Vec::with_capacity(128);
        match self {
            Self::SocketIo(_) => {
                write::array(&mut data, 2);
                write::str(&mut data, "evicted");
                write::map(&mut data, 1 + u32::from(evicted.by.is_some()));
                write_eviction(&mut data, evicted);
                self.event(namespace, &data, Flags::default(), None)
            }
            Self::Plain(format) => {
                write::map(&mut data, 2 + u32::from(evicted.by.is_some()));
                write::str(&mut data, "op");
                write::str(&mut data, "evicted");
                write_eviction(&mut data, evicted);
                Ok(Message::frame(plain::encode::message(format, &data)?, false))
            }
        }
    }
}

/// The entries `reason` and, if somebody took the place, `by`: `{ device, node, ts }`.
fn write_eviction(data: &mut Vec<u8>, evicted: &Evicted) {
    write::str(data, "reason");
    write::str(data, evicted.reason.as_str());
    if let Some(by) = &evicted.by {
        write::str(data, "by");
        write::map(data, 3);
        write::str(data, "device");
        write::str(data, &by.device);
        write::str(data, "node");
        write::str(data, by.node.as_str());
        write::str(data, "ts");
        write::uint(data, by.ts);
    }
}
