//! What the subscription pushes, on its way to the subscriber.
//!
//! Pushes arrive on the connection's own task, which must not be held up: Redis cuts off whoever reads too slowly.
//! They are put into one of two bounded queues, each emptied by a task of its own. The node's channel, where the
//! pulses come back, has a queue that room traffic cannot fill; within it, order holds.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use redis::{PushInfo, PushKind, Value};
use tidegate_core::{ClaimId, Incarnation, Namespace, Publication, SessionId, Subscriber};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::adapter::{self, Envelope};
use crate::keys::{Keys, Traffic};
use crate::node_message::{NodeMessage, Unknown};
use crate::requests::{self, Answered, Refusal};

/// What may wait for delivery, in bytes. Redis itself holds at most 32 MiB for a subscriber by default
/// (`client-output-buffer-limit pubsub`) before it cuts the connection; the same again here is the most that a
/// burst can be late without a gap.
const PUBLICATIONS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What a queued publication weighs beside its payload, in bytes. It makes the bound in bytes one in number, too:
/// about 400,000 of the smallest.
const PUBLICATION_OVERHEAD: usize = size_of::<Arrived>() + 32;

/// What may wait on the node's channel. A node hears its own pulse there a few times a second, and of evictions:
/// thousands in a row when its clients come back elsewhere while it is stuck. Each takes some 300 bytes here; one that
/// tells of a durable message, up to 4 KiB more. Should
/// even this many pile up, the node is deaf, and asks the registry about all of its sessions anyway.
const NODE_MESSAGES_MAX: usize = 16 * 1024;

/// Publications that are taken from the queue at a time; between two such runs other tasks get their turn.
const RUN_LENGTH: usize = 64;

/// What the subscriber is to believe of the subscription. All of `whole` and `lost` is told from here, under
/// a lock, so that a late word of an old connection cannot contradict the new one.
pub(crate) struct Standing {
    state: Mutex<(u64, State)>,
    subscriber: Arc<dyn Subscriber>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Restoring,
    Whole,
    Broken,
}

impl Standing {
    pub(crate) fn new(subscriber: Arc<dyn Subscriber>) -> Self {
        Self { state: Mutex::new((0, State::Broken)), subscriber }
    }

    /// A new connection, whose number is returned.
    pub(crate) fn begin(&self) -> u64 {
        let mut state = self.state.lock();
        *state = (state.0 + 1, State::Restoring);
        state.0
    }

    /// Every wanted topic is confirmed on connection `generation`. False if that has broken meanwhile.
    pub(crate) fn whole(&self, generation: u64) -> bool {
        let mut state = self.state.lock();
        if *state != (generation, State::Restoring) {
            return false;
        }
        state.1 = State::Whole;
        self.subscriber.whole(generation);
        true
    }

    /// Connection `generation` broke or left something out. True if it was whole until now.
    pub(crate) fn broke(&self, generation: u64) -> bool {
        let mut state = self.state.lock();
        if state.0 != generation {
            return false;
        }
        let was_whole = std::mem::replace(&mut state.1, State::Broken) == State::Whole;
        if was_whole {
            self.subscriber.lost();
        }
        was_whole
    }
}

/// One message of a topic's channel.
struct Arrived {
    channel: Vec<u8>,
    payload: Bytes,
}

impl Arrived {
    fn weight(&self) -> usize {
        self.channel.len() + self.payload.len() + PUBLICATION_OVERHEAD
    }
}

struct NodeArrived {
    payload: Vec<u8>,
    generation: u64,
}

/// Both queues' near ends.
pub(crate) struct Intake {
    queue: Arc<Queue>,
    node: mpsc::Sender<NodeArrived>,
    node_channel: String,
    standing: Arc<Standing>,
    subscriber: Arc<dyn Subscriber>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<(VecDeque<Arrived>, usize)>,
    filled: Notify,
}

impl Queue {
    fn push(&self, arrived: Arrived) -> bool {
        let mut state = self.state.lock();
        let weight = arrived.weight();
        if state.1 + weight > PUBLICATIONS_BYTES_MAX {
            return false;
        }
        state.1 += weight;
        state.0.push_back(arrived);
        drop(state);
        self.filled.notify_one();
        true
    }

