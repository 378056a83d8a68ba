//! Rooms: joining, leaving and publishing.

use std::sync::Arc;

use tidegate_core::broker::Done;
use tidegate_core::{ErrorCode, MessageId, Publication, Room};

use crate::hub::Joined;
use crate::interest;
use crate::node::Inner;
use crate::outbox::PendingJoin;
use crate::reply::{Refusal, Reply};
use crate::session::{Deed, Session};

/// Why a join does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotJoined {
    /// The session is in as many rooms as it may be.
    Full,
    /// The session has ended.
    Gone,
    /// The broker or the registry cannot be reached.
    Unavailable,
}

impl Inner {
    /// The session is no member of the room any more.
    pub(crate) fn left(&self, session: &Session, room: &Room) {
        if let Some(stay) = session.stay(room, &self.options.node) {
            self.registrar.depart(stay);
        }
        if self.interest.leave(&interest::room(session.namespace(), room)) {
            session.rule.metrics.rooms.dec();
        }
    }

    /// Makes the session a member of `room` and answers once what is published from then on will arrive and, where the
    /// namespace keeps presence, the cluster knows of it. Until then the connection holds back what its client sent
    /// behind the join.
    pub(crate) fn join(self: &Arc<Self>, session: &Arc<Session>, room: Room, reply: Reply) {
        let pending = PendingJoin::new(&session.outbox);
        let (node, of, named) = (Arc::clone(self), Arc::clone(session), room.clone());
        let rooms_max = self.options.limits.rooms_per_session_max;
        self.join_then(session, room, move |joined| {
            // Evicted meanwhile, it is acknowledged nothing any more.
            let Some(_deed) = of.begin(&node.broker) else { return };
            match joined {
                // The join that was still under way may have failed, or the session ended, and it was taken back.
                Ok(()) if node.hub.is_member(of.seat, of.id, &named) => reply.ok(),
                Ok(()) | Err(NotJoined::Unavailable) => reply.refuse(&unavailable()),
                Err(NotJoined::Full) => reply.refuse(&Refusal::new(
                    ErrorCode::TooLarge,
                    format!("a session may be in at most {rooms_max} rooms (limits.rooms_per_session_max)"),
                )),
                Err(NotJoined::Gone) => {}
            }
            drop(pending);
        });
    }

    /// Makes the session a member of `room`, and tells `then` when that holds.
    pub(crate) fn join_then(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: Room,
        then: impl FnOnce(Result<(), NotJoined>) + Send + 'static,
    ) {
        let topic = interest::room(session.namespace(), &room);
        let rooms_max = self.options.limits.rooms_per_session_max;
        // Counted before the session can be found in the room: whoever ends it takes back what it finds.
        let count = || self.interest.count(topic.clone(), || session.rule.metrics.rooms.inc());
        match self.hub.join(session.seat, session.id, &room, rooms_max, count) {
            Joined::Gone => then(Err(NotJoined::Gone)),
            Joined::Full => then(Err(NotJoined::Full)),
            Joined::Already => {
                self.interest
                    .confirm(&topic, move |outcome| then(outcome.map_err(|_| NotJoined::Unavailable)));
            }
            Joined::New => {
                let (node, of) = (Arc::clone(self), Arc::clone(session));
                self.interest.confirm(&topic, move |outcome| {
                    if outcome.is_err() {
                        node.unjoin(&of, &room);
                        return then(Err(NotJoined::Unavailable));
                    }
                    let Some(stay) = of.stay(&room, &node.options.node) else { return then(Ok(())) };
                    let registrar = Arc::clone(&node.registrar);
                    registrar.enter(stay, move |outcome| {
                        if outcome.is_err() {
                            node.unjoin(&of, &room);
                        }
                        then(outcome.map_err(|_| NotJoined::Unavailable));
                    });
                });
            }
        }
    }

    /// Takes a join back that did not come to hold.
    fn unjoin(&self, session: &Session, room: &Room) {
        if self.hub.leave(session.seat, session.id, room) {
            self.left(session, room);
        }
    }

    pub(crate) fn leave(&self, session: &Session, room: &Room) {
        if self.hub.leave(session.seat, session.id, room) {
            self.left(session, room);
        }
    }

    /// Hands a publication to the broker and answers when it has been taken. Whoever takes the session's place is
    /// answered only after that.
    pub(crate) fn publish(&self, deed: Deed, publication: Publication, id: MessageId, reply: Reply) {
        let hub = Arc::clone(&self.hub);
        let followed = self.traces.as_ref().and_then(|traces| traces.publishing(&publication, &id));
        self.broker.publish(
            publication,
            Done::call(move |outcome| {
                if let Some(followed) = followed {
                    followed.end(outcome.is_err().then_some(ErrorCode::Unavailable.as_str()));
                }
                match outcome {
                    Ok(()) => reply.ok_published(id.as_str(), &hub),
                    Err(_) => reply.refuse(&unavailable()),
                }
                drop(deed);
            }),
        );
    }
}

fn unavailable() -> Refusal {
    Refusal::new(ErrorCode::Unavailable, "the broker cannot be reached; the outcome is unknown")
}
