//! What a session has acknowledged and the store has not deleted yet.

use std::sync::Arc;

use tidegate_core::offline::{Serial, Settled};
use tokio::sync::Notify;

/// What was acknowledged, in this round or an earlier one, and is not known yet to be settled.
#[derive(Default)]
pub(super) struct Acknowledged {
    /// What the store is yet to be told.
    waiting: Vec<Serial>,
    /// What it is being told.
    under_way: Vec<Serial>,
    /// The registrar knows that there is something.
    is_queued: bool,
    /// The session has lost its place: nothing of it will be settled.
    is_lost: bool,
    changed: Arc<Notify>,
}

/// Whether everything that was acknowledged is settled.
pub(crate) enum Unsettled {
    /// It is.
    Nothing,
    /// Not yet; there is news when this is notified.
    Something(Arc<Notify>),
    /// It never will be: the session lost its place.
    Lost,
}

impl Acknowledged {
    pub(super) fn push(&mut self, serial: Serial) {
        self.waiting.push(serial);
    }

    pub(super) fn is_to_be_queued(&mut self) -> bool {
        !self.waiting.is_empty() && !self.is_lost && !std::mem::replace(&mut self.is_queued, true)
    }

    pub(super) fn not_queued(&mut self) {
        self.is_queued = false;
    }

    pub(super) fn settle(&mut self) -> Vec<Serial> {
        self.is_queued = false;
        self.under_way.append(&mut self.waiting);
        self.under_way.clone()
    }

    pub(super) fn settled(&mut self, outcome: Option<Settled>) {
        let mut under_way = std::mem::take(&mut self.under_way);
        match outcome {
            Some(Settled::Deleted(_)) => {}
            Some(Settled::Displaced) => self.is_lost = true,
            Some(Settled::Absent) | None => {
                under_way.append(&mut self.waiting);
                self.waiting = under_way;
                return;
            }
        }
        self.changed.notify_waiters();
    }

    pub(super) fn look(&self) -> Unsettled {
        if self.is_lost {
            Unsettled::Lost
        } else if self.waiting.is_empty() && self.under_way.is_empty() {
            Unsettled::Nothing
        } else {
            Unsettled::Something(Arc::clone(&self.changed))
        }
    }
}
