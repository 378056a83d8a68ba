//! What goes wrong for a client, and why a client that was connected no longer is.

use std::fmt;
use std::time::Duration;

use tidegate_protocol::{engineio, socketio};

use crate::value::Value;
use crate::value::wire::ValueError;

/// Why something a client was asked to do did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is not one this client can reach.
    #[error("url is not of the form http://host:port or https://host:port: {url}")]
    Url {
        /// What was given.
        url: String,
    },
    /// A header's name or value is not one HTTP allows.
    #[error("header cannot be sent: {name}")]
    Header {
        /// The header's name.
        name: String,
    },
    /// TLS cannot be spoken in the way that was asked for. A server that is not trusted is an [`Error::Io`].
    #[error("tls: {0}")]
    Tls(String),
    /// The network refused or broke.
    #[error("network: {0}")]
    Io(#[from] std::io::Error),
    /// The HTTP exchange broke.
    #[error("http: {0}")]
    Http(#[from] hyper::Error),
    /// The server answered a handshake or a polling request with something other than success.
    #[error("server answered {status}: {body}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The body, cut to a kilobyte.
        body: String,
    },
    /// The server sent what Engine.IO, Socket.IO or WebSocket do not allow.
    #[error("server broke the protocol: {0}")]
    Protocol(String),
    /// The server refused the namespace with a CONNECT_ERROR packet.
    #[error("namespace refused: {message}")]
    ConnectError {
        /// The packet's message.
        message: String,
        /// The packet's data, null when there was none.
        data: Value,
    },
    /// What was to be sent does not fit in a packet: with the text parser, more than ten binary values, a binary
    /// value among the credentials, or arrays and objects nested too deep. Nothing was sent.
    #[error("cannot be sent: {0}")]
    Unsendable(#[from] tidegate_protocol::value::Error),
    /// No answer in time.
    #[error("no answer within {limit:?}")]
    Timeout {
        /// The limit that ran out.
        limit: Duration,
    },
    /// The socket is not connected.
    #[error("disconnected: {0}")]
    Disconnected(Reason),
    /// The client was closed.
    #[error("client is closed")]
    Closed,
}

/// Why a socket was disconnected, in the words of the official client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The server sent a DISCONNECT packet. The client does not come back by itself.
    IoServerDisconnect,
    /// This side asked for it.
    IoClientDisconnect,
    /// No ping came for the ping interval plus the ping timeout.
    PingTimeout,
    /// The connection was closed, or an Engine.IO close packet came.
    TransportClose,
    /// The connection broke, or a polling request was refused.
    TransportError,
    /// The server sent what cannot be read.
    ParseError,
    /// The server answered CONNECT with CONNECT_ERROR. Not a word of the official client, whose socket was
    /// then never connected; it is what [`crate::Socket::ended`] reports in that case.
    ConnectError,
    /// Events came faster than they were taken from [`crate::Socket::next_event`], past
    /// [`crate::Options::events_max`]. The client closes itself rather than lose one silently.
    EventsUnread,
}

impl Reason {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::IoServerDisconnect => "io server disconnect",
            Reason::IoClientDisconnect => "io client disconnect",
            Reason::PingTimeout => "ping timeout",
            Reason::TransportClose => "transport close",
            Reason::TransportError => "transport error",
            Reason::ParseError => "parse error",
            Reason::ConnectError => "connect error",
            Reason::EventsUnread => "events unread",
        }
    }

    /// Whether a client that may reconnect does so after this.
    pub fn reconnects(self) -> bool {
        matches!(
            self,
            Reason::PingTimeout | Reason::TransportClose | Reason::TransportError | Reason::ParseError
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<ValueError> for Error {
    fn from(error: ValueError) -> Error {
        Error::Protocol(error.to_string())
    }
}

impl From<engineio::ParseError> for Error {
    fn from(error: engineio::ParseError) -> Error {
        Error::Protocol(error.to_string())
    }
}

impl From<socketio::Violation> for Error {
    fn from(error: socketio::Violation) -> Error {
        Error::Protocol(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_losses_of_the_transport_reconnect() {
        let back = [Reason::PingTimeout, Reason::TransportClose, Reason::TransportError, Reason::ParseError];
        let gone = [
            Reason::IoServerDisconnect,
            Reason::IoClientDisconnect,
            Reason::ConnectError,
            Reason::EventsUnread,
        ];
        assert!(back.into_iter().all(Reason::reconnects));
        assert!(!gone.into_iter().any(Reason::reconnects));
    }
}
