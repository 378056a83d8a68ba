//! The admin port: health, readiness, metrics, and the HTTP API.
//!
//! Layout: this file has the probes; `accept` is the accept loop; `guard` and `key` say who may ask; `api` is the
//! table of what may be asked, `asked` with `query`, `body` and `page` reads it, `control` is the node that does it;
//! `problem` is every refusal; `openapi` and `schema` write the document.

mod accept;
mod api;
mod asked;
mod body;
mod control;
mod guard;
mod key;
mod openapi;
mod page;
mod problem;
mod query;
mod schema;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use serde_json::json;
use tidegate_core::ErrorCode;
use tidegate_gateway::namespaces::Namespaces;

pub use accept::serve;
pub use control::{
    Chosen, Control, ControlError, Letter, MemberView, NodeView, OccupiedView, OfflineView, PostedView,
    RoomView, RoomsView, SessionView,
};

use asked::Limits;
use guard::Guard;
use key::Keys;
use problem::{Problem, document};

/// What the admin port tells about a node.
pub trait Status: Send + Sync + 'static {
    /// Whether a message published now would be delivered; else why not.
    ///
    /// # Errors
    /// The reasons.
    fn readiness(&self) -> Result<(), Vec<String>>;

    /// The metrics in Prometheus's text format.
    fn metrics(&self) -> String;

    /// The node that answers the API; none while it starts.
    fn control(&self) -> Option<Arc<dyn Control>>;
}

/// Who may use the API, and what names are held to. No `Debug`: the keys are secret.
pub struct Options {
    /// Keys, each of which opens all of the API; with none it is closed.
    pub api_keys: Vec<String>,
    /// Whether it is open without a key, and read by pages of any origin as far as the console needs it.
    pub dev: bool,
    /// Longest name of a room, a user or a device, in bytes.
    pub name_bytes_max: usize,
    /// Largest durable message, in bytes of its MessagePack form.
    pub message_bytes_max: usize,
    /// The namespaces there are.
    pub namespaces: Namespaces,
}

/// The routes of the admin port.
pub fn router(status: Arc<dyn Status>, options: Options) -> Router {
    let guard = if options.dev { Guard::Open } else { Guard::Keys(Keys::new(&options.api_keys)) };
    let limits = Limits {
        name_bytes_max: options.name_bytes_max,
        message_bytes_max: options.message_bytes_max,
        namespaces: options.namespaces,
    };
    let api = api::router(&status, &Arc::new(limits));
    // Shared, since the router copies its routes.
    let openapi = Arc::new(openapi::openapi());
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(readiness))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(async move || document(StatusCode::OK, "application/json", &openapi)))
        .with_state(status)
        .merge(api)
        .method_not_allowed_fallback(async || {
            Problem::bad_request("there is another method for this path")
                .with_status(StatusCode::METHOD_NOT_ALLOWED)
        })
        .fallback(async || Problem::new(ErrorCode::NotFound, "there is nothing at this path"))
        .layer(middleware::from_fn_with_state(Arc::new(guard), guard::guard))
}

async fn readiness(State(status): State<Arc<dyn Status>>) -> Response {
    match status.readiness() {
        Ok(()) => document(StatusCode::OK, "application/json", &json!({ "ready": true })),
        Err(reasons) => {
            let body = json!({ "ready": false, "reasons": reasons });
            document(StatusCode::SERVICE_UNAVAILABLE, "application/json", &body)
        }
    }
}

async fn metrics(State(status): State<Arc<dyn Status>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], status.metrics()).into_response()
}

#[cfg(test)]
mod tests;
