//! HTTP long-polling: GET fetches what waits, POST brings what the client has to say.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use tidegate_core::DisconnectReason;
use tidegate_protocol::engineio::Transport;
use tokio::sync::oneshot;

use super::{Answer, open_packet, refuse};
use crate::connection::{Connection, Link, Speech, UNAUTHENTICATED_BYTES_MAX};
use crate::engines::{Engine, EngineId, Exclusive, Input, Payload, Polling};
use crate::letterbox::Letterbox;
use crate::message::Message;
use crate::node::{Admitted, Inner};
use crate::outbox::{Outbox, Poll};
use tidegate_protocol::engineio::Refusal;

/// Names the node that a session was opened on, with which its sid ends: a load balancer that remembers who said so finds
/// that node again for all later requests.
const NODE: HeaderName = HeaderName::from_static("x-tidegate-node");

/// How long the body of a POST may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of an oversized body that are read and thrown away, and for how long.
const DISCARD_BYTES_MAX: usize = 32 << 20;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// Opens a polling connection; the answer is its first packet.
pub(super) fn open(node: &Arc<Inner>, admitted: Admitted) -> Response {
    let id = EngineId::random();
    let outbox = Arc::new(Outbox::polling(Arc::clone(&node.terms)));
    let (input, letters) = Letterbox::new();
    let polling = Polling {
        outbox: Arc::clone(&outbox),
        input,
        posting: AtomicBool::new(false),
        upgrading: AtomicBool::new(false),
        moved: AtomicBool::new(false),
        aborted: AtomicBool::new(false),
        joined: AtomicBool::new(node.options.auth.is_open()),
    };
    node.engines.insert(id, Engine::Polling(Arc::new(polling)));
    node.metrics.connections_polling.inc();
    let connection = Connection::new(
        Arc::clone(node),
        outbox,
        id,
        Link::polling(letters),
        Speech::socket_io(node),
        admitted,
    );
    node.spawn(Arc::clone(&connection.outbox), connection.run());
    let mut response = packets(open_packet(node, id, Transport::Polling).into());
    if let Ok(name) = HeaderValue::from_str(node.options.node.as_str()) {
        response.headers_mut().insert(NODE, name);
    }
    response
}

/// A payload on its way to the client.
fn packets(payload: Bytes) -> Response {
    let mut response = Response::new(Body::from(payload));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn empty(status: StatusCode) -> Response {
    status.into_response()
}

/// Ends the connection unless it is told that the request was answered: a GET that goes away takes its payload along.
struct Pending {
    polling: Arc<Polling>,
    answered: bool,
}

impl Pending {
    fn finish(mut self) {
        self.answered = true;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let polling = &self.polling;
        if self.answered || polling.moved.load(Ordering::Acquire) {
            return;
        }
        // A client that moves to its WebSocket may drop its last poll, and says that it has moved on another
        // connection. Whoever serves that one decides.
        polling.aborted.store(true, Ordering::SeqCst);
        if !polling.upgrading.load(Ordering::SeqCst) {
            polling.outbox.close(DisconnectReason::TransportError);
        }
    }
}

/// One GET: what waits now, or the next thing that comes.
pub(super) fn get(polling: Arc<Polling>) -> Answer {
    match polling.outbox.poll() {
        Poll::Ready(payload) => packets(payload).into(),
        Poll::Gone => refuse(Refusal::BadRequest, false).into(),
        Poll::Overlap => {
            // The pending one is told the end, this one gets nothing.
            polling.outbox.answer_poll(&Message::engine("1"));
            polling.outbox.close(DisconnectReason::TransportError);
            empty(StatusCode::BAD_REQUEST).into()
        }
        Poll::Pending(payload) => {
            let pending = Pending { polling, answered: false };
            Answer::later(async move {
                let payload = payload.await;
                pending.finish();
                match payload {
                    Ok(payload) => packets(payload),
                    // The connection ended without a word, which only a defect or a shutdown does.
                    Err(_) => refuse(Refusal::SessionUnknown, false),
                }
            })
        }
    }
}

/// One POST: packets for the connection. It is answered when they have been taken, so that a client that is faster
/// than the node is slowed down to it.
pub(super) async fn post(node: &Inner, polling: Arc<Polling>, request: Request<Body>) -> Response {
    let Some(_posting) = Exclusive::claim(&polling.posting) else {
        violate(&polling, DisconnectReason::TransportError).await;
        return empty(StatusCode::BAD_REQUEST);
    };
    let is_binary = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/octet-stream"));
    if is_binary {
        violate(&polling, DisconnectReason::TransportError).await;
        return empty(StatusCode::BAD_REQUEST);
    }
    let max = node.options.engine.payload_bytes_max;
    let max = if polling.joined.load(Ordering::Acquire) { max } else { max.min(UNAUTHENTICATED_BYTES_MAX) };
    let body = match tokio::time::timeout(BODY_TIMEOUT, read_body(request.into_body(), max)).await {
        Ok(Ok(body)) => body,
        Ok(Err(BodyError::TooLarge)) => return empty(StatusCode::PAYLOAD_TOO_LARGE),
        Ok(Err(BodyError::Broken)) => {
            violate(&polling, DisconnectReason::TransportError).await;
            return empty(StatusCode::BAD_REQUEST);
        }
        Err(_) => {
            violate(&polling, DisconnectReason::TransportError).await;
            return empty(StatusCode::REQUEST_TIMEOUT);
        }
    };
    let Ok(body) = String::from_utf8(body) else {
        violate(&polling, DisconnectReason::ParseError).await;
        return empty(StatusCode::BAD_REQUEST);
    };
    let (accepted, taken) = oneshot::channel();
    if polling.input.send(Input::Payload(Box::new(Payload { body, accepted }))).await.is_err() {
        return refuse(Refusal::SessionUnknown, false);
    }
    // A connection that ended over this payload answers all the same, as stock servers do.
    let _ = taken.await;
    let mut response = Response::new(Body::from("ok"));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
    response
}

enum BodyError {
    TooLarge,
    Broken,
}

/// Reads a body of at most `max` bytes. A larger one is read on for a while and thrown away: most clients look for an
/// answer only when they have sent everything, and would otherwise find a reset.
async fn read_body(mut body: Body, max: usize) -> Result<Vec<u8>, BodyError> {
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        if read.len() + data.len() > max {
            drop(read);
            // Whether the rest comes or not, the answer is the same.
            let _ = tokio::time::timeout(DISCARD_TIMEOUT, discard(body)).await;
            return Err(BodyError::TooLarge);
        }
        read.extend_from_slice(&data);
    }
    Ok(read)
}

async fn discard(mut body: Body) {
    let mut discarded = 0;
    while discarded < DISCARD_BYTES_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        discarded += frame.data_ref().map_or(0, Bytes::len);
    }
}

async fn violate(polling: &Polling, reason: DisconnectReason) {
    // A connection that has ended meanwhile needs no reason any more.
    let _ = polling.input.send(Input::Violation(reason)).await;
}
