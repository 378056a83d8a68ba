//! What an operator may see and do through any node: the sessions of users, rooms and their members, other nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_core::registry::{self, Displaced, NodeRow, Occupied, Page, Place, Row};
use tidegate_core::request::{Answer, Ask, RemoteSocket, Selection};
use tidegate_core::{ClaimId, Namespace, NodeId, Room, Rooms, SessionId};
use tokio::time::Instant;

use crate::node::{Inner, Node};
use crate::questions::Answers;

/// Part of a list that is gathered from the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey<T> {
    /// What is on this page.
    pub items: Vec<T>,
    /// Who did not answer in time.
    pub missing: Vec<String>,
    /// Where the next page begins; none after the last.
    pub next: Option<String>,
}

/// A session in a room, or a socket of a Node server, of which less is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// The session, or the socket's id, which may have any shape.
    pub session: String,
    /// Its user, if it has one.
    pub user: Option<Arc<str>>,
    /// Its device.
    pub device: Option<Arc<str>>,
    /// Its node.
    pub node: Option<NodeId>,
}

/// Which sessions of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// All sessions of these users.
    pub users: Vec<Arc<str>>,
    /// These sessions, whoever has them.
    pub sessions: Vec<SessionId>,
}

/// What a cluster that cannot be reached leaves to say: the outcome is unknown.
pub use registry::Error;

impl Node {
    /// The live sessions of a user, the oldest first.
    ///
    /// # Errors
    /// When the registry cannot be reached.
    pub async fn sessions_of(&self, place: Place) -> Result<Vec<Row>, Error> {
        Ok(self.0.registry.find(vec![place]).await?.pop().unwrap_or_default())
    }

    /// Ends the sessions of a user, or of one device, as kicked; resolves when they are silent, as for a takeover.
    /// Returns how many there were.
    ///
    /// # Errors
    /// When the registry cannot be reached.
    pub async fn kick(&self, place: Place, device: Option<Arc<str>>) -> Result<u64, Error> {
        self.0.kick(place, device).await
    }

    /// The rooms of a namespace and how many are in each: users from the registry where the namespace keeps presence,
    /// else sessions, asked of every server.
    ///
    /// # Errors
    /// When the registry or the broker cannot be reached.
    pub async fn rooms(&self, namespace: Namespace, page: Page) -> Result<Survey<Occupied>, Error> {
        let node = &self.0;
        if node.keeps_presence(&namespace) {
            let listed = node.registry.rooms(namespace, page).await?;
            return Ok(Survey { items: listed.items, missing: Vec::new(), next: listed.next });
        }
        let (sockets, missing) = node.fetch(&namespace, Rooms::new()).await?;
        let mut rooms = BTreeMap::new();
        for socket in &sockets {
            // Every socket is in the room of its id, which is no room that anybody made.
            for room in socket.rooms.iter().filter(|room| *room.as_str() != *socket.id) {
                *rooms.entry(room.clone()).or_insert(0) += 1;
            }
        }
        let rooms = rooms.into_iter().map(|(room, users)| Occupied { room, users });
        Ok(paged(rooms, |room| room.room.as_str(), missing, &page))
    }

    /// The members of a room, likewise.
    ///
    /// # Errors
    /// When the registry or the broker cannot be reached.
    pub async fn members(
        &self,
        namespace: Namespace,
        room: Room,
        page: Page,
    ) -> Result<Survey<Member>, Error> {
        let node = &self.0;
        if node.keeps_presence(&namespace) {
            let listed = node.registry.members(namespace, room, page).await?;
            let items = listed.items.into_iter().map(|stay| Member {
                session: stay.session.to_string(),
                user: Some(stay.user),
                device: Some(stay.device),
                node: Some(stay.node),
            });
            return Ok(Survey { items: items.collect(), missing: Vec::new(), next: listed.next });
        }
        let (sockets, missing) = node.fetch(&namespace, Rooms::from_iter([room])).await?;
        let mut members: Vec<Member> = sockets.into_iter().map(Member::from).collect();
        members.sort_unstable();
        members.dedup();
        Ok(paged(members.into_iter(), |member| &member.session, missing, &page))
    }

    /// Brings sessions into a room, or takes them out of it. Returns how many there are, once they have done so.
    ///
    /// # Errors
    /// When the registry or the broker cannot be reached.
    pub async fn move_sessions(
        &self,
        namespace: Namespace,
        room: Room,
        chosen: Chosen,
        joins: bool,
    ) -> Result<u64, Error> {
        let node = &self.0;
        let ids = node.ids_of(&namespace, chosen).await?;
        if ids.is_empty() {
            return Ok(0);
        }
        let (selection, rooms) = (selection(&ids), Rooms::from_iter([room]));
        let ask = if joins { Ask::Join { selection, rooms } } else { Ask::Leave { selection, rooms } };
        node.order(&namespace, ask).await?;
        // Servers carry requests out in order: who answers this has done that.
        let (sockets, _) = node.fetch(&namespace, ids).await?;
        Ok(count(sockets.len()))
    }

