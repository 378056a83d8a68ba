//! What a client's packets mean: CONNECT, events, acknowledgements, DISCONNECT.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_core::{Answer, DisconnectReason, Namespace, SessionId};
use tidegate_msgpack::{Reader, write};
use tidegate_protocol::socketio::{self, Packet, Parser};

use super::{Connection, Exit, SESSIONS_MAX};
use crate::enrolment::{Enrolled, Entrant, Turned};
use crate::message::Message;
use crate::namespaces::Operation;
use crate::operation::{self, Event};
use crate::reply::{Refusal, Reply};
use tidegate_core::ErrorCode;
use tokio::time::Instant;

/// MessagePack's nil.
const NIL: &[u8] = &[0xc0];

/// What a connection waited for.
pub(crate) enum Resume {
    /// A client that may be seated in a namespace, or why it may not.
    Connect(Namespace, Result<Box<Enrolled>, Turned>),
    /// A packet that was held while the node was deaf, and may be looked at now.
    Packet(Packet),
    /// Room in a queue.
    Input,
}

fn is(packet: &Packet, operation: Operation) -> bool {
    let Packet::Event { data, .. } = packet else { return false };
    Event::read(data).is_ok_and(|event| event.name == Some(operation.as_str()))
}

impl Connection {
    pub(super) fn on_text(&mut self, text: &str) -> Result<(), Exit> {
        let packet = self.packets.text(text);
        self.on_decoded(packet)
    }

    pub(super) fn on_binary(&mut self, bytes: &[u8]) -> Result<(), Exit> {
        let packet = self.packets.binary(bytes);
        self.on_decoded(packet)
    }

    fn on_decoded(&mut self, packet: Result<Option<Packet>, socketio::Violation>) -> Result<(), Exit> {
        match packet {
            Ok(None) => Ok(()),
            Ok(Some(packet)) => self.on_packet(packet),
            Err(violation) => {
                tracing::debug!(%violation, "closing a connection");
                Err(Exit::because(DisconnectReason::ForcedClose))
            }
        }
    }

    pub(super) fn on_packet(&mut self, packet: Packet) -> Result<(), Exit> {
        let forced_close = Exit::because(DisconnectReason::ForcedClose);
        let session = self.session(packet.namespace());
        match (packet, session) {
            (Packet::Connect { namespace, auth }, None) => self.on_connect(namespace, auth.as_deref()),
            // Joins need not wait for each other, and so share a batch.
            (packet @ Packet::Event { .. }, Some(_))
                if !self.outbox.is_joined() && !is(&packet, Operation::Join) =>
            {
                self.deferred = Some(Box::new(packet));
                Ok(())
            }
            (packet @ Packet::Event { .. }, Some(index)) if self.must_hold(index, &packet) => {
                self.hold(packet);
                Ok(())
            }
            (Packet::Event { id, data, .. }, Some(index)) => self.on_event(index, id, &data),
            (Packet::Ack { id, data, .. }, Some(index)) => {
                self.on_acknowledgement(index, id, &data);
                Ok(())
            }
            (Packet::Disconnect { .. }, Some(index)) => {
                let session = self.sessions.swap_remove(index);
                self.node.disconnect(&session, DisconnectReason::ClientNamespaceDisconnect);
                Ok(())
            }
            // On its way before the client could hear that the node ended the session.
            (packet, None) if self.ended.iter().any(|ended| ended.as_str() == packet.namespace()) => Ok(()),
            // A second CONNECT, or anything for a namespace that was not joined.
            _ => Err(forced_close),
        }
    }

    fn parser(&self) -> Result<Parser, Exit> {
        // Known from the first packet on.
        self.packets.parser().ok_or(Exit::because(DisconnectReason::ForcedClose))
    }

