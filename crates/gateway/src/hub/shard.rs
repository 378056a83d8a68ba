//! One shard of the hub: a slab of sessions and the member lists of rooms.
//!
//! A member list is a dense array of what the fan-out needs per receiver. Every session remembers its position in
//! each of its lists, so that leaving is one swap whatever the room's size.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use foldhash::HashMap;
use foldhash::HashMapExt as _;
use hashbrown::HashTable;
use parking_lot::Mutex;
use slab::Slab;
use tidegate_core::{Namespace, Publication, Room, Rooms, SessionId};

use super::fanout::Queue;
use super::{Joined, Receiver};
use crate::metrics::NamespaceMetrics;
use crate::session::{Seat, Session};

pub(super) struct Shard {
    pub(super) state: Mutex<State>,
    pub(super) queue: Queue,
}

impl Shard {
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(State::new()), queue: Queue::new() }
    }
}

pub(super) struct State {
    sessions: Slab<Member>,
    /// The slots of `sessions` by the ids of who sits there.
    by_id: HashTable<u32>,
    hasher: foldhash::fast::RandomState,
    namespaces: HashMap<Namespace, Local>,
}

/// One namespace's sessions in this shard.
struct Local {
    metrics: Arc<NamespaceMetrics>,
    all: Vec<Receiver>,
    rooms: HashMap<Room, Vec<Receiver>>,
}

struct Member {
    session: Arc<Session>,
    all_position: u32,
    /// None until it joins one: every connection is a member.
    joins: Option<Box<Joins>>,
}

/// The rooms of a member, and where it stands in each one's list.
#[derive(Default)]
struct Joins(Vec<(Room, u32)>);

impl Member {
    fn joins(&self) -> &[(Room, u32)] {
        self.joins.as_ref().map_or(&[], |joins| &joins.0)
    }

    fn joins_mut(&mut self) -> &mut Vec<(Room, u32)> {
        &mut self.joins.get_or_insert_default().0
    }

    fn is_in(&self, room: &Room) -> bool {
        self.joins().iter().any(|(joined, _)| joined == room)
    }
}

/// Receivers that a publication does not go to. Most often this is one: the sender.
enum Excluded {
    None,
    One(u32),
    Many(foldhash::HashSet<u32>),
}

impl Excluded {
    fn add(&mut self, slot: u32) {
        match self {
            Self::None => *self = Self::One(slot),
            Self::One(one) => *self = Self::Many([*one, slot].into_iter().collect()),
            Self::Many(many) => {
                many.insert(slot);
            }
        }
    }

    fn contains(&self, slot: u32) -> bool {
        match self {
            Self::None => false,
            Self::One(one) => *one == slot,
            Self::Many(many) => many.contains(&slot),
        }
    }
}

fn index(position: u32) -> usize {
    position as usize
}

