//! What a client's messages of the plain protocol mean.

use tidegate_core::DisconnectReason;
use tidegate_core::offline::Serial;
use tidegate_msgpack::{Reader, Token};
use tidegate_protocol::plain::{self, Format, Request};
use tidegate_protocol::websocket::{self, Incoming, Opcode};
use tokio::time::Instant;

use super::ask::{Asked, deaf};
use super::close::Close;
use super::{Connection, Exit, Held, Speech};
use crate::bucket::Bucket;
use crate::inbox::Receipt;
use crate::message::Message;
use crate::namespaces::Operation;
use crate::operation::NIL;
use crate::options::Limits;
use crate::reply::{Question, Refusal, bare_reply};

/// The text by which a client asks whether the node is there, and what it is answered.
const PING: &str = "ping";
const PONG: &[u8] = b"pong";

/// An empty wire array.
const NO_ARGUMENTS: &[u8] = &[0x90];

/// What is known of a client of the plain protocol.
pub(crate) struct Plain {
    format: Format,
    /// What may still be dropped of what it sends without asking how it went, once something was.
    dropped: Option<Box<Bucket>>,
}

impl Plain {
    pub(crate) const fn new(format: Format) -> Self {
        Self { format, dropped: None }
    }

    /// Whether one more message of its client's may be dropped unsaid.
    pub(super) fn may_drop(&mut self, now_ms: u64, limits: &Limits) -> bool {
        let full = || Box::new(Bucket::full(now_ms, limits.events_burst));
        let dropped = self.dropped.get_or_insert_with(full);
        dropped.take(now_ms, limits.events_per_second_max, limits.events_burst)
    }

    pub(super) const fn format(&self) -> Format {
        self.format
    }
}

/// What its client said is no message, or none that can be here.
fn violated(text: &str) -> Exit {
    let close = Close::refused(&Refusal::bad_request(text.to_owned()));
    Exit { reason: DisconnectReason::ParseError, close: Some(close) }
}

impl Connection {
    pub(super) fn is_plain(&self) -> bool {
        matches!(self.speech, Speech::Plain(_))
    }

    /// A frame of a client of the plain protocol. Whatever comes is a sign of life.
    pub(super) fn on_plain(&mut self, format: Format, incoming: Incoming<'_>) -> Result<(), Exit> {
        self.alive(true);
        let message = match incoming {
            Incoming::Text(PING) => {
                self.outbox.push(&Message::frame(websocket::frame(Opcode::Text, PONG), false));
                return Ok(());
            }
            Incoming::Ping(data) => {
                self.outbox.push(&Message::frame(websocket::frame(Opcode::Pong, data), false));
                return Ok(());
            }
            Incoming::Pong(_) => return Ok(()),
            Incoming::Close(code) => {
                let close = code.map(Close::bare);
                return Err(Exit { reason: DisconnectReason::TransportClose, close });
            }
            Incoming::Text(text) => plain::Incoming::Text(text),
            Incoming::Binary(bytes) => plain::Incoming::Binary(bytes),
        };
        match plain::decode(format, message, self.node.options.limits.name_bytes_max) {
            Ok(request) => self.on_request(request),
            Err(violation) => {
                tracing::debug!(%violation, "closing a connection");
                Err(violated(&violation.to_string()))
            }
        }
    }

