//! The answer to one event: an acknowledgement if the client asked for one, a count in any case.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use tidegate_core::ErrorCode;
use tidegate_msgpack::write;
use tidegate_protocol::plain::Format;
use tidegate_protocol::socketio::Parser;
use tidegate_protocol::{plain, socketio, value};

use crate::hub::Hub;
use crate::message::Message;
use crate::metrics::Metrics;
use crate::session::Session;

/// Why an event was refused: for the peer, so it names the field and the limit.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) message: Cow<'static, str>,
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }
}

/// What a client calls the answer by.
#[derive(Debug)]
pub(crate) enum Question {
    /// It wants none.
    Unasked,
    /// The id of a Socket.IO packet.
    Packet(Parser, u64),
    /// The id of a message of the plain protocol.
    Message(Format, plain::Id),
}

/// Where the answer goes. It can be given from any task, long after the event.
pub(crate) struct Reply {
    pub(crate) session: Arc<Session>,
    pub(crate) question: Question,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) operation: &'static str,
}

impl Reply {
    pub(crate) fn is_awaited(&self) -> bool {
        !matches!(self.question, Question::Unasked)
    }

    /// `{ ok: true }`.
    pub(crate) fn ok(self) {
        self.ok_with(0, |_| {});
    }

    /// `{ ok: true, ... }` with `count` more entries, which `fields` writes.
    pub(crate) fn ok_with(self, count: u32, fields: impl FnOnce(&mut Vec<u8>)) {
        self.metrics.operation(self.operation, Ok(()));
        self.send(1 + count, |out| {
            write::str(out, "ok");
            write::bool(out, true);
            fields(out);
        });
    }

    /// `{ ok: true, id }` to whoever published something, together with what is delivered to it if that is about to be.
    pub(crate) fn ok_published(self, id: &str, hub: &Hub) {
        self.metrics.operation(self.operation, Ok(()));
        let key = self.id_key();
        match self.encode(2, |out| {
            write::str(out, "ok");
            write::bool(out, true);
            write::str(out, key);
            write::str(out, id);
        }) {
            Ok(Some(message)) => hub.send_along(&self.session, &message),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "failed to encode an answer"),
        }
    }

    /// `{ ok: true, id, ... }` with `count` more entries; in the plain protocol the answer has an `id` of its own, and
    /// that of the message is called `message`.
    pub(crate) fn ok_with_id(self, id: &str, count: u32, fields: impl FnOnce(&mut Vec<u8>)) {
        let key = self.id_key();
        self.ok_with(1 + count, |out| {
            write::str(out, key);
            write::str(out, id);
            fields(out);
        });
    }

    fn id_key(&self) -> &'static str {
        if matches!(self.question, Question::Message(..)) { "message" } else { "id" }
    }

    /// `{ ok: false, error: { code, message } }`.
    pub(crate) fn refuse(self, refusal: &Refusal) {
        self.metrics.operation(self.operation, Err(refusal.code));
        self.send(2, |out| write_refusal(out, refusal));
    }

    /// Sends a map of so many entries, which `fields` writes.
    fn send(&self, count: u32, fields: impl FnOnce(&mut Vec<u8>)) {
        match self.encode(count, fields) {
            Ok(Some(message)) => {
                self.session.outbox.push(&message);
            }
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "failed to encode an answer"),
        }
    }

    fn encode(&self, count: u32, fields: impl FnOnce(&mut Vec<u8>)) -> Result<Option<Message>, value::Error> {
        let mut data = Vec::with_capacity(64);
        Ok(match &self.question {
            Question::Unasked => None,
            Question::Packet(parser, id) => {
                write::array(&mut data, 1);
                write::map(&mut data, count);
                fields(&mut data);
                let namespace = self.session.namespace().as_str();
                Some(Message::packet(socketio::encode::ack(*parser, namespace, *id, &data)?, false))
            }
            Question::Message(format, id) => {
                write_reply(&mut data, id, count, fields);
                Some(Message::frame(plain::encode::message(*format, &data)?, false))
            }
        })
    }
}

/// `ok: false, error: { code, message }`, two entries of a map.
fn write_refusal(out: &mut Vec<u8>, refusal: &Refusal) {
    write::str(out, "ok");
    write::bool(out, false);
    write::str(out, "error");
    write::map(out, 2);
    write::str(out, "code");
    write::str(out, refusal.code.as_str());
    write::str(out, "message");
    write::str(out, &refusal.message);
}

/// `{ op: "reply", id, ... }` with `count` more entries.
fn write_reply(out: &mut Vec<u8>, id: &plain::Id, count: u32, fields: impl FnOnce(&mut Vec<u8>)) {
    write::map(out, 2 + count);
    write::str(out, "op");
    write::str(out, "reply");
    write::str(out, "id");
    out.extend_from_slice(id.wire());
    fields(out);
}

/// An answer in the plain protocol that says no more than yes or why not, as a whole frame: for what is no operation.
///
/// # Errors
/// Never: what we write is wire form.
pub(crate) fn bare_reply(
    format: Format,
    id: &plain::Id,
    refusal: Option<&Refusal>,
) -> Result<Bytes, value::Error> {
    let mut data = Vec::with_capacity(64);
    match refusal {
        Some(refusal) => write_reply(&mut data, id, 2, |out| write_refusal(out, refusal)),
        None => write_reply(&mut data, id, 1, |out| {
            write::str(out, "ok");
            write::bool(out, true);
        }),
    }
    plain::encode::message(format, &data)
}
