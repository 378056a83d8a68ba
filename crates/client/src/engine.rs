//! An Engine.IO session once it is open: either transport, the upgrade between them and the heartbeat.

use std::collections::VecDeque;
use std::future::pending;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use tidegate_protocol::engineio::{Opened, Packet, Transport as Kind, decode_text, payload};
use tidegate_protocol::socketio::{Encoded, Head};
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::{Error, Reason};
use crate::polling::{Brought, Polling};
use crate::websocket::{Frame, WebSocket};

/// How long a close may take: what is still unsent leaves, and the server gets to know.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// Close code of a client that is done (RFC 6455, 7.4.1).
const CLOSE_NORMAL: u16 = 1000;

/// A message of the protocol above.
#[derive(Debug, PartialEq)]
pub(crate) enum Message {
    Text(String),
    Binary(Vec<u8>),
}

/// What leaves: a text packet with its type digit, or a binary message.
pub(crate) enum Outgoing {
    Text(String),
    Binary(Bytes),
}

impl Outgoing {
    /// Bytes it takes up in a polling body, the separator aside.
    pub(crate) fn polling_len(&self) -> usize {
        match self {
            Outgoing::Text(packet) => packet.len(),
            Outgoing::Binary(bytes) => 1 + bytes.len().div_ceil(3) * 4,
        }
    }
}

/// A session with a server.
pub(crate) struct Engine {
    transport: Transport,
    upgrade: Upgrade,
    /// The upgrade is done and nobody has been told.
    is_upgraded: bool,
    inbox: VecDeque<Message>,
    outbox: VecDeque<Outgoing>,
    /// Ping interval plus ping timeout: with no ping for this long the session is dead.
    patience: Duration,
    deadline: Instant,
    lost: Option<Reason>,
}

pub(crate) enum Transport {
    Polling(Polling),
    WebSocket(WebSocket),
}

pub(crate) enum Upgrade {
    /// Not wanted, not offered, done or failed.
    Off,
    /// The probe is on its way, while polling goes on.
    Probing(Pin<Box<dyn Future<Output = Result<WebSocket, Error>> + Send>>),
    /// The probe was answered; polling runs out. Nothing is sent meanwhile.
    Pausing(WebSocket),
}

/// What can happen to a session.
enum Step {
    Brought(Result<Brought, Error>),
    Probed(Result<WebSocket, Error>),
}

/// An Engine.IO packet that concerns the client, taken off the transport's buffer.
pub(crate) enum Arrival {
    /// The handshake answer; illegal at any other time.
    Open(String),
    Message(Message),
    Ping,
    Close,
    Illegal,
}

impl Engine {
    pub(crate) fn new(opened: &Opened, transport: Transport, upgrade: Upgrade) -> Engine {
        let patience = Duration::from_millis(opened.ping_interval_ms.saturating_add(opened.ping_timeout_ms));
        Engine {
            transport,
            upgrade,
            is_upgraded: false,
            inbox: VecDeque::new(),
            outbox: VecDeque::new(),
            patience,
            deadline: far(patience),
            lost: None,
        }
    }

    /// The transport that packets take now.
    pub(crate) fn transport(&self) -> Kind {
        match self.transport {
            Transport::Polling(_) => Kind::Polling,
            Transport::WebSocket(_) => Kind::WebSocket,
        }
    }

    /// Queues a Socket.IO packet. It leaves while [`Engine::next`] is awaited.
    pub(crate) fn send(&mut self, packet: Encoded) {
        match packet.head {
            Head::Text(text) => {
                let text = String::from_utf8_lossy(&text);
                self.outbox.push_back(Outgoing::Text(format!("4{text}")));
            }
            Head::Binary(bytes) => self.outbox.push_back(Outgoing::Binary(bytes)),
        }
        self.outbox.extend(packet.attachments.into_iter().map(Outgoing::Binary));
    }

    /// Packets and frames that have not been handed to the network.
    pub(crate) fn is_congested(&self) -> bool {
        const OUTBOX_PACKETS_MAX: usize = 1024;
        const UNSENT_BYTES_MAX: usize = 1 << 20;
        let unsent = match &self.transport {
            Transport::Polling(_) => 0,
            Transport::WebSocket(websocket) => websocket.unsent_bytes(),
        };
        self.outbox.len() >= OUTBOX_PACKETS_MAX || unsent >= UNSENT_BYTES_MAX
    }

