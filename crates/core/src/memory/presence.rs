//! Who is in which room.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use foldhash::quality::RandomState;

use crate::ids::{Incarnation, Namespace, NodeId, Room, SessionId};
use crate::registry::{Listed, Occupied, Page, Stay};

/// The users of a room, in the order in which pages list them. None is without a guest.
type Users = BTreeMap<Arc<str>, Vec<Guest>>;

/// All rooms with a user. Bounded by the sessions of this process and the rooms each may join.
#[derive(Default)]
pub(super) struct Presence(HashMap<Namespace, BTreeMap<Room, Users>, RandomState>);

/// A session in a room.
struct Guest {
    session: SessionId,
    device: Arc<str>,
    node: NodeId,
    incarnation: Incarnation,
}

impl Presence {
    /// Whether `stay` would bring its user to the room.
    pub(super) fn would_begin(&self, stay: &Stay) -> bool {
        self.guests(stay).is_empty()
    }

    /// Whether the end of `stay` would take its user from the room.
    pub(super) fn would_end(&self, stay: &Stay) -> bool {
        matches!(self.guests(stay), [last] if last.session == stay.session)
    }

    fn guests(&self, stay: &Stay) -> &[Guest] {
        let users = self.0.get(&stay.namespace).and_then(|rooms| rooms.get(&stay.room));
        users.and_then(|users| users.get(&stay.user)).map_or(&[], Vec::as_slice)
    }

    pub(super) fn enter(&mut self, stay: Stay, incarnation: &Incarnation) {
        let rooms = self.0.entry(stay.namespace).or_default();
        let guests = rooms.entry(stay.room).or_default().entry(stay.user).or_default();
        guests.retain(|guest| guest.session != stay.session);
        guests.push(Guest {
            session: stay.session,
            device: stay.device,
            node: stay.node,
            incarnation: incarnation.clone(),
        });
    }

    pub(super) fn depart(&mut self, stay: &Stay) {
        let Some(rooms) = self.0.get_mut(&stay.namespace) else { return };
        let Some(users) = rooms.get_mut(&stay.room) else { return };
        let Some(guests) = users.get_mut(&stay.user) else { return };
        guests.retain(|guest| guest.session != stay.session);
        if guests.is_empty() {
            users.remove(&stay.user);
        }
        if users.is_empty() {
            rooms.remove(&stay.room);
        }
        if rooms.is_empty() {
            self.0.remove(&stay.namespace);
        }
    }

    /// All stays in the name of an incarnation.
    pub(super) fn of(&self, incarnation: &Incarnation) -> Vec<Stay> {
        let mut stays = Vec::new();
        for (namespace, rooms) in &self.0 {
            for (room, users) in rooms {
                for (user, guests) in users {
                    let own = guests.iter().filter(|guest| guest.incarnation == *incarnation);
                    stays.extend(own.map(|guest| guest.stay(namespace, room, user)));
                }
            }
        }
        stays
    }

    /// A page ends after the name of a user.
    pub(super) fn members(&self, namespace: &Namespace, room: &Room, page: &Page) -> Listed<Stay> {
        let Some(users) = self.0.get(namespace).and_then(|rooms| rooms.get(room)) else {
            return Listed { items: Vec::new(), next: None };
        };
        let after = page.after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = users.range::<str, _>((after, Bound::Unbounded)).peekable();
        let mut items = Vec::new();
        while let Some((user, guests)) = rest.next() {
            items.extend(guests.iter().map(|guest| guest.stay(namespace, room, user)));
            if items.len() >= page.limit && rest.peek().is_some() {
                return Listed { items, next: Some(user.to_string()) };
            }
        }
        Listed { items, next: None }
    }

    /// A page ends after the name of a room.
    pub(super) fn rooms(&self, namespace: &Namespace, page: &Page) -> Listed<Occupied> {
        let Some(rooms) = self.0.get(namespace) else { return Listed { items: Vec::new(), next: None } };
        let after = page.after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = rooms.range::<str, _>((after, Bound::Unbounded)).peekable();
        let mut items = Vec::new();
        while let Some((room, users)) = rest.next() {
            items.push(Occupied { room: room.clone(), users: users.len() as u64 });
            if items.len() >= page.limit && rest.peek().is_some() {
                return Listed { items, next: Some(room.to_string()) };
            }
        }
        Listed { items, next: None }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Guest {
    fn stay(&self, namespace: &Namespace, room: &Room, user: &Arc<str>) -> Stay {
        Stay {
            namespace: namespace.clone(),
            room: room.clone(),
            user: Arc::clone(user),
            device: Arc::clone(&self.device),
            session: self.session,
            node: self.node.clone(),
        }
    }
}
