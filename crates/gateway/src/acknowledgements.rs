//! Acknowledgements that clients owe for events which other servers broadcast.

use std::collections::HashSet;
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
pub(crate) struct Acknowledgements(Mutex<State>);

#[derive(Default)]
struct State {
    last: u64,
    expected: HashMap<u64, Expected>,
}

struct Expected {
    asker: Asker,
    receivers: HashSet<SessionId>,
    until: Instant,
}

impl Acknowledgements {
    /// Expects an acknowledgement of each of `receivers` within `within`; returns the id that their packets carry.
    /// Ids are never used twice by one node, and clients count theirs apart.
    pub(crate) fn expect(&self, asker: Asker, receivers: HashSet<SessionId>, within: Duration) -> u64 {
        let now = Instant::now();
        let mut state = self.0.lock();
        state.expected.retain(|_, expected| now < expected.until);
        if state.expected.len() >= BROADCASTS_MAX {
            let first = state.expected.iter().min_by_key(|(_, expected)| expected.until).map(|(id, _)| *id);
            first.and_then(|id| state.expected.remove(&id));
        }
        state.last += 1;
        let id = state.last;
        state.expected.insert(id, Expected { asker, receivers, until: now + within });
        id
    }

    /// Whom to tell of an acknowledgement. Each receiver's first one counts, nobody else's does.
    pub(crate) fn take(&self, id: u64, receiver: SessionId) -> Option<Asker> {
        let mut state = self.0.lock();
        let expected = state.expected.get_mut(&id)?;
        if !expected.receivers.remove(&receiver) || expected.until <= Instant::now() {
            return None;
        }
        let asker = expected.asker.clone();
        if expected.receivers.is_empty() {
            state.expected.remove(&id);
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
        assert_eq!(expected.0.lock().expected.len(), BROADCASTS_MAX);
        assert_eq!(expected.take(ids[0], session), None);
        assert!(expected.take(ids[1], session).is_some());
        tokio::time::advance(Duration::from_secs(2)).await;
        expected.expect(asker(), HashSet::from([session]), Duration::from_secs(1));
        assert_eq!(expected.0.lock().expected.len(), 1);
    }
}
