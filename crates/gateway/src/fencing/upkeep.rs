//! The audit and what is tended: `audit.rs`, and the take-over of dead nodes by the registry, one round trip a step.

use std::collections::VecDeque;

use super::ledger::Closed;
use super::link::Purpose;
use super::node::{Step, claim_id};
use super::places::Verdict;
use super::redis::{Answer, Command, Standing};
use super::world::World;
use super::{AUDIT_AGAIN_US, Flaw, LEASE_US, RENEW_US};
use crate::pulse::Lapse;

/// The one task that does both.
#[derive(Default)]
pub(super) struct Upkeep {
    stage: Stage,
    /// What is audited; nothing while it tends.
    lapse: Option<Lapse>,
    /// Whether the node was found taken for dead.
    was_reaped: bool,
    /// Whether what holds is to be vouched for.
    vouches: bool,
    /// Sessions that are still to be checked or released.
    todo: VecDeque<(usize, usize)>,
    dead: VecDeque<usize>,
    due: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Idle,
    /// An audit, from `own()` to the second look at the list of nodes.
    Owning,
    Listing,
    Checking(usize),
    Holding,
    Freeing,
    Relisting,
    Finishing,
    /// What is tended.
    Enlisting,
    Looking,
    Beginning(usize),
    Leasing(usize, u64),
    Inheriting(usize, u64),
    Releasing(usize, u64),
    Ending,
}

impl World {
    pub(super) fn tick(&mut self, node: usize) {
        self.nodes[node].upkeep.due = true;
        self.step_after(node, RENEW_US, Step::Tick);
        self.look(node);
    }

    /// `audit::run`, where it waits.
    pub(super) fn look(&mut self, node: usize) {
        let now = self.now();
        let state = &mut self.nodes[node];
        if state.upkeep.stage != Stage::Idle {
            return;
        }
        if let Some(lapse) = state.pulse.unaudited(now) {
            if self.flaw == Some(Flaw::SkipsAudit) {
                return self.step(node, Step::Audited(lapse));
            }
            state.upkeep.lapse = Some(lapse);
            return self.ask_at(node, Stage::Owning, Command::Own);
        }
        if std::mem::take(&mut state.upkeep.due) && state.pulse.acting_for(now).is_some() {
            state.upkeep.lapse = None;
            self.ask_at(node, Stage::Enlisting, Command::Enlist(false));
        }
    }

    fn ask_at(&mut self, node: usize, stage: Stage, command: Command) {
        self.nodes[node].upkeep.stage = stage;
        self.ask(node, command, Purpose::Upkeep);
    }

    fn rest_at(&mut self, node: usize) {
        self.nodes[node].upkeep.stage = Stage::Idle;
        self.step(node, Step::Look);
    }

    /// Goes on with an answer, or without one.
    pub(super) fn go(&mut self, node: usize, answer: Option<Answer>) {
        let Some(answer) = answer else {
            self.nodes[node].upkeep.stage = Stage::Idle;
            return self.step_after(node, AUDIT_AGAIN_US, Step::Look);
        };
        match (self.nodes[node].upkeep.stage, answer) {
            (Stage::Owning, Answer::Own(own)) => self.owned(node, own),
            (Stage::Listing, _) => self.gather(node),
            (Stage::Checking(session), Answer::Verdict(verdict)) => {
                self.judge(node, session, verdict);
                self.check_next(node);
            }
            (Stage::Holding, Answer::Sessions(held)) => self.reconcile(node, held),
            (Stage::Freeing, _) => self.free_next(node),
            (Stage::Relisting, _) => self.finish_audit(node),
            (Stage::Enlisting, _) => {
                let acting_for = self.nodes[node].pulse.acting_for(self.now());
                if acting_for.is_some_and(|acting| acting.as_micros() >= u128::from(LEASE_US)) {
                    self.ask_at(node, Stage::Looking, Command::Dead);
                } else {
                    self.rest_at(node);
                }
            }
            (Stage::Looking, Answer::Nodes(dead)) => {
                self.nodes[node].upkeep.dead = dead.into();
                self.reap_next(node);
            }
            (Stage::Beginning(dead), Answer::Began(began)) => match began {
                Some(began_us) => self.ask_at(node, Stage::Leasing(dead, began_us), Command::Lease(dead)),
                None => self.reap_next(node),
            },
            (Stage::Leasing(dead, _), Answer::Lease(true)) => {
                self.ask_at(node, Stage::Ending, Command::ReapEnd(dead, true));
            }
            (Stage::Leasing(dead, began_us), Answer::Lease(false)) => {
                self.ask_at(node, Stage::Inheriting(dead, began_us), Command::HeldBy(dead));
            }
            (Stage::Inheriting(dead, began_us), Answer::Sessions(held)) => {
                self.nodes[node].upkeep.todo = held.into();
                self.release_next(node, dead, began_us);
            }
            (Stage::Releasing(dead, began_us), _) => self.release_next(node, dead, began_us),
            (Stage::Ending, _) => self.reap_next(node),
            (stage, answer) => unreachable!("{answer:?} is no answer for {stage:?}"),
        }
    }

