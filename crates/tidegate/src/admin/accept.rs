//! The accept loop of the admin port.

use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
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
