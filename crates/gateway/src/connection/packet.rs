//! What a client's packets of Socket.IO mean: CONNECT, events, acknowledgements, DISCONNECT.

use tidegate_core::DisconnectReason;
use tidegate_protocol::socketio::{self, Packet, Parser};

use super::ask::Asked;
use super::{Connection, Exit, Held, Speech};
use crate::inbox::Receipt;
use crate::namespaces::Operation;
use crate::operation::Event;
use crate::reply::Question;

/// The operation that a packet asks for.
fn operation(packet: &Packet) -> Option<Operation> {
    let Packet::Event { data, .. } = packet else { return None };
    Event::read(data).ok()?.name.and_then(Operation::parse)
}

impl Connection {
    pub(super) fn on_text(&mut self, text: &str) -> Result<(), Exit> {
        let Speech::SocketIo(packets) = &mut self.speech else { return Ok(()) };
        let packet = packets.text(text);
        self.on_decoded(packet)
    }

    pub(super) fn on_binary(&mut self, bytes: &[u8]) -> Result<(), Exit> {
        let Speech::SocketIo(packets) = &mut self.speech else { return Ok(()) };
        let packet = packets.binary(bytes);
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
            (Packet::Connect { namespace, auth }, None) => self.on_connect(namespace, auth.as_deref(), None),
            (packet @ Packet::Event { .. }, Some(_)) if self.must_follow(operation(&packet)) => {
                self.deferred = Some(Box::new(Held::Packet(packet)));
                Ok(())
            }
            (packet @ Packet::Event { .. }, Some(index)) if self.must_hold(index, operation(&packet)) => {
                self.hold(Held::Packet(packet));
                Ok(())
            }
            (Packet::Event { id, data, .. }, Some(index)) => self.on_event(index, id, &data),
            (Packet::Ack { id, data, .. }, Some(index)) => {
                self.on_acknowledgement(index, Receipt::Packet(id), &data);
                Ok(())
            }
            (Packet::Disconnect { .. }, Some(index)) => {
                let session = self.sessions.swap_remove(index);
                self.node.disconnect(&session, DisconnectReason::ClientNamespaceDisconnect);
                Ok(())
            }
            // On its way before the client could hear that the node ended the session.
            (packet, None) if self.has_ended(packet.namespace()) => Ok(()),
            // A second CONNECT, or anything for a namespace that was not joined.
            _ => Err(forced_close),
        }
    }

    /// Whether the node has ended a session there, and its client has not asked for another since.
    fn has_ended(&self, namespace: &str) -> bool {
        let mut ended = self.ended.iter().flat_map(|ended| &ended.namespaces);
        ended.any(|ended| ended.as_str() == namespace)
    }

    /// The parser of a client of Socket.IO, known from its first packet on.
    fn parser(&self) -> Result<Parser, Exit> {
        let Speech::SocketIo(packets) = &self.speech else {
            return Err(Exit::because(DisconnectReason::ForcedClose));
        };
        packets.parser().ok_or(Exit::because(DisconnectReason::ForcedClose))
    }

    fn on_event(&mut self, index: usize, id: Option<u64>, data: &[u8]) -> Result<(), Exit> {
        let Ok(mut event) = Event::read(data) else {
            return Err(Exit::because(DisconnectReason::ForcedClose));
        };
        let parser = self.parser()?;
        let question = id.map_or(Question::Unasked, |id| Question::Packet(parser, id));
        let asked = match event.name.and_then(Operation::parse) {
            Some(operation) => Asked::Operation(operation, event.argument()),
            None => Asked::Event,
        };
        self.ask(index, asked, question)
    }
}