    pub(super) fn on_request(&mut self, mut request: Request) -> Result<(), Exit> {
        if self.sessions.is_empty() {
            return self.on_first(request);
        }
        // A connection has one session.
        let index = 0;
        let operation = Operation::parse(&request.op);
        match request.op.as_str() {
            "connect" => return Err(violated("connect was said before")),
            "close" if !self.sessions[index].is_idle() => {
                // What was begun is answered first.
                self.deferred = Some(Box::new(Held::Request(request)));
                return Ok(());
            }
            "close" => {
                self.confirm(index, request.id);
                return Err(Exit::because(DisconnectReason::ClientNamespaceDisconnect));
            }
            "ack" => {
                match request.field("message").map(receipt) {
                    Some(Named::Receipt(receipt)) => {
                        let arguments = request.field("args").unwrap_or(NO_ARGUMENTS);
                        self.on_acknowledgement(index, receipt, arguments);
                    }
                    Some(Named::Nothing) => {}
                    None | Some(Named::Other) => {
                        return Err(violated("message of an ack must be one that was received"));
                    }
                }
                self.confirm(index, request.id);
                return Ok(());
            }
            _ => {}
        }
        if self.must_follow(operation) {
            self.deferred = Some(Box::new(Held::Request(request)));
            return Ok(());
        }
        if self.must_hold(index, operation) {
            self.hold(Held::Request(request));
            return Ok(());
        }
        let Speech::Plain(Plain { format, .. }) = &self.speech else { return Ok(()) };
        let format = *format;
        let question = request.id.take().map_or(Question::Unasked, |id| Question::Message(format, id));
        let asked = match operation {
            Some(operation) => Asked::Operation(operation, Some(&request.fields)),
            None if request.op == "event" => event(&request),
            None => Asked::Nothing(Refusal::bad_request(format!("op {:?} is unknown", request.op))),
        };
        self.ask(index, asked, question)
    }

    /// Answers what asks for nothing but to be heard. A node that is deaf cannot say so: the session may have lost its place.
    fn confirm(&self, index: usize, id: Option<plain::Id>) {
        let (Some(id), Speech::Plain(plain)) = (id, &self.speech) else { return };
        let session = &self.sessions[index];
        let is_deaf = session.holding().is_some() && self.node.pulse.check(Instant::now()).is_err();
        let refusal = is_deaf.then(deaf);
        let Some(_deed) = session.begin(&self.node.broker) else { return };
        match bare_reply(plain.format, &id, refusal.as_ref()) {
            Ok(frame) => {
                self.outbox.push(&Message::frame(frame, false));
            }
            Err(error) => tracing::error!(%error, "failed to encode an answer"),
        }
    }

    /// What comes before there is a session.
    fn on_first(&mut self, request: Request) -> Result<(), Exit> {
        if request.op != "connect" {
            return Err(violated("the first message must be connect"));
        }
        let namespace = match request.field("namespace").map(|name| Reader::new(name).token()) {
            None | Some(Ok(Token::Nil)) => "/".to_owned(),
            Some(Ok(Token::Str(name))) => String::from_utf8_lossy(name).into_owned(),
            Some(_) => return Err(violated("namespace must be a string")),
        };
        let auth = request.field("auth").filter(|auth| *auth != NIL).map(<[u8]>::to_vec);
        self.on_connect(namespace, auth.as_deref(), request.id)
    }
}

/// What an `ack` names.
enum Named {
    Receipt(Receipt),
    /// A message that asks for no acknowledgement: an id, but none of an inbox's.
    Nothing,
    /// Nothing that a message is called by.
    Other,
}

/// The id of a durable message, or the number of a broadcast. Some writers of MessagePack make a float of every number.
fn receipt(message: &[u8]) -> Named {
    let number = |number: f64| {
        // Exact within the bound.
        let is_whole = (0.0..=9_007_199_254_740_992.0).contains(&number) && number.trunc() == number;
        if is_whole { Named::Receipt(Receipt::Broadcast(number as u64)) } else { Named::Other }
    };
    match Reader::new(message).token() {
        Ok(Token::Str(id)) => {
            let serial = std::str::from_utf8(id).ok().and_then(Serial::parse);
            serial.map_or(Named::Nothing, |serial| Named::Receipt(Receipt::Message(serial)))
        }
        Ok(Token::UInt(number)) => Named::Receipt(Receipt::Broadcast(number)),
        Ok(Token::F64(float)) => number(float),
        Ok(Token::F32(float)) => number(f64::from(float)),
        _ => Named::Other,
    }
}

/// `{ event, args? }`, for the application's backend.
fn event(request: &Request) -> Asked<'static> {
    let has_name =
        request.field("event").is_some_and(|name| matches!(Reader::new(name).token(), Ok(Token::Str(_))));
    if !has_name {
        return Asked::Nothing(Refusal::bad_request("event must be a string"));
    }
    match request.field("args").map(|arguments| Reader::new(arguments).array()) {
        None | Some(Ok(_)) => Asked::Event,
        Some(Err(_)) => Asked::Nothing(Refusal::bad_request("args must be a list")),
    }
}