    /// Moves the next few into `run`; none are left to move when it stays empty.
    fn take(&self, run: &mut Vec<Arrived>) {
        let mut state = self.state.lock();
        let count = state.0.len().min(RUN_LENGTH);
        run.extend(state.0.drain(..count));
        state.1 -= run.iter().map(Arrived::weight).sum::<usize>();
        // A burst's memory is given back once it is over.
        if state.0.is_empty() && state.0.capacity() > 64 * RUN_LENGTH {
            state.0 = VecDeque::new();
        }
    }
}

/// What one connection's pushes go through.
pub(crate) struct Feed {
    intake: Arc<Intake>,
    generation: u64,
    pub(crate) broken: CancellationToken,
    /// Confirmations of UNSUBSCRIBE that are owed to us. One more than that, and the server has taken
    /// a subscription away by itself.
    pub(crate) unsubscribing: AtomicUsize,
}

impl Feed {
    pub(crate) fn new(intake: &Arc<Intake>, generation: u64) -> Self {
        Self {
            intake: Arc::clone(intake),
            generation,
            broken: CancellationToken::new(),
            unsubscribing: AtomicUsize::new(0),
        }
    }

    /// Takes one push. Never blocks.
    pub(crate) fn push(&self, info: PushInfo) {
        match info.kind {
            PushKind::Message => self.message(info.data),
            PushKind::Disconnection => self.broke("disconnected"),
            PushKind::Unsubscribe => {
                let owed = self
                    .unsubscribing
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |owed| owed.checked_sub(1));
                if owed.is_err() {
                    self.broke("the server ended a subscription");
                }
            }
            _ => {}
        }
    }

    fn message(&self, data: Vec<Value>) {
        if self.broken.is_cancelled() {
            return;
        }
        let mut data = data.into_iter();
        let (Some(Value::BulkString(channel)), Some(Value::BulkString(payload))) = (data.next(), data.next())
        else {
            return self.intake.subscriber.dropped("broker_malformed");
        };
        let taken = if channel == self.intake.node_channel.as_bytes() {
            self.intake.node.try_send(NodeArrived { payload, generation: self.generation }).is_ok()
        } else {
            self.intake.queue.push(Arrived { channel, payload: payload.into() })
        };
        if !taken {
            self.intake.subscriber.dropped("broker_overflow");
            self.broke("messages come in faster than they are delivered");
        }
    }

    pub(crate) fn broke(&self, reason: &str) {
        // First, so that nobody is told `Ok` for the sake of this connection after the subscriber was told of its
        // end.
        self.broken.cancel();
        if self.intake.standing.broke(self.generation) {
            tracing::warn!(reason, generation = self.generation, "lost the subscription");
        }
    }
}

/// The tasks behind the queues.
pub(crate) struct Deliveries {
    queue: Arc<Queue>,
    node: mpsc::Receiver<NodeArrived>,
}

/// The two ends of both queues.
pub(crate) fn queues(
    node_channel: String,
    standing: &Arc<Standing>,
    subscriber: &Arc<dyn Subscriber>,
) -> (Arc<Intake>, Deliveries) {
    let queue = Arc::new(Queue::default());
    let (node, node_received) = mpsc::channel(NODE_MESSAGES_MAX);
    let intake = Intake {
        queue: Arc::clone(&queue),
        node,
        node_channel,
        standing: Arc::clone(standing),
        subscriber: Arc::clone(subscriber),
    };
    (Arc::new(intake), Deliveries { queue, node: node_received })
}

impl Deliveries {
    /// The two tasks, each running until `cancel`: room traffic, and the node's channel. What cannot be read is
    /// counted and dropped, so neither fails.
    pub(crate) fn split(
        self,
        keys: Keys,
        incarnation: Incarnation,
        subscriber: Arc<dyn Subscriber>,
        cancel: CancellationToken,
    ) -> (impl Future<Output = ()> + Send, impl Future<Output = ()> + Send) {
        let Self { queue, node } = self;
        let publications = deliver_publications(queue, keys, Arc::clone(&subscriber), cancel.clone());
        (publications, deliver_node_messages(node, incarnation, subscriber, cancel))
    }
}

