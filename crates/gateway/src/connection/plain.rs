//! What a client's messages of the plain protocol mean, and how its connection ends.

use tidegate_core::offline::Serial;
use tidegate_core::registry::EvictReason;
use tidegate_core::{DisconnectReason, ErrorCode};
use tidegate_msgpack::{Reader, Token};
use tidegate_protocol::plain::{self, Format, Request};
use tidegate_protocol::websocket::{self, Incoming, Opcode};

use super::ask::Asked;
use super::{Connection, Exit, Held, Speech};
use crate::inbox::Receipt;
use crate::message::Message;
use crate::namespaces::Operation;
use crate::operation::NIL;
use crate::reply::{Question, Refusal};

/// The text by which a client asks whether the node is there, and what it is answered.
const PING: &str = "ping";
const PONG: &[u8] = b"pong";

/// An empty wire array.
const NO_ARGUMENTS: &[u8] = &[0x90];

/// What is known of a client of the plain protocol.
pub(crate) struct Plain {
    format: Format,
    /// How the connection is closed, if not in the way that the reason of its end has.
    farewell: Option<Box<Farewell>>,
}

/// A close frame.
struct Farewell {
    code: u16,
    text: String,
}

impl Plain {
    pub(crate) const fn new(format: Format) -> Self {
        Self { format, farewell: None }
    }

    pub(super) const fn format(&self) -> Format {
        self.format
    }

    /// The code and the text of the close frame.
    pub(super) fn close(&self, exit: Exit) -> (Option<u16>, &str) {
        if let Some(farewell) = &self.farewell {
            return (Some(farewell.code), &farewell.text);
        }
        if exit.close_code.is_some() {
            return (exit.close_code, "");
        }
        match exit.reason {
            DisconnectReason::ClientNamespaceDisconnect => (Some(1000), ""),
            DisconnectReason::ServerShuttingDown => (Some(1012), ErrorCode::Draining.as_str()),
            DisconnectReason::PingTimeout => (Some(4408), "no heartbeat"),
            DisconnectReason::SlowConsumer => (Some(4413), "slow consumer"),
            DisconnectReason::ForcedClose
            | DisconnectReason::ServerNamespaceDisconnect
            | DisconnectReason::ParseError => (Some(4503), ErrorCode::Unavailable.as_str()),
            DisconnectReason::TransportClose | DisconnectReason::TransportError => (None, ""),
        }
    }
}

/// The close code of a refusal after which there is no connection.
const fn close_code(code: ErrorCode) -> u16 {
    match code {
        ErrorCode::Unauthorized | ErrorCode::TokenExpired => 4401,
        ErrorCode::Forbidden => 4403,
        ErrorCode::DuplicateSession => 4409,
        ErrorCode::RateLimited => 4429,
        ErrorCode::Unavailable | ErrorCode::Draining => 4503,
        _ => 4400,
    }
}

impl Connection {
    pub(super) fn is_plain(&self) -> bool {
        matches!(self.speech, Speech::Plain(_))
    }

    /// Closes the connection for what its client did.
    pub(super) fn farewell(&mut self, refusal: &Refusal) -> Exit {
        let text = format!("{}: {}", refusal.code, refusal.message);
        self.part(DisconnectReason::ForcedClose, close_code(refusal.code), text)
    }

    /// Closes the connection of a client that never said who it is.
    pub(super) fn give_up_waiting(&mut self) -> Exit {
        self.part(DisconnectReason::ForcedClose, 4408, "no connect in time".to_owned())
    }

    /// Closes the connection once its client was told that its session was evicted.
    pub(super) fn show_out(&mut self, reason: EvictReason) {
        let code = match reason {
            EvictReason::Replaced => 4409,
            EvictReason::Kicked => 4410,
            EvictReason::Expired => 4401,
        };
        self.part(DisconnectReason::ServerNamespaceDisconnect, code, reason.as_str().to_owned());
    }

    fn part(&mut self, reason: DisconnectReason, code: u16, text: String) -> Exit {
        if let Speech::Plain(plain) = &mut self.speech {
            plain.farewell.get_or_insert_with(|| Box::new(Farewell { code, text }));
        }
        Exit::because(reason)
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
                return Err(Exit { reason: DisconnectReason::TransportClose, close_code: code });
            }
            Incoming::Text(text) => plain::Incoming::Text(text),
            Incoming::Binary(bytes) => plain::Incoming::Binary(bytes),
        };
        match plain::decode(format, message, self.node.options.limits.name_bytes_max) {
            Ok(request) => self.on_request(request),
            Err(violation) => {
                tracing::debug!(%violation, "closing a connection");
                Err(self.violated(&violation.to_string()))
            }
        }
    }

    fn violated(&mut self, text: &str) -> Exit {
        let text = format!("{}: {text}", ErrorCode::BadRequest);
        self.part(DisconnectReason::ParseError, close_code(ErrorCode::BadRequest), text)
    }

    pub(super) fn on_request(&mut self, mut request: Request) -> Result<(), Exit> {
        if self.sessions.is_empty() {
            return self.on_first(request);
        }
        // A connection has one session.
        let index = 0;
        let operation = Operation::parse(&request.op);
        match request.op.as_str() {
            "connect" => return Err(self.violated("connect was said before")),
            "close" => return Err(Exit::because(DisconnectReason::ClientNamespaceDisconnect)),
            "ack" => {
                let receipt = request.field("message").and_then(receipt);
                let Some(receipt) = receipt else {
                    return Err(self.violated("message of an ack must be one that was received"));
                };
                let arguments = request.field("args").unwrap_or(NO_ARGUMENTS);
                self.on_acknowledgement(index, receipt, arguments);
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

    /// What comes before there is a session, or after the last.
    fn on_first(&mut self, request: Request) -> Result<(), Exit> {
        if !self.ended.is_empty() {
            // On its way before the client could hear that the node ended the session.
            return Ok(());
        }
        if request.op != "connect" {
            return Err(self.violated("the first message must be connect"));
        }
        let namespace = match request.field("namespace").map(|name| Reader::new(name).token()) {
            None | Some(Ok(Token::Nil)) => "/".to_owned(),
            Some(Ok(Token::Str(name))) => String::from_utf8_lossy(name).into_owned(),
            Some(_) => return Err(self.violated("namespace must be a string")),
        };
        let auth = request.field("auth").filter(|auth| *auth != NIL).map(<[u8]>::to_vec);
        self.on_connect(namespace, auth.as_deref(), request.id)
    }
}

/// What an `ack` names: the id of a durable message, or the number of a broadcast.
fn receipt(message: &[u8]) -> Option<Receipt> {
    match Reader::new(message).token() {
        Ok(Token::Str(id)) => std::str::from_utf8(id).ok().and_then(Serial::parse).map(Receipt::Message),
        Ok(Token::UInt(number)) => Some(Receipt::Packet(number)),
        _ => None,
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
