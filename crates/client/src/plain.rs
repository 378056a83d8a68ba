//! One WebSocket of Tidegate's plain protocol, for programs that hold thousands of them, like
//! [`raw::Connection`](crate::raw::Connection).

use std::collections::BTreeMap;
use std::sync::Arc;

pub use tidegate_protocol::plain::Format;
use tidegate_protocol::plain::encode;
use tidegate_protocol::value::{msgpack_to_wire, plain_json_to_wire};

use crate::endpoint::Endpoint;
use crate::error::{Error, Reason};
use crate::options::Options;
use crate::raw::Message;
use crate::value::Value;
use crate::websocket::{Frame, WebSocket};

/// Where the protocol is served.
const PATH: &str = "/ws";

/// A server's address and the format to speak, shared by the connections to it.
#[derive(Debug, Clone)]
pub struct Server {
    endpoint: Arc<Endpoint>,
    format: Format,
    message_bytes_max: usize,
}

impl Server {
    /// Takes the address, the headers and the message limit from `options`.
    ///
    /// # Errors
    /// [`Error::Url`] and [`Error::Header`].
    pub fn new(options: &Options, format: Format) -> Result<Server, Error> {
        let options = options.clone().header("sec-websocket-protocol", format.subprotocol());
        Ok(Server {
            endpoint: Arc::new(Endpoint::new(&options)?),
            format,
            message_bytes_max: options.message_bytes_max,
        })
    }
}

/// A connection whose `connect` was answered.
pub struct Connection {
    websocket: WebSocket,
    format: Format,
}

impl Connection {
    /// Connects to `/`. The caller limits the time.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Disconnected`] by a server that turns the client away, and what the network can do
    /// wrong.
    ///
    /// # Panics
    /// When `auth` is nested too deep to be sent.
    pub async fn connect(server: &Server, auth: Option<&Value>) -> Result<Connection, Error> {
        // The server speaks only when it is spoken to.
        let websocket =
            Box::pin(WebSocket::connect(&server.endpoint, PATH, server.message_bytes_max, |_| ()));
        let mut connection = Connection { websocket: websocket.await?, format: server.format };
        let mut connect = BTreeMap::from([("op".to_owned(), Value::from("connect"))]);
        connect.extend(auth.map(|auth| ("auth".to_owned(), auth.clone())));
        connection.push(&Value::Object(connect));
        let mut is_connected = false;
        while !is_connected {
            let format = connection.format;
            let read = connection.read(|message| {
                is_connected |=
                    decode(format, message).is_some_and(|told| told["op"].as_str() == Some("connected"));
            });
            read.await.map_err(Error::Disconnected)?;
        }
        Ok(connection)
    }

    /// What the connection speaks.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Puts a message behind what is already waiting to be sent; it leaves with [`Connection::flush`] or the next read.
    ///
    /// # Panics
    /// When it is nested too deep to be sent.
    pub fn push(&mut self, message: &Value) {
        let mut wire = Vec::new();
        message.encode(&mut wire);
        let payload =
            encode::payload(self.format, &wire).expect("the caller keeps to what fits in a message");
        match self.format {
            Format::Json => self.websocket.push_text(&String::from_utf8_lossy(&payload)),
            Format::MessagePack => self.websocket.push_binary(&payload),
        }
    }

    /// Hands over everything that waits to be sent. Cancel safe.
    ///
    /// # Errors
    /// Why the connection is no more.
    pub async fn flush(&mut self) -> Result<(), Reason> {
        self.websocket.flush().await
    }

    /// Waits until something arrives and gives the messages of one read to `on_message`, which may see none. Cancel safe.
    /// `on_message` must not read another connection of the same thread.
    ///
    /// # Errors
    /// Why the connection is no more.
    pub async fn read(&mut self, mut on_message: impl FnMut(Message<'_>)) -> Result<(), Reason> {
        let read = self.websocket.read(|frame| match frame {
            Frame::Text(text) => on_message(Message::Text(text)),
            Frame::Binary(bytes) => on_message(Message::Binary(bytes)),
        });
        read.await
    }
}

impl Connection {
    /// Has the kernel hold no more than about so many bytes that were not read.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_receive_buffer(&self, bytes: usize) -> std::io::Result<()> {
        self.websocket.set_receive_buffer(bytes)
    }

    /// The code of the server's close frame, if one has come.
    #[must_use]
    pub fn close_code(&self) -> Option<u16> {
        self.websocket.close_code()
    }

    /// Closes the WebSocket and waits for the server to hang up, as [`raw::Connection::close`](crate::raw::Connection::close)
    /// does.
    ///
    /// # Errors
    /// What ended the connection otherwise.
    pub async fn close(mut self) -> Result<(), Reason> {
        self.websocket.hang_up().await
    }
}

/// A message of the server's; none if it is none of this format, such as the text `pong`.
#[must_use]
pub fn decode(format: Format, message: Message<'_>) -> Option<Value> {
    let mut wire = Vec::new();
    match (format, message) {
        (Format::Json, Message::Text(json)) => plain_json_to_wire(json, &mut wire).ok()?,
        (Format::MessagePack, Message::Binary(bytes)) => msgpack_to_wire(bytes, &mut wire).ok()?,
        _ => return None,
    }
    Value::decode(&wire).ok()
}
