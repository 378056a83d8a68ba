//! One session that polls and one namespace, for programs that hold thousands of them, like
//! [`raw::Connection`](crate::raw::Connection).
//!
//! There is one TCP connection, on which the poll waits. What has to be sent is sent between two polls, so that a session
//! that does nothing is one waiting request and no more.

use bytes::Bytes;
use http::Method;
use tidegate_protocol::engineio::{Opened, Packet, Transport as Kind, payload};
use tidegate_protocol::socketio::{Decoder, Head, Parser};

use crate::client::connect_packet;
use crate::engine::Message;
use crate::error::{Error, Reason};
use crate::http::Http;
use crate::raw::{Server, joined};
use crate::value::Value;

/// A session that has joined one namespace, with the default parser.
pub struct Connection {
    http: Http,
    target: String,
}

/// What polls have brought.
#[derive(Default)]
struct Brought {
    messages: Vec<String>,
    is_pinged: bool,
    is_closed: bool,
}

impl Connection {
    /// Opens a session and joins `namespace`. The caller limits the time.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::ConnectError`], [`Error::Unsendable`] and what the network and the server can do wrong.
    pub async fn connect(
        server: &Server,
        namespace: &str,
        auth: Option<&Value>,
    ) -> Result<Connection, Error> {
        let connect = connect_packet(Parser::Text, namespace, auth)?;
        // Base64 and separators make a body larger than the messages in it.
        let mut http = Http::new(server.endpoint.clone(), server.message_bytes_max.saturating_mul(2));
        let target = server.endpoint.target(Kind::Polling, None);
        let body = http.exchange(Method::GET, &target, Bytes::new()).await?;
        let json = std::str::from_utf8(&body).ok().and_then(|body| body.strip_prefix('0'));
        let json = json.ok_or_else(|| Error::Protocol("first packet is not open".to_owned()))?;
        let opened = Opened::decode(json).map_err(|error| Error::Protocol(error.to_string()))?;

        let target = server.endpoint.target(Kind::Polling, Some(&opened.sid));
        let mut connection = Connection { http, target };
        let (Head::Text(packet) | Head::Binary(packet)) = connect.head;
        connection.send(format!("4{}", String::from_utf8_lossy(&packet))).await?;
        let mut decoder = Decoder::client(Parser::Text, server.message_bytes_max);
        loop {
            let brought = connection.poll().await?;
            if brought.is_closed {
                return Err(Error::Disconnected(Reason::TransportClose));
            }
            if let Some(first) = brought.messages.into_iter().next() {
                return joined(&mut decoder, &Message::Text(first), namespace).map(|()| connection);
            }
        }
    }

    /// Polls, answers pings and throws away what comes, until the session has ended.
    pub async fn stay(mut self) -> Reason {
        loop {
            match self.poll().await {
                Ok(brought) if brought.is_closed => return Reason::TransportClose,
                Ok(_) => {}
                Err(_) => return Reason::TransportError,
            }
        }
    }

    async fn poll(&mut self) -> Result<Brought, Error> {
        let body = self.http.exchange(Method::GET, &self.target, Bytes::new()).await?;
        let brought = Brought::read(&body)?;
        if brought.is_pinged && !brought.is_closed {
            self.send("3".to_owned()).await?;
        }
        Ok(brought)
    }

    async fn send(&mut self, packet: String) -> Result<(), Error> {
        self.http.exchange(Method::POST, &self.target, packet.into()).await.map(drop)
    }
}

impl Brought {
    fn read(body: &[u8]) -> Result<Brought, Error> {
        let body = std::str::from_utf8(body).map_err(|_| Error::Protocol("a poll is not text".to_owned()))?;
        let mut brought = Brought::default();
        for piece in payload::decode(body) {
            match piece? {
                payload::Piece::Packet(Packet::Text(message)) => brought.messages.push(message.to_owned()),
                payload::Piece::Packet(Packet::Ping(_)) => brought.is_pinged = true,
                payload::Piece::Packet(Packet::Close) => brought.is_closed = true,
                payload::Piece::Packet(_) | payload::Piece::Binary(_) => {}
            }
        }
        Ok(brought)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_poll_may_bring_several_packets() {
        let brought = Brought::read("40{\"sid\":\"a\"}\u{1e}2".as_bytes()).unwrap();
        assert_eq!(brought.messages, ["0{\"sid\":\"a\"}"]);
        assert!(brought.is_pinged && !brought.is_closed);
        assert!(Brought::read(b"1").unwrap().is_closed);
        assert!(Brought::read(b"x").is_err() && Brought::read(b"\xff").is_err());
    }
}
