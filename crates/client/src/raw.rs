//! One WebSocket and one namespace, for programs that hold thousands of them.
//!
//! A [`Connection`] has no task, no timer and, while idle, no buffer. Its owner keeps [`Connection::read`] going:
//! that is also what answers the server's pings. It does not notice a server that falls silent.

use std::sync::Arc;

use tidegate_protocol::engineio::{Packet as EnginePacket, decode_text};
use tidegate_protocol::socketio::encode::{self, Encoded};
use tidegate_protocol::socketio::{Decoder, Head, Packet, Parser};

use crate::client::connect_packet;
use crate::endpoint::Endpoint;
use crate::engine::{Arrival, Message as Owned};
use crate::error::{Error, Reason};
use crate::opening::websocket_session;
use crate::options::Options;
use crate::value::Value;
use crate::value::wire::{connect_error, encode_event};
use crate::websocket::{Frame, WebSocket};

/// A server's address, shared by the connections to it.
#[derive(Debug, Clone)]
pub struct Server {
    pub(crate) endpoint: Arc<Endpoint>,
    parser: Parser,
    pub(crate) message_bytes_max: usize,
}

impl Server {
    /// Takes the address, the path, the headers, the parser and the message limit from `options`.
    ///
    /// # Errors
    /// [`Error::Url`] and [`Error::Header`].
    pub fn new(options: &Options) -> Result<Server, Error> {
        Ok(Server {
            endpoint: Arc::new(Endpoint::new(options)?),
            parser: options.parser,
            message_bytes_max: options.message_bytes_max,
        })
    }
}

/// A Socket.IO message as it came: a packet of the text parser without Engine.IO's type digit, or an attachment
/// or a packet of the MessagePack parser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
}

/// A connection that has joined one namespace.
pub struct Connection {
    websocket: WebSocket,
    parser: Parser,
    /// What came right behind the answer to CONNECT.
    early: Vec<Owned>,
}

impl Connection {
    /// Connects and joins `namespace`. The caller limits the time.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::ConnectError`], [`Error::Unsendable`] and what the network and the server can do wrong.
    pub async fn connect(
        server: &Server,
        namespace: &str,
        auth: Option<&Value>,
    ) -> Result<Connection, Error> {
        let connect = connect_packet(server.parser, namespace, auth)?;
        let session = Box::pin(websocket_session(&server.endpoint, server.message_bytes_max));
        let (websocket, _, mut arrivals) = session.await?;
        let mut connection = Connection { websocket, parser: server.parser, early: Vec::new() };

        connection.push(connect);
        let mut decoder = Decoder::client(server.parser, server.message_bytes_max);
        let mut is_joined = false;
        loop {
            for arrival in arrivals.drain(..) {
                match arrival {
                    None => {}
                    Some(Arrival::Ping) => connection.websocket.push_text("3"),
                    Some(Arrival::Message(message)) if is_joined => connection.early.push(message),
                    Some(Arrival::Message(message)) => {
                        joined(&mut decoder, &message, namespace)?;
                        is_joined = true;
                    }
                    Some(Arrival::Close) => return Err(Error::Disconnected(Reason::TransportClose)),
                    Some(Arrival::Open(_) | Arrival::Illegal) => {
                        return Err(Error::Disconnected(Reason::ParseError));
                    }
                }
            }
            if is_joined {
                connection.early.shrink_to_fit();
                return Ok(connection);
            }
            let read = connection.websocket.read(|frame| arrivals.push_back(crate::engine::arrival(frame)));
            read.await.map_err(Error::Disconnected)?;
        }
    }

    /// Puts an event behind what is already waiting to be sent; it leaves with [`Connection::flush`] or the next
    /// read. With `id` the server acknowledges it.
    ///
    /// # Panics
    /// When the arguments do not fit in a packet, see [`Error::Unsendable`].
    pub fn emit(&mut self, namespace: &str, event: &str, args: &[Value], id: Option<u64>) {
        let packet = encode::event(self.parser, namespace, id, &encode_event(event, args));
        self.push(packet.expect("the caller keeps to what fits in a packet"));
    }

