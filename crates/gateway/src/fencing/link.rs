//! A node's end of its connection for commands: answers, timeouts, and a new one when it is lost (`commands.rs`,
//! `lease.rs`).

use tokio::sync::oneshot;

use super::connect::Claimed;
use super::network::{Road, Socket};
use super::node::Step;
use super::redis::{Answer, Command};
use super::world::World;
use super::{COMMAND_TIMEOUT_US, FENCE_US, RECONNECT_US, RELEASE_AGAIN_US};

/// Anything that waits for an answer of the server.
pub(super) enum Purpose {
    /// A beat; without an answer it has failed.
    Pulse(oneshot::Sender<()>),
    /// The claim of a session.
    Claim(usize),
    /// What the audit, or tending, does next depends on it.
    Upkeep,
    Release,
    /// Nobody waits.
    Nothing,
}

/// A command that was sent and is not answered.
struct Asked {
    ask: u64,
    purpose: Purpose,
}

/// The connection for commands.
pub(super) struct Link {
    pub(super) socket: Socket,
    /// What the node believes.
    up: bool,
    asked: Vec<Asked>,
    /// Until when claims settle, since the server may have forgotten some (`settling.rs`).
    settles_at_us: u64,
}

impl Link {
    pub(super) fn new() -> Self {
        Self { socket: Socket::new(), up: true, asked: Vec::new(), settles_at_us: 0 }
    }

    fn answered(&mut self, ask: u64) -> Option<Purpose> {
        let at = self.asked.iter().position(|asked| asked.ask == ask)?;
        Some(self.asked.remove(at).purpose)
    }
}

impl World {
    /// Sends a command, whose outcome comes back for `purpose`. Without a connection it has failed at once.
    pub(super) fn ask(&mut self, node: usize, command: Command, purpose: Purpose) {
        if !self.nodes[node].link.up {
            return self.failed(node, purpose);
        }
        let ask = self.next_ask();
        // Whoever gets no answer to a pulse in time resets the connections (`lease.rs`).
        let limit_us = if matches!(purpose, Purpose::Pulse(_)) { FENCE_US } else { COMMAND_TIMEOUT_US };
        let link = &mut self.nodes[node].link;
        link.asked.push(Asked { ask, purpose });
        let number = link.socket.number;
        self.write(node, Road::Commands { ask }, command);
        self.step_after(node, limit_us, Step::TimedOut { number, ask });
    }

    pub(super) fn answered(&mut self, node: usize, number: u64, ask: u64, answer: Answer) {
        let link = &mut self.nodes[node].link;
        if !link.up || link.socket.number != number {
            return;
        }
        let Some(purpose) = link.answered(ask) else { return };
        match (purpose, answer) {
            (purpose, Answer::Refused) => {
                let deposed = matches!(purpose, Purpose::Pulse(_));
                self.failed(node, purpose);
                if deposed {
                    self.reset(node, number);
                }
            }
            (Purpose::Pulse(answered), _) => {
                // The beat may have given it up.
                let _ = answered.send(());
                self.step(node, Step::Beaten);
            }
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
    fn failed(&mut self, node: usize, purpose: Purpose) {
        match purpose {
            // The beat sees that nobody answers any more.
            Purpose::Pulse(answered) => {
                drop(answered);
                self.step(node, Step::Beaten);
            }
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
        if link.socket.number != number {
            return;
        }
        let Some(purpose) = link.answered(ask) else { return };
        let resets = matches!(purpose, Purpose::Pulse(_));
        self.failed(node, purpose);
        if resets {
            self.reset(node, number);
        }
    }

    /// A pulse or a ping was not answered in time, or refused: both connections are given up. What has left may still
    /// arrive.
    pub(super) fn reset(&mut self, node: usize, number: u64) {
        let link = &mut self.nodes[node].link;
        if !link.up || link.socket.number != number {
            return;
        }
        link.socket.broke(true);
        self.link_broke(node, number);
        self.give_up_line(node);
    }

    pub(super) fn link_broke(&mut self, node: usize, number: u64) {
        let link = &mut self.nodes[node].link;
        if !link.up || link.socket.number != number {
            return;
        }
        link.up = false;
        for asked in std::mem::take(&mut link.asked) {
            self.failed(node, asked.purpose);
        }
        let pause_us = self.chance.within(RECONNECT_US);
        self.step_after(node, pause_us, Step::Reconnect);
    }

    pub(super) fn reconnect(&mut self, node: usize) {
        let now_us = self.now_us;
        if self.nodes[node].link.socket.is_stalled(now_us) {
            return self.step_after(node, RECONNECT_US.start, Step::Reconnect);
        }
        let run = self.leads_to();
        let link = &mut self.nodes[node].link;
        if link.socket.run != run {
            link.settles_at_us = now_us + FENCE_US;
        }
        link.socket.opened(run, now_us);
        link.up = true;
    }
}
