//! The exit: sessions leave, the peer is told, the transport is let go.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tidegate_core::DisconnectReason;
use tidegate_protocol::websocket;
use tokio::io::AsyncReadExt as _;

use super::{Connection, Exit, Speech};
use crate::message::Message;

/// How long the last bytes may take to leave a WebSocket, and then the peer to hang up itself.
const LINGER: Duration = Duration::from_secs(2);

/// How long a closed polling session waits for the GET that fetches its last packets, as in stock Engine.IO.
const LINGER_POLLING: Duration = Duration::from_secs(30);

/// The same while the node drains: whoever still polls does so within a round trip.
const LINGER_DRAINING: Duration = Duration::from_secs(5);

/// Bytes that are read and thrown away while the peer hangs up. Closing with bytes unread would reset the connection
/// and take our own last bytes along.
const DISCARD_BYTES_MAX: u64 = 16 << 20;

impl Connection {
    pub(super) async fn end(&mut self, exit: Exit) {
        let reason = exit.reason;
        self.outbox.close(reason);
        self.busy = None;
        self.deferred = None;
        self.errand = None;
        self.link.close_requests();
        for session in std::mem::take(&mut self.sessions) {
            self.node.disconnect(&session, reason);
        }
        if self.connect_deadline_ms.is_some() {
            // It never had a session whose end could be counted.
            self.node.metrics.disconnected(reason);
        }
        let is_websocket = self.link.is_websocket();
        if is_websocket {
            self.node.engines.remove(self.id);
            self.node.metrics.connections_websocket.dec();
        }
        match reason {
            // There is nobody to tell.
            DisconnectReason::TransportError if exit.close_code.is_none() && is_websocket => {}
            DisconnectReason::SlowConsumer if is_websocket && !self.is_plain() => {}
            _ => self.tell(exit).await,
        }
        if !is_websocket {
            self.node.engines.remove(self.id);
            self.node.metrics.connections_polling.dec();
        }
        self.outbox.abandon();
        tracing::debug!(%reason, "connection ended");
    }

    /// Sends the transport's close and waits, within bounds, until it has left.
    async fn tell(&mut self, exit: Exit) {
        let frame = match &self.speech {
            Speech::SocketIo(_) => websocket::close(exit.close_code, ""),
            Speech::Plain(plain) => {
                let (code, text) = plain.close(exit);
                websocket::close(code, text)
            }
        };
        let (noop, close) = (Message::engine("6"), Message::engine("1"));
        // A client that said that it closes is not told so; its pending poll just comes back.
        let polling = if exit.reason == DisconnectReason::TransportClose { &noop } else { &close };
        let drained = self.outbox.push_last(frame, polling, &noop);
        if !drained {
            let limit = match (self.link.is_websocket(), exit.reason) {
                (true, _) => LINGER,
                (false, DisconnectReason::ServerShuttingDown) => LINGER_DRAINING,
                (false, DisconnectReason::ForcedClose | DisconnectReason::ServerNamespaceDisconnect) => {
                    LINGER_POLLING
                }
                // The client is gone or knows already.
                (false, _) => return,
            };
            let outbox = &self.outbox;
            let flushed = poll_fn(|context| {
                outbox.register(context);
                outbox.poll_flush(context);
                if outbox.is_drained() { Poll::Ready(()) } else { Poll::Pending }
            });
            if tokio::time::timeout(limit, flushed).await.is_err() {
                return;
            }
        }
        self.outbox.abandon();
        if exit.reason != DisconnectReason::PingTimeout
            && let Some(read) = self.link.read_half()
        {
            let mut rest = read.take(DISCARD_BYTES_MAX);
            let hang_up = async {
                let mut sink = [0; 512];
                while matches!(rest.read(&mut sink).await, Ok(1..)) {}
            };
            // Whoever does not hang up in time is cut off, which is what follows anyway.
            let _ = tokio::time::timeout(LINGER, hang_up).await;
        }
    }
}
