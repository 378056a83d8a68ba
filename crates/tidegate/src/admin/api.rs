//! The HTTP API: one table of routes, from which follow the router, the checks of what is asked, and the OpenAPI
//! document.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodFilter, on};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tidegate_core::{ErrorCode, NodeId};

use super::Status;
use super::asked::{Asked, Limits, Word};
use super::body::{self, Body};
use super::control::{Chosen, Control, Letter, MemberView, NodeView, OccupiedView, OfflineView, SessionView};
use super::problem::{Problem, document};
use super::schema::Schema;

/// What stands in front of every path of the table.
pub(super) const PREFIX: &str = "/api/v1";

/// One thing to ask for.
pub(super) struct Route {
    /// The method.
    pub(super) verb: Verb,
    /// The path behind [`PREFIX`], with a name in braces or none.
    pub(super) path: &'static str,
    /// What the operation is called in the document.
    pub(super) id: &'static str,
    /// What it does, in one line.
    pub(super) summary: &'static str,
    /// What else there is to know.
    pub(super) notes: &'static str,
    /// What the query may hold.
    pub(super) query: &'static [Word],
    /// What the body may hold; there is none when this is empty.
    pub(super) body: &'static [Word],
    /// The status of success.
    pub(super) status: StatusCode,
    /// What the answer looks like.
    pub(super) answer: Schema,
    /// Does it.
    #[expect(clippy::type_complexity, reason = "a handler; a name of its own would say no more")]
    run: fn(Arc<dyn Control>, Asked) -> BoxFuture<'static, Result<Value, Problem>>,
}

/// A method of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    /// Reads.
    Get,
    /// Changes.
    Post,
    /// Ends.
    Delete,
}

/// Every route.
pub(super) const ROUTES: &[Route] = &[
    Route {
        verb: Verb::Get,
        path: "/users/{user}",
        id: "readUser",
        summary: "Where a user is connected, and what waits for it",
        notes: "Also answers for a user never seen, who has no sessions.",
        query: &[Word::Namespace],
        body: &[],
        status: StatusCode::OK,
        answer: Schema::User,
        run: |control, asked| Box::pin(read_user(control, asked)),
    },
    Route {
        verb: Verb::Delete,
        path: "/users/{user}/sessions",
        id: "evictUser",
        summary: "Ends a user's sessions, or those of one device",
        notes: "Clients are told `evicted` with the reason `kicked`, and do not come back by themselves.",
        query: &[Word::Namespace, Word::Device],
        body: &[],
        status: StatusCode::OK,
        answer: Schema::Evicted,
        run: |control, asked| Box::pin(evict_user(control, asked)),
    },
    Route {
        verb: Verb::Post,
        path: "/users/{user}/messages",
        id: "postMessage",
        summary: "Sends a durable message to a user",
        notes: "Once it is answered, the message reaches a device of the user's and is acknowledged there, or waits \
                until it expires. `event` must be named. Without `id`, a request that is repeated because its answer \
                got lost is a second message.",
        query: &[],
        body: &[Word::Namespace, Word::Event, Word::Data, Word::Id, Word::TtlMs],
        status: StatusCode::ACCEPTED,
        answer: Schema::Posted,
        run: |control, asked| Box::pin(post_message(control, asked)),
    },
    Route {
        verb: Verb::Delete,
        path: "/users/{user}/messages",
        id: "deleteMessages",
        summary: "Deletes everything that waits for a user",
        notes: "Idempotency keys are remembered all the same.",
        query: &[Word::Namespace],
        body: &[],
        status: StatusCode::OK,
        answer: Schema::Deleted,
        run: |control, asked| Box::pin(delete_messages(control, asked)),
    },
    Route {
        verb: Verb::Get,
        path: "/rooms",
        id: "listRooms",
        summary: "The rooms that have members, on all nodes",
        notes: "From Redis where presence is on; elsewhere all nodes and peers are asked, and who did not answer \
                within a second is listed as missing.",
        query: &[Word::Namespace, Word::Limit, Word::After],
        body: &[],
        status: StatusCode::OK,
        answer: Schema::Rooms,
        run: |control, asked| Box::pin(list_rooms(control, asked)),
    },
    Route {
        verb: Verb::Get,
        path: "/rooms/{room}",
        id: "readRoom",
        summary: "Who is in a room, on all nodes",
        notes: "A room exists while somebody is in it, so that one that nobody is in is answered, too. Gathered as \
                for all rooms.",
        query: &[Word::Namespace, Word::Limit, Word::After],
        body: &[],
        status: StatusCode::OK,
        answer: Schema::Room,
        run: |control, asked| Box::pin(read_room(control, asked)),
    },
    Route {
        verb: Verb::Post,
        path: "/rooms/{room}/join",
        id: "joinRoom",
        summary: "Brings sessions into a room",
        notes: "At least one user or session must be named.",
        query: &[],
        body: &[Word::Namespace, Word::Users, Word::Sessions],
        status: StatusCode::OK,
        answer: Schema::Matched,
        run: |control, asked| Box::pin(join_room(control, asked)),
    },
    Route {
        verb: Verb::Post,
        path: "/rooms/{room}/leave",
        id: "leaveRoom",
        summary: "Takes sessions out of a room",
        notes: "At least one user or session must be named.",
        query: &[],
        body: &[Word::Namespace, Word::Users, Word::Sessions],
        status: StatusCode::OK,
        answer: Schema::Matched,
        run: |control, asked| Box::pin(leave_room(control, asked)),
    },
    Route {
        verb: Verb::Post,
        path: "/disconnect",
        id: "disconnect",
        summary: "Disconnects sessions from their namespace",
        notes: "Those in any of the rooms and those of any of the users. At least one room or user must be named: \
                a list left out by mistake must not disconnect everybody.",
        query: &[],
        body: &[Word::Namespace, Word::Rooms, Word::Users, Word::Close],
        status: StatusCode::OK,
        answer: Schema::Matched,
        run: |control, asked| Box::pin(disconnect(control, asked)),
    },
    Route {
        verb: Verb::Get,
        path: "/nodes",
        id: "listNodes",
        summary: "The live nodes of the cluster",
        notes: "As each said of itself with its last pulse.",
        query: &[],
        body: &[],
        status: StatusCode::OK,
        answer: Schema::Nodes,
        run: |control, asked| Box::pin(list_nodes(control, asked)),
    },
    Route {
        verb: Verb::Post,
        path: "/drain",
        id: "drain",
        summary: "Begins to drain the node that is asked",
        notes: "Its clients are sent elsewhere over drain.timeout_ms. There is no way back but a restart.",
        query: &[],
        body: &[],
        status: StatusCode::ACCEPTED,
        answer: Schema::Draining,
        run: |control, asked| Box::pin(drain(control, asked)),
    },
];

