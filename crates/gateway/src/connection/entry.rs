//! How a session begins: a client asks to be connected to a namespace, and is let in or told why not.

use tidegate_core::{DisconnectReason, ErrorCode, Namespace, SessionId};
use tidegate_msgpack::write;
use tidegate_protocol::plain::{self, Format};
use tidegate_protocol::{socketio, value};

use super::{Connection, Exit, Held, Resume, SESSIONS_MAX, millis};
use crate::bucket::Bucket;
use crate::dialect::Dialect;
use crate::enrolment::{Enrolled, Entrant, Turned};
use crate::message::Message;
use crate::node::Inner;
use crate::reply::{Refusal, bare_reply};

impl Connection {
    /// A client asks for a namespace; `id` is what it wants the answer called by, in the plain protocol.
    pub(super) fn on_connect(
        &mut self,
        namespace: String,
        auth: Option<&[u8]>,
        id: Option<plain::Id>,
    ) -> Result<(), Exit> {
        // Before the look whether the node hears: a lapse in between must be one since.
        let lapse = self.node.pulse.lapse();
        let namespace = Namespace::named(&namespace);
        if let Some(ended) = &mut self.ended {
            ended.namespaces.retain(|ended| *ended != namespace);
        }
        if !self.may_ask_to_connect() {
            let message = "more connects a second than limits.events_per_second_max";
            return self.refuse_connect(&namespace, id, Refusal::new(ErrorCode::RateLimited, message));
        }
        if self.sessions.len() >= SESSIONS_MAX {
            let message = format!("a connection may have at most {SESSIONS_MAX} namespaces");
            return self.refuse_connect(&namespace, id, Refusal::new(ErrorCode::TooLarge, message));
        }
        let Some(rule) = self.node.rule(&namespace) else {
            return self.refuse_connect(&namespace, id, Refusal::new(ErrorCode::NotFound, INVALID_NAMESPACE));
        };
        let identity = match self.node.identify(&namespace, auth) {
            Ok(identity) => identity,
            Err(refused) => {
                return self.refuse_connect(&namespace, id, Refusal::new(refused.code, refused.message));
            }
        };
        let resumes = match crate::auth::resumes(auth) {
            Ok(resumes) => resumes,
            Err(refused) => {
                return self.refuse_connect(&namespace, id, Refusal::new(refused.code, refused.message));
            }
        };
        if !self.node.may_connect() {
            // A client of Socket.IO never retries after a CONNECT_ERROR; after a closed transport it does.
            return Err(Exit::because(DisconnectReason::ForcedClose));
        }
        let entrant =
            Entrant { id: SessionId::random(), namespace: namespace.clone(), rule, identity, resumes };
        let enrolled = self.node.enrol(entrant, &self.outbox, lapse);
        self.busy =
            Some(Box::pin(async move { Resume::Connect(namespace, id, enrolled.await.map(Box::new)) }));
        Ok(())
    }

    pub(super) fn resume(&mut self, resume: Resume) -> Result<(), Exit> {
        match resume {
            Resume::Input => Ok(()),
            Resume::Held(Held::Packet(packet)) => self.on_packet(packet),
            Resume::Held(Held::Request(request)) => self.on_request(request),
            Resume::Connect(_, _, Err(Turned::Unavailable)) => {
                tracing::debug!("failed to enrol a session");
                Err(Exit::because(DisconnectReason::ForcedClose))
            }
            Resume::Connect(namespace, id, Err(Turned::Taken)) => {
                let message = "another session of this user is connected, and the policy keeps it";
                self.refuse_connect(&namespace, id, Refusal::new(ErrorCode::DuplicateSession, message))
            }
            Resume::Connect(_, id, Ok(enrolled)) => self.connected(*enrolled, id.as_ref()),
        }
    }

