//! What the API asks of the node behind it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tidegate_core::registry::{Page, Place, Transport};
use tidegate_core::{ErrorCode, Namespace, NodeId, Room, SessionId};

/// A node, seen as the place from where the whole cluster is looked after.
///
/// Names have passed the limits and namespaces exist, whichever way they came in. Every answer comes within a few
/// seconds: [`ControlError::Unavailable`] when the cluster does not.
pub trait Control: Send + Sync + 'static {
    /// The live sessions of a user, the oldest first; none for a user that is unknown.
    fn user(&self, place: Place) -> BoxFuture<'static, Result<Vec<SessionView>, ControlError>>;

    /// What waits for a user.
    fn offline(&self, place: Place) -> BoxFuture<'static, Result<OfflineView, ControlError>>;

    /// Stores a message for a user.
    fn post(&self, letter: Letter) -> BoxFuture<'static, Result<PostedView, ControlError>>;

    /// Deletes everything that waits for a user. Returns how many messages.
    fn clear(&self, place: Place) -> BoxFuture<'static, Result<u64, ControlError>>;

    /// Ends a user's sessions, or those of one device, as `kicked`. Returns how many.
    fn evict(&self, place: Place, device: Option<Arc<str>>) -> BoxFuture<'static, Result<u64, ControlError>>;

    /// The rooms that have members.
    fn rooms(&self, namespace: Namespace, page: Page) -> BoxFuture<'static, Result<RoomsView, ControlError>>;

    /// The members of a room; none of one that nobody is in.
    fn room(
        &self,
        namespace: Namespace,
        room: Room,
        page: Page,
    ) -> BoxFuture<'static, Result<RoomView, ControlError>>;

    /// Brings the chosen sessions into a room. Returns how many were chosen.
    fn join(
        &self,
        namespace: Namespace,
        room: Room,
        chosen: Chosen,
    ) -> BoxFuture<'static, Result<u64, ControlError>>;

    /// Takes the chosen sessions out of a room. Returns how many were chosen.
    fn leave(
        &self,
        namespace: Namespace,
        room: Room,
        chosen: Chosen,
    ) -> BoxFuture<'static, Result<u64, ControlError>>;

    /// Ends sessions in their namespace, and their connections too when `close` is set: those in one of `rooms`, and
    /// those of one of `users`, at least one of which is named. Returns how many.
    fn disconnect(
        &self,
        namespace: Namespace,
        rooms: Vec<Room>,
        users: Vec<Arc<str>>,
        close: bool,
    ) -> BoxFuture<'static, Result<u64, ControlError>>;

    /// The live nodes of the cluster.
    fn nodes(&self) -> BoxFuture<'static, Result<Vec<NodeView>, ControlError>>;

    /// Begins to drain this node and returns at once. A node that drains already goes on doing so.
    fn drain(&self);
}

/// Which sessions; at least one user or session is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// All sessions of these users.
    pub users: Vec<Arc<str>>,
    /// These sessions, whoever has them.
    pub sessions: Vec<SessionId>,
}

/// A durable message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// For whom.
    pub to: Place,
    /// The event that a live session gets it as.
    pub event: Arc<str>,
    /// The data: JSON as it came.
    pub data: String,
    /// The idempotency key.
    pub id: Option<Arc<str>>,
    /// How long it waits, if that is less than others do.
    pub ttl: Option<Duration>,
}

/// What became of a durable message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostedView {
    /// Its id, or that of the first with its idempotency key.
    pub id: String,
    /// `live`, `stored` or `duplicate`.
    pub status: &'static str,
}

/// What waits for a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OfflineView {
    /// How many messages.
    pub count: u64,
    /// Their size.
    pub bytes: u64,
}

/// A live session of a known user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// The session.
    pub session: SessionId,
    /// Its device.
    pub device: Arc<str>,
    /// Its node.
    pub node: NodeId,
    /// Its transport.
    pub transport: Transport,
    /// When it connected, in Unix milliseconds.
    pub connected_at_ms: u64,
    /// Its last known sign of life, in Unix milliseconds.
    pub seen_at_ms: u64,
}

/// Part of the rooms of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomsView {
    /// The rooms.
    pub rooms: Vec<OccupiedView>,
    /// Who did not answer in time, so that its members are left out: the ids of nodes, as far as they are known.
    pub missing: Vec<String>,
    /// Where the next part begins; none after the last.
    pub next: Option<String>,
}

/// A room that has members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OccupiedView {
    /// The room.
    pub room: Room,
    /// How many it has: users where presence is on, else sessions.
    pub members: u64,
}

/// Part of the members of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomView {
    /// The members.
    pub members: Vec<MemberView>,
    /// As in [`RoomsView::missing`].
    pub missing: Vec<String>,
    /// Where the next part begins; none after the last.
    pub next: Option<String>,
}

/// A session in a room. It may be a socket of a Node peer, of which less is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// The session. Peers may have ids of any shape.
    pub session: String,
    /// Its user; none for an anonymous one.
    pub user: Option<Arc<str>>,
    /// Its device.
    pub device: Option<Arc<str>>,
    /// Its node.
    pub node: Option<NodeId>,
}

/// A live node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// What it is called.
    pub node: NodeId,
    /// Its open connections.
    pub connections: u64,
    /// Its live sessions.
    pub sessions: u64,
    /// Since when it runs, in Unix milliseconds.
    pub started_at_ms: u64,
    /// Whether it is going away.
    pub draining: bool,
    /// Its version.
    pub version: Arc<str>,
}

/// Why the node did not do as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// There is no such thing.
    #[error("no such thing")]
    NotFound,
    /// Switched off in this namespace.
    #[error("switched off in this namespace")]
    NotEnabled,
    /// Redis did not answer in time, so that the outcome is unknown.
    #[error("the cluster did not answer in time; the outcome is unknown")]
    Unavailable,
    /// The gateway refuses it, for the reason that the code says. Names the field and the limit.
    #[error("{1}")]
    Refused(ErrorCode, String),
    /// Something that only the node can judge has the wrong shape, such as `after`. Names the field.
    #[error("{0}")]
    BadRequest(String),
}