    /// Puts a message of any content behind what is already waiting: for what a well-behaved client never sends.
    pub fn push_message(&mut self, message: Message<'_>) {
        match message {
            Message::Text(packet) => self.websocket.push_text(&format!("4{packet}")),
            Message::Binary(bytes) => self.websocket.push_binary(bytes),
        }
    }

    /// Hands over everything that waits to be sent. Cancel safe.
    ///
    /// # Errors
    /// Why the connection is no more.
    pub async fn flush(&mut self) -> Result<(), Reason> {
        self.websocket.flush().await
    }

    /// Waits until something arrives and gives the messages of one read to `on_message`, which may see none.
    /// Cancel safe. `on_message` must not read another connection of the same thread.
    ///
    /// # Errors
    /// Why the connection is no more.
    pub async fn read(&mut self, mut on_message: impl FnMut(Message<'_>)) -> Result<(), Reason> {
        if !self.early.is_empty() {
            for message in std::mem::take(&mut self.early) {
                match &message {
                    Owned::Text(text) => on_message(Message::Text(text)),
                    Owned::Binary(bytes) => on_message(Message::Binary(bytes)),
                }
            }
            return Ok(());
        }
        let mut pings = 0;
        let mut lost = None;
        let read = self.websocket.read(|frame| match frame {
            Frame::Binary(bytes) => on_message(Message::Binary(bytes)),
            Frame::Text(text) => match decode_text(text) {
                Ok(EnginePacket::Text(packet)) => on_message(Message::Text(packet)),
                Ok(EnginePacket::Ping(_)) => pings += 1,
                Ok(EnginePacket::Noop | EnginePacket::Pong(_)) => {}
                Ok(EnginePacket::Close) => lost = Some(Reason::TransportClose),
                Ok(EnginePacket::Open(_) | EnginePacket::Upgrade) | Err(_) => lost = Some(Reason::ParseError),
            },
        });
        read.await?;
        for _ in 0..pings {
            self.websocket.push_text("3");
        }
        lost.map_or(Ok(()), Err)
    }

    /// Has the kernel hold no more than about so many bytes that were not read.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_receive_buffer(&self, bytes: usize) -> std::io::Result<()> {
        self.websocket.set_receive_buffer(bytes)
    }

    /// The code of the server's close frame, if one has come.
    pub fn close_code(&self) -> Option<u16> {
        self.websocket.close_code()
    }

    /// Leaves the namespace, closes the WebSocket and waits for the server to hang up, so that it is the server's end that
    /// keeps the port for a while. The caller limits the time.
    ///
    /// # Errors
    /// What ended the connection otherwise.
    pub async fn close(mut self) -> Result<(), Reason> {
        self.websocket.push_text("41");
        self.websocket.hang_up().await
    }

    fn push(&mut self, packet: Encoded) {
        match packet.head {
            Head::Text(text) => {
                self.push_message(Message::Text(&String::from_utf8_lossy(&text)));
            }
            Head::Binary(bytes) => self.push_message(Message::Binary(&bytes)),
        }
        for attachment in packet.attachments {
            self.websocket.push_binary(&attachment);
        }
    }
}

/// Checks that the first packet is the answer to CONNECT.
pub(crate) fn joined(decoder: &mut Decoder, message: &Owned, namespace: &str) -> Result<(), Error> {
    let packet = match message {
        Owned::Text(text) => decoder.text(text)?,
        Owned::Binary(bytes) => decoder.binary(bytes)?,
    };
    match packet {
        Some(Packet::Connect { namespace: joined, .. }) if joined == namespace => Ok(()),
        Some(Packet::ConnectError { data, .. }) => {
            let (message, data) = connect_error(&data)?;
            Err(Error::ConnectError { message, data })
        }
        _ => Err(Error::Protocol("first packet does not answer connect".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_a_few_words() {
        assert!(size_of::<Connection>() <= 160, "{}", size_of::<Connection>());
    }
}
