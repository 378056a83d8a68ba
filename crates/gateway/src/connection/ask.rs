//! What a client asks for, in whichever protocol: its limits, what it must wait for, and who carries it out.

use bytes::Bytes;
use std::sync::Arc;

use tidegate_core::{Answer, ErrorCode};
use tidegate_msgpack::Reader;
use tokio::time::Instant;

use super::{Connection, Exit, Held, Resume, Speech};
use crate::inbox::Receipt;
use crate::namespaces::Operation;
use crate::operation::{self, NIL};
use crate::reply::{Question, Refusal, Reply};

/// What an event asks for.
pub(super) enum Asked<'a> {
    /// One of the gateway's own, with its argument if it has one.
    Operation(Operation, Option<&'a [u8]>),
    /// Something for the application's backend.
    Event,
    /// Nothing that there is.
    Nothing(Refusal),
}

impl Asked<'_> {
    fn operation(&self) -> Option<Operation> {
        match self {
            Self::Operation(operation, _) => Some(*operation),
            Self::Event | Self::Nothing(_) => None,
        }
    }
}

/// Nobody can say now whether a session still has its place.
pub(super) fn deaf() -> Refusal {
    Refusal::new(ErrorCode::Unavailable, "this node does not hear the cluster")
}

impl Connection {
    /// Carries out what the session of that index asks for, or refuses it.
    pub(super) fn ask(&mut self, index: usize, asked: Asked<'_>, question: Question) -> Result<(), Exit> {
        let operation = asked.operation();
        let (now, limits) = (self.node.clock.now_ms(), &self.node.options.limits);
        let allowed = operation == Some(Operation::Heartbeat)
            || self.events.take(now, limits.events_per_second_max, limits.events_burst);
        let session = &self.sessions[index];
        session.rule.metrics.messages_received.inc();
        let reply = Reply {
            session: Arc::clone(session),
            question,
            metrics: Arc::clone(&self.node.metrics),
            operation: operation.map_or("event", Operation::as_str),
        };
        // Whoever takes this session's place is answered when what is begun here is done; also when it is refused.
        let Some(deed) = session.begin(&self.node.broker) else { return Ok(()) };
        if !allowed {
            return self.refuse_flood(reply, now);
        }
        // A sign of life needs nobody else, and who has no place cannot have lost it.
        let alone = operation == Some(Operation::Heartbeat) && session.holding().is_none();
        if !alone && self.node.pulse.check(Instant::now()).is_err() {
            // Held for as long as anything may be; nobody can say now whether this session still has its place.
            reply.refuse(&deaf());
            return Ok(());
        }
        match asked {
            Asked::Operation(operation, argument) => {
                let answer = operation::perform(&self.node, session, operation, argument, deed, reply);
                if let Some(answer) = answer {
                    self.busy = Some(Box::pin(async move {
                        answer.await;
                        Resume::Input
                    }));
                }
            }
            Asked::Event => reply.refuse(&Refusal::new(
                ErrorCode::NoHandler,
                "no operation has this name, and no backend is configured",
            )),
            Asked::Nothing(refusal) => reply.refuse(&refusal),
        }
        self.hold_back();
        Ok(())
    }

    /// Refuses what is too much. A client of the plain protocol that does not ask how it went is told by the end of its
    /// connection, once as much was dropped as may be taken of it.
    fn refuse_flood(&mut self, reply: Reply, now_ms: u64) -> Result<(), Exit> {
        let limits = &self.node.options.limits;
        let max = limits.events_per_second_max;
        let refusal = Refusal::new(
            ErrorCode::RateLimited,
            format!("more than {max} events a second (limits.events_per_second_max)"),
        );
        let is_awaited = reply.is_awaited();
        reply.refuse(&refusal);
        if is_awaited {
            return Ok(());
        }
        self.node.metrics.dropped("rate_limited", 1);
        let Speech::Plain(plain) = &mut self.speech else { return Ok(()) };
        if plain.may_drop(now_ms, limits) { Ok(()) } else { Err(Exit::refused(&refusal)) }
    }

    /// Settles a durable message, or passes an acknowledgement on to the server that asked for it. One that nobody waits
    /// for is ignored, and so is one of a client that may have been displaced unheard. `data` is a wire array.
    pub(super) fn on_acknowledgement(&mut self, index: usize, receipt: Receipt, data: &[u8]) {
        let session = &self.sessions[index];
        if session.inbox.acknowledged(receipt) {
            // Also by a node that is deaf: what it settles is compared with the claim, and there may be room for more.
            self.node.registrar.settle(session);
            self.has_news = true;
            return;
        }
        let (Receipt::Packet(id) | Receipt::Broadcast(id)) = receipt else { return };
        if self.node.pulse.check(Instant::now()).is_err() {
            return;
        }
        let Some(_deed) = session.begin(&self.node.broker) else { return };
        let Some(asker) = self.node.acknowledgements.take(id, session.id) else { return };
        let mut arguments = Reader::new(data);
        let first = match arguments.array() {
            Ok(1..) => arguments.value().unwrap_or(NIL),
            _ => NIL,
        };
        let answer = Answer::Acknowledged(Bytes::copy_from_slice(first));
        self.node.broker.answer(&asker, session.namespace(), answer);
    }

    /// Whether what asks for `operation`, or for nothing of the gateway's, must wait until joins are answered. Joins need
    /// not wait for each other, and so share a batch.
    pub(super) fn must_follow(&self, operation: Option<Operation>) -> bool {
        !self.outbox.is_joined() && operation != Some(Operation::Join)
    }

    /// Whether it must wait because the node is deaf, and has not been for long.
    pub(super) fn must_hold(&self, index: usize, operation: Option<Operation>) -> bool {
        let now = Instant::now();
        self.node.pulse.check(now).is_err()
            && now < self.node.pulse.hold_until(now)
            && !(operation == Some(Operation::Heartbeat) && self.sessions[index].holding().is_none())
    }

    /// Holds an event, and with it everything behind it, until the node hears again or has been deaf for too long.
    /// Nothing more is read meanwhile, so that what is held is bounded by the sizes of a message and a socket.
    pub(super) fn hold(&mut self, held: Held) {
        let node = Arc::clone(&self.node);
        self.busy = Some(Box::pin(async move {
            // Either way the event is looked at again, and refused if need be.
            let _ = node.pulse.held().await;
            Resume::Held(held)
        }));
    }

    /// Reads no more from a client while the queues that its events go to are filling up.
    fn hold_back(&mut self) {
        if self.busy.is_some() {
            return;
        }
        if let Some(ready) = self.node.broker.ready() {
            self.busy = Some(Box::pin(async move {
                ready.await;
                Resume::Input
            }));
        } else if let Some(relief) = self.node.hub.congestion() {
            self.busy = Some(Box::pin(async move {
                relief.await;
                Resume::Input
            }));
        }
    }
}