async fn deliver_publications(
    queue: Arc<Queue>,
    keys: Keys,
    subscriber: Arc<dyn Subscriber>,
    cancel: CancellationToken,
) {
    let mut run = Vec::with_capacity(RUN_LENGTH);
    // Nearly every publication is in the namespace of the one before it, so its name is rarely made anew.
    let mut namespace = Namespace::root();
    while !cancel.is_cancelled() {
        queue.take(&mut run);
        if run.is_empty() {
            tokio::select! {
                () = queue.filled.notified() => {}
                () = cancel.cancelled() => return,
            }
            continue;
        }
        for arrived in run.drain(..) {
            if let Err(refusal) = deliver(&arrived, &keys, &mut namespace, &*subscriber) {
                tracing::debug!(%refusal, channel = %arrived.channel.escape_ascii(), "dropped a message");
                subscriber.dropped(refusal.reason());
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Requests and answers are delivered where publications are: what one server asks and then publishes, or the other
/// way round, arrives in that order.
fn deliver(
    arrived: &Arrived,
    keys: &Keys,
    namespace: &mut Namespace,
    subscriber: &dyn Subscriber,
) -> Result<(), Refusal> {
    match keys.traffic(&arrived.channel) {
        Traffic::Publications => subscriber.publication(read(arrived, keys, namespace)?),
        Traffic::Requests(namespace) => {
            let request = requests::decode_request(&Namespace::from(namespace), &arrived.payload)?;
            subscriber.request(request);
        }
        Traffic::Answers => {
            let Answered { id, from, answer } = requests::decode_answer(&arrived.payload)?;
            subscriber.answered(id, from, answer);
        }
    }
    Ok(())
}

fn read(arrived: &Arrived, keys: &Keys, namespace: &mut Namespace) -> Result<Publication, adapter::Refusal> {
    let envelope = Envelope::decode(&arrived.payload)?;
    if !keys.carries(&arrived.channel, envelope.namespace) {
        return Err(adapter::Refusal::NamespaceMismatch);
    }
    if envelope.namespace != namespace.as_str() {
        *namespace = Namespace::from(envelope.namespace);
    }
    Ok(envelope.into_publication(&arrived.payload, namespace.clone()))
}

async fn deliver_node_messages(
    mut arrived: mpsc::Receiver<NodeArrived>,
    incarnation: Incarnation,
    subscriber: Arc<dyn Subscriber>,
    cancel: CancellationToken,
) {
    loop {
        let NodeArrived { payload, generation } = tokio::select! {
            arrived = arrived.recv() => match arrived {
                Some(arrived) => arrived,
                None => return,
            },
            () = cancel.cancelled() => return,
        };
        if let Err(unknown) = hand_on(&payload, generation, &incarnation, &*subscriber) {
            tracing::debug!(%unknown, "dropped a node message");
            subscriber.dropped("unknown_node_message");
        }
    }
}

fn hand_on(
    payload: &[u8],
    generation: u64,
    incarnation: &Incarnation,
    subscriber: &dyn Subscriber,
) -> Result<(), Unknown> {
    match NodeMessage::decode(payload)? {
        NodeMessage::Pulse { incarnation: whose, number } => {
            // Another process with this node's id pulses here, too; its beats say nothing about this one.
            if whose == incarnation.as_str() {
                subscriber.pulse(number, generation);
            }
        }
        // Also of an earlier process with this node's id, which is gone: somebody waits to hear so.
        NodeMessage::Evict(evict) => subscriber.evict(evict.eviction()?),
        NodeMessage::Arrived(arrived) => subscriber.arrived(arrived.arrival()?),
        NodeMessage::Evicted { claim, session } => {
            let claim = ClaimId::parse(&claim).ok_or(Unknown)?;
            subscriber.confirmed(claim, SessionId::parse(&session).ok_or(Unknown)?);
        }
    }
    Ok(())
}