    /// The next message; `None` when there is none but [`Engine::transport`] has changed; or why there will be
    /// no more. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Message>, Reason> {
        loop {
            if let Some(message) = self.inbox.pop_front() {
                return Ok(Some(message));
            }
            if std::mem::take(&mut self.is_upgraded) {
                return Ok(None);
            }
            if let Some(reason) = self.lost {
                return Err(reason);
            }
            match timeout_at(self.deadline, self.step()).await {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => self.lost = Some(reason),
                Err(_) => self.lost = Some(Reason::PingTimeout),
            }
        }
    }

    /// Sends what waits, says goodbye and waits for the server to hear it, all within a limit.
    pub(crate) async fn close(mut self) {
        let goodbye = async {
            self.upgrade = Upgrade::Off;
            if let Transport::Polling(_) = self.transport {
                self.outbox.push_back(Outgoing::Text("1".to_owned()));
            }
            while self.lost.is_none() {
                self.pump();
                match &mut self.transport {
                    Transport::Polling(polling) if self.outbox.is_empty() && !polling.is_posting() => break,
                    Transport::Polling(_) => {
                        if let Err(reason) = self.step().await {
                            self.lost = Some(reason);
                        }
                    }
                    Transport::WebSocket(websocket) => {
                        websocket.push_close(CLOSE_NORMAL);
                        while websocket.read(|_| ()).await.is_ok() {}
                        break;
                    }
                }
            }
        };
        // A server that does not answer is left behind.
        let _ = timeout(CLOSE_LIMIT, goodbye).await;
    }

    /// Starts whatever can be started without waiting.
    fn pump(&mut self) {
        if let (Transport::Polling(polling), Upgrade::Pausing(_)) = (&self.transport, &self.upgrade)
            && polling.is_quiet()
            && let Upgrade::Pausing(mut websocket) = std::mem::replace(&mut self.upgrade, Upgrade::Off)
        {
            websocket.push_text("5");
            self.transport = Transport::WebSocket(websocket);
            self.is_upgraded = true;
        }
        match &mut self.transport {
            Transport::Polling(polling) => {
                if !matches!(self.upgrade, Upgrade::Pausing(_)) {
                    polling.start_poll();
                    polling.start_post(&mut self.outbox);
                }
            }
            Transport::WebSocket(websocket) => {
                for outgoing in self.outbox.drain(..) {
                    match outgoing {
                        Outgoing::Text(packet) => websocket.push_text(&packet),
                        Outgoing::Binary(bytes) => websocket.push_binary(&bytes),
                    }
                }
            }
        }
    }

    async fn step(&mut self) -> Result<(), Reason> {
        self.pump();
        if self.is_upgraded {
            return Ok(());
        }
        let step = match &mut self.transport {
            Transport::WebSocket(websocket) => {
                let mut arrivals = Vec::new();
                let read = websocket.read(|frame| arrivals.push(arrival(frame))).await;
                // What came before the end still counts.
                for arrival in arrivals {
                    self.arrived(arrival)?;
                }
                return read;
            }
            Transport::Polling(polling) => {
                tokio::select! {
                    brought = polling.brought() => Step::Brought(brought),
                    websocket = probed(&mut self.upgrade) => Step::Probed(websocket),
                }
            }
        };
        match step {
            Step::Brought(Ok(Brought::Sent)) => Ok(()),
            Step::Brought(Ok(Brought::Packets(body))) => self.polled(&body),
            Step::Brought(Err(error)) => {
                tracing::debug!(%error, "polling failed");
                Err(Reason::TransportError)
            }
            Step::Probed(Ok(websocket)) => {
                self.upgrade = Upgrade::Pausing(websocket);
                Ok(())
            }
            Step::Probed(Err(error)) => {
                tracing::debug!(%error, "upgrade failed, polling goes on");
                self.upgrade = Upgrade::Off;
                Ok(())
            }
        }
    }

    fn polled(&mut self, body: &[u8]) -> Result<(), Reason> {
        let body = std::str::from_utf8(body).map_err(|_| Reason::ParseError)?;
        for piece in payload::decode(body) {
            let arrival = match piece {
                Ok(payload::Piece::Packet(packet)) => arrival_of(packet),
                Ok(payload::Piece::Binary(bytes)) => Some(Arrival::Message(Message::Binary(bytes))),
                Err(_) => Some(Arrival::Illegal),
            };
            self.arrived(arrival)?;
        }
        Ok(())
    }

    pub(crate) fn arrived(&mut self, arrival: Option<Arrival>) -> Result<(), Reason> {
        match arrival {
            None => Ok(()),
            Some(Arrival::Message(message)) => {
                self.inbox.push_back(message);
                Ok(())
            }
            Some(Arrival::Ping) => {
                self.deadline = far(self.patience);
                self.outbox.push_back(Outgoing::Text("3".to_owned()));
                Ok(())
            }
            Some(Arrival::Close) => Err(Reason::TransportClose),
            Some(Arrival::Illegal | Arrival::Open(_)) => Err(Reason::ParseError),
        }
    }
}

/// A moment that long from now, or so far away that it never comes.
fn far(patience: Duration) -> Instant {
    const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
    Instant::now() + patience.min(FOREVER)
}

async fn probed(upgrade: &mut Upgrade) -> Result<WebSocket, Error> {
    match upgrade {
        Upgrade::Probing(probe) => probe.await,
        Upgrade::Off | Upgrade::Pausing(_) => pending().await,
    }
}

pub(crate) fn arrival(frame: Frame<'_>) -> Option<Arrival> {
    match frame {
        Frame::Binary(bytes) => Some(Arrival::Message(Message::Binary(bytes.to_vec()))),
        Frame::Text(text) => decode_text(text).map_or(Some(Arrival::Illegal), arrival_of),
    }
}

pub(crate) fn arrival_of(packet: Packet<'_>) -> Option<Arrival> {
    match packet {
        Packet::Text(text) => Some(Arrival::Message(Message::Text(text.to_owned()))),
        Packet::Ping(_) => Some(Arrival::Ping),
        Packet::Close => Some(Arrival::Close),
        // A late answer to a probe, a released poll: nothing to do.
        Packet::Noop | Packet::Pong(_) => None,
        Packet::Open(json) => Some(Arrival::Open(json.to_owned())),
        Packet::Upgrade => Some(Arrival::Illegal),
    }
}
