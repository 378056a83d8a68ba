//! A WebSocket without a buffer of its own: while nothing is half read or half written it owns a file descriptor
//! and a few words. Each thread has one scratch buffer that all its connections read into.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Method, header};
use socket2::SockRef;
use tidegate_protocol::websocket::{Decoder, Incoming, Input, Opcode, Role, frame_masked};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::endpoint::Endpoint;
use crate::error::{Error, Reason};
use crate::http::upgrade;
use crate::stream::Stream;

/// One read takes at most this much; larger messages are put together by the decoder.
const SCRATCH_BYTES: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
}

/// A data message as it arrived.
pub(crate) enum Frame<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
}

/// One WebSocket connection.
pub(crate) struct WebSocket {
    stream: Stream,
    decoder: Decoder,
    mask: Mask,
    /// Nothing may follow a close frame.
    is_closing: bool,
    /// The code of the server's close frame, once it has come.
    close_code: Option<u16>,
    /// What the socket has not taken yet. Empty and unallocated in between.
    unsent: Vec<u8>,
}

impl WebSocket {
    /// Opens a WebSocket. Frames that came together with the answer go to `on_frame`.
    pub(crate) async fn connect(
        endpoint: &Endpoint,
        target: &str,
        message_bytes_max: usize,
        mut on_frame: impl FnMut(Frame<'_>),
    ) -> Result<WebSocket, Error> {
        let key = STANDARD.encode(random_bytes::<16>());
        let mut request = endpoint.request(Method::GET, target, Bytes::new());
        let headers = request.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        let key_value = HeaderValue::from_str(&key).expect("base64 is plain ASCII");
        headers.insert(header::SEC_WEBSOCKET_KEY, key_value);

        let (response, stream, read_ahead) = upgrade(endpoint, request).await?;
        let accept = response.headers().get(header::SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
        if accept != Some(accept_for(&key).as_bytes()) {
            return Err(Error::Protocol("websocket accept hash is not of our key".to_owned()));
        }
        let mut websocket = WebSocket {
            stream,
            decoder: Decoder::new(Role::Client, message_bytes_max),
            mask: Mask::new(),
            is_closing: false,
            close_code: None,
            unsent: Vec::new(),
        };
        let mut read_ahead = Vec::from(read_ahead);
        websocket
            .feed(&mut read_ahead, &mut on_frame)
            .map_err(|reason| Error::Protocol(format!("closed right after the handshake: {reason}")))?;
        Ok(websocket)
    }

    /// Puts a text message behind what is already waiting. It leaves with the next [`WebSocket::flush`] or read.
    pub(crate) fn push_text(&mut self, text: &str) {
        self.push(Opcode::Text, text.as_bytes());
    }

    /// Puts a binary message behind what is already waiting.
    pub(crate) fn push_binary(&mut self, bytes: &[u8]) {
        self.push(Opcode::Binary, bytes);
    }

    /// Puts a close frame behind what is already waiting.
    pub(crate) fn push_close(&mut self, code: u16) {
        self.push(Opcode::Close, &code.to_be_bytes());
    }

    fn push(&mut self, opcode: Opcode, payload: &[u8]) {
        if self.is_closing {
            return;
        }
        self.is_closing = opcode == Opcode::Close;
        let mask = self.mask.next();
        self.unsent.extend_from_slice(&frame_masked(opcode, payload, mask));
    }

    /// Bytes the socket has not taken yet.
    pub(crate) fn unsent_bytes(&self) -> usize {
        self.unsent.len()
    }

    /// The code of the server's close frame, if one has come; 1000 when it had none.
    pub(crate) fn close_code(&self) -> Option<u16> {
        self.close_code
    }

    /// Has the kernel hold no more than about so many bytes that were not read.
    pub(crate) fn set_receive_buffer(&self, bytes: usize) -> io::Result<()> {
        SockRef::from(self.stream.tcp()).set_recv_buffer_size(bytes)
    }

    /// Hands over everything that waits. Cancel safe: the rest stays.
    pub(crate) async fn flush(&mut self) -> Result<(), Reason> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Says goodbye and waits until the server has hung up. What comes meanwhile is thrown away.
    pub(crate) async fn hang_up(&mut self) -> Result<(), Reason> {
        self.push_close(1000);
        self.flush().await?;
        poll_fn(|cx| self.poll_end(cx)).await
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        SCRATCH.with_borrow_mut(|scratch| {
            loop {
                let mut buffer = ReadBuf::new(scratch);
                match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                    Err(_) => return Poll::Ready(Err(Reason::TransportError)),
                    Ok(()) if buffer.filled().is_empty() => return Poll::Ready(Ok(())),
                    Ok(()) => {}
                }
            }
        })
    }

    /// Waits until something arrives and gives every complete message of one read to `on_frame`, which may see
    /// none. Pings are answered, and what waits to be sent is sent meanwhile. Cancel safe: nothing read is lost.
    ///
    /// `on_frame` runs while this thread's scratch buffer is in use, so it must not read another connection.
    pub(crate) async fn read(&mut self, mut on_frame: impl FnMut(Frame<'_>)) -> Result<(), Reason> {
        poll_fn(|cx| self.poll_read(cx, &mut on_frame)).await
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        on_frame: &mut impl FnMut(Frame<'_>),
    ) -> Poll<Result<(), Reason>> {
        if let Poll::Ready(Err(reason)) = self.poll_flush(cx) {
            return Poll::Ready(Err(reason));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                Err(_) => return Poll::Ready(Err(Reason::TransportError)),
                Ok(()) if buffer.filled().is_empty() => return Poll::Ready(Err(Reason::TransportClose)),
                Ok(()) => {}
            }
            let fed = self.feed(buffer.filled_mut(), on_frame);
            // The answer to a ping or a close; what does not fit leaves with the next read.
            let _ = self.poll_flush(cx);
            Poll::Ready(fed)
        })
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        while !self.unsent.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.unsent)) {
                Ok(written) if written == self.unsent.len() => self.unsent = Vec::new(),
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Poll::Ready(Err(Reason::TransportError)),
            }
        }
        // What was taken may still be there, over TLS.
        Pin::new(&mut self.stream).poll_flush(cx).map_err(|_| Reason::TransportError)
    }

    fn feed(&mut self, bytes: &mut [u8], on_frame: &mut impl FnMut(Frame<'_>)) -> Result<(), Reason> {
        let mut input = Input::new(bytes);
        loop {
            let answer = match self.decoder.next(&mut input) {
                Ok(None) => return Ok(()),
                Ok(Some(Incoming::Text(text))) => {
                    on_frame(Frame::Text(text));
                    continue;
                }
                Ok(Some(Incoming::Binary(bytes))) => {
                    on_frame(Frame::Binary(bytes));
                    continue;
                }
                Ok(Some(Incoming::Pong(_))) => continue,
                Ok(Some(Incoming::Ping(payload))) => Ok(payload.to_vec()),
                Ok(Some(Incoming::Close(code))) => {
                    let code = code.unwrap_or(1000);
                    self.close_code = Some(code);
                    Err((code, Reason::TransportClose))
                }
                Err(violation) => Err((violation.close_code(), Reason::TransportError)),
            };
            match answer {
                Ok(payload) => self.push(Opcode::Pong, &payload),
                Err((code, reason)) => {
                    self.push_close(code);
                    return Err(reason);
                }
            }
        }
    }
}

