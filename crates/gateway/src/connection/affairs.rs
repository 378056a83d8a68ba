//! What a connection has in hand at times. An idle one has nothing in hand, and keeps no room for it.

use std::pin::Pin;

use tidegate_core::Namespace;

use super::courier::Errand;
use super::{Held, Resume};
use crate::bucket::Bucket;

/// All of it, if there is any.
#[derive(Default)]
pub(super) struct Affairs(Option<Box<Open>>);

#[derive(Default)]
pub(super) struct Open {
    /// What must be over before more input is looked at.
    pub(super) busy: Option<Pin<Box<dyn Future<Output = Resume> + Send>>>,
    /// An event that came behind a join which is not answered yet: what it publishes must reach its own client.
    pub(super) deferred: Option<Box<Held>>,
    /// What is being read from an inbox.
    pub(super) errand: Option<Errand>,
    /// What the node has ended of its sessions.
    pub(super) ended: Option<Ended>,
    /// CONNECTs behind the first, by the same measure as events and apart from them.
    pub(super) connects: Option<Bucket>,
}

/// The sessions of a connection that its node ended.
#[derive(Default)]
pub(super) struct Ended {
    /// Their namespaces; what the client sent there before it heard of it is ignored.
    pub(super) namespaces: Vec<Namespace>,
    /// When the connection is closed if it still has no namespace: its last session was ended by the node, and the
    /// client, who is told so first, hangs up by itself as a rule.
    pub(super) hang_up_ms: Option<u64>,
}

impl Affairs {
    /// To put something in hand.
    pub(super) fn open(&mut self) -> &mut Open {
        self.0.get_or_insert_default()
    }

    pub(super) fn get(&self) -> Option<&Open> {
        self.0.as_deref()
    }

    pub(super) fn get_mut(&mut self) -> Option<&mut Open> {
        self.0.as_deref_mut()
    }

    pub(super) fn is_busy(&self) -> bool {
        self.get().is_some_and(|open| open.busy.is_some())
    }

    pub(super) fn has_deferred(&self) -> bool {
        self.get().is_some_and(|open| open.deferred.is_some())
    }

    pub(super) fn has_errand(&self) -> bool {
        self.get().is_some_and(|open| open.errand.is_some())
    }

    /// Gives the room back if nothing is in hand any more.
    pub(super) fn settle(&mut self) {
        if let Some(Open { busy: None, deferred: None, errand: None, ended: None, connects: None }) =
            self.0.as_deref()
        {
            self.0 = None;
        }
    }
}
