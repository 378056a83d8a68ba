//! Acknowledgements that clients owe for events which other servers broadcast.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::HashMap;
use parking_lot::Mutex;
use tidegate_core::SessionId;
use tidegate_core::request::Asker;
use tokio::time::Instant;

/// Broadcasts that are waited for at once. The one that ends first is forgotten for a new one: its asker has waited
/// longest, and reports whom it has not heard from.
const BROADCASTS_MAX: usize = 1_024;

/// One entry per broadcast with receivers here that have not all answered.
#[derive(Default)]
pub(crate) struct Acknowledgements {
    last: AtomicU64,
    expected: Mutex<HashMap<u64, Expected>>,
}

struct Expected {
    asker: Asker,
    receivers: HashSet<SessionId>,
    until: Instant,
}

impl Acknowledgements {
    /// An id for one packet, or for one broadcast, that asks for an acknowledgement. They grow and are never used twice
    /// by one node; clients count theirs apart.
    pub(crate) fn next_id(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Expects an acknowledgement of each of `receivers` within `within`; returns the id that their packets carry.
    pub(crate) fn expect(&self, asker: Asker, receivers: HashSet<SessionId>, within: Duration) -> u64 {
        let now = Instant::now();
        let id = self.next_id();
        let mut waiting = self.expected.lock();
        waiting.retain(|_, expected| now < expected.until);
        if waiting.len() >= BROADCASTS_MAX {
            let first = waiting.iter().min_by_key(|(_, expected)| expected.until).map(|(id, _)| *id);
            first.and_then(|id| waiting.remove(&id));
        }
        waiting.insert(id, Expected { asker, receivers, until: now + within });
        id
    }

    /// Whom to tell of an acknowledgement. Each receiver's first one counts, nobody else's does.
    pub(crate) fn take(&self, id: u64, receiver: SessionId) -> Option<Asker> {
        let mut waiting = self.expected.lock();
        let expected = waiting.get_mut(&id)?;
        if !expected.receivers.remove(&receiver) || expected.until <= Instant::now() {
            return None;
        }
        let asker = expected.asker.clone();
        if expected.receivers.is_empty() {
            waiting.remove(&id);
        }
        Some(asker)
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::ids::RequestId;

    use super::*;

    fn asker() -> Asker {
        Asker { uid: None, node: None, id: RequestId::random(), only_owner: false }
    }

    #[tokio::test(start_paused = true)]
    async fn each_receiver_counts_once_and_in_time() {
        let expected = Acknowledgements::default();
        let [one, other, stranger] = std::array::from_fn(|_| SessionId::random());
        let asker = asker();
        let id = expected.expect(asker.clone(), HashSet::from([one, other]), Duration::from_secs(1));
        assert_eq!(expected.take(id, stranger), None);
        assert_eq!(expected.take(id + 1, one), None);
        assert_eq!(expected.take(id, one), Some(asker.clone()));
        assert_eq!(expected.take(id, one), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(expected.take(id, other), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_waited_for_is_bounded_and_forgotten() {
        let expected = Acknowledgements::default();
        let session = SessionId::random();
        let mut ids = Vec::new();
        for _ in 0..=BROADCASTS_MAX {
            ids.push(expected.expect(asker(), HashSet::from([session]), Duration::from_secs(1)));
            tokio::time::advance(Duration::from_micros(1)).await;
        }
        assert_eq!(expected.expected.lock().len(), BROADCASTS_MAX);
        assert_eq!(expected.take(ids[0], session), None);
        assert!(expected.take(ids[1], session).is_some());
        tokio::time::advance(Duration::from_secs(2)).await;
        expected.expect(asker(), HashSet::from([session]), Duration::from_secs(1));
        assert_eq!(expected.expected.lock().len(), 1);
    }
}
