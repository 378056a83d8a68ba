//! `/ws`: the handshake of the plain protocol.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode, Version};
use tidegate_core::ErrorCode;
use tidegate_protocol::plain::Format;

use super::websocket::{self, Opening};
use super::{admit_peer, is_upgrade, json, unavailable};
use crate::node::Inner;
use crate::origin::Verdict;

/// Where it is served.
pub(super) const PATH: &str = "/ws";

/// The only version of the handshake that there is.
const VERSION: HeaderValue = HeaderValue::from_static("13");

/// Whether a request offers subprotocols, and what is made of them.
enum Offer {
    /// None, which means JSON.
    Nothing,
    Known(Format),
    /// Only others, or no text. A browser would hang up on a server that chooses none of them.
    Unknown,
}

impl Offer {
    fn of(headers: &HeaderMap) -> Self {
        let mut is_any = false;
        for value in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL) {
            is_any |= !value.is_empty();
            if let Some(format) = value.to_str().ok().and_then(Format::negotiate) {
                return Self::Known(format);
            }
        }
        if is_any { Self::Unknown } else { Self::Nothing }
    }
}

pub(super) fn serve(node: &Arc<Inner>, peer: IpAddr, request: Request<Body>) -> Response {
    match node.origins.judge(request.headers()) {
        Verdict::NoOrigin | Verdict::Allowed(_) => {}
        Verdict::Refused => {
            node.metrics.refused("origin");
            return refuse(StatusCode::FORBIDDEN, ErrorCode::Forbidden, "this origin is not allowed");
        }
        Verdict::Invalid => return bad_request("the Origin is no text"),
    }
    if !asks_for_upgrade(&request) {
        let mut response =
            refuse(StatusCode::UPGRADE_REQUIRED, ErrorCode::BadRequest, "this path is for WebSockets");
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, VERSION);
        return response;
    }
    let (format, chosen) = match Offer::of(request.headers()) {
        Offer::Nothing => (Format::Json, None),
        Offer::Known(format) => (format, Some(format.subprotocol())),
        Offer::Unknown => {
            let known = Format::ALL.map(Format::subprotocol).join(" and ");
            return bad_request(&format!("none of the subprotocols is known: there are {known}"));
        }
    };
    let admitted = match admit_peer(node, peer, &request) {
        Ok(admitted) => admitted,
        Err(code) => return unavailable(code),
    };
    match websocket::open(node, Opening::Plain(format), request, admitted) {
        Ok(mut response) => {
            if let Some(chosen) = chosen {
                let chosen = HeaderValue::from_static(chosen);
                response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, chosen);
            }
            response
        }
        Err(_) => {
            let mut response = bad_request("this is no handshake of a WebSocket (RFC 6455)");
            response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, VERSION);
            response
        }
    }
}

/// Whether a request may be answered by a switch of protocols: HTTP/1.1, a GET without a body, and an upgrade that the
/// connection is said to be meant for (RFC 6455, 4.2.1).
fn asks_for_upgrade(request: &Request<Body>) -> bool {
    let headers = request.headers();
    let names_upgrade = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|option| option.trim().eq_ignore_ascii_case("upgrade"));
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    request.version() == Version::HTTP_11
        && request.method() == Method::GET
        && is_upgrade(request)
        && names_upgrade
        && !has_body
}

fn bad_request(message: &str) -> Response {
    refuse(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, message)
}

/// A refusal before there is a WebSocket, for people: browsers do not show it to pages. `message` needs no escapes.
fn refuse(status: StatusCode, code: ErrorCode, message: &str) -> Response {
    json(status, format!(r#"{{"code":"{code}","message":"{message}"}}"#)).into_response()
}
