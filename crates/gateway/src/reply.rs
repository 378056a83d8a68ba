//! The answer to one event: an acknowledgement if the client asked for one, a count in any case.

use std::borrow::Cow;
use std::sync::Arc;

use tidegate_core::ErrorCode;
use tidegate_msgpack::write;
use tidegate_protocol::socketio;

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

/// Where the answer goes. It can be given from any task, long after the event.
pub(crate) struct Reply {
    pub(crate) session: Arc<Session>,
    pub(crate) id: Option<u64>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) operation: &'static str,
}

impl Reply {
    pub(crate) fn is_awaited(&self) -> bool {
        self.id.is_some()
    }

    /// `{ ok: true }`.
    pub(crate) fn ok(self) {
        self.ok_with(0, |_| {});
    }

    /// `{ ok: true, ... }` with `count` more entries, which `fields` writes.
    pub(crate) fn ok_with(self, count: u32, fields: impl FnOnce(&mut Vec<u8>)) {
        self.metrics.operation(self.operation, Ok(()));
        self.send(|out| {
            write::map(out, 1 + count);
            write::str(out, "ok");
            write::bool(out, true);
            fields(out);
        });
    }

    /// `{ ok: false, error: { code, message } }`.
    pub(crate) fn refuse(self, refusal: &Refusal) {
        self.metrics.operation(self.operation, Err(refusal.code));
        self.send(|out| {
            write::map(out, 2);
            write::str(out, "ok");
            write::bool(out, false);
            write::str(out, "error");
            write::map(out, 2);
            write::str(out, "code");
            write::str(out, refusal.code.as_str());
            write::str(out, "message");
            write::str(out, &refusal.message);
        });
    }

    fn send(&self, argument: impl FnOnce(&mut Vec<u8>)) {
        let Some(id) = self.id else { return };
        let Session { parser, namespace, outbox, .. } = &*self.session;
        let mut data = Vec::with_capacity(64);
        write::array(&mut data, 1);
        argument(&mut data);
        match socketio::encode::ack(*parser, namespace.as_str(), id, &data) {
            Ok(encoded) => {
                outbox.push(&Message::packet(encoded, false));
            }
            Err(error) => tracing::error!(%error, "failed to encode an acknowledgement"),
        }
    }
}