    /// Ends the sessions in any of `rooms` and those of `users`, and with `close` their connections, too. Returns how
    /// many there were, once they have ended.
    ///
    /// # Errors
    /// When the registry or the broker cannot be reached.
    pub async fn disconnect_sessions(
        &self,
        namespace: Namespace,
        rooms: Vec<Room>,
        users: Vec<Arc<str>>,
        close: bool,
    ) -> Result<u64, Error> {
        let node = &self.0;
        let mut asked: Rooms = rooms.into_iter().collect();
        let chosen = Chosen { users: users.clone(), sessions: Vec::new() };
        asked.extend(node.ids_of(&namespace, chosen).await?);
        if asked.is_empty() {
            return Ok(0);
        }
        let (sockets, _) = node.fetch(&namespace, asked.clone()).await?;
        let selection = selection(&asked);
        node.order(&namespace, Ask::Disconnect { selection, close }).await?;
        // Servers carry requests out in order: who answers this has done that.
        node.fetch(&namespace, asked).await?;
        // A mark besides: a session whose node does not hear now must not come back later. Not before, since a session
        // that has ended is not found, and what else is on its connection would stay.
        for user in users {
            node.kick(Place { namespace: namespace.clone(), user }, None).await?;
        }
        Ok(count(sockets.len()))
    }

    /// The live nodes of the cluster.
    ///
    /// # Errors
    /// When the registry cannot be reached.
    pub async fn nodes(&self) -> Result<Vec<NodeRow>, Error> {
        self.0.registry.nodes().await
    }

    /// Whether the node is going away.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(std::sync::atomic::Ordering::Acquire)
    }
}

impl Inner {
    fn keeps_presence(&self, namespace: &Namespace) -> bool {
        self.rule(namespace).is_some_and(|rule| rule.presence)
    }

    async fn kick(&self, place: Place, device: Option<Arc<str>>) -> Result<u64, Error> {
        let confirm = ClaimId::random();
        // The wait is not for a session of this node; its own id is nobody's.
        let wait = self.takeovers.begin(confirm, SessionId::random(), &self.broker);
        let rows = self.registry.kick(place, device, confirm).await?;
        let fence_after = self.options.pulse.fence_after;
        let silenced: Vec<_> = rows
            .into_iter()
            .map(|row| Displaced { session: row.session, node: row.node, fence_after })
            .collect();
        wait.silence(&silenced, Instant::now()).await;
        Ok(count(silenced.len()))
    }

    /// The ids of all sockets in any of `rooms`, or of all, and who did not answer.
    async fn fetch(
        &self,
        namespace: &Namespace,
        rooms: Rooms,
    ) -> Result<(Vec<RemoteSocket>, Vec<String>), Error> {
        let selection = Selection { rooms, except: Rooms::new() };
        let Answers { answers, missing } = self.ask(namespace, Ask::Fetch { selection }).await?;
        let sockets = answers.into_iter().flat_map(|answer| match answer {
            Answer::Sockets(sockets) => sockets,
            _ => Vec::new(),
        });
        Ok((sockets.collect(), missing))
    }

    /// The rooms of the chosen sessions' own ids.
    async fn ids_of(&self, namespace: &Namespace, chosen: Chosen) -> Result<Rooms, Error> {
        let places = chosen.users.into_iter().map(|user| Place { namespace: namespace.clone(), user });
        let places: Vec<_> = places.collect();
        let found = if places.is_empty() { Vec::new() } else { self.registry.find(places).await? };
        let sessions = found.into_iter().flatten().map(|row| row.session).chain(chosen.sessions);
        Ok(sessions.map(|session| Room::from(session.as_str())).collect())
    }
}

fn selection(rooms: &Rooms) -> Selection {
    Selection { rooms: rooms.clone(), except: Rooms::new() }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// One page of a list in the order of its names; the last name of a page is where the next begins.
fn paged<T>(
    items: impl Iterator<Item = T>,
    name: impl Fn(&T) -> &str,
    missing: Vec<String>,
    page: &Page,
) -> Survey<T> {
    let after = page.after.as_deref();
    let mut rest = items.filter(|item| after.is_none_or(|after| name(item) > after)).peekable();
    let items: Vec<T> = rest.by_ref().take(page.limit.max(1)).collect();
    let next = rest.peek().and(items.last()).map(|last| name(last).to_owned());
    Survey { items, missing, next }
}

impl From<RemoteSocket> for Member {
    fn from(socket: RemoteSocket) -> Self {
        let RemoteSocket { id, user, device, node, .. } = socket;
        Self { session: id.to_string(), user, device, node }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other() {
        let names = ["a", "b", "c"];
        let page = |after: Option<&str>, limit| {
            let page = Page { after: after.map(str::to_owned), limit };
            paged(names.into_iter(), |name| name, Vec::new(), &page)
        };
        let first = page(None, 2);
        assert_eq!((first.items, first.next.as_deref()), (vec!["a", "b"], Some("b")));
        let last = page(Some("b"), 2);
        assert_eq!((last.items, last.next), (vec!["c"], None));
        assert_eq!(page(None, 3).next, None);
        assert!(page(Some("c"), 1).items.is_empty());
    }
}
