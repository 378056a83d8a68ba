//! What arrives: frames of a WebSocket, payloads of polling requests, and the WebSocket of an upgrade.

use std::cell::RefCell;
use std::task::{Context, Poll, ready};

use tidegate_core::DisconnectReason;
use tidegate_protocol::engineio::payload::{self, Piece};
use tidegate_protocol::engineio::{Packet, ParseError};
use tidegate_protocol::websocket::{self, Incoming, Opcode, Role};

use super::close::Close;
use super::{Connection, Exit, Speech, UNAUTHENTICATED_BYTES_MAX, millis};
use crate::engines::{Engine, Input, Payload, Upgraded};
use crate::letterbox::Letters;
use crate::message::Message;

/// One worker's read buffer, which all its connections share. What a message needs beyond one read is kept by its
/// connection until it is complete.
const SCRATCH_BYTES: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
}

/// The transport's half of a connection that only its own task touches.
pub(crate) enum Link {
    WebSocket(Frames),
    Polling(Box<Polled>),
}

/// What is kept of a WebSocket between two reads.
pub(crate) struct Frames {
    decoder: websocket::Decoder,
    /// Bytes that were read and not yet looked at.
    unread: Box<[u8]>,
}

/// The requests of a polling client.
pub(crate) struct Polled {
    input: Letters,
    /// The payload that is being looked at, and how far.
    payload: Option<(Box<Payload>, usize)>,
}

impl Link {
    pub(crate) fn websocket(unread: Vec<u8>, message_bytes_max: usize) -> Self {
        let decoder = websocket::Decoder::new(Role::Server, message_bytes_max);
        Self::WebSocket(Frames { decoder, unread: unread.into() })
    }

    pub(crate) fn polling(input: Letters) -> Self {
        Self::Polling(Box::new(Polled { input, payload: None }))
    }

    pub(crate) fn is_websocket(&self) -> bool {
        matches!(self, Self::WebSocket(_))
    }

    /// Takes nothing more from requests, and answers those that wait.
    pub(super) fn close_requests(&mut self) {
        if let Self::Polling(polled) = self {
            polled.payload = None;
            polled.input.close();
        }
    }
}

impl Connection {
    /// Largest message the client may send now.
    pub(super) fn message_bytes_max(&self) -> usize {
        let max = self.node.options.engine.payload_bytes_max;
        if self.connect_deadline_ms.is_some() && !self.node.options.auth.is_open() {
            max.min(UNAUTHENTICATED_BYTES_MAX)
        } else {
            max
        }
    }

    /// The client is known now: the bound on its messages is the ordinary one. Called between two messages only, when
    /// the decoder holds no part of one.
    pub(super) fn lift_unauthenticated_bound(&mut self) {
        let max = self.node.options.engine.payload_bytes_max;
        match &mut self.link {
            Link::WebSocket(frames) => frames.decoder = websocket::Decoder::new(Role::Server, max),
            Link::Polling(_) => {
                if let Some(Engine::Polling(polling)) = self.node.engines.find(self.id) {
                    polling.joined.store(true, std::sync::atomic::Ordering::Release);
                }
            }
        }
    }

