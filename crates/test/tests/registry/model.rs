//! The registry against a plain list of sessions: whatever happens, both say the same after every step.

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tidegate_core::Incarnation;
use tidegate_core::registry::{
    Claim, ClaimError, Displaced, EvictReason, Evicted, Eviction, OnDuplicate, Policy, Refresh, Row, Tended,
    Transport, Verdict,
};
use tidegate_core::{ClaimId, NodeId};
use tidegate_test::registry_suite::{
    ANNOUNCE, Cluster, Node, claim_as, fence_after, gone, node, passed, place, stale,
};

const NODES: [&str; 3] = ["a", "b", "c"];
const USERS: [&str; 2] = ["u", "v"];
const DEVICES: [&str; 2] = ["phone", "desk"];
const POLICIES: [Policy; 4] = [Policy::PerDevice, Policy::Max(1), Policy::Max(2), Policy::Unlimited];

/// One thing that happens. An `at` is which of the claims made so far, counted from the latest.
#[derive(Clone, Debug)]
enum Step {
    Claim {
        node: usize,
        user: usize,
        device: usize,
        policy: Policy,
        on_duplicate: OnDuplicate,
        /// The claim of the session that it comes back for.
        resumes: Option<usize>,
    },
    ClaimAgain {
        at: usize,
    },
    Release {
        at: usize,
        stale: bool,
    },
    Check {
        at: Vec<usize>,
        restore: bool,
    },
    Refresh {
        at: usize,
    },
    Kick {
        node: usize,
        user: usize,
        device: Option<usize>,
    },
    /// A session is forgotten that its node goes on to act for.
    Forget {
        at: usize,
    },
    LoseEverything,
    /// Another run of the node follows at once.
    Crash {
        node: usize,
    },
    Tend {
        node: usize,
        reap: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (nodes, users, devices) = (0..NODES.len(), 0..USERS.len(), 0..DEVICES.len());
    let on_duplicate = prop_oneof![3 => Just(OnDuplicate::Replace), 1 => Just(OnDuplicate::Reject)];
    let resumes = prop_oneof![3 => Just(None), 1 => (0..6_usize).prop_map(Some)];
    let who = (nodes.clone(), users.clone(), devices.clone());
    let claim = (who, 0..POLICIES.len(), on_duplicate, resumes).prop_map(
        |((node, user, device), policy, on_duplicate, resumes)| {
            let policy = POLICIES[policy];
            Step::Claim { node, user, device, policy, on_duplicate, resumes }
        },
    );
    let at = || 0..6_usize;
    prop_oneof![
        8 => claim,
        1 => at().prop_map(|at| Step::ClaimAgain { at }),
        3 => (at(), prop::bool::weighted(0.2)).prop_map(|(at, stale)| Step::Release { at, stale }),
        5 => (prop::collection::vec(at(), 1..4), prop::bool::weighted(0.8))
            .prop_map(|(at, restore)| Step::Check { at, restore }),
        1 => at().prop_map(|at| Step::Refresh { at }),
        1 => (nodes.clone(), users, prop::option::of(devices))
            .prop_map(|(node, user, device)| Step::Kick { node, user, device }),
        2 => at().prop_map(|at| Step::Forget { at }),
        1 => Just(Step::LoseEverything),
        1 => nodes.clone().prop_map(|node| Step::Crash { node }),
        2 => (nodes, any::<bool>()).prop_map(|(node, reap)| Step::Tend { node, reap }),
    ]
}

/// Runs `cases` random histories, each on what `cluster` gives.
///
/// # Panics
/// With the shortest history found on which registry and model disagree.
pub(crate) fn holds<C: Cluster>(cases: u32, cluster: impl Fn() -> C) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 500, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&prop::collection::vec(step(), 1..40), |steps| {
        runtime.block_on(async {
            let cluster = cluster();
            let mut run = Run::start(&cluster).await;
            for step in &steps {
                run.step(step).await?;
                run.compare().await?;
            }
            run.end().await;
            Ok(())
        })
    });
    if let Err(fault) = outcome {
        panic!("{fault}");
    }
}

/// What the model knows of a session.
#[derive(Clone, Debug)]
struct Entry {
    claim: Claim,
    home: Home,
    mark: Option<Mark>,
}