/// The routes of the table.
pub(super) fn router(status: &Arc<dyn Status>, limits: &Arc<Limits>) -> Router {
    ROUTES.iter().fold(Router::new(), |router, route| {
        let (status, limits) = (Arc::clone(status), Arc::clone(limits));
        let answer = async move |names: Result<RawPathParams, RawPathParamsRejection>, request: Request| {
            route.answer(&status, &limits, names, request).await.unwrap_or_else(Problem::into_response)
        };
        router.route(&format!("{PREFIX}{}", route.path), on(route.verb.filter(), answer))
    })
}

impl Route {
    async fn answer(
        &self,
        status: &Arc<dyn Status>,
        limits: &Limits,
        names: Result<RawPathParams, RawPathParamsRejection>,
        request: Request,
    ) -> Result<Response, Problem> {
        let names = names.map_err(|_| Problem::bad_request("the path is not percent-encoded UTF-8"))?;
        let (head, body) = request.into_parts();
        let body = if self.body.is_empty() {
            Body::default()
        } else {
            body::read(&head.headers, body, self.body_bytes_max(limits.message_bytes_max)).await?
        };
        let asked = limits.read(names.iter().next(), (self.query, head.uri.query()), (self.body, body))?;
        let Some(control) = status.control() else {
            return Err(Problem::new(ErrorCode::Unavailable, "the node is starting"));
        };
        let answer = (self.run)(control, asked).await?;
        Ok(document(self.status, "application/json", &answer))
    }

    /// Largest body, where durable messages have at most `message_bytes_max` bytes.
    pub(super) fn body_bytes_max(&self, message_bytes_max: usize) -> usize {
        body::bytes_max(if self.takes_message() { message_bytes_max } else { 0 })
    }

    /// Whether it takes a durable message.
    pub(super) fn takes_message(&self) -> bool {
        self.body.contains(&Word::Data)
    }

    /// What the name in the path is the name of.
    pub(super) fn subject(&self) -> Option<&'static str> {
        let (_, name) = self.path.split_once('{')?;
        name.split_once('}').map(|(name, _)| name)
    }

    /// Whether it is about one namespace.
    pub(super) fn has_namespace(&self) -> bool {
        [self.query, self.body].concat().contains(&Word::Namespace)
    }
}

impl Verb {
    /// The method as OpenAPI writes it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Post => "post",
            Self::Delete => "delete",
        }
    }

    const fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Post => MethodFilter::POST,
            Self::Delete => MethodFilter::DELETE,
        }
    }
}