    fn on_connect(&mut self, namespace: String, auth: Option<&[u8]>) -> Result<(), Exit> {
        // Before the look whether the node hears: a lapse in between must be one since.
        let lapse = self.node.pulse.lapse();
        let namespace = Namespace::from(namespace);
        self.ended.retain(|ended| *ended != namespace);
        let (now, limits) = (self.node.clock.now_ms(), &self.node.options.limits);
        if !self.connects.take(now, limits.events_per_second_max, limits.events_burst) {
            let message = "more connects a second than limits.events_per_second_max";
            return self.refuse_connect(&namespace, message, Some(ErrorCode::RateLimited));
        }
        if self.sessions.len() >= SESSIONS_MAX {
            let message = format!("a connection may have at most {SESSIONS_MAX} namespaces");
            return self.refuse_connect(&namespace, &message, Some(ErrorCode::TooLarge));
        }
        let Some(rule) = self.node.rule(&namespace) else {
            return self.refuse_connect(&namespace, "Invalid namespace", None);
        };
        let identity = match self.node.identify(&namespace, auth) {
            Ok(identity) => identity,
            Err(refused) => {
                return self.refuse_connect(&namespace, &refused.message, Some(refused.code));
            }
        };
        if !self.node.may_connect() {
            // A client never retries after a CONNECT_ERROR; after a closed transport it does.
            return Err(Exit::because(DisconnectReason::ForcedClose));
        }
        let entrant = Entrant { id: SessionId::random(), namespace: namespace.clone(), rule, identity };
        let enrolled = self.node.enrol(entrant, &self.outbox, lapse);
        self.busy = Some(Box::pin(async move { Resume::Connect(namespace, enrolled.await.map(Box::new)) }));
        Ok(())
    }

    pub(super) fn resume(&mut self, resume: Resume) -> Result<(), Exit> {
        match resume {
            Resume::Input => Ok(()),
            Resume::Packet(packet) => self.on_packet(packet),
            Resume::Connect(_, Err(Turned::Unavailable)) => {
                tracing::debug!("failed to enrol a session");
                Err(Exit::because(DisconnectReason::ForcedClose))
            }
            Resume::Connect(namespace, Err(Turned::Taken)) => {
                let message = "another session of this user is connected, and the policy keeps it";
                self.refuse_connect(&namespace, message, Some(ErrorCode::DuplicateSession))
            }
            Resume::Connect(_, Ok(enrolled)) => self.connected(*enrolled),
        }
    }

    fn connected(&mut self, enrolled: Enrolled) -> Result<(), Exit> {
        let parser = self.parser()?;
        let Entrant { id, namespace, .. } = &enrolled.entrant;
        // Deaf in between, the node may have missed that the newcomer was displaced in its turn.
        if self.is_joined(namespace) || !self.node.may_connect() || self.node.pulse.lapse() != enrolled.lapse
        {
            return Err(Exit::because(DisconnectReason::ForcedClose));
        }
        let mut data = Vec::with_capacity(32);
        write::map(&mut data, 1);
        write::str(&mut data, "sid");
        write::str(&mut data, id.as_str());
        let connected = socketio::encode::connect(parser, namespace.as_str(), Some(&data));
        let connected = self.encoded(connected)?;
        let lapse = enrolled.lapse;
        let session = self.node.connect(self.shard, &self.outbox, parser, &connected, enrolled);
        if self.connect_deadline_ms.take().is_some() {
            self.lift_unauthenticated_bound();
        }
        if let Some(expires_ms) = session.expires_unix_ms() {
            let left = expires_ms.saturating_sub(crate::clock::unix_ms());
            self.arm_earlier(self.node.clock.now_ms() + left);
        }
        self.sessions.push(session);
        if self.node.pulse.lapse() != lapse {
            // This thread stood still since the look above. An audit that went by has not seen the session.
            return Err(Exit::because(DisconnectReason::ForcedClose));
        }
        Ok(())
    }

    fn encoded(
        &self,
        encoded: Result<socketio::Encoded, tidegate_protocol::value::Error>,
    ) -> Result<Message, Exit> {
        encoded.map(|encoded| Message::packet(encoded, false)).map_err(|error| {
            tracing::error!(%error, "failed to encode a packet of our own");
            Exit::because(DisconnectReason::ForcedClose)
        })
    }

