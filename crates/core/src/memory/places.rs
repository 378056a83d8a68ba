//! Who holds a place: what claims, checks, releases and kicks change, before anybody is told of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;

use crate::ids::{ClaimId, Incarnation, NodeId, SessionId};
use crate::offline::{Holder, HolderError};
use crate::registry::{
    By, Claim, ClaimError, Claimed, Displaced, EvictReason, Evicted, Eviction, Gone, OnDuplicate, Place,
    Policy, Refresh, Row, Transport, Verdict,
};

/// How long a mark is kept that nobody comes back for, in ms.
const MARK_KEPT_MS: u64 = 24 * 60 * 60 * 1000;

/// All places with a session, or with the mark of one. Bounded by the sessions of this process: whoever is displaced
/// goes when its own node says so, or a reaper; the marks of nodes that never came back go with the first claim after a day.
#[derive(Default)]
pub(super) struct Places(HashMap<Place, Vec<Entry>, RandomState>);

/// The node that asks.
pub(super) struct Home {
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    pub(super) fence_after: Duration,
}

/// Who is to be told what.
pub(super) type Told = (NodeId, Eviction);

/// One session of a place. As a rule it is the only one and never loses its place, and there are as many as there are
/// connections: what all of a node share is shared, and what few ever have is boxed.
struct Entry {
    session: SessionId,
    claim: ClaimId,
    epoch: u64,
    device: Arc<str>,
    home: Arc<Home>,
    seen_at_ms: u64,
    transport: Transport,
    /// Whether it is ready for durable messages.
    ready: bool,
    /// The session that its client had before.
    resumes: Option<Box<SessionId>>,
    /// Set once the session has lost its place.
    mark: Option<Box<Mark>>,
}

struct Mark {
    evicted: Evicted,
    /// Whose claim displaced it, and waits for it.
    winner: Option<ClaimId>,
    at_ms: u64,
}

impl Places {
    /// See [`SessionRegistry::claim`](crate::SessionRegistry::claim); `is_dead` says whether a row's node is.
    pub(super) fn claim(
        &mut self,
        claim: &Claim,
        home: &Arc<Home>,
        now_ms: u64,
        is_dead: impl Fn(&Home) -> bool,
    ) -> Result<(Claimed, Vec<Told>), ClaimError> {
        let entries = self.0.entry(claim.place.clone()).or_default();
        if let Some(made) = entries.iter().find(|entry| entry.is(claim.session, claim.id)) {
            let epoch = made.epoch;
            return Ok((claimed(entries, claim, epoch, now_ms), Vec::new()));
        }
        entries.retain(|entry| {
            entry.mark.as_ref().is_none_or(|mark| now_ms.saturating_sub(mark.at_ms) <= MARK_KEPT_MS)
        });
        let (mut rivals, beside) = rivals(entries, claim);
        let excess = rivals.len().saturating_sub(beside);
        if claim.on_duplicate == OnDuplicate::Reject || claim.resumes.is_some() {
            let is_own = |at: &usize| {
                let Entry { session, resumes, .. } = &entries[*at];
                claim.resumes.is_some_and(|had| had == *session || resumes.as_deref() == Some(&had))
            };
            rivals.retain(|at| is_own(at) || is_dead(&entries[*at].home));
            rivals.sort_by_key(|at| !is_own(at));
            if rivals.len() < excess {
                return Err(ClaimError::Taken);
            }
        }
        let last = entries.iter().map(Entry::latest).max();
        let epoch = now_ms.max(last.map_or(0, |last| last + 1));
        let winner = Entry::new(claim, home, epoch);
        // Those that may act still, although whoever displaced them may not wait for them any more.
        let again = entries.iter().filter(|_| claim.policy != Policy::Unlimited);
        let again = again.filter_map(|entry| entry.tell_again(&claim.place, &winner, now_ms));
        let mut told: Vec<_> = again.collect();
        let displaced = rivals[..excess].iter();
        told.extend(displaced.map(|at| entries[*at].displace(&claim.place, &winner, now_ms)));
        let answer = claimed(entries, claim, epoch, now_ms);
        entries.retain(|entry| entry.session != claim.session);
        // Nearly every place has one session, and room for four would be its largest part.
        entries.reserve_exact(1);
        entries.push(Entry { resumes: claim.resumes.map(Box::new), ..winner });
        Ok((answer, told))
    }

