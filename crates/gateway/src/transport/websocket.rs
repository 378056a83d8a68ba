//! WebSocket: a new connection's, or the one that a polling client moves to.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use fastwebsockets::upgrade::{UpgradeFut, upgrade};
use http::Request;
use hyper_util::rt::TokioIo;
use tidegate_core::DisconnectReason;
use tidegate_protocol::engineio::{NOOP_TICK_MS, Probe, ProbeStep, Refusal, Transport};
use tidegate_protocol::plain::Format;
use tidegate_protocol::websocket::{self, Incoming, Opcode, Role};

use super::{open_packet, refuse};
use crate::connection::{Connection, Link, Plain, Speech, UNAUTHENTICATED_BYTES_MAX};
use crate::engines::{Engine, EngineId, Exclusive, Input, Polling, Upgraded};
use crate::message::Message;
use crate::node::{Admitted, Inner};
use crate::outbox::{Binary, Outbox};
use crate::socket::Socket;

/// How long the switch of protocols may take once it is answered: the client has the answer in its hands.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a last frame may take to be taken.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes of one probe message. `2probe` has six.
const PROBE_BYTES_MAX: usize = 128;

/// The raw connection under a WebSocket, and what the client sent behind its request.
struct Raw {
    socket: Socket,
    unread: Vec<u8>,
}

impl Raw {
    /// Says goodbye, unless the peer does not even take that.
    async fn hang_up(&self) {
        let goodbye = websocket::close(None, "");
        // Whether the peer still hears it does not matter.
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, self.socket.write_all(&goodbye)).await;
        self.socket.finish();
    }
}

/// Answers the handshake, or refuses what is none.
fn switch(mut request: Request<Body>) -> Result<(Response, UpgradeFut), Refusal> {
    match upgrade(&mut request) {
        Ok((response, future)) => {
            let (parts, _) = response.into_parts();
            Ok((Response::from_parts(parts, Body::empty()), future))
        }
        Err(error) => {
            tracing::debug!(%error, "refused a WebSocket handshake");
            Err(Refusal::BadRequest)
        }
    }
}

/// Down to the socket: from here on hyper has no part in the connection and no buffer for it.
async fn raw(future: UpgradeFut) -> Option<Raw> {
    let upgraded = match tokio::time::timeout(SWITCH_TIMEOUT, future).await {
        Ok(Ok(websocket)) => websocket.into_inner().into_inner(),
        Ok(Err(error)) => {
            tracing::debug!(%error, "failed to switch to a WebSocket");
            return None;
        }
        Err(_) => return None,
    };
    match upgraded.downcast::<TokioIo<Socket>>() {
        Ok(parts) => {
            // A copy, since the buffer it stands in is hyper's 8 KiB.
            Some(Raw { socket: parts.io.into_inner(), unread: parts.read_buf.to_vec() })
        }
        Err(_) => {
            tracing::error!("an upgraded connection is no socket of ours");
            None
        }
    }
}

/// What a new connection speaks.
#[derive(Clone, Copy)]
pub(super) enum Opening {
    /// Engine.IO, which begins with a packet of ours.
    Engine(Binary),
    /// The plain protocol, whose client speaks first.
    Plain(Format),
}

/// Opens a connection on a WebSocket.
pub(super) fn open(
    node: &Arc<Inner>,
    opening: Opening,
    request: Request<Body>,
    admitted: Admitted,
) -> Result<Response, Refusal> {
    let (response, future) = switch(request)?;
    let node = Arc::clone(node);
    let tracker = node.requests.clone();
    tracker.spawn(async move {
        let Some(raw) = raw(future).await else { return };
        let id = EngineId::random();
        let binary = match opening {
            Opening::Engine(binary) => binary,
            Opening::Plain(_) => Binary::Frames,
        };
        let outbox = Outbox::websocket(raw.socket, binary, Arc::clone(&node.terms));
        node.engines.insert(id, Engine::WebSocket);
        node.metrics.connections_websocket.inc();
        let speech = match opening {
            Opening::Engine(_) => {
                outbox.push(&Message::engine_owned(open_packet(&node, id, Transport::WebSocket)));
                Speech::socket_io(&node)
            }
            Opening::Plain(format) => Speech::Plain(Plain::new(format)),
        };
        let max = node.options.engine.payload_bytes_max;
        let max = if node.options.auth.is_open() { max } else { max.min(UNAUTHENTICATED_BYTES_MAX) };
        let link = Link::websocket(raw.unread, max);
        let connection = Connection::new(Arc::clone(&node), outbox, id, link, speech, admitted);
        // A task of its own, which is as small as an idle connection; this one held the upgrade.
        node.spawn(Arc::clone(&connection.outbox), connection.run());
    });
    Ok(response)
}