/// A position in a member list. Memory ends long before four billion members.
fn position(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

impl State {
    fn new() -> Self {
        Self {
            sessions: Slab::new(),
            by_id: HashTable::new(),
            hasher: foldhash::fast::RandomState::default(),
            namespaces: HashMap::new(),
        }
    }

    /// Seats the session that `make` makes of its seat.
    pub(super) fn insert(&mut self, shard: u32, make: impl FnOnce(Seat) -> Session) -> Arc<Session> {
        let vacant = self.sessions.vacant_entry();
        let slot = position(vacant.key());
        let session = Arc::new(make(Seat { shard, slot }));
        let local = self.namespaces.entry(session.namespace().clone()).or_insert_with(|| Local {
            metrics: Arc::clone(&session.rule.metrics),
            all: Vec::new(),
            rooms: HashMap::new(),
        });
        let all_position = position(local.all.len());
        vacant.insert(Member { session: Arc::clone(&session), all_position, joins: None });
        local.all.push(Receiver { outbox: Arc::clone(&session.outbox), slot, dialect: session.dialect });
        let Self { sessions, by_id, hasher, .. } = self;
        let hash = |slot: &u32| hasher.hash_one(sessions[index(*slot)].session.id);
        by_id.insert_unique(hasher.hash_one(session.id), slot, hash);
        session
    }

    /// The session of that id.
    pub(super) fn find(&self, id: SessionId) -> Option<&Arc<Session>> {
        self.sessions.get(index(self.slot(id)?)).map(|member| &member.session)
    }

    fn slot(&self, id: SessionId) -> Option<u32> {
        let is_its =
            |slot: &u32| self.sessions.get(index(*slot)).is_some_and(|member| member.session.id == id);
        self.by_id.find(self.hasher.hash_one(id), is_its).copied()
    }

    /// Every session of the shard.
    pub(super) fn sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.sessions.iter().map(|(_, member)| &member.session)
    }

    /// The sessions of the slots of `receivers`, which were taken under the same lock.
    pub(super) fn sessions_of(&self, receivers: &[Receiver]) -> Vec<Arc<Session>> {
        let members = receivers.iter().filter_map(|receiver| self.sessions.get(index(receiver.slot)));
        members.map(|member| Arc::clone(&member.session)).collect()
    }

    /// The rooms of a session, its own apart.
    pub(super) fn rooms_of(&self, session: &Session) -> Vec<Room> {
        let member = self.sessions.get(index(session.seat.slot));
        let member = member.filter(|member| member.session.id == session.id);
        member.map_or_else(Vec::new, |member| member.joins().iter().map(|(room, _)| room.clone()).collect())
    }

    /// The rooms of a namespace, each socket's own apart.
    pub(super) fn rooms(&self, namespace: &Namespace) -> impl Iterator<Item = &Room> {
        self.namespaces.get(namespace).into_iter().flat_map(|local| local.rooms.keys())
    }

    fn member(&mut self, slot: u32, id: SessionId) -> Option<&mut Member> {
        self.sessions.get_mut(index(slot)).filter(|member| member.session.id == id)
    }

    pub(super) fn remove(&mut self, slot: u32, id: SessionId) -> Option<Vec<Room>> {
        self.member(slot, id)?;
        let member = self.sessions.remove(index(slot));
        if let Ok(entry) = self.by_id.find_entry(self.hasher.hash_one(id), |at| *at == slot) {
            entry.remove();
        }
        let namespace = member.session.namespace();
        let local = self.namespaces.get_mut(namespace)?;
        local.all.swap_remove(index(member.all_position));
        if let Some(moved) = local.all.get(index(member.all_position)) {
            self.sessions[index(moved.slot)].all_position = member.all_position;
        }
        for (room, at) in member.joins() {
            remove_from_room(local, &mut self.sessions, room, *at);
        }
        if local.all.is_empty() {
            self.namespaces.remove(namespace);
        }
        let joins = member.joins.map(|joins| joins.0).unwrap_or_default();
        Some(joins.into_iter().map(|(room, _)| room).collect())
    }

    pub(super) fn join(&mut self, slot: u32, id: SessionId, room: &Room, rooms_max: usize) -> Joined {
        let Self { sessions, namespaces, .. } = self;
        let Some(member) = sessions.get_mut(index(slot)).filter(|member| member.session.id == id) else {
            return Joined::Gone;
        };
        if room.as_str() == id.as_str() || member.is_in(room) {
            return Joined::Already;
        }
        if member.joins().len() >= rooms_max {
            return Joined::Full;
        }
        let session = Arc::clone(&member.session);
        let Some(local) = namespaces.get_mut(session.namespace()) else { return Joined::Gone };
        let members = local.rooms.entry(room.clone()).or_default();
        member.joins_mut().push((room.clone(), position(members.len())));
        members.push(Receiver { outbox: Arc::clone(&session.outbox), slot, dialect: session.dialect });
        Joined::New
    }

    /// Whether the session is a member. Every socket is one of its own room.
    pub(super) fn is_member(&mut self, slot: u32, id: SessionId, room: &Room) -> bool {
        self.member(slot, id).is_some_and(|member| room.as_str() == id.as_str() || member.is_in(room))
    }

    pub(super) fn leave(&mut self, slot: u32, id: SessionId, room: &Room) -> bool {
        let Self { sessions, namespaces, .. } = self;
        let Some(member) = sessions.get_mut(index(slot)).filter(|member| member.session.id == id) else {
            return false;
        };
        let Some(found) = member.joins().iter().position(|(joined, _)| joined == room) else { return false };
        let (room, at) = member.joins_mut().swap_remove(found);
        if member.joins().is_empty() {
            member.joins = None;
        }
        if let Some(local) = namespaces.get_mut(member.session.namespace()) {
            remove_from_room(local, sessions, &room, at);
        }
        true
    }

    /// Appends every receiver of `publication` to `out`, each once, and returns the namespace's metrics.
    pub(super) fn receivers(
        &self,
        publication: &Publication,
        out: &mut Vec<Receiver>,
    ) -> Option<Arc<NamespaceMetrics>> {
        let Publication { namespace, rooms, except, .. } = publication;
        self.select(namespace, rooms, except, out)
    }

    /// Appends every member of any of `rooms`, or of the whole namespace when there are none, to `out`, each once and
    /// without the members of `except`; returns the namespace's metrics.
    pub(super) fn select(
        &self,
        namespace: &Namespace,
        rooms: &Rooms,
        except: &Rooms,
        out: &mut Vec<Receiver>,
    ) -> Option<Arc<NamespaceMetrics>> {
        let local = self.namespaces.get(namespace)?;
        let before = out.len();
        let excluded = self.excluded(local, except);
        let mut take = |members: &[Receiver]| {
            out.extend(members.iter().filter(|receiver| !excluded.contains(receiver.slot)).cloned());
        };
        match rooms.as_slice() {
            [] => take(&local.all),
            [room] => take(self.room(local, room).as_slice()),
            rooms => {
                for room in rooms {
                    take(self.room(local, room).as_slice());
                }
                let mut seen = foldhash::HashSet::default();
                let mut tail = out.split_off(before);
                tail.retain(|receiver| seen.insert(receiver.slot));
                out.append(&mut tail);
            }
        }
        Some(Arc::clone(&local.metrics))
    }

    fn excluded(&self, local: &Local, except: &Rooms) -> Excluded {
        let mut excluded = Excluded::None;
        for room in except {
            for receiver in self.room(local, room).as_slice() {
                excluded.add(receiver.slot);
            }
        }
        excluded
    }

    /// The members of a room, or the socket of that id.
    fn room<'a>(&'a self, local: &'a Local, room: &Room) -> Members<'a> {
        if let Some(members) = local.rooms.get(room) {
            return Members::Room(members);
        }
        let socket = SessionId::parse(room.as_str())
            .and_then(|id| self.slot(id))
            .and_then(|slot| Some((slot, self.sessions.get(index(slot))?)))
            // The socket of another namespace is no member here.
            .and_then(|(slot, member)| {
                local.all.get(index(member.all_position)).filter(|receiver| receiver.slot == slot)
            });
        Members::Socket(socket)
    }
}