    /// See [`SessionRegistry::check`](crate::SessionRegistry::check).
    pub(super) fn check(
        &mut self,
        held: &Claim,
        restore: bool,
        home: &Arc<Home>,
        now_ms: u64,
    ) -> (Verdict, Vec<Told>) {
        let there = self
            .0
            .get_mut(&held.place)
            .and_then(|entries| entries.iter_mut().find(|entry| entry.session == held.session));
        let verdict = match there {
            Some(Entry { mark: Some(mark), .. }) => Verdict::Evicted(mark.evicted.clone()),
            Some(entry) if entry.claim == held.id => {
                // Of what was lost, it may be only that the session is ready.
                entry.ready |= held.ready;
                Verdict::Held
            }
            Some(entry) => Verdict::Evicted(Evicted { reason: EvictReason::Replaced, by: Some(entry.by()) }),
            None => return self.missing(held, restore, home, now_ms),
        };
        (verdict, Vec::new())
    }

    /// What becomes of one that is not there.
    fn missing(
        &mut self,
        held: &Claim,
        restore: bool,
        home: &Arc<Home>,
        now_ms: u64,
    ) -> (Verdict, Vec<Told>) {
        let mut nobody = Vec::new();
        let entries = match self.0.get_mut(&held.place) {
            Some(entries) => entries,
            None if restore => self.0.entry(held.place.clone()).or_default(),
            None => &mut nobody,
        };
        let mut found = Entry::new(held, home, held.epoch);
        let (rivals, beside) = rivals(entries, held);
        // Of two with one epoch, the one that was never away stays.
        let newer = rivals.iter().filter(|at| entries[**at].epoch >= held.epoch).count();
        if newer > beside {
            let newest = rivals.last().map(|at| &entries[*at]);
            let evicted = Evicted { reason: EvictReason::Replaced, by: newest.map(Entry::by) };
            // Marked like everybody who loses: its next check must not find the place free and take it.
            let winner = newest.map(|newest| newest.claim);
            found.mark = Some(Box::new(Mark { evicted: evicted.clone(), winner, at_ms: now_ms }));
            entries.push(found);
            return (Verdict::Evicted(evicted), Vec::new());
        }
        if !restore {
            return (Verdict::Absent, Vec::new());
        }
        let excess = rivals.len().saturating_sub(beside);
        let displaced = rivals[..excess].iter();
        let told = displaced.map(|at| entries[*at].displace(&held.place, &found, now_ms)).collect();
        entries.reserve_exact(1);
        entries.push(found);
        (Verdict::Restored, told)
    }

    /// See [`SessionRegistry::release`](crate::SessionRegistry::release).
    pub(super) fn release(&mut self, gone: &Gone) {
        if let Some(entries) = self.0.get_mut(&gone.place) {
            entries.retain(|entry| !entry.is(gone.session, gone.claim));
            if entries.is_empty() {
                self.0.remove(&gone.place);
            }
        }
    }

    /// Forgets what an incarnation that is dead held, but for marks when it may come back and ask for them. Gives the
    /// number of its sessions.
    pub(super) fn forget(&mut self, incarnation: &Incarnation, leaves_marks: bool) -> usize {
        let mut sessions = 0;
        self.0.retain(|_, entries| {
            entries.retain(|entry| {
                let is_its = entry.home.incarnation == *incarnation;
                sessions += usize::from(is_its && entry.mark.is_none());
                !is_its || leaves_marks && entry.mark.is_some()
            });
            !entries.is_empty()
        });
        sessions
    }