/// Switches protocols and hangs up.
pub(super) fn turn_away(node: &Inner, request: Request<Body>) -> Response {
    let (response, future) = match switch(request) {
        Ok(switched) => switched,
        Err(refusal) => return refuse(refusal, true),
    };
    node.requests.spawn(async move {
        if let Some(raw) = raw(future).await {
            raw.hang_up().await;
        }
    });
    response
}

/// The upgrade of a polling connection: the client probes the new WebSocket, and once its last poll has returned it
/// says that it has moved. Until then, and if anything goes wrong, it goes on polling.
pub(super) fn probe(
    node: &Arc<Inner>,
    polling: Arc<Polling>,
    binary: Binary,
    request: Request<Body>,
) -> Response {
    let (response, future) = match switch(request) {
        Ok(switched) => switched,
        Err(refusal) => return refuse(refusal, true),
    };
    let node = Arc::clone(node);
    let tracker = node.requests.clone();
    tracker.spawn(async move {
        let Some(mut raw) = raw(future).await else { return };
        let Some(upgrading) = Exclusive::claim(&polling.upgrading) else {
            raw.hang_up().await;
            return;
        };
        let limit = node.options.engine.upgrade_timeout;
        let closing = node.closing.cancelled();
        let moved = tokio::select! {
            moved = tokio::time::timeout(limit, converse(&mut raw, &polling)) => moved.unwrap_or(false),
            () = polling.input.closed() => false,
            () = closing => false,
        };
        if moved {
            polling.moved.store(true, Ordering::Release);
            let Raw { socket, unread } = raw;
            // A connection that has ended drops the WebSocket, and the client hears that it is gone.
            let _ = polling.input.send(Input::Upgraded(Box::new(Upgraded { socket, binary, unread }))).await;
        } else {
            tracing::debug!("an upgrade failed; its client goes on polling");
            drop(upgrading);
            if polling.aborted.load(Ordering::SeqCst) {
                polling.outbox.close(DisconnectReason::TransportError);
            }
            raw.hang_up().await;
        }
    });
    response
}

/// Probes until the client has moved, which is true, or does something else.
async fn converse(raw: &mut Raw, polling: &Polling) -> bool {
    let mut frames = websocket::Decoder::new(Role::Server, PROBE_BYTES_MAX);
    let mut probe = Probe::new();
    let mut tick = tokio::time::interval(Duration::from_millis(NOOP_TICK_MS));
    tick.reset();
    let mut bytes = std::mem::take(&mut raw.unread);
    loop {
        if !bytes.is_empty() {
            match step(&mut bytes, &mut frames, &mut probe) {
                Step::More(reply) => {
                    if let Some(reply) = reply
                        && raw
                            .socket
                            .write_all(&websocket::frame(Opcode::Text, reply.as_bytes()))
                            .await
                            .is_err()
                    {
                        return false;
                    }
                    continue;
                }
                Step::Starved => bytes.clear(),
                Step::Moved => {
                    raw.unread = bytes;
                    return true;
                }
                Step::Failed => return false,
            }
        }
        let mut buffer = [0; PROBE_BYTES_MAX];
        tokio::select! {
            read = raw.socket.read(&mut buffer) => match read {
                Ok(read @ 1..) => bytes.extend_from_slice(&buffer[..read]),
                _ => return false,
            },
            _ = tick.tick(), if probe.is_answered() => polling.outbox.answer_poll(&Message::engine("6")),
        }
    }
}

enum Step {
    /// A message was handled; there may be another.
    More(Option<&'static str>),
    /// What is there is no whole message yet; the decoder keeps it.
    Starved,
    Moved,
    Failed,
}

/// Handles the first message of `bytes` and removes it.
fn step(bytes: &mut Vec<u8>, frames: &mut websocket::Decoder, probe: &mut Probe) -> Step {
    let length = bytes.len();
    let mut input = websocket::Input::new(bytes);
    let step = match frames.next(&mut input) {
        Ok(None) => return Step::Starved,
        Ok(Some(Incoming::Text(text))) => match probe.on_text(text) {
            ProbeStep::Reply(reply) => Step::More(Some(reply)),
            ProbeStep::Done => Step::Moved,
            ProbeStep::Refuse => Step::Failed,
        },
        Ok(Some(Incoming::Pong(_))) => Step::More(None),
        Ok(Some(_)) | Err(_) => return Step::Failed,
    };
    let used = length - input.remaining().len();
    bytes.drain(..used);
    step
}
