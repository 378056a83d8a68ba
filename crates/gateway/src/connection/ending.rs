//! The exit: sessions leave, the peer is told, the transport is let go.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tidegate_core::DisconnectReason;
use tidegate_protocol::websocket;

use super::close::Close;
use super::{Connection, Exit, HANG_UP_MS};
use crate::message::Message;
use crate::outbox::Outbox;

/// How long the last bytes may take to leave a WebSocket, and then the peer to hang up itself.
const LINGER: Duration = Duration::from_secs(2);

/// How long a closed polling session waits for the GET that fetches its last packets, as in stock Engine.IO.
const LINGER_POLLING: Duration = Duration::from_secs(30);

/// The same while the node drains: whoever still polls does so within a round trip.
const LINGER_DRAINING: Duration = Duration::from_secs(5);

/// Bytes that are read and thrown away while the peer hangs up. Closing with bytes unread would reset the connection
/// and take our own last bytes along.
const DISCARD_BYTES_MAX: usize = 16 << 20;

impl Connection {
    /// Undoes the connection and says why it ended.
    pub(super) async fn end(mut self, mut exit: Exit) -> DisconnectReason {
        let reason = exit.reason;
        self.outbox.close(reason);
        let farewells = self.last_farewells(&mut exit);
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
            DisconnectReason::TransportError if exit.close.is_none() && is_websocket => {}
            DisconnectReason::SlowConsumer if is_websocket && !self.is_plain() => {}
            _ => self.tell(exit, &farewells).await,
        }
        if !is_websocket {
            self.node.engines.remove(self.id);
            self.node.metrics.connections_polling.dec();
        }
        self.outbox.abandon();
        self.outbox.let_go();
        tracing::debug!(%reason, "connection ended");
        reason
    }

    /// What is owed to clients whose sessions were evicted while their connection ended for another reason. They must hear
    /// that first, or they would come back and take the place again.
    fn last_farewells(&self, exit: &mut Exit) -> Vec<Message> {
        let mut messages = Vec::new();
        for session in &self.sessions {
            let Some(evicted) = session.evicted() else { continue };
            messages.extend(self.farewells(session, &evicted));
            if self.is_plain() {
                exit.close = Some(Close::evicted(evicted.reason));
            }
        }
        messages
    }

    /// Sends the transport's close and waits, within bounds, until it has left.
    async fn tell(&mut self, exit: Exit, farewells: &[Message]) {
        farewells.iter().for_each(|message| self.outbox.push_parting(message));
        let frame = if self.is_plain() { exit.close.or(Close::of(exit.reason)) } else { exit.close };
        if !farewells.is_empty() && !self.is_plain() {
            // Official clients hang up by themselves, and would take a close that comes along for a lost connection.
            if !flushed(&self.outbox, self.linger(exit.reason).unwrap_or(LINGER)).await {
                return;
            }
            self.hung_up(Duration::from_millis(HANG_UP_MS)).await;
        } else if !self.link.is_websocket()
            && let Some(limit) = self.linger(exit.reason)
            && !flushed(&self.outbox, limit).await
        {
            // Official clients forget what they were answered if the close comes in the same payload.
            return;
        }
        let frame = match frame {
            Some(Close { code, text }) => websocket::close(Some(code), &text),
            None => websocket::close(None, ""),
        };
        let (noop, close) = (Message::engine("6"), Message::engine("1"));
        // A client that said that it closes is not told so; its pending poll just comes back.
        let polling = if exit.reason == DisconnectReason::TransportClose { &noop } else { &close };
        let drained = self.outbox.push_last(frame, polling, &noop);
        if !drained {
            // The client is gone or knows already, if there is no time for it.
            let Some(limit) = self.linger(exit.reason) else { return };
            if !flushed(&self.outbox, limit).await {
                return;
            }
        }
        self.outbox.abandon();
        if exit.reason != DisconnectReason::PingTimeout {
            self.hung_up(LINGER).await;
        }
    }

    /// How long the last bytes may take to leave, by why the connection ends.
    fn linger(&self, reason: DisconnectReason) -> Option<Duration> {
        match (self.link.is_websocket(), reason) {
            (true, _) => Some(LINGER),
            (false, DisconnectReason::ServerShuttingDown) => Some(LINGER_DRAINING),
            (false, DisconnectReason::ForcedClose | DisconnectReason::ServerNamespaceDisconnect) => {
                Some(LINGER_POLLING)
            }
            (false, _) => None,
        }
    }

    /// Waits until the peer of a WebSocket has hung up, and throws away what it still sends. Whoever does not in time is cut
    /// off, which is what follows anyway.
    async fn hung_up(&mut self, limit: Duration) {
        if !self.link.is_websocket() {
            return;
        }
        let hang_up = async {
            let (mut sink, mut discarded) = ([0; 512], 0);
            while let Ok(read @ 1..) = poll_fn(|context| self.outbox.poll_read(context, &mut sink)).await
                && discarded < DISCARD_BYTES_MAX
            {
                discarded += read;
            }
        };
        let _ = tokio::time::timeout(limit, hang_up).await;
    }
}

/// Whether everything that waits has left in time.
async fn flushed(outbox: &Outbox, limit: Duration) -> bool {
    let flushed = poll_fn(|context| {
        outbox.register(context);
        outbox.poll_flush(context);
        if outbox.is_drained() { Poll::Ready(()) } else { Poll::Pending }
    });
    tokio::time::timeout(limit, flushed).await.is_ok()
}