    /// See [`SessionRegistry::kick`](crate::SessionRegistry::kick); `confirm` is who wants to hear of it.
    pub(super) fn kick(
        &mut self,
        place: &Place,
        device: Option<&str>,
        confirm: &(NodeId, ClaimId),
        now_ms: u64,
    ) -> (Vec<Row>, Vec<Told>) {
        let Some(entries) = self.0.get_mut(place) else { return Default::default() };
        let among = |entry: &Entry| device.is_none_or(|device| *entry.device == *device);
        let kicked = live(entries, among).into_iter().map(|at| {
            let evicted = Evicted { reason: EvictReason::Kicked, by: None };
            (entries[at].row(), entries[at].evict(place, evicted, (None, now_ms), confirm.clone()))
        });
        kicked.unzip()
    }

    /// See [`SessionRegistry::refresh`](crate::SessionRegistry::refresh).
    pub(super) fn refresh(&mut self, changed: &Refresh) {
        let entries = self.0.get_mut(&changed.place).into_iter().flatten();
        for entry in entries.filter(|entry| entry.mark.is_none() && entry.is(changed.session, changed.claim))
        {
            entry.transport = changed.transport;
            // A session has been seen when it claimed, whatever its node has heard since.
            entry.seen_at_ms = changed.seen_at_ms.max(entry.epoch);
        }
    }

    /// Whether the holder's claim holds its place.
    pub(super) fn holds(&self, holder: &Holder) -> Result<(), HolderError> {
        let mut entries = self.0.get(&holder.place).into_iter().flatten();
        match entries.find(|entry| entry.session == holder.session) {
            Some(entry) if entry.mark.is_none() && entry.claim == holder.claim => Ok(()),
            Some(_) => Err(HolderError::Displaced),
            None => Err(HolderError::Absent),
        }
    }

    /// Makes the holder ready.
    pub(super) fn open(&mut self, holder: &Holder) -> Result<(), HolderError> {
        self.holds(holder)?;
        let entries = self.0.get_mut(&holder.place).into_iter().flatten();
        for entry in entries.filter(|entry| entry.is(holder.session, holder.claim)) {
            entry.ready = true;
        }
        Ok(())
    }

    /// The live sessions of a place that are ready, and their nodes.
    pub(super) fn ready(&self, place: &Place) -> Vec<(NodeId, SessionId)> {
        let entries = self.0.get(place).into_iter().flatten();
        let ready = entries.filter(|entry| entry.ready && entry.mark.is_none());
        ready.map(|entry| (entry.home.node.clone(), entry.session)).collect()
    }

    /// See [`SessionRegistry::find`](crate::SessionRegistry::find).
    pub(super) fn find(&self, place: &Place) -> Vec<Row> {
        let Some(entries) = self.0.get(place) else { return Vec::new() };
        live(entries, |_| true).into_iter().map(|at| entries[at].row()).collect()
    }

