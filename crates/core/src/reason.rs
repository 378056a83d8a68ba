//! Why a session or a transport ended.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// The one exit of a connection or a session. The words are those of Socket.IO's server wherever it has
        /// one, so that dashboards and logs read alike.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DisconnectReason {
            $($(#[$doc])* $name,)*
        }

        impl DisconnectReason {
            /// Every reason; each is a label value from the first scrape on.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The word in events, logs and metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

reasons! {
    /// The transport failed: a reset, an aborted poll, an oversized frame.
    TransportError = "transport error";
    /// The peer closed the transport.
    TransportClose = "transport close";
    /// The gateway closed the transport, because of a violation of Socket.IO's rules or a timeout before CONNECT.
    ForcedClose = "forced close";
    /// The peer owed a pong.
    PingTimeout = "ping timeout";
    /// The peer sent what is not Engine.IO.
    ParseError = "parse error";
    /// The node drains.
    ServerShuttingDown = "server shutting down";
    /// The client left the namespace.
    ClientNamespaceDisconnect = "client namespace disconnect";
    /// The gateway ended the session in its namespace: evicted, kicked, expired.
    ServerNamespaceDisconnect = "server namespace disconnect";
    /// The peer reads more slowly than it is written to, and its outbox is full.
    SlowConsumer = "slow consumer";
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
