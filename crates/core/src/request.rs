//! What servers ask of each other about the sockets of a namespace, and what they answer.
//!
//! These are the words of the requests of `@socket.io/redis-adapter`, so that Node servers can ask nodes and nodes
//! can ask Node servers. A request goes to every server that listens for requests of the namespace, the one that
//! asks included; each listener answers for the sockets it has itself. Whoever asks counts the listeners first
//! ([`Broker::listeners`](crate::Broker::listeners)), and that many answers are all of them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::ids::{Namespace, NodeId, RequestId, Room};
use crate::publication::{Publication, Rooms};

/// A server asks something of every server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The namespace; it is never crossed.
    pub namespace: Namespace,
    /// Who waits for an answer; nobody when none is wanted.
    pub asker: Option<Asker>,
    /// What it asks.
    pub ask: Ask,
}

impl Request {
    /// What it weighs in a queue, in bytes: what it names and a flat share for the rest.
    #[must_use]
    pub fn weight(&self) -> usize {
        let names = match &self.ask {
            Ask::Ids { rooms } => names_weight(rooms),
            Ask::Join { selection, rooms } | Ask::Leave { selection, rooms } => {
                selection.weight() + names_weight(rooms)
            }
            Ask::Disconnect { selection, .. } | Ask::Fetch { selection } => selection.weight(),
            Ask::Rooms | Ask::ServerSideEmit { .. } => 0,
            Ask::Broadcast { publication, .. } => publication.weight(),
        };
        size_of::<Self>() + names
    }
}

fn names_weight(names: &[Room]) -> usize {
    names.iter().map(|name| name.as_str().len() + size_of::<Room>()).sum()
}

/// Who waits for an answer. As a broker tells it, it is given back when the answer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// What it calls itself on the bus, if it says.
    pub uid: Option<Arc<str>>,
    /// What it is called if it is a node, and not a server of another kind.
    pub node: Option<NodeId>,
    /// What it calls the request; the answer repeats it.
    pub id: RequestId,
    /// Whether it asks about one socket and takes the first answer for the only one, as old versions of the
    /// adapter do. A server without that socket must then be silent.
    pub only_owner: bool,
}

impl Asker {
    /// For a request of one's own. The broker says who asks.
    #[must_use]
    pub const fn new(id: RequestId) -> Self {
        Self { uid: None, node: None, id, only_owner: false }
    }

    /// Whether it can make sense of `answer`. Brokers send no other.
    #[must_use]
    pub fn expects(&self, answer: &Answer) -> bool {
        !self.only_owner || !matches!(answer, Answer::Done { matched: 0 })
    }
}

/// Which sockets of the namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Members of any of these; with none, every socket. The id of a socket is a room, too.
    pub rooms: Rooms,
    /// But members of none of these.
    pub except: Rooms,
}

impl Selection {
    fn weight(&self) -> usize {
        names_weight(&self.rooms) + names_weight(&self.except)
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The ids of the sockets in any of `rooms`, or of all: [`Answer::Ids`].
    Ids {
        /// The rooms.
        rooms: Rooms,
    },
    /// The rooms that have a member: [`Answer::Rooms`].
    Rooms,
    /// Let sockets join rooms: [`Answer::Done`].
    Join {
        /// The sockets.
        selection: Selection,
        /// What they join.
        rooms: Rooms,
    },
    /// Let sockets leave rooms: [`Answer::Done`].
    Leave {
        /// The sockets.
        selection: Selection,
        /// What they leave.
        rooms: Rooms,
    },
    /// Disconnect sockets from the namespace: [`Answer::Done`].
    Disconnect {
        /// The sockets.
        selection: Selection,
        /// Whether the connection below is closed as well.
        close: bool,
    },
    /// What there is to know of sockets: [`Answer::Sockets`].
    Fetch {
        /// The sockets.
        selection: Selection,
    },
    /// An event for the code that runs on the servers. A gateway runs none, and answers [`Answer::Emitted`] for the
    /// sake of those who count.
    ServerSideEmit {
        /// The event's name, empty if it is no text. Its arguments are not kept.
        event: Arc<str>,
    },
    /// Deliver an event whose receivers are to acknowledge it: [`Answer::Clients`] at once with the number of
    /// receivers, none included, then [`Answer::Acknowledged`] for each one's acknowledgement.
    Broadcast {
        /// The event. Its namespace is the request's.
        publication: Publication,
        /// How long the asker waits for acknowledgements, as it says; at most 2^31-1 milliseconds. None if it does
        /// not say.
        timeout: Option<Duration>,
    },
}

/// What one server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Its rooms with a member.
    Rooms(Vec<Room>),
    /// The ids of its sockets.
    Ids(Vec<Arc<str>>),
    /// Its sockets. A list of ids that is empty is also read as this: nothing tells them apart.
    Sockets(Vec<RemoteSocket>),
    /// It was done.
    Done {
        /// To so many sockets. Peers of other kinds answer only for the one that they were asked about.
        matched: u64,
    },
    /// An event for its code is dealt with.
    Emitted,
    /// So many of its sockets were sent the event.
    Clients(u64),
    /// One of them acknowledged it with this, one MessagePack value in the forms of
    /// [`Publication::data`](crate::Publication).
    Acknowledged(Bytes),
}

impl Answer {
    /// What it weighs in a queue, in bytes: what it names and a flat share for the rest.
    #[must_use]
    pub fn weight(&self) -> usize {
        let told = match self {
            Self::Rooms(rooms) => names_weight(rooms),
            Self::Ids(ids) => ids.iter().map(|id| id.len() + size_of::<Arc<str>>()).sum(),
            Self::Sockets(sockets) => sockets
                .iter()
                .map(|socket| size_of::<RemoteSocket>() + socket.id.len() + names_weight(&socket.rooms))
                .sum(),
            Self::Acknowledged(argument) => argument.len(),
            Self::Done { .. } | Self::Emitted | Self::Clients(_) => 0,
        };
        size_of::<Self>() + told
    }
}

/// A socket of some server, as told by [`Answer::Sockets`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteSocket {
    /// Its id.
    pub id: Arc<str>,
    /// The rooms it is in, the one of its own id included.
    pub rooms: Vec<Room>,
    /// Its user, if it has one and a node says so: what other servers attach to a socket is theirs to understand.
    pub user: Option<Arc<str>>,
    /// Its device, likewise.
    pub device: Option<Arc<str>>,
    /// Its node, likewise.
    pub node: Option<NodeId>,
    /// When it connected, in Unix milliseconds.
    pub connected_at_ms: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_about_one_socket_hears_only_from_its_owner() {
        let any = Asker::new(RequestId::random());
        let older = Asker { only_owner: true, ..any.clone() };
        let (none, one) = (Answer::Done { matched: 0 }, Answer::Done { matched: 1 });
        assert!(any.expects(&none) && any.expects(&one));
        assert!(!older.expects(&none) && older.expects(&one));
    }
}