    /// Everything in the name of an incarnation, marks included.
    pub(super) fn held(&self, incarnation: &Incarnation) -> Vec<Gone> {
        let all = self.0.iter().flat_map(|(place, entries)| entries.iter().map(move |entry| (place, entry)));
        let held = all
            .filter(|(_, entry)| entry.home.incarnation == *incarnation)
            .map(|(place, entry)| Gone { place: place.clone(), session: entry.session, claim: entry.claim });
        held.collect()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Entry {
    fn new(claim: &Claim, home: &Arc<Home>, epoch: u64) -> Self {
        Self {
            session: claim.session,
            claim: claim.id,
            epoch,
            device: Arc::clone(&claim.device),
            home: Arc::clone(home),
            seen_at_ms: epoch,
            transport: claim.transport,
            ready: claim.ready,
            resumes: None,
            mark: None,
        }
    }

    fn row(&self) -> Row {
        Row {
            session: self.session,
            claim: self.claim,
            epoch: self.epoch,
            device: Arc::clone(&self.device),
            node: self.home.node.clone(),
            incarnation: self.home.incarnation.clone(),
            transport: self.transport,
            seen_at_ms: self.seen_at_ms,
        }
    }

    /// What the losers are told of it.
    fn by(&self) -> By {
        By { device: Arc::clone(&self.device), node: self.home.node.clone(), ts: self.epoch }
    }

    fn is(&self, session: SessionId, claim: ClaimId) -> bool {
        self.session == session && self.claim == claim
    }

    /// The latest epoch it tells of: its own, or that of whoever displaced it and may be gone.
    fn latest(&self) -> u64 {
        let by = self.mark.as_ref().and_then(|mark| mark.evicted.by.as_ref());
        self.epoch.max(by.map_or(0, |by| by.ts))
    }

    fn displace(&mut self, place: &Place, winner: &Self, now_ms: u64) -> Told {
        let evicted = Evicted { reason: EvictReason::Replaced, by: Some(winner.by()) };
        let confirm = (winner.home.node.clone(), winner.claim);
        self.evict(place, evicted, (Some(winner.claim), now_ms), confirm)
    }

    /// Whether its session lost its place and may act still, if its node has heard nothing since.
    fn may_act(&self, now_ms: u64) -> bool {
        let fence_after_ms = u64::try_from(self.home.fence_after.as_millis()).unwrap_or(u64::MAX);
        self.mark.as_ref().is_some_and(|mark| now_ms < mark.at_ms.saturating_add(fence_after_ms))
    }

    /// What its node is told for the sake of `newcomer`.
    fn tell_again(&self, place: &Place, newcomer: &Self, now_ms: u64) -> Option<Told> {
        if !self.may_act(now_ms) {
            return None;
        }
        let evicted = self.mark.as_ref()?.evicted.clone();
        Some(self.told(place, evicted, (newcomer.home.node.clone(), newcomer.claim)))
    }

    fn evict(
        &mut self,
        place: &Place,
        evicted: Evicted,
        (winner, at_ms): (Option<ClaimId>, u64),
        confirm: (NodeId, ClaimId),
    ) -> Told {
        self.mark = Some(Box::new(Mark { evicted: evicted.clone(), winner, at_ms }));
        self.told(place, evicted, confirm)
    }

    fn told(&self, place: &Place, evicted: Evicted, confirm: (NodeId, ClaimId)) -> Told {
        let eviction = Eviction {
            namespace: place.namespace.clone(),
            session: self.session,
            claim: self.claim,
            evicted,
            confirm,
        };
        (self.home.node.clone(), eviction)
    }
}

/// Whoever has any number beside it displaces nobody, and has nobody to wait for.
fn claimed(entries: &[Entry], claim: &Claim, epoch: u64, now_ms: u64) -> Claimed {
    let displaced = entries
        .iter()
        .filter(|entry| {
            let is_loser = entry.mark.as_ref().is_some_and(|mark| mark.winner == Some(claim.id));
            is_loser || claim.policy != Policy::Unlimited && entry.may_act(now_ms)
        })
        .map(|entry| Displaced {
            session: entry.session,
            node: entry.home.node.clone(),
            fence_after: entry.home.fence_after,
        })
        .collect();
    Claimed { epoch, displaced, settling: Duration::ZERO }
}

/// Whom the policy of `claim` counts besides it, the oldest first, and how many of them it suffers.
fn rivals(entries: &[Entry], claim: &Claim) -> (Vec<usize>, usize) {
    let other = |entry: &Entry| entry.session != claim.session;
    match claim.policy {
        Policy::PerDevice => (live(entries, |entry| other(entry) && entry.device == claim.device), 0),
        Policy::Max(count) => (live(entries, other), count.saturating_sub(1) as usize),
        Policy::Unlimited => (Vec::new(), 0),
    }
}

/// Where the live sessions stand that `among` accepts, the oldest first.
fn live(entries: &[Entry], among: impl Fn(&Entry) -> bool) -> Vec<usize> {
    let is_live = |at: &usize| entries[*at].mark.is_none() && among(&entries[*at]);
    let mut live: Vec<_> = (0..entries.len()).filter(is_live).collect();
    live.sort_by_key(|at| entries[*at].epoch);
    live
}
