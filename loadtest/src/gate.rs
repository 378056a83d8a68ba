//! Says to many at once whether they may begin something.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// Open or shut. It is looked at before everything that is begun, so looking must cost nothing.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    is_open: AtomicBool,
    changes: watch::Sender<()>,
}

impl Gate {
    pub(crate) fn set(&self, is_open: bool) {
        self.is_open.store(is_open, Ordering::Release);
        self.changes.send_replace(());
    }

    pub(crate) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// Changes whenever the gate is set, with what came before subscribing left out.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}