    fn connected(&mut self, enrolled: Enrolled, id: Option<&plain::Id>) -> Result<(), Exit> {
        let dialect = self.dialect()?;
        // Deaf in between, the node may have missed that the newcomer was displaced in its turn.
        if self.is_joined(&enrolled.entrant.namespace)
            || !self.node.may_connect()
            || self.node.pulse.lapse() != enrolled.lapse
        {
            return Err(Exit::because(DisconnectReason::ForcedClose));
        }
        let connected = welcome(&self.node, dialect, &enrolled.entrant, id).map_err(|error| {
            tracing::error!(%error, "failed to encode the answer to a connect");
            Exit::because(DisconnectReason::ForcedClose)
        })?;
        let lapse = enrolled.lapse;
        let session = self.node.connect(self.shard, &self.outbox, dialect, &connected, enrolled);
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

    /// Whether a CONNECT is not one too many. Hardly a connection has more than one, so that counting begins with the second.
    fn may_ask_to_connect(&mut self) -> bool {
        if !std::mem::replace(&mut self.has_asked_to_connect, true) {
            return true;
        }
        let (now, limits) = (self.node.clock.now_ms(), &self.node.options.limits);
        // As many as a burst has, the first included; it was long enough ago for another, where a burst is one.
        let burst = || Box::new(Bucket::full(now, limits.events_burst.saturating_sub(1).max(1)));
        let connects = self.connects.get_or_insert_with(burst);
        connects.take(now, limits.events_per_second_max, limits.events_burst)
    }

    /// Turns a client away: a CONNECT_ERROR in Socket.IO, in the plain protocol the end of the connection.
    fn refuse_connect(
        &mut self,
        namespace: &Namespace,
        id: Option<plain::Id>,
        refusal: Refusal,
    ) -> Result<(), Exit> {
        self.node.metrics.operation("connect", Err(refusal.code));
        let refused = match self.dialect()? {
            Dialect::SocketIo(parser) => connect_error(parser, namespace, &refusal).map(Some),
            Dialect::Plain(format) => id
                .map(|id| bare_reply(format, &id, Some(&refusal)))
                .transpose()
                .map(|frame| frame.map(|frame| Message::frame(frame, false))),
        };
        match refused {
            Ok(Some(refused)) => {
                self.outbox.push(&refused);
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%error, "failed to encode a refusal");
                return Err(Exit::because(DisconnectReason::ForcedClose));
            }
        }
        if self.is_plain() { Err(Exit::refused(&refusal)) } else { Ok(()) }
    }
}

/// What stock servers say of a namespace that they do not have.
const INVALID_NAMESPACE: &str = "Invalid namespace";

/// CONNECT_ERROR: `{ message, data: { code } }`, or the bare message for what a stock server refuses likewise.
fn connect_error(
    parser: socketio::Parser,
    namespace: &Namespace,
    refusal: &Refusal,
) -> Result<Message, value::Error> {
    let is_bare = refusal.code == ErrorCode::NotFound;
    let mut data = Vec::with_capacity(64);
    write::map(&mut data, 1 + u32::from(!is_bare));
    write::str(&mut data, "message");
    write::str(&mut data, &refusal.message);
    if !is_bare {
        write::str(&mut data, "data");
        write::map(&mut data, 1);
        write::str(&mut data, "code");
        write::str(&mut data, refusal.code.as_str());
    }
    let encoded = socketio::encode::connect_error(parser, namespace.as_str(), &data)?;
    Ok(Message::packet(encoded, false))
}

/// The answer to whoever is let in.
fn welcome(
    node: &Inner,
    dialect: Dialect,
    entrant: &Entrant,
    id: Option<&plain::Id>,
) -> Result<Message, value::Error> {
    match dialect {
        Dialect::SocketIo(parser) => {
            let mut data = Vec::with_capacity(32);
            write::map(&mut data, 1);
            write::str(&mut data, "sid");
            write::str(&mut data, entrant.id.as_str());
            let encoded = socketio::encode::connect(parser, entrant.namespace.as_str(), Some(&data))?;
            Ok(Message::packet(encoded, false))
        }
        Dialect::Plain(format) => welcome_plain(node, format, entrant, id),
    }
}

/// `{ op: "connected", session, user, node, heartbeat_ms }`, and behind it the reply if one is asked for.
fn welcome_plain(
    node: &Inner,
    format: Format,
    entrant: &Entrant,
    id: Option<&plain::Id>,
) -> Result<Message, value::Error> {
    let mut data = Vec::with_capacity(128);
    write::map(&mut data, 5);
    write::str(&mut data, "op");
    write::str(&mut data, "connected");
    write::str(&mut data, "session");
    write::str(&mut data, entrant.id.as_str());
    write::str(&mut data, "user");
    match &entrant.identity.user {
        Some(user) => write::str(&mut data, user),
        None => write::nil(&mut data),
    }
    write::str(&mut data, "node");
    write::str(&mut data, node.options.node.as_str());
    write::str(&mut data, "heartbeat_ms");
    write::uint(&mut data, millis(node.options.engine.ping_interval));
    let connected = plain::encode::message(format, &data)?;
    let Some(id) = id else { return Ok(Message::frame(connected, false)) };
    let mut frames = Vec::from(connected);
    frames.extend_from_slice(&bare_reply(format, id, None)?);
    Ok(Message::frame(frames.into(), false))
}
