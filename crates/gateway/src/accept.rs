//! The client port's accept loop, over hyper itself: a header deadline, bounded buffers, and the socket back after an
//! upgrade. `axum::serve` has no header deadline, and costs 13 KB more per pending poll.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::Metrics;
use crate::node::Node;
use crate::peer::{Addresses, Network, Place};
use crate::socket::Socket;
use crate::tls::Credentials;
use crate::transport::Routes;

/// How long a handshake of TLS may take, and how long a request's header, from the first byte awaited to the last one read;
/// also how long a kept-alive connection may rest between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Most bytes of a request's header, and of hyper's buffers.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// Most fields of a request's header.
const HEADERS_MAX: usize = 64;

/// Sockets that one polling client holds: its poll, and the one it posts on.
const SOCKETS_PER_POLLER: usize = 2;

/// Sockets that may be open for HTTP beyond those of `connections_max` polling clients: for requests on their way to be refused with a 503.
const SOCKETS_SPARE: usize = 1_024;

/// Sockets of one address per connection that it may have: a browser polls and posts on two, and keeps a few more.
const SOCKETS_PER_CONNECTION: usize = 4;

/// Least time for which a peer may leave what was sent to it unacknowledged, or take nothing at all.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long to wait after the system had no descriptor or memory for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Node {
    /// Serves the client port until the node has drained.
    pub async fn serve(&self, listener: TcpListener) {
        let routes = Arc::new(Routes::new(Arc::clone(&self.0)));
        let options = &self.0.options;
        let sockets = Sockets {
            max: options
                .server
                .connections_max
                .saturating_mul(SOCKETS_PER_POLLER)
                .saturating_add(SOCKETS_SPARE),
            per_address: Addresses::new(
                options.limits.connections_per_ip_max.saturating_mul(SOCKETS_PER_CONNECTION),
            ),
            trusted: options.server.trusted_proxies.clone(),
            tls: options.server.tls.clone(),
            // No earlier than a client would be found dead by its pings.
            user_timeout: USER_TIMEOUT.max(options.engine.ping_interval + options.engine.ping_timeout),
            metrics: Arc::clone(&self.0.metrics),
        };
        run(listener, routes, sockets, self.0.requests.clone(), self.0.closing.clone()).await;
    }
}

/// What raw sockets are held to, before and beside the connections that they carry.
struct Sockets {
    max: usize,
    per_address: Addresses,
    trusted: Vec<Network>,
    tls: Option<Credentials>,
    user_timeout: Duration,
    metrics: Arc<Metrics>,
}

impl Sockets {
    /// Makes the socket ready for small messages and dead peers, and finds it a place; or says why it is dropped.
    fn admit(
        &self,
        open: usize,
        stream: &TcpStream,
        peer: SocketAddr,
    ) -> Result<Option<Place>, &'static str> {
        if open >= self.max {
            return Err("sockets_max");
        }
        let place = if self.trusted.iter().any(|proxy| proxy.contains(peer.ip())) {
            None
        } else {
            self.per_address.admit(peer.ip().to_canonical()).map_err(|_| "sockets_per_ip_max")?
        };
        // Without it, small messages wait for the peer's delayed acknowledgements.
        let nodelay = stream.set_nodelay(true);
        // Ends a connection whose peer takes nothing any more, whoever of us is writing to it.
        let bounded = SockRef::from(stream).set_tcp_user_timeout(Some(self.user_timeout));
        if nodelay.is_err() || bounded.is_err() {
            // Only a socket that is closed already refuses them.
            return Err("gone");
        }
        Ok(place)
    }
}

