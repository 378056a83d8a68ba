//! The HTTP API's view of a running node.

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt as _};
use tidegate_core::registry::{NodeRow, Page, Place, Row};
use tidegate_core::{Namespace, Room};
use tidegate_gateway::Node;
use tidegate_gateway::control::{self, Member, Survey};
use tidegate_gateway::offline::{Post, Refused};
use tokio_util::sync::CancellationToken;

use crate::admin::{
    Chosen, Control, ControlError, Letter, MemberView, NodeView, OccupiedView, OfflineView, PostedView,
    RoomView, RoomsView, SessionView,
};

/// A node, and how it is told to drain.
pub(super) struct Controlled {
    pub(super) node: Node,
    pub(super) told_to_drain: CancellationToken,
}

fn unavailable(_: control::Error) -> ControlError {
    ControlError::Unavailable
}

impl Control for Controlled {
    fn user(&self, place: Place) -> BoxFuture<'static, Result<Vec<SessionView>, ControlError>> {
        let node = self.node.clone();
        async move {
            let rows = node.sessions_of(place).await.map_err(unavailable)?;
            Ok(rows.into_iter().map(session_view).collect())
        }
        .boxed()
    }

    fn offline(&self, place: Place) -> BoxFuture<'static, Result<OfflineView, ControlError>> {
        let node = self.node.clone();
        async move {
            let (count, bytes) = node.waiting(place).await.map_err(|_| ControlError::Unavailable)?;
            Ok(OfflineView { count, bytes })
        }
        .boxed()
    }

    fn post(&self, letter: Letter) -> BoxFuture<'static, Result<PostedView, ControlError>> {
        let node = self.node.clone();
        let Letter { to, event, data, id, ttl } = letter;
        async move {
            let posted = node.post(Post { to, event, data, id, ttl }).await;
            let (id, status) =
                posted.map_err(|Refused { code, message }| ControlError::Refused(code, message))?;
            Ok(PostedView { id, status })
        }
        .boxed()
    }

    fn clear(&self, place: Place) -> BoxFuture<'static, Result<u64, ControlError>> {
        let node = self.node.clone();
        async move { node.clear(place).await.map_err(|_| ControlError::Unavailable) }.boxed()
    }

    fn evict(&self, place: Place, device: Option<Arc<str>>) -> BoxFuture<'static, Result<u64, ControlError>> {
        let node = self.node.clone();
        async move { node.kick(place, device).await.map_err(unavailable) }.boxed()
    }

    fn rooms(&self, namespace: Namespace, page: Page) -> BoxFuture<'static, Result<RoomsView, ControlError>> {
        let node = self.node.clone();
        async move {
            let Survey { items, missing, next } = node.rooms(namespace, page).await.map_err(unavailable)?;
            let rooms = items.into_iter().map(|room| OccupiedView { room: room.room, members: room.users });
            Ok(RoomsView { rooms: rooms.collect(), missing, next })
        }
        .boxed()
    }

    fn room(
        &self,
        namespace: Namespace,
        room: Room,
        page: Page,
    ) -> BoxFuture<'static, Result<RoomView, ControlError>> {
        let node = self.node.clone();
        async move {
            let survey = node.members(namespace, room, page).await.map_err(unavailable)?;
            let Survey { items, missing, next } = survey;
            Ok(RoomView { members: items.into_iter().map(member_view).collect(), missing, next })
        }
        .boxed()
    }

    fn join(
        &self,
        namespace: Namespace,
        room: Room,
        chosen: Chosen,
    ) -> BoxFuture<'static, Result<u64, ControlError>> {
        self.move_sessions(namespace, room, chosen, true)
    }

    fn leave(
        &self,
        namespace: Namespace,
        room: Room,
        chosen: Chosen,
    ) -> BoxFuture<'static, Result<u64, ControlError>> {
        self.move_sessions(namespace, room, chosen, false)
    }

    fn disconnect(
        &self,
        namespace: Namespace,
        rooms: Vec<Room>,
        users: Vec<Arc<str>>,
        close: bool,
    ) -> BoxFuture<'static, Result<u64, ControlError>> {
        let node = self.node.clone();
        async move { node.disconnect_sessions(namespace, rooms, users, close).await.map_err(unavailable) }
            .boxed()
    }

    fn nodes(&self) -> BoxFuture<'static, Result<Vec<NodeView>, ControlError>> {
        let node = self.node.clone();
        async move {
            let mut nodes: Vec<_> =
                node.nodes().await.map_err(unavailable)?.into_iter().map(node_view).collect();
            nodes.sort_by(|one, other| one.node.cmp(&other.node));
            Ok(nodes)
        }
        .boxed()
    }

    fn drain(&self) {
        self.told_to_drain.cancel();
    }
}

impl Controlled {
    fn move_sessions(
        &self,
        namespace: Namespace,
        room: Room,
        chosen: Chosen,
        joins: bool,
    ) -> BoxFuture<'static, Result<u64, ControlError>> {
        let node = self.node.clone();
        let chosen = control::Chosen { users: chosen.users, sessions: chosen.sessions };
        async move { node.move_sessions(namespace, room, chosen, joins).await.map_err(unavailable) }.boxed()
    }
}

fn session_view(row: Row) -> SessionView {
    SessionView {
        session: row.session,
        device: row.device,
        node: row.node,
        transport: row.transport,
        connected_at_ms: row.epoch,
        // Of one that has sent no heartbeat since, its CONNECT is what is known.
        seen_at_ms: row.seen_at_ms.max(row.epoch),
    }
}

fn member_view(member: Member) -> MemberView {
    let Member { session, user, device, node } = member;
    MemberView { session, user, device, node }
}

fn node_view(row: NodeRow) -> NodeView {
    NodeView {
        node: row.node,
        connections: row.vitals.connections,
        sessions: row.vitals.sessions,
        started_at_ms: row.started_at_ms,
        draining: row.vitals.draining,
        version: row.vitals.version,
    }
}