async fn read_user(control: Arc<dyn Control>, asked: Asked) -> Result<Value, Problem> {
    let place = asked.place();
    let user = Arc::clone(&place.user);
    let OfflineView { count, bytes } = control.offline(place.clone()).await?;
    let sessions: Vec<_> = control.user(place).await?.iter().map(session).collect();
    Ok(json!({ "user": &*user, "sessions": sessions, "offline": { "count": count, "bytes": bytes } }))
}

async fn evict_user(control: Arc<dyn Control>, asked: Asked) -> Result<Value, Problem> {
    let device = asked.device.clone();
    Ok(json!({ "evicted": control.evict(asked.place(), device).await? }))
}

async fn post_message(control: Arc<dyn Control>, asked: Asked) -> Result<Value, Problem> {
    let Asked { event, data, id, ttl, .. } = &asked;
    let event = event.clone().ok_or_else(|| Problem::bad_request("event: must be named"))?;
    let (data, id, ttl) = (data.clone().unwrap_or_else(|| "null".to_owned()), id.clone(), *ttl);
    let posted = control.post(Letter { to: asked.place(), event, data, id, ttl }).await?;
    Ok(json!({ "id": posted.id, "status": posted.status }))
}

async fn delete_messages(control: Arc<dyn Control>, asked: Asked) -> Result<Value, Problem> {
    Ok(json!({ "deleted": control.clear(asked.place()).await? }))
}

async fn list_rooms(control: Arc<dyn Control>, asked: Asked) -> Result<Value, Problem> {
    let view = control.rooms(asked.namespace, asked.page).await?;
    let rooms: Vec<_> = view.rooms.iter().map(occupied).collect();
    Ok(json!({ "rooms": rooms, "missing": view.missing, "next": view.next }))
}

async fn read_room(control: Arc<dyn Control>, asked: Asked) -> Result<Value, Problem> {
    let room = asked.room();
    let view = control.room(asked.namespace, room.clone(), asked.page).await?;
    let members: Vec<_> = view.members.iter().map(member).collect();
    Ok(json!({ "room": room.as_str(), "members": members, "missing": view.missing, "next": view.next }))
}

async fn join_room(control: Arc<dyn Control>, asked: Asked) -> Result<Value, Problem> {
    let (room, chosen) = (asked.room(), Chosen { users: asked.users, sessions: asked.sessions });
    Ok(json!({ "matched": control.join(asked.namespace, room, named(chosen)?).await? }))
}

async fn leave_room(control: Arc<dyn Control>, asked: Asked) -> Result<Value, Problem> {
    let (room, chosen) = (asked.room(), Chosen { users: asked.users, sessions: asked.sessions });
    Ok(json!({ "matched": control.leave(asked.namespace, room, named(chosen)?).await? }))
}

fn named(chosen: Chosen) -> Result<Chosen, Problem> {
    if chosen.users.is_empty() && chosen.sessions.is_empty() {
        return Err(Problem::bad_request("users, sessions: at least one must be named"));
    }
    Ok(chosen)
}

async fn disconnect(control: Arc<dyn Control>, asked: Asked) -> Result<Value, Problem> {
    if asked.rooms.is_empty() && asked.users.is_empty() {
        return Err(Problem::bad_request("rooms, users: at least one must be named"));
    }
    let matched = control.disconnect(asked.namespace, asked.rooms, asked.users, asked.close).await?;
    Ok(json!({ "matched": matched }))
}

async fn list_nodes(control: Arc<dyn Control>, _: Asked) -> Result<Value, Problem> {
    Ok(control.nodes().await?.iter().map(node).collect())
}

async fn drain(control: Arc<dyn Control>, _: Asked) -> Result<Value, Problem> {
    control.drain();
    Ok(json!({ "draining": true }))
}

fn session(view: &SessionView) -> Value {
    json!({
        "session": view.session.as_str(),
        "device": &*view.device,
        "node": view.node.as_str(),
        "transport": view.transport.as_str(),
        "connected_at": view.connected_at_ms,
        "last_seen": view.seen_at_ms,
    })
}

fn occupied(view: &OccupiedView) -> Value {
    json!({ "room": view.room.as_str(), "members": view.members })
}

fn member(view: &MemberView) -> Value {
    json!({
        "session": view.session,
        "user": view.user.as_deref(),
        "device": view.device.as_deref(),
        "node": view.node.as_ref().map(NodeId::as_str),
    })
}

fn node(view: &NodeView) -> Value {
    json!({
        "node": view.node.as_str(),
        "connections": view.connections,
        "sessions": view.sessions,
        "started_at": view.started_at_ms,
        "draining": view.draining,
        "version": &*view.version,
    })
}