    fn owned(&mut self, node: usize, own: Standing) {
        let upkeep = &mut self.nodes[node].upkeep;
        upkeep.was_reaped = matches!(own, Standing::Reaping { .. } | Standing::Reaped);
        upkeep.vouches = !matches!(own, Standing::Listed { .. });
        if own == Standing::Unknown {
            // Listed first: whoever dies after this is found by others.
            self.ask_at(node, Stage::Listing, Command::Enlist(false));
        } else {
            self.gather(node);
        }
    }

    fn gather(&mut self, node: usize) {
        let sessions = self.nodes[node].hub.sessions();
        let numbers = sessions.iter().filter_map(|session| session.id.as_str().parse().ok());
        let todo = numbers.map(|session: usize| (self.attempts[session].user, session)).collect();
        self.nodes[node].upkeep.todo = todo;
        self.check_next(node);
    }

    fn check_next(&mut self, node: usize) {
        let upkeep = &mut self.nodes[node].upkeep;
        let (restore, vouch) = (!upkeep.was_reaped, upkeep.vouches);
        while let Some((user, session)) = self.nodes[node].upkeep.todo.pop_front() {
            let seated = self.nodes[node].sessions.get(&session);
            if let Some(holding) = seated.and_then(|seated| seated.holding()) {
                let epoch = holding.epoch;
                let command = Command::Check { user, session, epoch, restore, vouch };
                return self.ask_at(node, Stage::Checking(session), command);
            }
        }
        self.ask_at(node, Stage::Holding, Command::Held);
    }

    /// `audit::check`.
    fn judge(&mut self, node: usize, session: usize, verdict: Verdict) {
        let seated = self.nodes[node].sessions.get(&session).cloned();
        match (verdict, seated) {
            (Verdict::Restored, None) => self.owe_release(node, session),
            (Verdict::Restored, Some(seated)) if seated.is_over() => self.owe_release(node, session),
            (Verdict::Held | Verdict::Restored, Some(seated)) if seated.has_missed() => {
                self.close_seated(node, session, Closed::Deaf);
            }
            (Verdict::Evicted, Some(seated)) => self.end(node, session, &seated, None),
            (Verdict::Absent, Some(seated)) if !seated.is_over() => {
                self.close_seated(node, session, Closed::Absent);
            }
            _ => {}
        }
    }

    /// `audit::reconcile`.
    fn reconcile(&mut self, node: usize, held: Vec<(usize, usize)>) {
        let connecting = self.nodes[node].takeovers.claims();
        let live = self.nodes[node].hub.sessions();
        let is_live = |number: usize| {
            live.iter().any(|session| session.holding().map(|held| held.claim) == Some(claim_id(number)))
        };
        let orphans = held
            .into_iter()
            .filter(|(_, session)| !is_live(*session) && !connecting.contains(&claim_id(*session)))
            .collect();
        self.nodes[node].upkeep.todo = orphans;
        self.free_next(node);
    }

    fn free_next(&mut self, node: usize) {
        let upkeep = &mut self.nodes[node].upkeep;
        match upkeep.todo.pop_front() {
            Some((user, session)) => {
                self.ask_at(node, Stage::Freeing, Command::Release { user, session, reaped_us: None });
            }
            None if upkeep.was_reaped => self.ask_at(node, Stage::Relisting, Command::Enlist(true)),
            None => self.finish_audit(node),
        }
    }

    fn finish_audit(&mut self, node: usize) {
        self.nodes[node].upkeep.stage = Stage::Finishing;
        if let Some(lapse) = self.nodes[node].upkeep.lapse {
            self.step(node, Step::Audited(lapse));
        }
    }

    pub(super) fn audited(&mut self, node: usize, lapse: Lapse) {
        let now = self.now();
        self.nodes[node].pulse.audited(lapse, now);
        self.nodes[node].upkeep.stage = Stage::Idle;
        self.heard(node);
    }

    fn reap_next(&mut self, node: usize) {
        match self.nodes[node].upkeep.dead.pop_front() {
            Some(dead) => self.ask_at(node, Stage::Beginning(dead), Command::ReapBegin(dead)),
            None => self.rest_at(node),
        }
    }

    fn release_next(&mut self, node: usize, dead: usize, began_us: u64) {
        match self.nodes[node].upkeep.todo.pop_front() {
            Some((user, session)) => {
                let command = Command::Release { user, session, reaped_us: Some(began_us) };
                self.ask_at(node, Stage::Releasing(dead, began_us), command);
            }
            None => self.ask_at(node, Stage::Ending, Command::ReapEnd(dead, false)),
        }
    }
}