enum Members<'a> {
    Room(&'a [Receiver]),
    Socket(Option<&'a Receiver>),
}

impl<'a> Members<'a> {
    fn as_slice(&self) -> &'a [Receiver] {
        match self {
            Self::Room(members) => members,
            Self::Socket(socket) => socket.map_or(&[], std::slice::from_ref),
        }
    }
}

fn remove_from_room(local: &mut Local, sessions: &mut Slab<Member>, room: &Room, at: u32) {
    let Some(members) = local.rooms.get_mut(room) else { return };
    members.swap_remove(index(at));
    if let Some(moved) = members.get(index(at))
        && let Some((_, position)) =
            sessions[index(moved.slot)].joins_mut().iter_mut().find(|(joined, _)| joined == room)
    {
        *position = at;
    }
    if members.is_empty() {
        local.rooms.remove(room);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use bytes::Bytes;
    use proptest::prelude::*;
    use tidegate_core::Flags;

    use tidegate_core::registry::{OnDuplicate, Policy};
    use tidegate_protocol::socketio::Parser;

    use super::*;
    use crate::auth::{Grants, Identity};
    use crate::dialect::Dialect;
    use crate::metrics::Metrics;
    use crate::namespaces::Operations;
    use crate::outbox::{Outbox, Terms};
    use crate::reactor::Reactor;
    use crate::session::{Parts, Rule};

    #[derive(Clone, Debug)]
    enum Step {
        Insert { namespace: usize },
        Remove { session: usize },
        Join { session: usize, room: usize },
        Leave { session: usize, room: usize },
        Receivers { namespace: usize, rooms: Vec<usize>, except: Vec<usize>, except_session: usize },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0..2_usize).prop_map(|namespace| Step::Insert { namespace }),
            1 => (0..64_usize).prop_map(|session| Step::Remove { session }),
            6 => (0..64_usize, 0..4_usize).prop_map(|(session, room)| Step::Join { session, room }),
            3 => (0..64_usize, 0..4_usize).prop_map(|(session, room)| Step::Leave { session, room }),
            3 => (
                0..2_usize,
                prop::collection::vec(0..4_usize, 0..3),
                prop::collection::vec(0..4_usize, 0..3),
                0..64_usize
            )
                .prop_map(|(namespace, rooms, except, except_session)| Step::Receivers {
                    namespace,
                    rooms,
                    except,
                    except_session
                }),
        ];
        prop::collection::vec(step, 0..200)
    }

    const NAMESPACES: [&str; 2] = ["/", "/chat"];
    const ROOMS: [&str; 4] = ["a", "b", "c", "d"];
    const ROOMS_MAX: usize = 3;

    /// What the shard should know: sessions by slot, in the order they came.
    #[derive(Default)]
    struct Model {
        sessions: BTreeMap<u32, (SessionId, usize, BTreeSet<usize>)>,
    }

    impl Model {
        fn pick(&self, session: usize) -> Option<(u32, SessionId)> {
            let count = self.sessions.len();
            (count > 0)
                .then(|| self.sessions.iter().nth(session % count).map(|(slot, (id, ..))| (*slot, *id)))
                .flatten()
        }
    }

    fn insert(
        state: &mut State,
        id: SessionId,
        namespace: &Namespace,
        metrics: &Arc<NamespaceMetrics>,
        outbox: Arc<Outbox>,
    ) -> u32 {
        let rule = Rule {
            namespace: namespace.clone(),
            operations: Operations::all(),
            policy: Policy::default(),
            on_duplicate: OnDuplicate::default(),
            presence: false,
            offline: true,
            metrics: Arc::clone(metrics),
        };
        let parts = Parts {
            id,
            rule: Arc::new(rule),
            identity: Identity {
                user: None,
                device: "d".into(),
                grants: Arc::new(Grants::all()),
                expires_at: None,
            },
            dialect: Dialect::SocketIo(Parser::Text),
            outbox,
            holding: None,
            connected_at_ms: 0,
        };
        state.insert(0, |seat| Session::new(seat, parts)).seat.slot
    }

    proptest! {
        #[test]
        fn agrees_with_a_map_of_sets(steps in steps()) {
            let metrics = Arc::new(Metrics::new("test", "test", "n").unwrap());
            let namespace_metrics = Arc::new(metrics.namespace("*"));
            let (mut state, mut model) = (State::new(), Model::default());
            for step in steps {
                match step {
                    Step::Insert { namespace } => {
                        let (id, name) = (SessionId::random(), Namespace::from(NAMESPACES[namespace]));
                        let outbox = Arc::new(Outbox::polling(Terms::new(1_000, Arc::clone(&metrics), Reactor::resting())));
                        let slot = insert(&mut state, id, &name, &namespace_metrics, outbox);
                        let before = model.sessions.insert(slot, (id, namespace, BTreeSet::new()));
                        prop_assert!(before.is_none(), "a seat was given twice");
                    }
                    Step::Remove { session } => {
                        let Some((slot, id)) = model.pick(session) else { continue };
                        let left: BTreeSet<String> =
                            state.remove(slot, id).unwrap().iter().map(ToString::to_string).collect();
                        let (_, _, rooms) = model.sessions.remove(&slot).unwrap();
                        prop_assert_eq!(left, rooms.iter().map(|room| ROOMS[*room].to_owned()).collect());
                        prop_assert_eq!(state.remove(slot, id), None, "removed twice");
                    }
                    Step::Join { session, room } => {
                        let Some((slot, id)) = model.pick(session) else { continue };
                        let joined = state.join(slot, id, &Room::from(ROOMS[room]), ROOMS_MAX);
                        let rooms = &mut model.sessions.get_mut(&slot).unwrap().2;
                        let expected = if rooms.contains(&room) {
                            Joined::Already
                        } else if rooms.len() == ROOMS_MAX {
                            Joined::Full
                        } else {
                            rooms.insert(room);
                            Joined::New
                        };
                        prop_assert_eq!(joined, expected);
                    }
                    Step::Leave { session, room } => {
                        let Some((slot, id)) = model.pick(session) else { continue };
                        let left = state.leave(slot, id, &Room::from(ROOMS[room]));
                        prop_assert_eq!(left, model.sessions.get_mut(&slot).unwrap().2.remove(&room));
                    }
                    Step::Receivers { namespace, rooms, except, except_session } => {
                        let own = model.pick(except_session).map(|(_, id)| id);
                        let publication = Publication {
                            namespace: Namespace::from(NAMESPACES[namespace]),
                            rooms: rooms.iter().map(|room| Room::from(ROOMS[*room])).collect(),
                            except: except
                                .iter()
                                .map(|room| Room::from(ROOMS[*room]))
                                .chain(own.map(|id| Room::from(id.as_str())))
                                .collect(),
                            flags: Flags::default(),
                            data: Bytes::new(),
                        };
                        let mut receivers = Vec::new();
                        state.receivers(&publication, &mut receivers);
                        let mut slots: Vec<u32> = receivers.iter().map(|receiver| receiver.slot).collect();
                        slots.sort_unstable();
                        let expected: Vec<u32> = model
                            .sessions
                            .iter()
                            .filter(|(_, (id, of, member))| {
                                *of == namespace
                                    && (rooms.is_empty() || rooms.iter().any(|room| member.contains(room)))
                                    && !except.iter().any(|room| member.contains(room))
                                    && Some(*id) != own
                            })
                            .map(|(slot, _)| *slot)
                            .collect();
                        prop_assert_eq!(slots, expected);
                    }
                }
            }
            for (slot, (id, ..)) in std::mem::take(&mut model.sessions) {
                state.remove(slot, id);
            }
            prop_assert!(state.namespaces.is_empty() && state.by_id.is_empty() && state.sessions.is_empty());
        }
    }

    #[test]
    fn a_socket_is_reached_by_its_id_in_its_own_namespace_only() {
        let metrics = Arc::new(Metrics::new("test", "test", "n").unwrap());
        let namespace_metrics = Arc::new(metrics.namespace("*"));
        let mut state = State::new();
        let (one, other) = (SessionId::random(), SessionId::random());
        for (id, namespace) in [(one, "/"), (other, "/chat")] {
            let outbox =
                Arc::new(Outbox::polling(Terms::new(1_000, Arc::clone(&metrics), Reactor::resting())));
            insert(&mut state, id, &Namespace::from(namespace), &namespace_metrics, outbox);
        }
        let reached = |namespace: &str| {
            let publication = Publication {
                namespace: Namespace::from(namespace),
                rooms: std::iter::once(Room::from(one.as_str())).collect(),
                except: tidegate_core::Rooms::new(),
                flags: Flags::default(),
                data: Bytes::new(),
            };
            let mut receivers = Vec::new();
            state.receivers(&publication, &mut receivers);
            receivers.len()
        };
        assert_eq!((reached("/"), reached("/chat"), reached("/none")), (1, 0, 0));
    }
}