/// The accept hash of a key (RFC 6455, 4.2.2). The handshake crate computes it for servers only, so a server's
/// answer to our request is made here and read.
fn accept_for(key: &str) -> String {
    let request = http::Request::builder()
        .header(header::SEC_WEBSOCKET_KEY, key)
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .body(())
        .expect("both headers are plain ASCII");
    let (response, _) = fastwebsockets::upgrade::upgrade(request)
        .expect("the request has the two headers that are looked at");
    let accept = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
    accept.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

/// Masking keys. They need not be secret here, only differ: what they protect against is a browser's script that
/// speaks to a proxy, and neither is there.
struct Mask(u64);

impl Mask {
    fn new() -> Mask {
        Mask(u64::from_ne_bytes(random_bytes()))
    }

    /// SplitMix64, half of it.
    fn next(&mut self) -> [u8; 4] {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed >> 32) as u32).to_ne_bytes()
    }
}

/// Bytes from the system.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has random bytes for a process that may open sockets");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_hash_is_the_one_of_the_rfc() {
        assert_eq!(accept_for("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn masks_differ() {
        let mut mask = Mask::new();
        let first = mask.next();
        assert!((0..4).any(|_| mask.next() != first));
    }

    #[test]
    fn an_idle_connection_is_a_few_words() {
        assert!(size_of::<WebSocket>() <= 128, "{}", size_of::<WebSocket>());
    }
}
