//! A node's end of its command connection: answers, timeouts, and a new connection when one is lost (`commands.rs`).

use super::connect::Claimed;
use super::network::Purpose;
use super::node::Step;
use super::redis::{Answer, Command};
use super::world::World;
use super::{RECONNECT_US, RELEASE_AGAIN_US};

impl World {
    pub(super) fn answered(&mut self, node: usize, number: u64, ask: u64, answer: Answer) {
        let link = &mut self.nodes[node].link;
        if !link.up || link.number != number {
            return;
        }
        let Some(purpose) = link.answered(ask) else { return };
        match (purpose, answer) {
            (Purpose::Pulse(answered), _) => {
                // The beat may have given it up.
                let _ = answered.send(());
                self.step(node, Step::Beaten);
            }
            (Purpose::Publish(outgoing), _) => self.step(node, Step::Outcome(outgoing, true)),
            (Purpose::Claim(session), Answer::Claimed { epoch, losers }) => {
                let settles_at_us = self.nodes[node].link.settles_at_us;
                self.step(node, Step::Claimed(session, Claimed { epoch, losers, settles_at_us }));
            }
            (Purpose::Upkeep, answer) => self.step(node, Step::Go(Some(answer))),
            (Purpose::Release, _) => {
                let state = &mut self.nodes[node];
                state.gone.pop_front();
                state.releasing = false;
                self.step(node, Step::Release);
            }
            (Purpose::Claim(_) | Purpose::Nothing, _) => {}
        }
    }

    /// There is no answer, and nobody knows what became of it.
    pub(super) fn failed(&mut self, node: usize, purpose: Purpose) {
        match purpose {
            // The beat sees that nobody answers any more.
            Purpose::Pulse(answered) => {
                drop(answered);
                self.step(node, Step::Beaten);
            }
            Purpose::Publish(outgoing) => self.step(node, Step::Outcome(outgoing, false)),
            Purpose::Claim(session) => {
                if self.nodes[node].entrants.contains_key(&session) {
                    self.refuse(node, session);
                }
            }
            Purpose::Upkeep => self.step(node, Step::Go(None)),
            Purpose::Release => {
                self.nodes[node].releasing = false;
                self.step_after(node, RELEASE_AGAIN_US, Step::Release);
            }
            Purpose::Nothing => {}
        }
    }

    pub(super) fn timed_out(&mut self, node: usize, number: u64, ask: u64) {
        let link = &mut self.nodes[node].link;
        if link.number != number {
            return;
        }
        let Some(purpose) = link.answered(ask) else { return };
        let resets = matches!(purpose, Purpose::Pulse(_) | Purpose::Publish(_));
        self.failed(node, purpose);
        if resets {
            // What has left may still arrive.
            self.nodes[node].link.broke(true);
            self.link_broke(node, number);
        }
    }

    pub(super) fn link_broke(&mut self, node: usize, number: u64) {
        let link = &mut self.nodes[node].link;
        if !link.up || link.number != number {
            return;
        }
        link.up = false;
        for asked in link.take_asked() {
            self.failed(node, asked.purpose);
        }
        let pause_us = self.chance.within(RECONNECT_US);
        self.step_after(node, pause_us, Step::Reconnect);
    }

    pub(super) fn reconnect(&mut self, node: usize) {
        let (now_us, run) = (self.now_us, self.redis.run);
        let link = &mut self.nodes[node].link;
        if link.is_stalled(now_us) {
            return self.step_after(node, RECONNECT_US.start, Step::Reconnect);
        }
        link.reconnected(run, now_us);
        self.flush(node);
    }

    pub(super) fn ask_for_upkeep(&mut self, node: usize, command: Command) {
        self.ask(node, command, Purpose::Upkeep);
    }
}