#[derive(Clone, Debug, PartialEq)]
struct Home {
    at: usize,
    incarnation: Incarnation,
}

#[derive(Clone, Debug)]
struct Mark {
    evicted: Evicted,
    /// Whose claim, or return, displaced it. None for who was kicked, or found its place taken when it was put back.
    winner: Option<ClaimId>,
}

struct Run<'a, C> {
    cluster: &'a C,
    nodes: Vec<Node>,
    /// Every claim that was made, and where.
    made: Vec<(Claim, Home)>,
    entries: Vec<Entry>,
    /// What each node that lives now must have been told.
    told: Vec<Vec<Eviction>>,
    /// Last signs of life that were written down.
    seen: HashMap<ClaimId, u64>,
    last_epoch: u64,
}

impl<'a, C: Cluster> Run<'a, C> {
    async fn start(cluster: &'a C) -> Self {
        let mut nodes = Vec::new();
        for name in NODES {
            nodes.push(node(cluster, name).await);
        }
        let told = vec![Vec::new(); nodes.len()];
        let (made, entries, seen) = Default::default();
        Self { cluster, nodes, made, entries, told, seen, last_epoch: 0 }
    }

    async fn end(self) {
        for node in self.nodes {
            node.registry.close().await;
            node.broker.close().await;
        }
    }

