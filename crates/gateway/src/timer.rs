//! One timer for all of a node's connections: a heap of deadlines instead of a timer entry per connection.
//!
//! A connection arms its earliest deadline and is woken then; what is due it decides itself. Deadlines are exact to
//! the runtime's millisecond: clients and the protocol's own test-suite poll right after one.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::Weak;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::outbox::Outbox;

/// At most one entry per armed deadline: 16 bytes each. An entry of a connection that ended stays until it is due,
/// which is bounded by the longest deadline, one ping interval or one connect timeout.
pub(crate) struct Timer {
    clock: Clock,
    heap: Mutex<BinaryHeap<Reverse<Entry>>>,
    earlier: Notify,
}

struct Entry {
    at_ms: u64,
    outbox: Weak<Outbox>,
}

impl Timer {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, heap: Mutex::new(BinaryHeap::new()), earlier: Notify::new() }
    }

    /// Wakes the connection of `outbox` at `at_ms`.
    pub(crate) fn arm(&self, at_ms: u64, outbox: Weak<Outbox>) {
        let first = {
            let mut heap = self.heap.lock();
            let first = heap.peek().is_none_or(|Reverse(entry)| at_ms < entry.at_ms);
            heap.push(Reverse(Entry { at_ms, outbox }));
            first
        };
        if first {
            self.earlier.notify_one();
        }
    }

    /// Runs until `shutdown`. Without it no connection would be pinged or found dead, so it must not fail, and it
    /// has nothing that can.
    pub(crate) async fn run(&self, shutdown: CancellationToken) {
        loop {
            let next = self.wake_due();
            let sleep = async {
                match next {
                    Some(at_ms) => tokio::time::sleep_until(self.clock.instant(at_ms)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.earlier.notified() => {}
                () = sleep => {}
            }
        }
    }

    /// Wakes every connection whose deadline has come; returns the next deadline.
    fn wake_due(&self) -> Option<u64> {
        let now = self.clock.now_ms();
        let mut heap = self.heap.lock();
        while let Some(Reverse(entry)) = heap.peek() {
            if entry.at_ms > now {
                return Some(entry.at_ms);
            }
            if let Some(Reverse(entry)) = heap.pop()
                && let Some(outbox) = entry.outbox.upgrade()
            {
                outbox.wake_tick();
            }
        }
        None
    }
}

#[cfg(test)]
impl Timer {
    /// How many deadlines it knows.
    pub(crate) fn armed(&self) -> usize {
        self.heap.lock().len()
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.at_ms == other.at_ms
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at_ms.cmp(&other.at_ms)
    }
}
