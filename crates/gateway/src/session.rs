//! One session: a client in one namespace.

use std::sync::Arc;

use tidegate_core::{Namespace, Room, SessionId, Topic};

use crate::auth::{EXPIRY_LEEWAY_S, Identity};
use crate::hub::Seat;
use crate::interest::Interest;
use crate::metrics::NamespaceMetrics;
use crate::namespaces::Operations;

/// What all sessions of one configured namespace share.
pub(crate) struct Rule {
    pub(crate) operations: Operations,
    pub(crate) metrics: Arc<NamespaceMetrics>,
}

/// A client in one namespace.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) namespace: Namespace,
    pub(crate) rule: Arc<Rule>,
    pub(crate) seat: Seat,
    pub(crate) identity: Identity,
}

impl Session {
    /// When the session must end, in Unix milliseconds.
    pub(crate) fn expires_unix_ms(&self) -> Option<u64> {
        self.identity.expires_at.map(|seconds| seconds.saturating_add(EXPIRY_LEEWAY_S).saturating_mul(1_000))
    }

    /// The room that holds only this session.
    pub(crate) fn own_room(&self) -> Room {
        Room::from(self.id.as_str())
    }
}

/// One member counted for a topic; taken back when dropped, unless it is kept.
pub(crate) struct Membership {
    interest: Arc<Interest>,
    topic: Option<Topic>,
}

impl Membership {
    pub(crate) fn new(interest: &Arc<Interest>, topic: Topic) -> Self {
        Self { interest: Arc::clone(interest), topic: Some(topic) }
    }

    /// From here on the session answers for it.
    pub(crate) fn keep(mut self) {
        self.topic = None;
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Some(topic) = &self.topic {
            self.interest.leave(topic);
        }
    }
}
