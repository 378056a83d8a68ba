//! A CONNECT, from the claim to the seat: what `enrolment.rs` and `connection/packet.rs` do, with the real takeovers.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tidegate_core::registry::Displaced;

use super::ledger::{Closed, Event};
use super::link::Purpose;
use super::node::{Step, claim_id, node_id, session_id};
use super::places::Loser;
use super::redis::Command;
use super::world::World;
use super::{FENCE_US, Flaw};
use crate::pulse::Lapse;
use crate::takeover::{Silence, Takeover};

/// What the registry answers to a claim.
pub(super) struct Claimed {
    pub(super) epoch: u64,
    pub(super) losers: Vec<Loser>,
    /// Until when claims settle.
    pub(super) settles_at_us: u64,
}

/// A CONNECT that is not answered yet.
pub(super) struct Entrant {
    lapse: Lapse,
    epoch: u64,
    settles_at_us: u64,
    wait: Wait,
}

enum Wait {
    /// For the answer to the claim, or for nothing any more.
    Still(Takeover),
    /// For the silence of others.
    Silence(Pin<Box<dyn Future<Output = (Takeover, Silence)>>>),
}

impl World {
    /// `Connection::on_connect` and `Inner::enrol`.
    pub(super) fn connect(&mut self, node: usize, session: usize) {
        if self.nodes[node].ended.contains(&session) {
            return;
        }
        if !self.may_act(node) {
            return self.refuse(node, session);
        }
        let state = &mut self.nodes[node];
        let takeover = state.takeovers.begin(claim_id(session), session_id(session), &state.broker);
        let lapse = state.pulse.lapse();
        let entrant = Entrant { lapse, epoch: 0, settles_at_us: 0, wait: Wait::Still(takeover) };
        state.entrants.insert(session, entrant);
        let user = self.attempts[session].user;
        self.ask(node, Command::Claim { user, session }, Purpose::Claim(session));
    }

    /// Closes the transport of somebody who cannot be answered.
    pub(super) fn refuse(&mut self, node: usize, session: usize) {
        if self.nodes[node].entrants.remove(&session).is_some() {
            // A `Tenure` that is dropped; the wait went the same way.
            self.owe_release(node, session);
        }
        self.close(session, Closed::Refused);
    }

    pub(super) fn close(&mut self, session: usize, why: Closed) {
        self.note(Event::Closed { session, why });
        self.client_closed(session);
    }

    /// The claim is made; whoever is fenced is so from now on.
    pub(super) fn claimed(&mut self, node: usize, session: usize, claimed: Claimed) {
        let since = self.now();
        let Claimed { epoch, losers, settles_at_us } = claimed;
        let Some(mut entrant) = self.nodes[node].entrants.remove(&session) else { return };
        entrant.epoch = epoch;
        entrant.settles_at_us = settles_at_us;
        let waits = !losers.is_empty() && self.flaw != Some(Flaw::AnswersAtOnce);
        if let Wait::Still(takeover) = entrant.wait {
            entrant.wait = if waits {
                let displaced: Vec<_> = losers
                    .iter()
                    .map(|loser| Displaced {
                        session: session_id(loser.session),
                        node: node_id(loser.node),
                        fence_after: Duration::from_micros(FENCE_US),
                    })
                    .collect();
                Wait::Silence(Box::pin(async move {
                    let silence = tokio::task::unconstrained(takeover.silence(&displaced, since)).await;
                    (takeover, silence)
                }))
            } else {
                Wait::Still(takeover)
            };
        }
        self.nodes[node].entrants.insert(session, entrant);
        if waits {
            self.step(node, Step::Wait(session));
            let fence_us = self.until_us(since + Duration::from_micros(FENCE_US));
            self.step_after(node, fence_us, Step::Wait(session));
        } else {
            self.settle(node, session);
        }
    }

    /// Something may have changed for a newcomer that waits.
    pub(super) fn wait(&mut self, node: usize, session: usize) {
        let Some(entrant) = self.nodes[node].entrants.get_mut(&session) else { return };
        let Wait::Silence(silence) = &mut entrant.wait else { return };
        let Poll::Ready((takeover, _)) = silence.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        else {
            return;
        };
        entrant.wait = Wait::Still(takeover);
        self.settle(node, session);
    }

    /// Waits for what the registry may have lost.
    fn settle(&mut self, node: usize, session: usize) {
        let Some(entrant) = self.nodes[node].entrants.get(&session) else { return };
        let settles_at_us = if self.flaw == Some(Flaw::Unsettled) { 0 } else { entrant.settles_at_us };
        match settles_at_us.checked_sub(self.now_us) {
            None | Some(0) => self.step(node, Step::Answer(session)),
            Some(left_us) => self.step_after(node, left_us, Step::Answer(session)),
        }
    }

    /// `Connection::connected`, up to its look at the pulse.
    pub(super) fn answer(&mut self, node: usize, session: usize) {
        let Some(entrant) = self.nodes[node].entrants.get(&session) else { return };
        if !self.may_act(node) || self.nodes[node].pulse.lapse() != entrant.lapse {
            return self.refuse(node, session);
        }
        self.step(node, Step::Seat(session));
    }

    /// `Inner::connect`. A thread may have stood still since the look.
    pub(super) fn seat(&mut self, node: usize, session: usize) {
        let Some(entrant) = self.nodes[node].entrants.remove(&session) else { return };
        let Wait::Still(takeover) = entrant.wait else { return };
        let seated = self.nodes[node].seat(session, self.attempts[session].user, entrant.epoch);
        self.nodes[node].sessions.insert(session, std::sync::Arc::clone(&seated));
        self.note(Event::Answered { session });
        self.client_answered(session);
        if let Some((_, confirms)) = takeover.finish() {
            for confirm in confirms {
                self.end(node, session, &seated, Some(confirm));
            }
            // Written in one go with the answer.
            self.tell_evicted(node, session);
        }
    }

    /// The client went away.
    pub(super) fn hang_up(&mut self, node: usize, session: usize) {
        if self.nodes[node].handing.contains(&session) {
            return self.step(node, Step::HangUp(session));
        }
        self.nodes[node].ended.insert(session);
        if self.nodes[node].entrants.remove(&session).is_some() {
            self.owe_release(node, session);
        }
        if let Some(seated) = self.nodes[node].sessions.remove(&session)
            && seated.finish()
        {
            self.vacate(node, session, &seated);
        }
    }
}
