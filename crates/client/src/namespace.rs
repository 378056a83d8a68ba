//! One namespace, as the client's task sees it.

use std::collections::HashMap;

use tidegate_protocol::socketio::Encoded;
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::{Error, Reason};
use crate::socket::{Signal, State};
use crate::value::Value;

/// The smallest number of unanswered acknowledgements at which those nobody waits for are looked for.
const ACKS_SWEEP_AT_MIN: usize = 1024;

/// Who waits for an acknowledgement.
pub(crate) type Answer = oneshot::Sender<Result<Vec<Value>, Error>>;

/// A namespace to be joined.
#[derive(Debug)]
pub(crate) struct Joining {
    pub(crate) namespace: String,
    /// The CONNECT packet.
    pub(crate) connect: Encoded,
    pub(crate) signal: mpsc::Sender<Signal>,
    pub(crate) state: watch::Sender<State>,
    pub(crate) answer: oneshot::Sender<Result<(), Error>>,
}

/// A namespace that is joined or being joined.
pub(crate) struct Namespace {
    /// The CONNECT packet, which every new transport begins with.
    pub(crate) connect: Encoded,
    pub(crate) signal: mpsc::Sender<Signal>,
    pub(crate) state: watch::Sender<State>,
    /// Who waits for the first answer to CONNECT.
    pub(crate) joining: Option<oneshot::Sender<Result<(), Error>>>,
    pub(crate) acks: HashMap<u64, Answer>,
    /// When `acks` holds this many, those nobody waits for any more are dropped.
    acks_sweep_at: usize,
}

impl Namespace {
    /// A namespace whose CONNECT is still to be answered, and its name.
    pub(crate) fn new(joining: Joining) -> (String, Namespace) {
        let namespace = Namespace {
            connect: joining.connect,
            signal: joining.signal,
            state: joining.state,
            joining: Some(joining.answer),
            acks: HashMap::new(),
            acks_sweep_at: ACKS_SWEEP_AT_MIN,
        };
        (joining.namespace, namespace)
    }

    /// Hands something over. The room for it was checked or reserved; a handle that is gone misses nothing.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = self.signal.try_send(signal);
    }

    /// Takes note of who waits for the acknowledgement of an id.
    pub(crate) fn expect_ack(&mut self, id: u64, answer: Answer) {
        if self.acks.len() >= self.acks_sweep_at {
            self.acks.retain(|_, answer| !answer.is_closed());
            self.acks_sweep_at = (self.acks.len() * 2).max(ACKS_SWEEP_AT_MIN);
        }
        self.acks.insert(id, answer);
    }

    /// Tells everyone who waits for something that it will not come.
    pub(crate) fn disconnect(&mut self, state: State, reason: Reason) {
        // Nobody gets an answer twice, and a second loss in a row is no news.
        for (_, answer) in self.acks.drain() {
            let _ = answer.send(Err(Error::Disconnected(reason)));
        }
        let was = self.state.send_replace(state.clone());
        if matches!(was, State::Connected { .. }) {
            self.signal(Signal::Disconnected(reason));
        }
        if matches!(state, State::Ended(_))
            && let Some(joining) = self.joining.take()
        {
            let _ = joining.send(Err(Error::Disconnected(reason)));
        }
    }
}
