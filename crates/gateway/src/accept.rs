//! The client port's accept loop, over hyper itself: a header deadline, bounded buffers, and the socket back after an
//! upgrade. `axum::serve` has no header deadline, and costs 13 KB more per pending poll.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service as _;

use crate::node::Node;
use crate::transport::{self, Peer};

/// How long a request's header may take, from the first byte awaited to the last one read; also how long a kept-alive
/// connection may rest between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Most bytes of a request's header, and of hyper's buffers.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// Most fields of a request's header.
const HEADERS_MAX: usize = 64;

/// How long to wait after the system had no descriptor or memory for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Node {
    /// Serves the client port until the node has drained.
    pub async fn serve(&self, listener: TcpListener) {
        let router = transport::router(Arc::clone(&self.0));
        run(listener, router, self.0.requests.clone(), self.0.closing.clone()).await;
    }
}

async fn run(listener: TcpListener, router: Router, tasks: TaskTracker, closing: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = closing.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                // Without it, small messages wait for the peer's delayed acknowledgements.
                if stream.set_nodelay(true).is_ok() {
                    tasks.spawn(connection(stream, Peer(address), router.clone(), closing.clone()));
                }
            }
            Err(error) if is_peers_fault(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_peers_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// Serves requests of one connection until it is upgraded, closed or idle for too long. What goes wrong is the
/// peer's affair.
async fn connection(stream: TcpStream, peer: Peer, router: Router, closing: CancellationToken) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let mut router = router.clone();
        async move { router.call(request.map(Body::new)).await }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .half_close(false)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = closing.cancelled() => {
            // Requests under way are answered, and no other is taken.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::trace!(%error, peer = %peer.0, "an HTTP connection ended early");
    }
}
