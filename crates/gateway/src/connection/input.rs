//! What arrives: frames of a WebSocket, payloads of polling requests, and the WebSocket of an upgrade.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tidegate_core::DisconnectReason;
use tidegate_protocol::engineio::payload::{self, Piece};
use tidegate_protocol::engineio::{Packet, ParseError};
use tidegate_protocol::websocket::{self, Incoming, Opcode, Role};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

use super::{Connection, Exit, UNAUTHENTICATED_BYTES_MAX};
use crate::engines::Engine;
use crate::message::Message;
use crate::outbox::Binary;

/// One worker's read buffer, which all its connections share. What a message needs beyond one read is kept by its
/// connection until it is complete.
const SCRATCH_BYTES: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
}

/// The transport's half of a connection that only its own task touches.
pub(crate) enum Link {
    WebSocket(Socket),
    Polling {
        input: mpsc::Receiver<Input>,
        /// The rest of a payload.
        pieces: VecDeque<OwnedPiece>,
        /// Told when the payload has been looked at whole.
        accepted: Option<oneshot::Sender<()>>,
    },
}

/// A WebSocket to read from.
pub(crate) struct Socket {
    read: OwnedReadHalf,
    frames: websocket::Decoder,
    /// Bytes that were read and not yet looked at.
    unread: Vec<u8>,
}

/// What a request brings to a polling connection.
pub(crate) enum Input {
    /// The body of a POST.
    Payload(Payload),
    /// The request itself was a violation.
    Violation(DisconnectReason),
    /// The WebSocket that the client has moved to, and what it sent there already.
    Upgraded { read: OwnedReadHalf, write: OwnedWriteHalf, binary: Binary, unread: Vec<u8> },
}

/// The body of a POST, and whom to tell when it has been taken.
pub(crate) struct Payload {
    pub(crate) body: String,
    pub(crate) accepted: oneshot::Sender<()>,
}

/// A piece of a payload, kept while what came before it is still under way.
pub(crate) enum OwnedPiece {
    Text(String),
    Binary(Vec<u8>),
    Pong,
    Close,
    Ping,
    Ignored,
    Broken(ParseError),
}

impl Link {
    pub(crate) fn websocket(read: OwnedReadHalf, unread: Vec<u8>, message_bytes_max: usize) -> Self {
        let frames = websocket::Decoder::new(Role::Server, message_bytes_max);
        Self::WebSocket(Socket { read, frames, unread })
    }

    pub(crate) fn polling(input: mpsc::Receiver<Input>) -> Self {
        Self::Polling { input, pieces: VecDeque::new(), accepted: None }
    }

    pub(crate) fn is_websocket(&self) -> bool {
        matches!(self, Self::WebSocket(_))
    }

    /// The reading half, to let the peer finish while we hang up.
    pub(super) fn read_half(&mut self) -> Option<&mut OwnedReadHalf> {
        match self {
            Self::WebSocket(socket) => Some(&mut socket.read),
            Self::Polling { .. } => None,
        }
    }
}

impl OwnedPiece {
    fn new(piece: Result<Piece<'_>, ParseError>) -> Self {
        match piece {
            Ok(Piece::Binary(bytes)) => Self::Binary(bytes),
            Ok(Piece::Packet(packet)) => match packet {
                Packet::Text(text) => Self::Text(text.to_owned()),
                Packet::Pong(_) => Self::Pong,
                Packet::Close => Self::Close,
                Packet::Ping(_) => Self::Ping,
                Packet::Open(_) | Packet::Upgrade | Packet::Noop => Self::Ignored,
            },
            Err(error) => Self::Broken(error),
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
            Link::WebSocket(socket) => socket.frames = websocket::Decoder::new(Role::Server, max),
            Link::Polling { .. } => {
                if let Some(Engine::Polling(polling)) = self.node.engines.find(self.id) {
                    polling.joined.store(true, std::sync::atomic::Ordering::Release);
                }
            }
        }
    }

