//! What a client is told of its inbox, in the form that values have inside.

use tidegate_core::Flags;
use tidegate_core::offline::Message as Stored;
use tidegate_msgpack::write;
use tidegate_protocol::plain::encode::Receipt;
use tidegate_protocol::plain::{self, Format};
use tidegate_protocol::value;

use crate::dialect::Dialect;
use crate::message::Message;
use crate::session::Session;

/// What a session is told of its inbox.
#[derive(Clone, Copy)]
pub(super) enum Told<'a> {
    /// A message that had waited.
    Backlog(&'a Stored),
    /// A message that came.
    Live(&'a Stored),
    /// The backlog is over; it had so many.
    End(u64),
}

/// What is told, for a session; with the id that its acknowledgement is asked for by, if one is. Clients of the plain
/// protocol acknowledge the message's own id.
pub(super) fn encode(session: &Session, id: Option<u64>, told: Told<'_>) -> Option<Message> {
    let mut data = Vec::with_capacity(256);
    let encoded = match session.dialect {
        Dialect::SocketIo(_) => {
            match told {
                Told::Backlog(message) => write_backlog(&mut data, message),
                Told::Live(message) => write_live(&mut data, message),
                Told::End(count) => write_end(&mut data, count),
            }
            session.dialect.event(session.namespace().as_str(), &data, Flags::default(), id)
        }
        Dialect::Plain(format) => plain(format, id.is_some(), told, &mut data),
    };
    encoded.inspect_err(|error| tracing::error!(%error, "failed to encode a durable message")).ok()
}

/// `{ op: "offline", id, from, event, data, sent_at }`, `{ op: "event", event, args, meta, message? }`,
/// `{ op: "offline_end", count }`.
fn plain(format: Format, asks: bool, told: Told<'_>, data: &mut Vec<u8>) -> Result<Message, value::Error> {
    let frame = match told {
        Told::Backlog(message) => {
            write::map(data, 6);
            write_op(data, "offline");
            write_stored(data, message);
            plain::encode::message(format, data)?
        }
        Told::Live(message) => {
            write_live(data, message);
            let id = message.serial.to_string();
            plain::encode::event(format, data, true, asks.then_some(Receipt::Durable(&id)))?
        }
        Told::End(count) => {
            write::map(data, 2);
            write_op(data, "offline_end");
            write::str(data, "count");
            write::uint(data, count);
            plain::encode::message(format, data)?
        }
    };
    Ok(Message::frame(frame, false))
}

fn write_op(data: &mut Vec<u8>, op: &str) {
    write::str(data, "op");
    write::str(data, op);
}

fn write_from(data: &mut Vec<u8>, message: &Stored) {
    write::str(data, "from");
    match &message.from {
        Some(user) => write::str(data, user),
        None => write::nil(data),
    }
}

/// `["offline_message", { id, from, event, data, sent_at }]`.
fn write_backlog(data: &mut Vec<u8>, message: &Stored) {
    write::array(data, 2);
    write::str(data, "offline_message");
    write::map(data, 5);
    write_stored(data, message);
}

/// The entries `id`, `from`, `event`, `data` and `sent_at`.
fn write_stored(data: &mut Vec<u8>, message: &Stored) {
    write::str(data, "id");
    write::str(data, &message.serial.to_string());
    write_from(data, message);
    write::str(data, "event");
    write::str(data, &message.event);
    write::str(data, "data");
    data.extend_from_slice(&message.data);
    write::str(data, "sent_at");
    write::uint(data, message.serial.ms);
}

/// `[event, data, { id, from, node, ts }]`.
fn write_live(data: &mut Vec<u8>, message: &Stored) {
    write::array(data, 3);
    write::str(data, &message.event);
    data.extend_from_slice(&message.data);
    write::map(data, 4);
    write::str(data, "id");
    write::str(data, &message.serial.to_string());
    write_from(data, message);
    write::str(data, "node");
    write::str(data, message.node.as_str());
    write::str(data, "ts");
    write::uint(data, message.serial.ms);
}

/// `["offline_message_ack", { count }]`.
fn write_end(data: &mut Vec<u8>, count: u64) {
    write::array(data, 2);
    write::str(data, "offline_message_ack");
    write::map(data, 1);
    write::str(data, "count");
    write::uint(data, count);
}
