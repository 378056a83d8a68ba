//! The publication: one event on its way to the members of rooms, on every node.

use bytes::Bytes;
use smallvec::SmallVec;

use crate::ids::{Namespace, Room, SessionId};

/// Names that no publication's event may have. The first six are Socket.IO's own, which clients refuse to receive;
/// the others are the gateway's, which only a gateway may send.
pub const EVENTS_RESERVED: [&str; 11] = [
    "connect",
    "connect_error",
    "disconnect",
    "disconnecting",
    "newListener",
    "removeListener",
    "evicted",
    "offline_message",
    "offline_message_ack",
    "presence_join",
    "presence_leave",
];

/// The events that only a publication with [`Flags::presence`] may have.
pub const PRESENCE_EVENTS: [&str; 2] = ["presence_join", "presence_leave"];

/// A few rooms: most publications name one, or none.
pub type Rooms = SmallVec<[Room; 1]>;

/// One event, addressed to rooms of a namespace, or with none to the whole namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// The namespace; it is never crossed.
    pub namespace: Namespace,
    /// Members of any of these receive it, once each. Empty means the whole namespace.
    pub rooms: Rooms,
    /// Members of any of these do not.
    pub except: Rooms,
    /// How it may be treated.
    pub flags: Flags,
    /// A MessagePack array, the event's name first and its arguments after it, in the value forms of
    /// `@socket.io/redis-adapter`: bytes are bin, a date is the standard timestamp extension. Whoever builds a
    /// publication has checked that it is one complete array.
    pub data: Bytes,
}

/// How a publication may be treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// May be dropped for a receiver that cannot take it at once.
    pub volatile: bool,
    /// It is one of the gateway's own presence events, [`PRESENCE_EVENTS`], which nobody else may send.
    pub presence: bool,
    /// The last of its two arguments is the gateway's word on who published it, and when. Only the gateway says so: what
    /// looks like it is an argument like any other.
    pub meta: bool,
}

/// What a node subscribes to: exactly what it has a use for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Publications of a namespace that name no room, or several.
    Namespace(Namespace),
    /// Publications that name exactly this room.
    Room(Namespace, Room),
    /// Publications that name exactly the room of this socket, which is a room of one. The node that the socket lives on
    /// wants it, and there is one for every session: it is a topic of its own so that it can be kept for little.
    Socket(Namespace, SessionId),
    /// Requests to the servers of a namespace; see [`Request`](crate::Request). Whoever is subscribed is counted, and
    /// those who ask wait for its answer.
    Requests(Namespace),
    /// Answers to what this node asks in a namespace. Those to others may come along.
    Answers(Namespace),
}

impl Publication {
    /// The one topic that carries this publication. Publications to several rooms travel on the namespace's
    /// topic, as `@socket.io/redis-adapter` does it, so that each arrives once. What [`Topic::Room`] carries for a room that
    /// is called like a socket, [`Topic::Socket`] carries as well.
    #[must_use]
    pub fn topic(&self) -> Topic {
        match self.rooms.as_slice() {
            [room] => Topic::Room(self.namespace.clone(), room.clone()),
            _ => Topic::Namespace(self.namespace.clone()),
        }
    }

    /// What it weighs in a queue, in bytes: the payload and a flat share for the rest.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.data.len() + size_of::<Self>()
    }
}
