//! Who may ask: keys for the API, and which pages of other origins may read under `--dev`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tidegate_core::ErrorCode;

use super::api::PREFIX;
use super::key::Keys;
use super::problem::Problem;

/// What the console page, which is served on another port, reads under `--dev`.
const READABLE: [&str; 2] = ["/metrics", "/api/v1/nodes"];

/// Stands in front of every route of the admin port.
#[derive(Debug)]
pub(super) enum Guard {
    /// The API is open, as under `--dev`.
    Open,
    /// The API wants one of these keys.
    Keys(Keys),
}

/// Lets a request through, or not.
pub(super) async fn guard(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let is_api = request
        .uri()
        .path()
        .strip_prefix(PREFIX)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    match &*guard {
        Guard::Keys(keys) if is_api && !keys.open(request.headers()) => {
            let detail = "a key of admin.api_keys is needed, as in \"Authorization: Bearer KEY\"";
            Problem::new(ErrorCode::Unauthorized, detail).into_response()
        }
        Guard::Keys(_) => next.run(request).await,
        Guard::Open if READABLE.contains(&request.uri().path()) => readable(request, next).await,
        Guard::Open if is_api && changes(request.method()) && comes_from_elsewhere(request.headers()) => {
            let detail = "pages of other origins may change nothing here";
            Problem::new(ErrorCode::Forbidden, detail).into_response()
        }
        Guard::Open => next.run(request).await,
    }
}

/// Answers so that browsers let pages of any origin see it.
async fn readable(request: Request, next: Next) -> Response {
    const ANY: HeaderValue = HeaderValue::from_static("*");
    match *request.method() {
        Method::OPTIONS => {
            let mut response = StatusCode::NO_CONTENT.into_response();
            let headers = response.headers_mut();
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET"));
            // A page that also knows nodes with keys sends one everywhere.
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization"));
            response
        }
        Method::GET | Method::HEAD => {
            let mut response = next.run(request).await;
            response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
            response
        }
        _ => next.run(request).await,
    }
}

fn changes(method: &Method) -> bool {
    ![Method::GET, Method::HEAD, Method::OPTIONS].contains(method)
}

/// Whether a browser sent this for a page of another host. Where there is no key that such a page could lack, it
/// could otherwise drain the node of whoever develops here: a POST without a body needs nobody's leave.
fn comes_from_elsewhere(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let host = headers.get(header::HOST).map_or(&[][..], HeaderValue::as_bytes);
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    origin.is_none_or(|(_, authority)| !authority.as_bytes().eq_ignore_ascii_case(host))
}
