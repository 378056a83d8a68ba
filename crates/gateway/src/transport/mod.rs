//! The client port over HTTP: which request is what, and who may make it.
//!
//! Layout: this file judges Engine.IO's requests (path, query, Origin, admission), `polling` serves GET and POST,
//! `websocket` the upgrade to a WebSocket, of a new connection or of one that polls. `plain` serves `/ws`, and `page` what
//! the root shows.

mod page;
mod plain;
mod polling;
mod websocket;

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::header::{self, HeaderValue};
use http::{Method, Request, StatusCode};
use tidegate_core::ErrorCode;
use tidegate_protocol::engineio::{Admission, Open, Query, Refusal, Transport, admit};
use tower_service::Service as _;

use crate::engines::{Engine, EngineId};
use crate::node::{Admitted, Inner};
use crate::origin::{self, Verdict};
use crate::outbox::Binary;
use crate::peer::client_address;

use websocket::Opening;

/// The client port's routes. Clients' own are told apart here and not by axum's router, which boxes every request with
/// its handler: a poll waits for most of its life, and nothing of its request is needed meanwhile.
pub(crate) struct Routes {
    node: Arc<Inner>,
    others: Router,
}

/// An answer that is there, or on its way. No larger than a few pointers, since every connection has room for one.
pub(crate) enum Answer {
    Now(Option<Box<Response>>),
    Later(Pin<Box<dyn Future<Output = Response> + Send>>),
    /// The same, and what its browser is to be told then; none if no page is involved. A box around both would be one more
    /// for everybody who polls.
    Judged(Pin<Box<dyn Future<Output = Response> + Send>>, Option<Box<Verdict>>),
}

impl Answer {
    fn later(answer: impl Future<Output = Response> + Send + 'static) -> Self {
        Self::Later(Box::pin(answer))
    }
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Self::Now(Some(Box::new(response)))
    }
}

impl Future for Answer {
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Now(response) => {
                response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(*response)))
            }
            Self::Later(answer) => answer.as_mut().poll(context).map(Ok),
            Self::Judged(answer, verdict) => {
                let mut response = ready!(answer.as_mut().poll(context));
                origin::allow(response.headers_mut(), verdict.as_deref().unwrap_or(&Verdict::NoOrigin));
                Poll::Ready(Ok(response))
            }
        }
    }
}

impl Routes {
    pub(crate) fn new(node: Arc<Inner>) -> Self {
        let mut others = Router::new();
        if node.options.server.page.is_some() {
            others = others.route("/", get(page::serve));
        }
        Self { others: others.with_state(Arc::clone(&node)), node }
    }

    /// Answers a request of the peer at that socket address.
    pub(crate) fn call(&self, peer: IpAddr, request: Request<Body>) -> Answer {
        let path = request.uri().path();
        if path.starts_with(&self.node.options.engine.path) {
            serve(&self.node, peer, request)
        } else if path == plain::PATH {
            plain::serve(&self.node, peer, request).into()
        } else {
            let mut others = self.others.clone();
            Answer::later(async move {
                let Ok(response) = others.call(request).await;
                response
            })
        }
    }
}

fn serve(node: &Arc<Inner>, peer: IpAddr, request: Request<Body>) -> Answer {
    let verdict = node.origins.judge(request.headers());
    let answer = if request.method() == Method::OPTIONS {
        preflight(&request, &verdict).into()
    } else {
        engine(node, peer, request, &verdict)
    };
    match answer {
        Answer::Now(Some(mut response)) => {
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                origin::allow(response.headers_mut(), &verdict);
            }
            Answer::Now(Some(response))
        }
        Answer::Later(answer) => {
            // What the header stands in is the buffer of its whole request.
            let verdict = Some(verdict.detached()).filter(|verdict| *verdict != Verdict::NoOrigin);
            Answer::Judged(answer, verdict.map(Box::new))
        }
        Answer::Now(None) | Answer::Judged(..) => answer,
    }
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
fn engine(node: &Arc<Inner>, peer: IpAddr, request: Request<Body>, verdict: &Verdict) -> Answer {
    let upgrade = is_upgrade(&request);
    let query = request.uri().query().unwrap_or_default().to_owned();
    let query = Query::parse(&query);
    let binary = if query.b64 { Binary::Base64 } else { Binary::Frames };
    let options = &node.options.engine;
    let admission = admit(&query, request.method() == Method::GET, (options.polling, options.websocket));
    match verdict {
        Verdict::Invalid => return refuse(Refusal::BadRequest, upgrade).into(),
        Verdict::Refused if !matches!(admission, Err(Refusal::TransportUnknown)) => {
            node.metrics.refused("origin");
            return refuse(Refusal::Forbidden, upgrade).into();
        }
        _ => {}
    }
    match admission {
        Err(refusal) => {
            if refusal == Refusal::UnsupportedVersion {
                node.metrics.refused("protocol_version");
            }
            refuse(refusal, upgrade).into()
        }
        Ok(Admission::Handshake(transport)) => {
            if (transport == Transport::WebSocket) != upgrade {
                return refuse(Refusal::BadRequest, upgrade).into();
            }
            handshake(node, transport, binary, peer, request).into()
        }
        Ok(Admission::Session { transport, sid }) => {
            let engine = EngineId::parse(sid, &node.options.node).and_then(|id| node.engines.find(id));
            let Some(engine) = engine else {
                return refuse(Refusal::SessionUnknown, upgrade).into();
            };
            if (transport == Transport::WebSocket) != upgrade || !query.is_version_4() {
                return refuse(Refusal::BadRequest, upgrade).into();
            }
            match (transport, engine) {
                (Transport::WebSocket, Engine::Polling(polling)) => {
                    websocket::probe(node, polling, binary, request).into()
                }
                // Stock servers switch protocols first and then hang up; so nothing is learnt from the status.
                (Transport::WebSocket, Engine::WebSocket) => websocket::turn_away(node, request).into(),
                (Transport::Polling, Engine::WebSocket) => refuse(Refusal::BadRequest, upgrade).into(),
                (Transport::Polling, Engine::Polling(polling)) => match *request.method() {
                    Method::GET => polling::get(polling),
                    Method::POST => {
                        let node = Arc::clone(node);
                        Answer::later(async move { polling::post(&node, polling, request).await })
                    }
                    _ => StatusCode::METHOD_NOT_ALLOWED.into_response().into(),
                },
            }
        }
    }
}

/// Finds a new connection its place.
///
/// # Errors
/// The code of the 503 for whom there is none.
fn admit_peer(node: &Inner, peer: IpAddr, request: &Request<Body>) -> Result<Admitted, ErrorCode> {
    let address = client_address(peer, request.headers(), &node.options.server.trusted_proxies);
    node.admit(address)
}

fn handshake(
    node: &Arc<Inner>,
    transport: Transport,
    binary: Binary,
    peer: IpAddr,
    request: Request<Body>,
) -> Response {
    match admit_peer(node, peer, &request) {
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
