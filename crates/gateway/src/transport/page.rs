//! The page at `/`, where there is one.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http::header::{self, HeaderValue};

use crate::node::Inner;

/// What the page may do: run what stands in it, and speak to any node. Nothing is fetched from elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; \
                      connect-src http: https: ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) async fn serve(State(node): State<Arc<Inner>>) -> Response {
    let Some(page) = node.options.server.page.clone() else { return StatusCode::NOT_FOUND.into_response() };
    let mut response = page.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
