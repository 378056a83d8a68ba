//! The client port over HTTP: which request is what, and who may make it.
//!
//! Layout: this file judges Engine.IO's requests (path, query, Origin, admission), `polling` serves GET and POST,
//! `websocket` the upgrade to a WebSocket, of a new connection or of one that polls. `plain` serves `/ws`, and `page` what
//! the root shows.

mod page;
mod plain;
mod polling;
mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use http::header::{self, HeaderValue};
use http::{Method, Request, StatusCode};
use tidegate_core::ErrorCode;
use tidegate_protocol::engineio::{Admission, Open, Query, Refusal, Transport, admit};

use crate::engines::{Engine, EngineId};
use crate::node::{Admitted, Inner};
use crate::origin::{self, Verdict};
use crate::outbox::Binary;
use crate::peer::client_address;

use websocket::Opening;

/// The socket address of the peer, put into every request by the accept loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// The client port's routes.
pub(crate) fn router(node: Arc<Inner>) -> Router {
    let path = node.options.engine.path.clone();
    let mut router = Router::new()
        .route(&path, any(serve))
        .route(&format!("{path}{{*rest}}"), any(serve))
        .route(plain::PATH, any(plain::serve));
    if node.options.server.page.is_some() {
        router = router.route("/", get(page::serve));
    }
    router.with_state(node)
}

async fn serve(State(node): State<Arc<Inner>>, request: Request<Body>) -> Response {
    let verdict = node.origins.judge(request.headers());
    let mut response = if request.method() == Method::OPTIONS {
        preflight(&request, &verdict)
    } else {
        engine(&node, request, &verdict).await
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        origin::allow(response.headers_mut(), &verdict);
    }
    response
}

fn preflight(request: &Request<Body>, verdict: &Verdict) -> Response {
    match verdict {
        Verdict::Allowed(_) => {
            let mut response = StatusCode::NO_CONTENT.into_response();
            let requested = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS);
            origin::allow_preflight(response.headers_mut(), requested);
            response
        }
        Verdict::NoOrigin => refuse(Refusal::BadHandshakeMethod, false),
        Verdict::Refused | Verdict::Invalid => refuse(Refusal::Forbidden, false),
    }
}

/// Serves one request of Engine.IO's, or says why not, in the order in which a stock server looks.
async fn engine(node: &Arc<Inner>, request: Request<Body>, verdict: &Verdict) -> Response {
    let upgrade = is_upgrade(&request);
    let query = request.uri().query().unwrap_or_default().to_owned();
    let query = Query::parse(&query);
    let binary = if query.b64 { Binary::Base64 } else { Binary::Frames };
    let options = &node.options.engine;
    let admission = admit(&query, request.method() == Method::GET, (options.polling, options.websocket));
    match verdict {
        Verdict::Invalid => return refuse(Refusal::BadRequest, upgrade),
        Verdict::Refused if !matches!(admission, Err(Refusal::TransportUnknown)) => {
            node.metrics.refused("origin");
            return refuse(Refusal::Forbidden, upgrade);
        }
        _ => {}
    }
    match admission {
        Err(refusal) => {
            if refusal == Refusal::UnsupportedVersion {
                node.metrics.refused("protocol_version");
            }
            refuse(refusal, upgrade)
        }
        Ok(Admission::Handshake(transport)) => {
            if (transport == Transport::WebSocket) != upgrade {
                return refuse(Refusal::BadRequest, upgrade);
            }
            handshake(node, transport, binary, request)
        }
        Ok(Admission::Session { transport, sid }) => {
            let engine = EngineId::parse(sid, &node.options.node)
                .and_then(|id| node.engines.find(id).map(|engine| (id, engine)));
            let Some((id, engine)) = engine else { return refuse(Refusal::SessionUnknown, upgrade) };
            if (transport == Transport::WebSocket) != upgrade || !query.is_version_4() {
                return refuse(Refusal::BadRequest, upgrade);
            }
            match (transport, engine) {
                (Transport::WebSocket, Engine::Polling(polling)) => {
                    websocket::probe(node, id, polling, binary, request)
                }
                // Stock servers switch protocols first and then hang up; so nothing is learnt from the status.
                (Transport::WebSocket, Engine::WebSocket(_)) => websocket::turn_away(node, request),
                (Transport::Polling, Engine::WebSocket(_)) => refuse(Refusal::BadRequest, upgrade),
                (Transport::Polling, Engine::Polling(polling)) => match *request.method() {
                    Method::GET => polling::get(&polling).await,
                    Method::POST => polling::post(node, polling, request).await,
                    _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
                },
            }
        }
    }
}

/// Finds a new connection its place.
///
/// # Errors
/// The code of the 503 for whom there is none.
fn admit_peer(node: &Inner, request: &Request<Body>) -> Result<Admitted, ErrorCode> {
    let Some(Peer(peer)) = request.extensions().get::<Peer>().copied() else {
        tracing::error!("a request came without its peer's address");
        return Err(ErrorCode::Unavailable);
    };
    let address = client_address(peer.ip(), request.headers(), &node.options.server.trusted_proxies);
    node.admit(address)
}

fn handshake(node: &Arc<Inner>, transport: Transport, binary: Binary, request: Request<Body>) -> Response {
    match admit_peer(node, &request) {
        Err(code) => unavailable(code),
        Ok(admitted) => match transport {
            Transport::Polling => polling::open(node, admitted),
            Transport::WebSocket => websocket::open(node, Opening::Engine(binary), request, admitted)
                .unwrap_or_else(|refusal| refuse(refusal, true)),
        },
    }
}

fn is_upgrade<B>(request: &Request<B>) -> bool {
    request
        .headers()
        .get(header::UPGRADE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
}

/// A refusal as stock servers word it: JSON for a polling request, the bare text for a WebSocket, and for that always
/// 400.
fn refuse(refusal: Refusal, upgrade: bool) -> Response {
    if upgrade {
        let mut response = (StatusCode::BAD_REQUEST, refusal.message()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        return response;
    }
    let status = StatusCode::from_u16(refusal.http_status()).unwrap_or(StatusCode::BAD_REQUEST);
    json(status, refusal.json())
}

fn json(status: StatusCode, body: String) -> Response {
    let mut response = (status, body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Not now: clients come back to a 503 with backoff, as they never do after a CONNECT_ERROR.
fn unavailable(code: ErrorCode) -> Response {
    let mut response =
        json(StatusCode::SERVICE_UNAVAILABLE, format!(r#"{{"code":"{code}","message":"try again later"}}"#));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// The first packet of a connection.
fn open_packet(node: &Inner, id: EngineId, transport: Transport) -> String {
    let engine = &node.options.engine;
    Open {
        sid: &id.sid(&node.options.node),
        upgrades_websocket: transport == Transport::Polling && engine.websocket,
        ping_interval_ms: u64::try_from(engine.ping_interval.as_millis()).unwrap_or(u64::MAX),
        ping_timeout_ms: u64::try_from(engine.ping_timeout.as_millis()).unwrap_or(u64::MAX),
        max_payload: u64::try_from(engine.payload_bytes_max).unwrap_or(u64::MAX),
    }
    .encode()
}