async fn run(
    listener: TcpListener,
    routes: Arc<Routes>,
    sockets: Sockets,
    tasks: TaskTracker,
    closing: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = closing.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                match sockets.admit(tasks.len(), &stream, address) {
                    Ok(place) => {
                        let (routes, closing) = (Arc::clone(&routes), closing.clone());
                        let peer = address.ip();
                        match &sockets.tls {
                            // Nothing around it: what a block is given stands in it beside what it awaits.
                            None => {
                                tasks.spawn(connection(Socket::new(stream), peer, routes, closing, place))
                            }
                            Some(tls) => {
                                let metrics = Arc::clone(&sockets.metrics);
                                // Boxed: it is over long before its task is, and larger.
                                let shaking = Box::pin(secure(stream, tls.clone(), metrics, closing.clone()));
                                tasks.spawn(async move {
                                    let socket = shaking.await;
                                    if let Some(socket) = socket {
                                        connection(socket, peer, routes, closing, place).await;
                                    }
                                })
                            }
                        };
                    }
                    // Without a word: an answer would cost what the bound is there to save.
                    Err(reason) => sockets.metrics.refused(reason),
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

/// The socket that requests come through, once its peer has shaken hands. Whoever does not in time is dropped: probes of all
/// kinds come to a port, and are no business of a log's.
async fn secure(
    stream: TcpStream,
    Credentials { config, .. }: Credentials,
    metrics: Arc<Metrics>,
    closing: CancellationToken,
) -> Option<Socket> {
    let handshake = tokio::time::timeout(HEADER_TIMEOUT, Socket::secure(stream, config));
    let fault = tokio::select! {
        shaken = handshake => match shaken {
            Ok(Ok(socket)) => return Some(socket),
            Ok(Err(fault)) => fault,
            Err(_) => io::ErrorKind::TimedOut.into(),
        },
        () = closing.cancelled() => return None,
    };
    tracing::debug!(%fault, "refused a handshake of TLS");
    metrics.refused("tls");
    None
}

/// Serves requests of one connection until it is upgraded, closed or idle for too long. What goes wrong is the
/// peer's affair.
async fn connection(
    socket: Socket,
    peer: IpAddr,
    routes: Arc<Routes>,
    closing: CancellationToken,
    _place: Option<Place>,
) {
    let service = service_fn(move |request: Request<Incoming>| routes.call(peer, request.map(Body::new)));
    // Pinned where it is made: a binding more would be its size more for every task.
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(HEADER_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .half_close(false)
            .serve_connection(TokioIo::new(socket), service)
            .with_upgrades()
    );
    let mut cancelled = std::pin::pin!(closing.cancelled());
    let mut is_closing = false;
    let served = poll_fn(|context| {
        if !is_closing && cancelled.as_mut().poll(context).is_ready() {
            is_closing = true;
            // Requests under way are answered, and no other is taken.
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(context)
    });
    if let Err(error) = served.await {
        tracing::trace!(%error, "an HTTP connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::memory::Exchange;
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::rig::Rig;
    use crate::tls::testing::{credentials, narrow_pair};

    /// A client that polls holds one all the time. With what the runtime keeps beside it, it fits 1,024 bytes; the next
    /// size is 1,152.
    #[tokio::test]
    async fn what_serves_requests_is_small() {
        let rig = Rig::start(&Exchange::new(), "a").await;
        let routes = Arc::new(Routes::new(Arc::clone(rig.inner())));
        let (stream, _peer) = narrow_pair().await;
        let peer = IpAddr::from([127, 0, 0, 1]);
        let serving = connection(Socket::new(stream), peer, routes, CancellationToken::new(), None);
        assert!(size_of_val(&serving) <= 912, "{}", size_of_val(&serving));
        drop(serving);
        rig.node.drain().await;
    }

    /// In virtual time.
    #[tokio::test(start_paused = true)]
    async fn a_peer_that_says_nothing_is_dropped_and_counted() {
        let (stream, mut peer) = narrow_pair().await;
        let metrics = Arc::new(Metrics::new("test", "test", "n").unwrap());
        let begun = tokio::time::Instant::now();
        let secured = secure(stream, credentials(), Arc::clone(&metrics), CancellationToken::new()).await;
        assert!(secured.is_none() && begun.elapsed() >= HEADER_TIMEOUT);
        assert_eq!(peer.read(&mut [0; 9]).await.unwrap(), 0);
        let counted = "tidegate_handshakes_refused_total{reason=\"tls\"} 1";
        assert!(metrics.text().unwrap().contains(counted));
    }

    #[tokio::test]
    async fn a_node_that_closes_waits_for_no_handshake() {
        let (stream, _peer) = narrow_pair().await;
        let metrics = Arc::new(Metrics::new("test", "test", "n").unwrap());
        let closing = CancellationToken::new();
        closing.cancel();
        assert!(secure(stream, credentials(), Arc::clone(&metrics), closing).await.is_none());
        let counted = "tidegate_handshakes_refused_total{reason=\"tls\"} 0";
        assert!(metrics.text().unwrap().contains(counted), "nobody was refused");
    }
}
