//! What other servers ask of this node's sessions: to join, leave or end, who they are, and to acknowledge an event.
//!
//! Requests are carried out one after the other, in the order they came, so that whoever asks for a join and then who
//! is in the room finds the join done. An answer never holds more than who a session is and where.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tidegate_core::registry::{EvictReason, Evicted};
use tidegate_core::request::{Answer, Ask, Asker, RemoteSocket, Request, Selection};
use tidegate_core::{Namespace, Publication, Room, Rooms};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::dialect::Dialect;
use crate::message::Message;
use crate::node::Inner;
use crate::outbox::Pushed;
use crate::session::Session;

/// Requests that wait for their turn. Servers ask a few times a second at most; more than this is dropped, counted,
/// and the asker's time runs out.
pub(crate) const REQUESTS_MAX: usize = 1_024;

/// How long the joins of one request may take before the next has its turn.
const JOIN_TIMEOUT: Duration = Duration::from_secs(2);

/// How long acknowledgements of one broadcast are passed on if whoever asked does not say.
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_secs(60);

/// Carries out requests until `shutdown`.
pub(crate) async fn run(
    node: Arc<Inner>,
    mut requests: mpsc::Receiver<Request>,
    shutdown: CancellationToken,
) {
    loop {
        let request = tokio::select! {
            () = shutdown.cancelled() => return,
            request = requests.recv() => request,
        };
        let Some(request) = request else { return };
        // A node that does not hear cannot say whose sessions it has.
        let held = tokio::select! {
            () = shutdown.cancelled() => return,
            held = node.pulse.held() => held,
        };
        if held.is_err() {
            node.metrics.dropped("deaf", 1);
            continue;
        }
        carry_out(&node, request).await;
    }
}

async fn carry_out(node: &Arc<Inner>, request: Request) {
    let Request { namespace, asker, ask } = request;
    let answer = match ask {
        Ask::Ids { rooms } => {
            let sessions = node.hub.select(&namespace, &rooms, &Rooms::new());
            Answer::Ids(sessions.iter().map(|session| session.id.as_str().into()).collect())
        }
        Ask::Rooms => {
            let mut rooms = node.hub.rooms(&namespace);
            let sessions = node.hub.select(&namespace, &Rooms::new(), &Rooms::new());
            // Every socket is in the room of its id, and stock servers list those, too.
            rooms.extend(sessions.iter().map(|session| session.own_room()));
            Answer::Rooms(rooms.into_iter().collect())
        }
        Ask::Fetch { selection } => {
            let sessions = select(node, &namespace, &selection);
            Answer::Sockets(sessions.iter().map(|session| remote(node, session)).collect())
        }
        Ask::Join { selection, rooms } => {
            let sessions = select(node, &namespace, &selection);
            join(node, &sessions, &rooms).await;
            Answer::Done { matched: count(&sessions) }
        }
        Ask::Leave { selection, rooms } => {
            let sessions = select(node, &namespace, &selection);
            for session in &sessions {
                rooms.iter().for_each(|room| node.leave(session, room));
            }
            Answer::Done { matched: count(&sessions) }
        }
        Ask::Disconnect { selection, close } => {
            let sessions = select(node, &namespace, &selection);
            disconnect(node, &sessions, close);
            Answer::Done { matched: count(&sessions) }
        }
        // There is no code here that could hear it; whoever counts answers is not kept waiting.
        Ask::ServerSideEmit { .. } => Answer::Emitted,
        Ask::Broadcast { publication, timeout } => {
            let Some(asker) = &asker else { return };
            let within = timeout.unwrap_or(ACKNOWLEDGE_WITHIN);
            Answer::Clients(broadcast(node, asker, &publication, within))
        }
    };
    if let Some(asker) = asker {
        node.broker.answer(&asker, &namespace, answer);
    }
}

fn count(sessions: &[Arc<Session>]) -> u64 {
    u64::try_from(sessions.len()).unwrap_or(u64::MAX)
}

fn select(node: &Inner, namespace: &Namespace, selection: &Selection) -> Vec<Arc<Session>> {
    node.hub.select(namespace, &selection.rooms, &selection.except)
}

/// What others may know of a session: neither headers nor cookies, neither tokens nor addresses.
fn remote(node: &Inner, session: &Session) -> RemoteSocket {
    let mut rooms = vec![session.own_room()];
    rooms.extend(node.hub.rooms_of(session));
    RemoteSocket {
        id: session.id.as_str().into(),
        rooms,
        user: session.identity.user.clone(),
        device: Some(Arc::clone(&session.identity.device)),
        node: Some(node.options.node.clone()),
        connected_at_ms: Some(session.connected_at_ms),
    }
}

/// Lets sessions join rooms; resolves when that holds, or is given up.
async fn join(node: &Arc<Inner>, sessions: &[Arc<Session>], rooms: &[Room]) {
    let mut joined = Vec::new();
    for session in sessions {
        for room in rooms {
            let (done, outcome) = oneshot::channel();
            node.join_then(session, room.clone(), move |joined| {
                // Nobody waits any longer than a while.
                let _ = done.send(joined);
            });
            joined.push(outcome);
        }
    }
    let all = async {
        for outcome in joined {
            if let Ok(Err(refused)) = outcome.await {
                tracing::debug!(?refused, "a session did not join as a server asked");
            }
        }
    };
    if tokio::time::timeout(JOIN_TIMEOUT, all).await.is_err() {
        tracing::debug!("joins that a server asked for take long");
    }
}

/// Ends sessions as a stock server does with `disconnectSockets`: in their namespace, or with `close` in every
/// namespace of their connection, which then has none left and is closed.
fn disconnect(node: &Arc<Inner>, sessions: &[Arc<Session>], close: bool) {
    let kicked = || Evicted { reason: EvictReason::Kicked, by: None };
    for session in sessions {
        node.end(session, kicked(), None);
    }
    if close {
        let outboxes: HashSet<_> = sessions.iter().map(|session| Arc::as_ptr(&session.outbox)).collect();
        for other in node.hub.sessions() {
            if outboxes.contains(&Arc::as_ptr(&other.outbox)) {
                node.end(&other, kicked(), None);
            }
        }
    }
}

/// Sends an event that is to be acknowledged, and passes acknowledgements on for a while. Returns to how many.
fn broadcast(node: &Inner, asker: &Asker, publication: &Publication, within: Duration) -> u64 {
    let Publication { namespace, rooms, except, flags, data } = publication;
    let sessions = node.hub.select(namespace, rooms, except);
    if sessions.is_empty() {
        return 0;
    }
    let receivers = sessions.iter().map(|session| session.id).collect();
    let id = node.acknowledgements.expect(asker.clone(), receivers, within);
    let encode = |dialect: Dialect| match dialect.event(namespace.as_str(), data, *flags, Some(id)) {
        Ok(message) => Some(message),
        Err(error) => {
            tracing::debug!(%error, "failed to encode an event that is to be acknowledged");
            None
        }
    };
    let mut forms: [Option<Option<Message>>; Dialect::COUNT] = Default::default();
    let mut delivered = 0;
    for session in &sessions {
        let form = &mut forms[session.dialect.index()];
        let message = form.get_or_insert_with(|| encode(session.dialect));
        if let Some(message) = message
            && session.outbox.push(message) == Pushed::Taken
        {
            session.rule.metrics.deliveries.inc();
            delivered += 1;
        }
    }
    delivered
}
