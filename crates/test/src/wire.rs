//! The bare wire, for what no well-behaved client does: staying silent, owing a pong, saying too much.

use bytes::Bytes;
use tidegate_protocol::websocket::{Decoder, Incoming, Input, Opcode, Role, frame_masked};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::cluster::{Server, within};

/// Largest frame a test reads, in bytes.
const FRAME_BYTES_MAX: usize = 1 << 20;

/// A WebSocket that does nothing by itself.
pub struct Wire {
    stream: TcpStream,
    frames: Decoder,
    unread: Vec<u8>,
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A text frame.
    Text(String),
    /// A binary frame.
    Binary(Bytes),
    /// A close frame and its code.
    Close(Option<u16>),
    /// The connection ended.
    End,
}

impl Wire {
    /// Opens a transport, and takes the packet that opens it.
    ///
    /// # Panics
    /// When the node refuses.
    pub async fn open(server: &Server) -> Self {
        let stream = TcpStream::connect(server.address).await.expect("the node listens");
        let mut wire =
            Self { stream, frames: Decoder::new(Role::Client, FRAME_BYTES_MAX), unread: Vec::new() };
        let request = format!(
            "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            server.address
        );
        wire.stream.write_all(request.as_bytes()).await.expect("the node reads");
        let end = loop {
            let end = wire.unread.windows(4).position(|window| window == b"\r\n\r\n");
            if let Some(end) = end {
                break end + 4;
            }
            let read = within("the handshake", wire.stream.read_buf(&mut wire.unread)).await;
            assert!(read.is_ok_and(|read| read > 0), "the node hangs up");
        };
        let header = String::from_utf8_lossy(&wire.unread[..end]).into_owned();
        assert!(header.starts_with("HTTP/1.1 101 "), "{header}");
        wire.unread.drain(..end);
        let open = wire.next().await;
        assert!(matches!(&open, Frame::Text(text) if text.starts_with("0{")), "{open:?}");
        wire
    }

    /// Opens a transport and joins `/`.
    ///
    /// # Panics
    /// When the node refuses.
    pub async fn connect(server: &Server) -> Self {
        let mut wire = Self::open(server).await;
        wire.send("40").await;
        let connected = wire.next().await;
        assert!(matches!(&connected, Frame::Text(text) if text.starts_with("40{\"sid\"")), "{connected:?}");
        wire
    }

    /// Sends a text frame. A node that has hung up is met when reading.
    pub async fn send(&mut self, text: &str) {
        self.send_all(&[text]).await;
    }

    /// Sends text frames in one go.
    pub async fn send_all(&mut self, texts: &[&str]) {
        let frame = |text: &&str| frame_masked(Opcode::Text, text.as_bytes(), [1, 2, 3, 4]);
        let frames: Vec<Bytes> = texts.iter().map(frame).collect();
        // A node that has seen enough resets the connection; what it said before is still to be read.
        let _ = self.stream.write_all(&frames.concat()).await;
    }

    /// The next frame.
    ///
    /// # Panics
    /// When nothing comes in time, or what comes is no WebSocket's.
    pub async fn next(&mut self) -> Frame {
        loop {
            let mut input = Input::new(&mut self.unread);
            let frame =
                self.frames.next(&mut input).expect("the node speaks WebSocket").map(|frame| match frame {
                    Incoming::Text(text) => Frame::Text(text.to_owned()),
                    Incoming::Binary(bytes) => Frame::Binary(Bytes::copy_from_slice(bytes)),
                    Incoming::Close(code) => Frame::Close(code),
                    Incoming::Ping(_) | Incoming::Pong(_) => {
                        panic!("the node pings with packets, not frames")
                    }
                });
            let left = input.remaining().len();
            self.unread.drain(..self.unread.len() - left);
            if let Some(frame) = frame {
                return frame;
            }
            match within("a frame", self.stream.read_buf(&mut self.unread)).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Frame::End,
            }
        }
    }

    /// The next text frame that is no ping.
    ///
    /// # Panics
    /// When the connection ends first.
    pub async fn text(&mut self) -> String {
        loop {
            match self.next().await {
                Frame::Text(text) if text == "2" => {}
                Frame::Text(text) => return text,
                other => panic!("no text but {other:?}"),
            }
        }
    }
}

/// One request on a connection of its own; gives the status and the body.
///
/// # Panics
/// When there is no answer.
pub async fn http(server: &Server, method: &str, target: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(server.address).await.expect("the node listens");
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: text/plain\r\n\
         Content-Length: {}\r\n\r\n{body}",
        server.address,
        body.len()
    );
    // A body that is too large need not be read to its end.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    // The same goes for the end of the connection, as long as there is an answer.
    let _ = within("an answer", stream.read_to_end(&mut answer)).await;
    let answer = String::from_utf8(answer).expect("the node answers in text");
    let (header, body) = answer.split_once("\r\n\r\n").expect("the node answers");
    let status = header.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("an answer has a status"), body.to_owned())
}

/// A polling session that polls only when told to.
pub struct Polling {
    server: Server,
    target: String,
}

impl Polling {
    /// Opens one.
    ///
    /// # Panics
    /// When the node refuses.
    pub async fn open(server: &Server) -> Self {
        let target = "/socket.io/?EIO=4&transport=polling";
        let (status, body) = http(server, "GET", target, "").await;
        assert_eq!(status, 200, "{body}");
        let open: serde_json::Value = serde_json::from_str(&body[1..]).expect("the open packet is JSON");
        let sid = open["sid"].as_str().expect("it has a sid");
        Self { server: server.clone(), target: format!("{target}&sid={sid}") }
    }

    /// Opens one and joins `/`.
    ///
    /// # Panics
    /// When the node refuses.
    pub async fn connect(server: &Server) -> Self {
        let polling = Self::open(server).await;
        assert_eq!(polling.post("40").await, (200, "ok".to_owned()));
        let (status, body) = polling.get().await;
        assert!(status == 200 && body.starts_with("40{\"sid\""), "{status} {body}");
        polling
    }

    /// Sends a payload.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn post(&self, payload: &str) -> (u16, String) {
        http(&self.server, "POST", &self.target, payload).await
    }

    /// Polls once.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn get(&self) -> (u16, String) {
        http(&self.server, "GET", &self.target, "").await
    }

    /// Says goodbye. A session that is neither polled nor closed is waited for when its node drains.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn close(self) {
        // The session may have ended before.
        self.post("1").await;
    }
}
