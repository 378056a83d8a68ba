//! Who holds a place: what the scripts on a place's hash do (`claim.lua`, `check.lua`, `release.lua`), for users with
//! one device under the policy `per_device`.

use std::collections::BTreeMap;

use super::{FENCE_US, Flaw};

/// By user: rows and marks, by the number of the CONNECT that claimed.
#[derive(Clone, Default)]
pub(super) struct Places(BTreeMap<usize, BTreeMap<usize, Entry>>);

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) node: usize,
    pub(super) epoch: u64,
    vouched_us: u64,
    pub(super) mark: Option<Mark>,
}

/// The session lost its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) winner: usize,
    /// When, by the server's clock.
    at_us: u64,
}

/// Who must go, and where it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Loser {
    pub(super) session: usize,
    pub(super) node: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Held,
    Restored,
    Absent,
    Evicted,
}

impl Places {
    /// Claims; returns the epoch and who must be silent. All of those are told.
    ///
    /// Beside the rows it displaces, a claim waits for whoever was displaced before it and may still act: the one that
    /// displaced those need not have lived to see them silent, or not waited itself.
    pub(super) fn claim(
        &mut self,
        (user, session): (usize, usize),
        node: usize,
        now_us: u64,
        flaw: Option<Flaw>,
    ) -> (u64, Vec<Loser>) {
        let entries = self.0.entry(user).or_default();
        let latest = entries.values().map(|entry| entry.epoch).max().unwrap_or(0);
        let epoch = (now_us / 1_000).max(latest + 1);
        let mut losers = Vec::new();
        for (loser, entry) in &mut *entries {
            let may_act = match entry.mark {
                None => true,
                Some(mark) => flaw != Some(Flaw::ForgetsUnsilenced) && now_us < mark.at_us + FENCE_US,
            };
            if may_act {
                losers.push(Loser { session: *loser, node: entry.node });
            }
            entry.mark.get_or_insert(Mark { winner: session, at_us: now_us });
        }
        entries.insert(session, Entry { node, epoch, vouched_us: 0, mark: None });
        (epoch, losers)
    }

    /// Checks, and restores; also returns who is displaced by that.
    pub(super) fn check(
        &mut self,
        (user, session): (usize, usize),
        (node, epoch): (usize, u64),
        (restore, vouch): (bool, bool),
        now_us: u64,
    ) -> (Verdict, Vec<Loser>) {
        let entries = self.0.entry(user).or_default();
        if let Some(entry) = entries.get_mut(&session) {
            if entry.mark.is_some() {
                return (Verdict::Evicted, Vec::new());
            }
            if vouch {
                entry.vouched_us = now_us;
            }
            return (Verdict::Held, Vec::new());
        }
        let newest =
            entries.iter().filter(|(_, entry)| entry.mark.is_none()).max_by_key(|(_, entry)| entry.epoch);
        let vouched_us = if vouch { now_us } else { 0 };
        let mut restored = Entry { node, epoch, vouched_us, mark: None };
        if let Some((winner, _)) = newest.filter(|(_, entry)| entry.epoch >= epoch) {
            restored.mark = Some(Mark { winner: *winner, at_us: now_us });
            entries.insert(session, restored);
            return (Verdict::Evicted, Vec::new());
        }
        if !restore {
            return (Verdict::Absent, Vec::new());
        }
        let mut losers = Vec::new();
        for (loser, entry) in entries.iter_mut().filter(|(_, entry)| entry.mark.is_none()) {
            losers.push(Loser { session: *loser, node: entry.node });
            entry.mark = Some(Mark { winner: session, at_us: now_us });
        }
        entries.insert(session, restored);
        (Verdict::Restored, losers)
    }

    /// Forgets a session or its mark; `reaped_us` is when whoever asks took over from its node.
    pub(super) fn release(
        &mut self,
        (user, session): (usize, usize),
        reaped_us: Option<u64>,
        flaw: Option<Flaw>,
    ) {
        let Some(entries) = self.0.get_mut(&user) else { return };
        let Some(entry) = entries.get(&session) else { return };
        let since_us = (entry.epoch * 1_000).max(entry.vouched_us);
        if entry.mark.is_none() && reaped_us.is_some_and(|reaped_us| since_us >= reaped_us) {
            return;
        }
        entries.remove(&session);
        if flaw == Some(Flaw::DropsMarksWithWinner) {
            entries.retain(|_, entry| entry.mark.is_none_or(|mark| mark.winner != session));
        }
    }

    /// Whether there is a row or a mark of the session.
    pub(super) fn knows(&self, user: usize, session: usize) -> bool {
        self.0.get(&user).is_some_and(|entries| entries.contains_key(&session))
    }

    /// Everything in the name of a node, as user and session.
    pub(super) fn held(&self, node: usize) -> Vec<(usize, usize)> {
        let all = self.all();
        all.filter(|(.., entry)| entry.node == node).map(|(user, session, _)| (user, session)).collect()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (usize, usize, &Entry)> {
        self.0
            .iter()
            .flat_map(|(user, entries)| entries.iter().map(|(session, entry)| (*user, *session, entry)))
    }
}
