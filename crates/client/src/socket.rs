//! One namespace, as its user sees it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidegate_protocol::socketio::{Parser, encode};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::error::{Error, Reason};
use crate::session::Command;
use crate::value::Value;
use crate::value::wire::{encode_args, encode_event};

/// An event from the server.
#[derive(Debug)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// Its arguments.
    pub args: Vec<Value>,
    /// There when the server wants an acknowledgement.
    pub ack: Option<AckHandle>,
}

/// Answers one event. Dropping it answers nothing.
#[derive(Debug)]
pub struct AckHandle {
    pub(crate) namespace: String,
    pub(crate) parser: Parser,
    pub(crate) id: u64,
    pub(crate) commands: mpsc::Sender<Command>,
}

impl AckHandle {
    /// Sends the acknowledgement. It is lost, as the official client's is, when the transport is.
    ///
    /// # Errors
    /// [`Error::Unsendable`]; [`Error::Closed`] when the client is no more.
    pub async fn send(self, args: &[Value]) -> Result<(), Error> {
        let packet = encode::ack(self.parser, &self.namespace, self.id, &encode_args(args))?;
        let command = Command::Ack { namespace: self.namespace, packet };
        self.commands.send(command).await.map_err(|_| Error::Closed)
    }
}

/// What happens to a socket after it was first connected, in order.
#[derive(Debug)]
pub enum Signal {
    /// An event arrived.
    Event(Event),
    /// The socket is connected again, under a new id.
    Connected {
        /// The new id.
        id: String,
    },
    /// The socket is no longer connected. Whether it comes back depends on the reason and the options.
    Disconnected(Reason),
    /// The server refused the namespace when the socket came back. This is final.
    Refused {
        /// The packet's message.
        message: String,
        /// The packet's data, null when there was none.
        data: Value,
    },
}

/// Where a socket stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Connecting,
    Connected { id: String },
    Lost(Reason),
    Ended(Reason),
}

/// One namespace of a [`crate::Client`]. It ends when it is disconnected or its client is closed.
#[derive(Debug)]
pub struct Socket {
    pub(crate) namespace: String,
    pub(crate) parser: Parser,
    /// The id of the next event that is to be acknowledged.
    pub(crate) ack_next: AtomicU64,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) signals: Mutex<mpsc::Receiver<Signal>>,
    pub(crate) state: watch::Receiver<State>,
}

impl Socket {
    /// The namespace's name.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The socket's id while it is connected. It changes with every reconnection.
    pub fn id(&self) -> Option<String> {
        match &*self.state.borrow() {
            State::Connected { id } => Some(id.clone()),
            _ => None,
        }
    }

    /// Sends an event. It has left for the network, or waits behind others, when this returns.
    ///
    /// # Errors
    /// [`Error::Disconnected`] when the socket is not connected, [`Error::Unsendable`], [`Error::Closed`] when its
    /// client is no more.
    pub async fn emit(&self, event: &str, args: &[Value]) -> Result<(), Error> {
        self.check()?;
        let packet = encode::event(self.parser, &self.namespace, None, &encode_event(event, args))?;
        self.command(Command::Emit { namespace: self.namespace.clone(), packet, answer: None }).await
    }

    /// Sends an event and waits for its acknowledgement, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Timeout`]; [`Error::Disconnected`] also when the connection is lost while waiting, in which case
    /// the outcome is unknown; [`Error::Unsendable`]; [`Error::Closed`].
    pub async fn emit_with_ack(
        &self,
        event: &str,
        args: &[Value],
        limit: Duration,
    ) -> Result<Vec<Value>, Error> {
        self.check()?;
        let (answer, answered) = oneshot::channel();
        let id = self.ack_next.fetch_add(1, Ordering::Relaxed);
        let packet = encode::event(self.parser, &self.namespace, Some(id), &encode_event(event, args))?;
        let answer = Some((id, answer));
        let exchange = async {
            self.command(Command::Emit { namespace: self.namespace.clone(), packet, answer }).await?;
            answered.await.unwrap_or(Err(Error::Closed))
        };
        timeout(limit, exchange).await.unwrap_or(Err(Error::Timeout { limit }))
    }

    /// The next event. Waits for as long as it takes; cancel safe.
    ///
    /// # Errors
    /// [`Error::Disconnected`] and [`Error::ConnectError`] once each when they happen, in order with the events.
    /// A socket that comes back can be asked again; a later [`Error::Closed`] means that it never will.
    pub async fn next_event(&self) -> Result<Event, Error> {
        loop {
            match self.next_signal().await {
                Some(Signal::Event(event)) => return Ok(event),
                Some(Signal::Connected { .. }) => {}
                Some(Signal::Disconnected(reason)) => return Err(Error::Disconnected(reason)),
                Some(Signal::Refused { message, data }) => return Err(Error::ConnectError { message, data }),
                None => return Err(Error::Closed),
            }
        }
    }

    /// The next thing that happens; `None` when nothing will any more. Cancel safe.
    pub async fn next_signal(&self) -> Option<Signal> {
        self.signals.lock().await.recv().await
    }

    /// Waits until the socket is gone for good and says why.
    pub async fn ended(&self) -> Reason {
        let mut state = self.state.clone();
        match state.wait_for(|state| matches!(state, State::Ended(_))).await.as_deref() {
            Ok(State::Ended(reason)) => *reason,
            // The client's task was stopped without a goodbye.
            _ => Reason::IoClientDisconnect,
        }
    }

    /// Leaves the namespace: sends DISCONNECT and ends the socket.
    ///
    /// # Errors
    /// [`Error::Closed`] when the client is no more.
    pub async fn disconnect(&self) -> Result<(), Error> {
        self.command(Command::Leave { namespace: self.namespace.clone() }).await
    }

    fn check(&self) -> Result<(), Error> {
        match &*self.state.borrow() {
            State::Connected { .. } => Ok(()),
            State::Connecting => Err(Error::Disconnected(Reason::TransportClose)),
            State::Lost(reason) | State::Ended(reason) => Err(Error::Disconnected(*reason)),
        }
    }

    async fn command(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).await.map_err(|_| Error::Closed)
    }
}
