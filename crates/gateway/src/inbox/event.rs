//! What a client is told of its inbox, in the form that values have inside.

use tidegate_core::offline::Message as Stored;
use tidegate_msgpack::write;
use tidegate_protocol::socketio;

use crate::message::Message;
use crate::session::Session;

/// An event of the inbox's, for a session.
pub(super) fn encode(
    session: &Session,
    id: Option<u64>,
    write: impl FnOnce(&mut Vec<u8>),
) -> Option<Message> {
    let mut data = Vec::with_capacity(256);
    write(&mut data);
    match socketio::encode::event(session.parser, session.namespace.as_str(), id, &data) {
        Ok(encoded) => Some(Message::packet(encoded, false)),
        Err(error) => {
            tracing::error!(%error, "failed to encode a durable message");
            None
        }
    }
}

fn write_from(data: &mut Vec<u8>, message: &Stored) {
    write::str(data, "from");
    match &message.from {
        Some(user) => write::str(data, user),
        None => write::nil(data),
    }
}

/// `["offline_message", { id, from, event, data, sent_at }]`.
pub(super) fn write_backlog(data: &mut Vec<u8>, message: &Stored) {
    write::array(data, 2);
    write::str(data, "offline_message");
    write::map(data, 5);
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
pub(super) fn write_live(data: &mut Vec<u8>, message: &Stored) {
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
pub(super) fn write_end(data: &mut Vec<u8>, count: u64) {
    write::array(data, 2);
    write::str(data, "offline_message_ack");
    write::map(data, 1);
    write::str(data, "count");
    write::uint(data, count);
}
