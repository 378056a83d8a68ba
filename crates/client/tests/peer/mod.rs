//! The server's end of a client's connection, played by hand.

use std::io::ErrorKind;
use std::time::Duration;

use fastwebsockets::upgrade::upgrade;
use tidegate_protocol::websocket::{Decoder, Incoming, Input, Opcode, Role, frame};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// No wait of a test is longer.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);
/// An open packet whose heartbeat no test waits for.
pub(crate) const OPEN: &str =
    r#"0{"sid":"s","upgrades":[],"pingInterval":60000,"pingTimeout":60000,"maxPayload":1000000}"#;

pub(crate) struct Listener(TcpListener);

/// One TCP connection.
pub(crate) struct Peer {
    stream: TcpStream,
    decoder: Decoder,
    unread: Vec<u8>,
}

pub(crate) struct Request {
    pub head: String,
    pub body: String,
}

impl Listener {
    pub(crate) async fn bind() -> Listener {
        Listener(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }

    /// The next connection, before it has said anything.
    pub(crate) async fn accept(&self) -> Peer {
        let (stream, _) = timeout(LIMIT, self.0.accept()).await.expect("nobody connects").unwrap();
        Peer { stream, decoder: Decoder::new(Role::Server, 1 << 20), unread: Vec::new() }
    }

    /// The next connection, upgraded and with its session open.
    pub(crate) async fn accept_websocket(&self, open: &str) -> Peer {
        let mut peer = self.accept().await;
        let request = peer.request().await;
        peer.accept_upgrade(&request).await;
        peer.send_text(open).await;
        peer
    }

    /// The next connection, with its first CONNECT answered. Gives that packet too.
    pub(crate) async fn accept_joined(&self, open: &str, sid: &str) -> (Peer, String) {
        let mut peer = self.accept_websocket(open).await;
        let connect = peer.text().await.expect("closed before connect");
        peer.send_text(&format!(r#"40{{"sid":"{sid}"}}"#)).await;
        (peer, connect)
    }
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }
}

impl Peer {
    /// The next HTTP request.
    pub(crate) async fn request(&mut self) -> Request {
        let split = loop {
            if let Some(at) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.fill().await, "closed within a request");
        };
        let head = String::from_utf8(self.unread.drain(..split).collect()).unwrap();
        let mut request = Request { head, body: String::new() };
        let len = request.header("content-length").map_or(0, |len| len.parse().unwrap());
        while self.unread.len() < len {
            assert!(self.fill().await, "closed within a body");
        }
        request.body = String::from_utf8(self.unread.drain(..len).collect()).unwrap();
        request
    }

    pub(crate) async fn answer(&mut self, status: &str, body: &str) {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        self.send(head.as_bytes()).await;
    }

    pub(crate) async fn accept_upgrade(&mut self, request: &Request) {
        let key = request.header("sec-websocket-key").expect("not a websocket request");
        self.answer_upgrade(&accept_for(&key)).await;
    }

    pub(crate) async fn answer_upgrade(&mut self, accept: &str) {
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        self.send(head.as_bytes()).await;
    }

    pub(crate) async fn send_text(&mut self, text: &str) {
        self.send(&frame(Opcode::Text, text.as_bytes())).await;
    }

    pub(crate) async fn send(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            timeout(LIMIT, self.stream.writable()).await.expect("the client does not read").unwrap();
            match self.stream.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("the client is gone: {error}"),
            }
        }
    }

    /// The next message, a binary one as the list of its bytes; `None` when the client has closed.
    pub(crate) async fn text(&mut self) -> Option<String> {
        loop {
            let mut bytes = std::mem::take(&mut self.unread);
            let mut input = Input::new(&mut bytes);
            let incoming = match self.decoder.next(&mut input).expect("the client broke the protocol") {
                Some(Incoming::Text(text)) => Some(Some(text.to_owned())),
                Some(Incoming::Binary(bytes)) => Some(Some(format!("{bytes:?}"))),
                Some(Incoming::Close(_)) => Some(None),
                Some(other) => panic!("unexpected: {other:?}"),
                None => None,
            };
            self.unread = input.remaining().to_vec();
            match incoming {
                Some(message) => return message,
                None if self.fill().await => {}
                None => return None,
            }
        }
    }

    /// Reads once; false at the end.
    async fn fill(&mut self) -> bool {
        loop {
            timeout(LIMIT, self.stream.readable()).await.expect("the client says nothing").unwrap();
            let mut buffer = [0; 4096];
            match self.stream.try_read(&mut buffer) {
                Ok(0) => return false,
                Ok(read) => {
                    self.unread.extend_from_slice(&buffer[..read]);
                    return true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
    }
}

fn accept_for(key: &str) -> String {
    let request = http::Request::builder()
        .header("sec-websocket-key", key)
        .header("sec-websocket-version", "13")
        .body(())
        .unwrap();
    let (response, _) = upgrade(request).unwrap();
    response.headers()["sec-websocket-accept"].to_str().unwrap().to_owned()
}