    pub(super) fn poll_input(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Exit>> {
        match &mut self.link {
            Link::WebSocket(socket) if !socket.unread.is_empty() => {
                let mut unread = std::mem::take(&mut socket.unread);
                Poll::Ready(self.feed(&mut unread))
            }
            Link::WebSocket(_) => SCRATCH.with_borrow_mut(|scratch| self.poll_read(scratch, context)),
            Link::Polling { input, pieces, accepted } => {
                if let Some(piece) = pieces.pop_front() {
                    if pieces.is_empty()
                        && let Some(accepted) = accepted.take()
                    {
                        // The request may have gone away; its payload counts all the same.
                        let _ = accepted.send(());
                    }
                    return Poll::Ready(self.on_piece(piece));
                }
                match ready!(input.poll_recv(context)) {
                    None => Poll::Ready(Err(Exit::because(DisconnectReason::TransportClose))),
                    Some(Input::Violation(reason)) => Poll::Ready(Err(Exit::because(reason))),
                    Some(Input::Payload(payload)) => {
                        *pieces = payload::decode(&payload.body).map(OwnedPiece::new).collect();
                        *accepted = Some(payload.accepted);
                        Poll::Ready(Ok(()))
                    }
                    Some(Input::Upgraded { read, write, binary, unread }) => {
                        self.upgrade(read, unread);
                        self.outbox.upgrade(write, binary, &Message::engine("6"));
                        Poll::Ready(Ok(()))
                    }
                }
            }
        }
    }

    fn poll_read(&mut self, scratch: &mut [u8], context: &mut Context<'_>) -> Poll<Result<(), Exit>> {
        let Link::WebSocket(socket) = &mut self.link else { return Poll::Pending };
        let mut buffer = ReadBuf::new(scratch);
        let read = ready!(Pin::new(&mut socket.read).poll_read(context, &mut buffer));
        Poll::Ready(match read {
            Err(_) => Err(Exit::because(DisconnectReason::TransportError)),
            Ok(()) if buffer.filled().is_empty() => Err(Exit::because(DisconnectReason::TransportClose)),
            Ok(()) => self.feed(buffer.filled_mut()),
        })
    }

    fn upgrade(&mut self, read: OwnedReadHalf, unread: Vec<u8>) {
        let now = self.node.clock.now_ms();
        self.link = Link::websocket(read, unread, self.message_bytes_max());
        self.heartbeat.upgraded(now);
        self.node.engines.insert(self.id, Engine::WebSocket(std::sync::Arc::clone(&self.outbox)));
        self.node.metrics.connections_polling.dec();
        self.node.metrics.connections_websocket.inc();
        // An awaited pong may have become due later, never earlier; the armed deadline looks again.
    }

    /// Takes every message out of `bytes`, until one of them must be waited for; the rest is kept.
    fn feed(&mut self, bytes: &mut [u8]) -> Result<(), Exit> {
        let mut input = websocket::Input::new(bytes);
        loop {
            let Link::WebSocket(socket) = &mut self.link else { return Ok(()) };
            // The decoder is taken out for the time of one message, which may borrow from it.
            let mut frames = std::mem::replace(&mut socket.frames, websocket::Decoder::new(Role::Server, 0));
            let handled = match frames.next(&mut input) {
                Ok(None) => Ok(false),
                Ok(Some(incoming)) => self.on_incoming(incoming).map(|()| true),
                Err(violation) => Err(Exit {
                    reason: DisconnectReason::TransportError,
                    close_code: Some(violation.close_code()),
                }),
            };
            if let Link::WebSocket(socket) = &mut self.link {
                socket.frames = frames;
            }
            if !handled? {
                return Ok(());
            }
            if self.is_held() {
                if let Link::WebSocket(socket) = &mut self.link {
                    socket.unread = input.remaining().to_vec();
                }
                return Ok(());
            }
        }
    }

    fn on_incoming(&mut self, incoming: Incoming<'_>) -> Result<(), Exit> {
        match incoming {
            Incoming::Text(text) => match payload::piece(text) {
                Ok(Piece::Packet(Packet::Text(text))) => {
                    self.alive(false);
                    self.on_text(text)
                }
                other => self.on_piece(OwnedPiece::new(other)),
            },
            Incoming::Binary(bytes) => {
                self.alive(false);
                self.on_binary(bytes)
            }
            Incoming::Ping(data) => {
                self.outbox.push(&Message::frame(websocket::frame(Opcode::Pong, data)));
                Ok(())
            }
            Incoming::Pong(_) => Ok(()),
            Incoming::Close(code) => Err(Exit { reason: DisconnectReason::TransportClose, close_code: code }),
        }
    }

    fn on_piece(&mut self, piece: OwnedPiece) -> Result<(), Exit> {
        self.alive(matches!(piece, OwnedPiece::Pong));
        match piece {
            OwnedPiece::Text(text) => self.on_text(&text),
            OwnedPiece::Binary(bytes) => self.on_binary(&bytes),
            OwnedPiece::Pong | OwnedPiece::Ignored => Ok(()),
            OwnedPiece::Close => Err(Exit::because(DisconnectReason::TransportClose)),
            // In this revision of Engine.IO only servers ping.
            OwnedPiece::Ping => Err(Exit::because(DisconnectReason::TransportError)),
            OwnedPiece::Broken(error) => {
                tracing::debug!(%error, "closing a connection");
                Err(Exit::because(DisconnectReason::ParseError))
            }
        }
    }

    fn alive(&mut self, is_pong: bool) {
        let now = self.node.clock.now_ms();
        self.heartbeat.on_packet(now, is_pong);
    }
}