    /// CONNECT_ERROR: `{ message, data: { code } }`, or the bare message for what a stock server refuses likewise.
    fn refuse_connect(
        &mut self,
        namespace: &Namespace,
        message: &str,
        code: Option<ErrorCode>,
    ) -> Result<(), Exit> {
        let parser = self.parser()?;
        let mut data = Vec::with_capacity(64);
        write::map(&mut data, 1 + u32::from(code.is_some()));
        write::str(&mut data, "message");
        write::str(&mut data, message);
        if let Some(code) = code {
            write::str(&mut data, "data");
            write::map(&mut data, 1);
            write::str(&mut data, "code");
            write::str(&mut data, code.as_str());
        }
        let outcome = code.unwrap_or(ErrorCode::NotFound);
        self.node.metrics.operation("connect", Err(outcome));
        let refused = self.encoded(socketio::encode::connect_error(parser, namespace.as_str(), &data))?;
        self.outbox.push(&refused);
        Ok(())
    }

    fn on_event(&mut self, index: usize, id: Option<u64>, data: &[u8]) -> Result<(), Exit> {
        let Ok(event) = Event::read(data) else {
            return Err(Exit::because(DisconnectReason::ForcedClose));
        };
        let operation = event.name.and_then(Operation::parse);
        let (now, limits) = (self.node.clock.now_ms(), &self.node.options.limits);
        let allowed = operation == Some(Operation::Heartbeat)
            || self.events.take(now, limits.events_per_second_max, limits.events_burst);
        let session = &self.sessions[index];
        session.rule.metrics.messages_received.inc();
        let reply = Reply {
            session: Arc::clone(session),
            id,
            metrics: Arc::clone(&self.node.metrics),
            operation: operation.map_or("event", Operation::as_str),
        };
        if !allowed {
            let max = self.node.options.limits.events_per_second_max;
            if !reply.is_awaited() {
                self.node.metrics.dropped("rate_limited", 1);
            }
            reply.refuse(&Refusal::new(
                ErrorCode::RateLimited,
                format!("more than {max} events a second (limits.events_per_second_max)"),
            ));
            return Ok(());
        }
        // A sign of life needs nobody else, and who has no place cannot have lost it.
        let alone = operation == Some(Operation::Heartbeat) && session.holding.is_none();
        if !alone && self.node.pulse.check(Instant::now()).is_err() {
            // Held for as long as anything may be; nobody can say now whether this session still has its place.
            reply.refuse(&Refusal::new(ErrorCode::Unavailable, "this node does not hear the cluster"));
            return Ok(());
        }
        // Whoever takes this session's place is answered when what is begun here is done.
        let Some(deed) = session.begin(&self.node.broker) else { return Ok(()) };
        match operation {
            Some(operation) => {
                let answer = operation::perform(&self.node, session, operation, event, deed, reply);
                if let Some(answer) = answer {
                    self.busy = Some(Box::pin(async move {
                        answer.await;
                        Resume::Input
                    }));
                }
            }
            None => reply.refuse(&Refusal::new(
                ErrorCode::NoHandler,
                "no operation has this name, and no backend is configured",
            )),
        }
        self.hold_back();
        Ok(())
    }

    /// Settles a durable message, or passes an acknowledgement on to the server that asked for it. One that nobody waits for is ignored, and so is one
    /// of a client that may have been displaced unheard.
    fn on_acknowledgement(&mut self, index: usize, id: u64, data: &[u8]) {
        let session = &self.sessions[index];
        if session.inbox.acknowledged(id) {
            // Also by a node that is deaf: what it settles is compared with the claim, and there may be room for more.
            self.node.registrar.settle(session);
            self.has_news = true;
            return;
        }
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
        self.node.broker.answer(&asker, &session.namespace, answer);
    }

    /// Whether an event must wait: the node is deaf, and has not been for long.
    fn must_hold(&self, index: usize, packet: &Packet) -> bool {
        let now = Instant::now();
        self.node.pulse.check(now).is_err()
            && now < self.node.pulse.hold_until(now)
            && !(is(packet, Operation::Heartbeat) && self.sessions[index].holding.is_none())
    }

    /// Holds an event, and with it everything behind it, until the node hears again or has been deaf for too long.
    /// Nothing more is read meanwhile, so that what is held is bounded by the sizes of a message and a socket.
    fn hold(&mut self, packet: Packet) {
        let node = Arc::clone(&self.node);
        self.busy = Some(Box::pin(async move {
            // Either way the packet is looked at again, and refused if need be.
            let _ = node.pulse.held().await;
            Resume::Packet(packet)
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
