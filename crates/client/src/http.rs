//! One HTTP/1 connection that is opened when it is needed and driven by whoever waits for an answer, so that it
//! needs no task of its own.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::stream::Stream;

/// A kept-alive connection is used again only this long: servers close idle ones (Node after 5 s), and a request
/// that meets the close halfway would be lost.
const REUSE_WITHIN: Duration = Duration::from_secs(2);
/// How much of an error's body is kept, in bytes.
const ERROR_BODY_BYTES_MAX: usize = 1024;

type Sender = SendRequest<Full<Bytes>>;
type Driver = Pin<Box<Connection<TokioIo<Stream>, Full<Bytes>>>>;

/// A connection to the server, or the intent to have one.
pub(crate) struct Http {
    endpoint: Arc<Endpoint>,
    body_bytes_max: usize,
    open: Option<Open>,
}

struct Open {
    sender: Sender,
    driver: Driver,
    used_at: Instant,
}

impl Http {
    pub(crate) fn new(endpoint: Arc<Endpoint>, body_bytes_max: usize) -> Http {
        Http { endpoint, body_bytes_max, open: None }
    }

    /// Sends one request and waits for the whole answer. Anything but 200 is [`Error::Refused`]. Dropping the
    /// future leaves the connection closed.
    pub(crate) async fn exchange(
        &mut self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<Bytes, Error> {
        let mut request = self.endpoint.request(method.clone(), target, body);
        if method == Method::POST {
            let kind = http::HeaderValue::from_static("text/plain;charset=UTF-8");
            request.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        }
        let mut open = match self.open.take() {
            Some(open) if open.used_at.elapsed() < REUSE_WITHIN && open.sender.is_ready() => open,
            _ => open(&self.endpoint).await?,
        };
        let limit = self.body_bytes_max;
        let (answer, alive) = drive(&mut open.driver, answer(&mut open.sender, request, limit)).await;
        let (status, body) = answer?;
        if alive {
            open.used_at = Instant::now();
            self.open = Some(open);
        }
        if status == StatusCode::OK { Ok(body) } else { Err(refused(status, &body)) }
    }
}

async fn open(endpoint: &Endpoint) -> Result<Open, Error> {
    let stream = endpoint.dial().await?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    Ok(Open { sender, driver: Box::pin(connection), used_at: Instant::now() })
}

/// The whole answer to one request.
async fn answer(
    sender: &mut Sender,
    request: Request<Full<Bytes>>,
    body_bytes_max: usize,
) -> Result<(StatusCode, Bytes), Error> {
    // The connection becomes ready only once its driver has run, which happens beside this future.
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = whole_body(response.into_body(), body_bytes_max).await?;
    Ok((status, body))
}

/// Waits for `exchange` while driving the connection it happens on. Also says whether the connection is still
/// open.
async fn drive<T>(driver: &mut Driver, exchange: impl Future<Output = T>) -> (T, bool) {
    let mut exchange = pin!(exchange);
    tokio::select! {
        biased;
        output = &mut exchange => (output, true),
        // What the connection has read before it ended is still there to be taken.
        _ = driver => (exchange.await, false),
    }
}

async fn whole_body(body: Incoming, bytes_max: usize) -> Result<Bytes, Error> {
    match Limited::new(body, bytes_max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) => match error.downcast::<hyper::Error>() {
            Ok(error) => Err(Error::Http(*error)),
            Err(_) => Err(Error::Protocol(format!("body of more than {bytes_max} bytes"))),
        },
    }
}

fn refused(status: StatusCode, body: &[u8]) -> Error {
    let body = &body[..body.len().min(ERROR_BODY_BYTES_MAX)];
    Error::Refused { status: status.as_u16(), body: String::from_utf8_lossy(body).into_owned() }
}

/// Sends a request that asks for an upgrade. On 101 gives the answer and the bare stream with the bytes that came
/// right behind the answer.
pub(crate) async fn upgrade(
    endpoint: &Endpoint,
    request: Request<Full<Bytes>>,
) -> Result<(Response<Incoming>, Stream, Bytes), Error> {
    let stream = endpoint.dial().await?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let mut driver = pin!(connection.with_upgrades());
    let mut exchange = pin!(async move {
        sender.ready().await?;
        let mut response = sender.send_request(request).await?;
        let status = response.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let body = whole_body(response.into_body(), 1 << 20).await.unwrap_or_default();
            return Err(refused(status, &body));
        }
        let upgraded = hyper::upgrade::on(&mut response).await?;
        let parts = upgraded
            .downcast::<TokioIo<Stream>>()
            .map_err(|_| Error::Protocol("upgraded stream is not the one dialled".to_owned()))?;
        Ok((response, parts.io.into_inner(), parts.read_buf))
    });
    tokio::select! {
        biased;
        output = &mut exchange => output,
        _ = &mut driver => exchange.await,
    }
}