    async fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Claim { node, user, device, policy, on_duplicate, resumes } => {
                let claim = claim_as(USERS[user], DEVICES[device], policy, on_duplicate);
                let resumes = resumes.and_then(|at| self.made.iter().rev().nth(at));
                let resumes = resumes.map(|(made, _)| made.session);
                self.claim(node, Claim { resumes, ..claim }).await
            }
            Step::ClaimAgain { at } => self.claim_again(at).await,
            Step::Release { at, stale } => self.release(at, stale).await,
            Step::Check { ref at, restore } => self.check(at, restore).await,
            Step::Refresh { at } => self.refresh(at).await,
            Step::Kick { node, user, device } => {
                self.kick(node, USERS[user], device.map(|at| DEVICES[at])).await
            }
            Step::Forget { at } => self.forget(at).await,
            Step::LoseEverything => self.lose_everything().await,
            Step::Crash { node } => self.crash(node).await,
            Step::Tend { node, reap } => self.tend(node, reap).await,
        }
    }

    /// Where the claim is that `at` means, if its node still runs.
    fn pick(&self, at: usize) -> Option<(Claim, Home)> {
        let (claim, home) = self.made.iter().rev().nth(at)?.clone();
        self.is_alive(&home).then_some((claim, home))
    }

    fn is_alive(&self, home: &Home) -> bool {
        self.nodes[home.at].incarnation == home.incarnation
    }

    fn entry(&self, claim: &Claim) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.claim.id == claim.id)
    }

    /// Where the live sessions stand that the policy of `claim` counts, the oldest first, and how many may stay
    /// besides it.
    fn rivals(&self, claim: &Claim) -> (Vec<usize>, usize) {
        let beside = match claim.policy {
            Policy::PerDevice => 0,
            Policy::Max(count) => count as usize - 1,
            Policy::Unlimited => usize::MAX,
        };
        let counts = |entry: &Entry| {
            entry.mark.is_none()
                && entry.claim.place == claim.place
                && entry.claim.id != claim.id
                && (claim.policy != Policy::PerDevice || entry.claim.device == claim.device)
        };
        let mut rivals: Vec<_> = (0..self.entries.len()).filter(|at| counts(&self.entries[*at])).collect();
        rivals.sort_by_key(|at| self.entries[*at].claim.epoch);
        (rivals, beside)
    }

    /// Marks the sessions at `losers` and notes that their nodes are told.
    fn evict(
        &mut self,
        losers: &[usize],
        evicted: &Evicted,
        winner: Option<ClaimId>,
        confirm: &(NodeId, ClaimId),
    ) {
        for at in losers {
            let entry = &mut self.entries[*at];
            entry.mark = Some(Mark { evicted: evicted.clone(), winner });
            self.told[entry.home.at].push(Eviction {
                namespace: entry.claim.place.namespace.clone(),
                session: entry.claim.session,
                claim: entry.claim.id,
                evicted: evicted.clone(),
                confirm: confirm.clone(),
            });
        }
    }

    /// Notes that the nodes of the marked sessions at `earlier` are told once more, for somebody else.
    fn tell_again(&mut self, earlier: &[usize], confirm: &(NodeId, ClaimId)) {
        for at in earlier {
            let entry = &self.entries[*at];
            let evicted = entry.mark.as_ref().expect("they are marked").evicted.clone();
            self.told[entry.home.at].push(Eviction {
                namespace: entry.claim.place.namespace.clone(),
                session: entry.claim.session,
                claim: entry.claim.id,
                evicted,
                confirm: confirm.clone(),
            });
        }
    }

    fn displace(&mut self, losers: &[usize], winner: &Claim, home: &Home) {
        let node = &self.nodes[home.at];
        let (evicted, confirm) = (node.replaces(winner), (node.node.clone(), winner.id));
        self.evict(losers, &evicted, Some(winner.id), &confirm);
    }

    async fn claim(&mut self, at: usize, claim: Claim) -> Result<(), TestCaseError> {
        // An epoch that was forgotten is not given out again.
        passed(self.last_epoch).await;
        let home = Home { at, incarnation: self.nodes[at].incarnation.clone() };
        let (mut rivals, beside) = self.rivals(&claim);
        let excess = rivals.len().saturating_sub(beside);
        if claim.on_duplicate == OnDuplicate::Reject || claim.resumes.is_some() {
            let is_own = |rival: &usize| {
                let held = &self.entries[*rival].claim;
                claim.resumes.is_some_and(|had| had == held.session || held.resumes == Some(had))
            };
            rivals.retain(|rival| is_own(rival) || !self.is_alive(&self.entries[*rival].home));
            rivals.sort_by_key(|rival| !is_own(rival));
        }
        let answer = self.nodes[at].registry.claim(claim.clone()).await;
        if rivals.len() < excess {
            prop_assert_eq!(answer, Err(ClaimError::Taken));
            return Ok(());
        }
        let claimed = answer.map_err(|fault| TestCaseError::fail(format!("{fault:?} for {claim:?}")))?;
        prop_assert!(claimed.epoch > self.last_epoch);
        self.last_epoch = claimed.epoch;
        let claim = Claim { epoch: claimed.epoch, ..claim };
        let losers = &rivals[..excess];
        // In no test does a fence end that began in it.
        let earlier: Vec<_> = (0..self.entries.len())
            .filter(|at| self.entries[*at].mark.is_some() && self.entries[*at].claim.place == claim.place)
            .filter(|_| claim.policy != Policy::Unlimited)
            .collect();
        let all: Vec<_> = earlier.iter().chain(losers).copied().collect();
        prop_assert_eq!(sorted(claimed.displaced), sorted(self.displaced(&all)));
        self.tell_again(&earlier, &(self.nodes[at].node.clone(), claim.id));
        self.displace(losers, &claim, &home);
        self.entries.push(Entry { claim: claim.clone(), home: home.clone(), mark: None });
        self.made.push((claim, home));
        Ok(())
    }

    fn displaced(&self, losers: &[usize]) -> Vec<Displaced> {
        let displaced = losers.iter().map(|at| {
            let entry = &self.entries[*at];
            let node = NodeId::parse(NODES[entry.home.at]).unwrap();
            Displaced { session: entry.claim.session, fence_after: fence_after(&node), node }
        });
        displaced.collect()
    }

    async fn claim_again(&mut self, at: usize) -> Result<(), TestCaseError> {
        let Some((claim, home)) = self.pick(at) else { return Ok(()) };
        if self.entry(&claim).is_none() {
            return Ok(());
        }
        let claimed = self.nodes[home.at].registry.claim(Claim { epoch: 0, ..claim.clone() }).await;
        let claimed = claimed.map_err(|fault| TestCaseError::fail(format!("{fault:?} for {claim:?}")))?;
        prop_assert_eq!(claimed.epoch, claim.epoch);
        let lost_to = |entry: &Entry| entry.mark.as_ref().is_some_and(|mark| mark.winner == Some(claim.id));
        let count = self.entries.len();
        let losers: Vec<_> = (0..count).filter(|at| lost_to(&self.entries[*at])).collect();
        // Others that lost a place here so shortly ago may be listed as well: it does no harm to wait for them.
        let marked = |entry: &Entry| entry.mark.is_some() && entry.claim.place == claim.place;
        let others: Vec<_> = (0..count).filter(|at| marked(&self.entries[*at])).collect();
        let (losers, others) = (self.displaced(&losers), self.displaced(&others));
        prop_assert!(losers.iter().all(|loser| claimed.displaced.contains(loser)));
        prop_assert!(claimed.displaced.iter().all(|one| others.contains(one)));
        Ok(())
    }

    async fn release(&mut self, at: usize, is_stale: bool) -> Result<(), TestCaseError> {
        let Some((claim, home)) = self.pick(at) else { return Ok(()) };
        let registry = &self.nodes[home.at].registry;
        let released = gone(&if is_stale { stale(&claim) } else { claim.clone() });
        registry.release(vec![released]).await.unwrap();
        if !is_stale {
            self.entries.retain(|entry| entry.claim.id != claim.id);
            self.made.retain(|(made, _)| made.id != claim.id);
        }
        Ok(())
    }

    async fn forget(&mut self, at: usize) -> Result<(), TestCaseError> {
        let Some((claim, home)) = self.pick(at) else { return Ok(()) };
        self.nodes[home.at].registry.release(vec![gone(&claim)]).await.unwrap();
        self.entries.retain(|entry| entry.claim.id != claim.id);
        Ok(())
    }

    async fn check(&mut self, at: &[usize], restore: bool) -> Result<(), TestCaseError> {
        // All of one node, as one asks.
        let Some((_, home)) = at.first().and_then(|at| self.pick(*at)) else { return Ok(()) };
        let mut held: Vec<Claim> = Vec::new();
        for (claim, other) in at.iter().filter_map(|at| self.pick(*at)) {
            if other == home && held.iter().all(|held| held.id != claim.id) {
                held.push(claim);
            }
        }
        let verdicts = self.nodes[home.at].registry.check(held.clone(), restore).await.unwrap();
        prop_assert_eq!(verdicts.len(), held.len());
        for (claim, verdict) in held.iter().zip(verdicts) {
            match self.entry(claim).map(|entry| &entry.mark) {
                Some(None) => prop_assert_eq!(verdict, Verdict::Held),
                Some(Some(mark)) => prop_assert_eq!(verdict, Verdict::Evicted(mark.evicted.clone())),
                None => self.missing(claim, &home, restore, verdict)?,
            }
        }
        Ok(())
    }

    fn missing(
        &mut self,
        claim: &Claim,
        home: &Home,
        restore: bool,
        verdict: Verdict,
    ) -> Result<(), TestCaseError> {
        let (rivals, beside) = self.rivals(claim);
        let newer = |at: &&usize| self.entries[**at].claim.epoch > claim.epoch;
        let mark = if rivals.iter().filter(newer).count() > beside {
            let newest = &self.entries[*rivals.last().expect("more than none are newer")];
            let evicted = self.nodes[newest.home.at].replaces(&newest.claim);
            prop_assert_eq!(verdict, Verdict::Evicted(evicted.clone()));
            Some(Mark { evicted, winner: None })
        } else if !restore {
            prop_assert_eq!(verdict, Verdict::Absent);
            return Ok(());
        } else {
            prop_assert_eq!(verdict, Verdict::Restored);
            self.displace(&rivals[..rivals.len().saturating_sub(beside)], claim, home);
            // When it last gave a sign of life is not known any more.
            self.seen.remove(&claim.id);
            None
        };
        self.entries.push(Entry { claim: claim.clone(), home: home.clone(), mark });
        Ok(())
    }

    async fn refresh(&mut self, at: usize) -> Result<(), TestCaseError> {
        let Some((claim, home)) = self.pick(at) else { return Ok(()) };
        let seen_at_ms = claim.epoch + 1000 + at as u64;
        let changed = Refresh {
            place: claim.place.clone(),
            session: claim.session,
            claim: claim.id,
            transport: Transport::WebSocket,
            seen_at_ms,
        };
        self.nodes[home.at].registry.refresh(vec![changed]).await.unwrap();
        if self.entry(&claim).is_some_and(|entry| entry.mark.is_none()) {
            self.seen.insert(claim.id, seen_at_ms);
        }
        Ok(())
    }

    async fn kick(&mut self, at: usize, user: &str, device: Option<&str>) -> Result<(), TestCaseError> {
        let confirm = (self.nodes[at].node.clone(), ClaimId::random());
        let kicked = self.nodes[at].registry.kick(place(user), device.map(Into::into), confirm.1).await;
        let all = self.rivals(&claim_as(user, "", Policy::Max(1), OnDuplicate::Replace)).0;
        let is_meant = |at: &usize| device.is_none_or(|device| *self.entries[*at].claim.device == *device);
        let losers: Vec<_> = all.into_iter().filter(is_meant).collect();
        let mut kicked: Vec<_> = kicked.unwrap().into_iter().map(|row| row.claim).collect();
        kicked.sort_by_key(|claim| claim.as_str().to_owned());
        let mut expected: Vec<_> = losers.iter().map(|at| self.entries[*at].claim.id).collect();
        expected.sort_by_key(|claim| claim.as_str().to_owned());
        prop_assert_eq!(kicked, expected);
        self.evict(&losers, &Evicted { reason: EvictReason::Kicked, by: None }, None, &confirm);
        Ok(())
    }

    async fn lose_everything(&mut self) -> Result<(), TestCaseError> {
        self.cluster.lose_everything().await;
        self.entries.clear();
        for node in &self.nodes {
            node.pulse().await;
            node.registry.tend(None).await.unwrap();
        }
        Ok(())
    }

    async fn crash(&mut self, at: usize) -> Result<(), TestCaseError> {
        let dead = self.nodes.remove(at);
        self.cluster.crash(dead).await;
        self.nodes.insert(at, node(self.cluster, NODES[at]).await);
        self.told[at].clear();
        Ok(())
    }

    async fn tend(&mut self, at: usize, reap: bool) -> Result<(), TestCaseError> {
        let tended = self.nodes[at].registry.tend(reap.then_some(ANNOUNCE)).await.unwrap();
        if !reap {
            prop_assert_eq!(tended, Tended::default());
            return Ok(());
        }
        let dead = self.entries.iter().filter(|entry| !self.is_alive(&entry.home));
        let sessions = dead.clone().filter(|entry| entry.mark.is_none()).count();
        // Whether a mark counts as a session is nobody's business.
        prop_assert!((sessions..=dead.count()).contains(&tended.sessions), "{:?}", tended);
        let nodes = &self.nodes;
        self.entries.retain(|entry| nodes[entry.home.at].incarnation == entry.home.incarnation);
        Ok(())
    }

    /// Compares everything there is to see.
    async fn compare(&self) -> Result<(), TestCaseError> {
        let found = self.nodes[0].registry.find(USERS.map(place).to_vec()).await.unwrap();
        for (user, rows) in USERS.into_iter().zip(found) {
            prop_assert_eq!(rows, self.rows(user), "user {}", user);
        }
        for (at, node) in self.nodes.iter().enumerate() {
            prop_assert_eq!(
                by_claim(node.told().await),
                by_claim(self.told[at].clone()),
                "node {}",
                NODES[at]
            );
            let held = node.registry.held().await.unwrap();
            let mine = self.entries.iter().filter(|entry| entry.home.at == at && self.is_alive(&entry.home));
            prop_assert_eq!(held.len(), mine.clone().count(), "held by {}: {:?}", NODES[at], held);
            for entry in mine {
                prop_assert!(held.contains(&gone(&entry.claim)), "{:?} is not held", entry);
            }
        }
        Ok(())
    }

    fn rows(&self, user: &str) -> Vec<Row> {
        let live = self.rivals(&claim_as(user, "", Policy::Max(1), OnDuplicate::Replace)).0;
        let rows = live.into_iter().map(|at| {
            let Entry { claim, home, .. } = &self.entries[at];
            Row {
                incarnation: home.incarnation.clone(),
                seen_at_ms: self.seen.get(&claim.id).copied().unwrap_or(claim.epoch),
                ..self.nodes[home.at].row(claim)
            }
        });
        rows.collect()
    }
}

fn sorted(mut displaced: Vec<Displaced>) -> Vec<Displaced> {
    displaced.sort_by_key(|one| one.session);
    displaced
}

fn by_claim(mut evictions: Vec<Eviction>) -> Vec<Eviction> {
    evictions.sort_by_key(|one| (one.claim.as_str().to_owned(), one.confirm.1.as_str().to_owned()));
    evictions
}
