//! The admin port: health, readiness, metrics.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tidegate_core::ErrorCode;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a request's head may take to arrive. Also ends idle kept-alive connections.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Open connections. Probes and scrapers use a handful; the bound keeps a stray client from taking all descriptors
/// of the process.
const CONNECTIONS_MAX: usize = 256;

/// How long to wait before accepting again, after the system refused (it has run out of descriptors or memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the admin port tells about a node.
pub trait Status: Send + Sync + 'static {
    /// Whether a message published now would be delivered; else why not.
    ///
    /// # Errors
    /// The reasons.
    fn readiness(&self) -> Result<(), Vec<String>>;

    /// The metrics in Prometheus's text format.
    fn metrics(&self) -> String;
}

/// The routes of the admin port.
pub fn router(status: Arc<dyn Status>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(readiness))
        .route("/metrics", get(metrics))
        .method_not_allowed_fallback(async || problem(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::BadRequest))
        .fallback(async || problem(StatusCode::NOT_FOUND, ErrorCode::NotFound))
        .with_state(status)
}

async fn readiness(State(status): State<Arc<dyn Status>>) -> Response {
    match status.readiness() {
        Ok(()) => json_body(StatusCode::OK, "application/json", &json!({ "ready": true })),
        Err(reasons) => {
            let body = json!({ "ready": false, "reasons": reasons });
            json_body(StatusCode::SERVICE_UNAVAILABLE, "application/json", &body)
        }
    }
}

async fn metrics(State(status): State<Arc<dyn Status>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], status.metrics()).into_response()
}

/// A problem document (RFC 9457) with the gateway's own word for the case.
fn problem(status: StatusCode, code: ErrorCode) -> Response {
    let body = json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "code": code.as_str(),
    });
    json_body(status, "application/problem+json", &body)
}

fn json_body(status: StatusCode, content_type: &'static str, body: &serde_json::Value) -> Response {
    let mut response = (status, body.to_string()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Serves `router` until `stop`, then lets running requests end.
///
/// The loop drives hyper itself because `axum::serve` has no timeout for a request's head. Each connection is one
/// task of `tasks`; when one fails, only its own peer notices.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept(), if tasks.len() < CONNECTIONS_MAX => accepted,
            // Full: look again soon instead of waiting for a connection that may never end.
            () = tokio::time::sleep(ACCEPT_PAUSE), if tasks.len() >= CONNECTIONS_MAX => continue,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(fault) => {
                tracing::warn!(%fault, "the admin port cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        let stop = stop.clone();
        tasks.spawn(async move {
            let mut connection = std::pin::pin!(
                hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service)
            );
            let outcome: Result<(), hyper::Error> = tokio::select! {
                outcome = connection.as_mut() => outcome,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(fault) = outcome {
                tracing::debug!(%fault, "an admin connection failed");
            }
        });
    }
    tasks.close();
    tasks.wait().await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::task::JoinSet;

    use super::*;

    struct Fixed(Result<(), Vec<String>>);

    impl Status for Fixed {
        fn readiness(&self) -> Result<(), Vec<String>> {
            self.0.clone()
        }

        fn metrics(&self) -> String {
            "tidegate_broker_up 1\n".to_owned()
        }
    }

    /// The answers to `requests` (method and path) of a node in this state, head and body in one text.
    async fn answers(status: Result<(), Vec<String>>, requests: &[&str]) -> Vec<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let mut server = JoinSet::new();
        server.spawn(serve(listener, router(Arc::new(Fixed(status))), stop.clone()));
        let mut answers = Vec::new();
        for request in requests {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let head = format!("{request} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answers.push(answer);
        }
        // An idle connection must not keep the server.
        let idle = TcpStream::connect(address).await.unwrap();
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(5), server.join_all()).await.expect("the server stops");
        drop(idle);
        answers
    }

    #[tokio::test]
    async fn a_ready_node() {
        let answers = answers(Ok(()), &["GET /healthz", "GET /readyz", "HEAD /readyz", "GET /metrics"]).await;
        assert!(
            answers[0].starts_with("HTTP/1.1 200 ") && answers[0].ends_with("\r\n\r\nok"),
            "{}",
            answers[0]
        );
        assert!(answers[1].starts_with("HTTP/1.1 200 "), "{}", answers[1]);
        assert!(answers[1].ends_with("\r\n\r\n{\"ready\":true}"), "{}", answers[1]);
        assert!(
            answers[2].starts_with("HTTP/1.1 200 ") && answers[2].ends_with("\r\n\r\n"),
            "{}",
            answers[2]
        );
        assert!(answers[3].contains("content-type: text/plain; version=0.0.4"), "{}", answers[3]);
        assert!(answers[3].ends_with("tidegate_broker_up 1\n"), "{}", answers[3]);
    }

    #[tokio::test]
    async fn a_node_that_is_not_ready_lives_and_says_why() {
        let answers = answers(Err(vec!["draining".to_owned()]), &["GET /readyz", "GET /healthz"]).await;
        assert!(answers[0].starts_with("HTTP/1.1 503 "), "{}", answers[0]);
        assert!(answers[0].ends_with("{\"ready\":false,\"reasons\":[\"draining\"]}"), "{}", answers[0]);
        assert!(answers[1].starts_with("HTTP/1.1 200 "), "{}", answers[1]);
    }

    #[tokio::test]
    async fn everything_else_is_a_problem_document() {
        let answers = answers(Ok(()), &["GET /", "GET /api/v1/nodes", "POST /readyz"]).await;
        for (answer, status) in answers.iter().zip(["404", "404", "405"]) {
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            assert!(answer.contains("content-type: application/problem+json"), "{answer}");
        }
        assert!(answers[0].contains("\"code\":\"not_found\""), "{}", answers[0]);
    }
}