    pub(super) fn poll_input(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Exit>> {
        match &mut self.link {
            Link::WebSocket(frames) if !frames.unread.is_empty() => {
                let mut unread = std::mem::take(&mut frames.unread);
                Poll::Ready(self.feed(&mut unread))
            }
            Link::WebSocket(_) => SCRATCH.with_borrow_mut(|scratch| self.poll_read(scratch, context)),
            Link::Polling(polled) if polled.payload.is_some() => Poll::Ready(self.next_piece()),
            Link::Polling(polled) => match ready!(polled.input.poll_next(context)) {
                None => Poll::Ready(Err(Exit::because(DisconnectReason::TransportClose))),
                Some(Input::Violation(reason)) => Poll::Ready(Err(Exit::because(reason))),
                Some(Input::Payload(posted)) => {
                    polled.payload = Some((posted, 0));
                    Poll::Ready(Ok(()))
                }
                Some(Input::Upgraded(upgraded)) => {
                    let Upgraded { socket, binary, unread } = *upgraded;
                    self.upgrade(unread);
                    self.outbox.upgrade(socket, binary, &Message::engine("6"));
                    // The reactor knows it before the table forgets that it polled: a drain asks in the other order.
                    self.node.engines.insert(self.id, Engine::WebSocket);
                    for session in &self.sessions {
                        self.node.refresh(session);
                    }
                    Poll::Ready(Ok(()))
                }
            },
        }
    }

    /// Looks at the next packet of the payload at hand.
    fn next_piece(&mut self) -> Result<(), Exit> {
        let Link::Polling(polled) = &mut self.link else { return Ok(()) };
        let Some((posted, start)) = polled.payload.take() else { return Ok(()) };
        let rest = &posted.body[start..];
        let end = rest.find(char::from(payload::SEPARATOR));
        let handled = self.on_piece(payload::piece(&rest[..end.unwrap_or(rest.len())]));
        match (end, &mut self.link) {
            (Some(end), Link::Polling(polled)) if handled.is_ok() => {
                polled.payload = Some((posted, start + end + 1));
            }
            _ => {
                // The request may have gone away; its payload counts all the same.
                let _ = posted.accepted.send(());
            }
        }
        handled
    }

    fn poll_read(&mut self, scratch: &mut [u8], context: &mut Context<'_>) -> Poll<Result<(), Exit>> {
        Poll::Ready(match ready!(self.outbox.poll_read(context, scratch)) {
            Err(_) => Err(Exit::because(DisconnectReason::TransportError)),
            Ok(0) => Err(Exit::because(DisconnectReason::TransportClose)),
            Ok(read) => self.feed(&mut scratch[..read]),
        })
    }

    fn upgrade(&mut self, unread: Vec<u8>) {
        let now = self.node.clock.now_ms();
        self.link = Link::websocket(unread, self.message_bytes_max());
        self.heartbeat.upgraded(now);
        self.node.metrics.connections_polling.dec();
        self.node.metrics.connections_websocket.inc();
        // An awaited pong may have become due later, never earlier; the armed deadline looks again.
    }

    /// Takes every message out of `bytes`, until one of them must be waited for or others must have their turn; the
    /// rest is kept. What several messages are answered leaves together.
    fn feed(&mut self, bytes: &mut [u8]) -> Result<(), Exit> {
        let mut input = websocket::Input::new(bytes);
        let mut corked = false;
        let fed = self.feed_messages(&mut input, &mut corked);
        if corked {
            self.outbox.flush();
        }
        fed
    }

    fn feed_messages(&mut self, input: &mut websocket::Input<'_>, corked: &mut bool) -> Result<(), Exit> {
        loop {
            let Link::WebSocket(frames) = &mut self.link else { return Ok(()) };
            // The decoder is taken out for the time of one message, which may borrow from it.
            let mut decoder =
                std::mem::replace(&mut frames.decoder, websocket::Decoder::new(Role::Server, 0));
            let handled = match decoder.next(input) {
                Ok(None) => Ok(false),
                Ok(Some(incoming)) => self.on_incoming(incoming).map(|()| true),
                Err(violation) => {
                    let close = Some(Close::bare(violation.close_code()));
                    Err(Exit { reason: DisconnectReason::TransportError, close })
                }
            };
            if let Link::WebSocket(frames) = &mut self.link {
                frames.decoder = decoder;
            }
            if !handled? {
                return Ok(());
            }
            self.turn = self.turn.saturating_sub(1);
            if !*corked && !input.is_empty() {
                *corked = true;
                self.outbox.cork();
            }
            if self.is_held() {
                if let Link::WebSocket(frames) = &mut self.link {
                    frames.unread = input.remaining().into();
                }
                return Ok(());
            }
        }
    }

    fn on_incoming(&mut self, incoming: Incoming<'_>) -> Result<(), Exit> {
        if let Speech::Plain(plain) = &self.speech {
            return self.on_plain(plain.format(), incoming);
        }
        match incoming {
            Incoming::Text(text) => self.on_piece(payload::piece(text)),
            Incoming::Binary(bytes) => {
                self.alive(false);
                self.on_binary(bytes)
            }
            Incoming::Ping(data) => {
                self.outbox.push(&Message::frame(websocket::frame(Opcode::Pong, data), false));
                Ok(())
            }
            Incoming::Pong(_) => Ok(()),
            Incoming::Close(code) => {
                Err(Exit { reason: DisconnectReason::TransportClose, close: code.map(Close::bare) })
            }
        }
    }

    fn on_piece(&mut self, piece: Result<Piece<'_>, ParseError>) -> Result<(), Exit> {
        self.alive(matches!(piece, Ok(Piece::Packet(Packet::Pong(_)))));
        match piece {
            Ok(Piece::Binary(bytes)) => self.on_binary(&bytes),
            Ok(Piece::Packet(packet)) => match packet {
                Packet::Text(text) => self.on_text(text),
                Packet::Pong(_) | Packet::Open(_) | Packet::Upgrade | Packet::Noop => Ok(()),
                Packet::Close => Err(Exit::because(DisconnectReason::TransportClose)),
                // In this revision of Engine.IO only servers ping.
                Packet::Ping(_) => Err(Exit::because(DisconnectReason::TransportError)),
            },
            Err(error) => {
                tracing::debug!(%error, "closing a connection");
                Err(Exit::because(DisconnectReason::ParseError))
            }
        }
    }

    pub(super) fn alive(&mut self, is_pong: bool) {
        let now = self.node.clock.now_ms();
        self.heartbeat.on_packet(now, is_pong);
        if is_pong {
            // The next ping may be due before the pong would have been.
            self.arm_earlier(now + millis(self.node.options.engine.ping_interval));
        }
    }
}
