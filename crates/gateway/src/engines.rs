//! The Engine.IO sessions of this node, by their secret sid.
//!
//! A sid is 20 characters that hold 120 random bits, then the node's id: whoever gets a request for a session that
//! lives elsewhere can tell where, without asking anybody.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use foldhash::{HashMap, HashSet};
use parking_lot::Mutex;
use tidegate_core::{DisconnectReason, NodeId, ids};
use tokio::sync::oneshot;

use crate::letterbox::Letterbox;
use crate::outbox::{Binary, Outbox};
use crate::socket::Socket;

/// Random bytes of a sid, and the characters they are written in.
const ID_BYTES: usize = 15;
const ID_LENGTH: usize = 20;

/// Parts of the table, so that handshakes on several workers seldom meet. A power of two.
const PARTS: usize = 16;

/// The random part of a sid, as bytes: every connection is an entry of the table.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct EngineId([u8; ID_BYTES]);

impl fmt::Debug for EngineId {
    /// Whoever knows a sid may poll for its client, so no log has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EngineId(..)")
    }
}

impl EngineId {
    pub(crate) fn random() -> Self {
        Self(ids::random_bytes())
    }

    /// The whole sid, as the client is told.
    pub(crate) fn sid(&self, node: &NodeId) -> String {
        format!("{}{node}", URL_SAFE_NO_PAD.encode(self.0))
    }

    /// The session that `sid` names, if it is one of `node`.
    pub(crate) fn parse(sid: &str, node: &NodeId) -> Option<Self> {
        let (random, owner) = sid.split_at_checked(ID_LENGTH)?;
        if owner != node.as_str() {
            return None;
        }
        let mut id = [0; ID_BYTES];
        // Every twenty characters of base64url are fifteen bytes, and no others.
        matches!(URL_SAFE_NO_PAD.decode_slice(random, &mut id), Ok(ID_BYTES)).then_some(Self(id))
    }

    fn part(&self) -> usize {
        usize::from(self.0[0]) % PARTS
    }
}

/// What requests with a sid find.
#[derive(Clone)]
pub(crate) enum Engine {
    /// On HTTP long-polling, perhaps about to move.
    Polling(Arc<Polling>),
    /// On a WebSocket. Requests with its sid have nothing more to do here, so nothing is kept for them.
    WebSocket,
}

/// The meeting point of a polling session's requests and its connection.
pub(crate) struct Polling {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) input: Arc<Letterbox>,
    /// A POST is under way; a second one is a violation.
    pub(crate) posting: AtomicBool,
    /// A WebSocket probes; a second one is turned away.
    pub(crate) upgrading: AtomicBool,
    /// The client has moved to its WebSocket, so that a poll of its that goes away says nothing.
    pub(crate) moved: AtomicBool,
    /// A poll went away while a WebSocket probed: if that fails, the client is gone.
    pub(crate) aborted: AtomicBool,
    /// The client has joined a namespace, so its payloads may be of full size.
    pub(crate) joined: AtomicBool,
}

/// What a request brings to a polling connection.
pub(crate) enum Input {
    /// The body of a POST.
    Payload(Box<Payload>),
    /// The request itself was a violation.
    Violation(DisconnectReason),
    /// The WebSocket that the client has moved to.
    Upgraded(Box<Upgraded>),
}

/// The WebSocket that a polling client has moved to, and what it sent there already.
pub(crate) struct Upgraded {
    pub(crate) socket: Socket,
    pub(crate) binary: Binary,
    pub(crate) unread: Vec<u8>,
}

/// The body of a POST, and whom to tell when it has been taken.
pub(crate) struct Payload {
    pub(crate) body: String,
    pub(crate) accepted: oneshot::Sender<()>,
}

/// Claims `flag` until dropped, unless somebody else has it.
pub(crate) struct Exclusive<'a>(&'a AtomicBool);

impl<'a> Exclusive<'a> {
    pub(crate) fn claim(flag: &'a AtomicBool) -> Option<Self> {
        (!flag.swap(true, Ordering::SeqCst)).then_some(Self(flag))
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        // In one order with the flags that are looked at after it.
        self.0.store(false, Ordering::SeqCst);
    }
}

pub(crate) struct Engines {
    parts: [Mutex<Part>; PARTS],
}

/// A connection is in one of the two, and nearly every one is in the second, of which nothing but its sid is kept.
#[derive(Default)]
struct Part {
    polling: HashMap<EngineId, Arc<Polling>>,
    websockets: HashSet<EngineId>,
}

impl Engines {
    pub(crate) fn new() -> Self {
        Self { parts: std::array::from_fn(|_| Mutex::default()) }
    }

    pub(crate) fn insert(&self, id: EngineId, engine: Engine) {
        let mut part = self.parts[id.part()].lock();
        match engine {
            Engine::Polling(polling) => {
                part.polling.insert(id, polling);
            }
            Engine::WebSocket => {
                part.polling.remove(&id);
                part.websockets.insert(id);
            }
        }
    }

    pub(crate) fn find(&self, id: EngineId) -> Option<Engine> {
        let part = self.parts[id.part()].lock();
        match part.polling.get(&id) {
            Some(polling) => Some(Engine::Polling(Arc::clone(polling))),
            None => part.websockets.contains(&id).then_some(Engine::WebSocket),
        }
    }

    pub(crate) fn remove(&self, id: EngineId) {
        let mut part = self.parts[id.part()].lock();
        part.websockets.remove(&id);
        // Its last requests may hold it still; it is let go of outside the lock.
        let polling = part.polling.remove(&id);
        drop(part);
        drop(polling);
    }

    /// The outboxes of all connections that poll, to close them. Those of WebSockets are known to the reactor.
    pub(crate) fn outboxes(&self) -> Vec<Arc<Outbox>> {
        self.parts
            .iter()
            .flat_map(|part| {
                part.lock().polling.values().map(|polling| Arc::clone(&polling.outbox)).collect::<Vec<_>>()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sid_names_its_node() {
        let node = NodeId::parse("gw-1").unwrap();
        let id = EngineId::random();
        let sid = id.sid(&node);
        assert!(sid.ends_with("gw-1"));
        assert_eq!(EngineId::parse(&sid, &node), Some(id));
        assert_eq!(EngineId::parse(&sid, &NodeId::parse("gw-2").unwrap()), None);
        for bad in ["", "x", "äääääääääääääää", &sid[..19]] {
            assert_eq!(EngineId::parse(bad, &node), None);
        }
    }
}
