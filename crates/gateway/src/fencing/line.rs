//! A node's end of its line, the connection for publications and the subscription (`line.rs`, `inbound.rs` and
//! `subscriptions.rs` of the Redis crate).
//!
//! What the server says arrives in one order, answers and pushes alike, and is handled by the one task that reads.

use std::collections::VecDeque;

use super::network::{Road, Socket};
use super::node::Step;
use super::redis::{Command, Push};
use super::world::World;
use super::{Flaw, RECONNECT_US};

/// How far the subscription has come, as the node knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Down,
    Restoring,
    Whole,
}

/// What the server says.
#[derive(Clone, Copy, Debug)]
pub(super) enum Said {
    /// The confirmation of SUBSCRIBE.
    Subscribed,
    /// The answer to the first publication that is not answered.
    Published,
    Push(Push),
}

pub(super) struct Line {
    pub(super) socket: Socket,
    progress: Progress,
    /// Somebody found the connection unusable, and whoever reads does not know yet.
    given_up: bool,
    /// Whether the server knows what it is subscribed to.
    pub(super) subscribed: bool,
    /// What the server has said and the node has not read.
    under_way: VecDeque<Said>,
    /// How many times something has come in.
    pub(super) heard: u64,
}

impl Line {
    pub(super) fn new() -> Self {
        Self {
            socket: Socket::new(),
            progress: Progress::Down,
            given_up: false,
            subscribed: false,
            under_way: VecDeque::new(),
            heard: 0,
        }
    }

    pub(super) fn takes_publications(&self) -> bool {
        self.progress == Progress::Whole && !self.given_up
    }

    /// The connection is no more, and with it what the server said.
    pub(super) fn broke(&mut self, lingers: bool) {
        self.socket.broke(lingers);
        self.subscribed = false;
        self.under_way.clear();
    }
}

impl World {
    /// The server says something on the line of a node.
    pub(super) fn say(&mut self, to: usize, said: Said) {
        let now_us = self.now_us;
        let line = &mut self.nodes[to].line;
        line.under_way.push_back(said);
        let at_us = line.socket.return_us(now_us, &mut self.chance);
        let number = line.socket.number;
        self.step_after(to, at_us - now_us, Step::Read(number));
    }

    /// One turn of `Line::read`, which ends with what the `Feed` does.
    pub(super) fn read(&mut self, node: usize, number: u64) {
        let line = &mut self.nodes[node].line;
        if line.socket.number != number || line.given_up {
            return;
        }
        let Some(said) = line.under_way.pop_front() else { return };
        line.heard += 1;
        match said {
            Said::Subscribed => self.step(node, Step::Whole(number)),
            Said::Published => self.published(node),
            Said::Push(push) => self.pushed(node, push, number),
        }
    }

    /// Every channel is confirmed.
    pub(super) fn whole(&mut self, node: usize, number: u64) {
        let now = self.now();
        let state = &mut self.nodes[node];
        if state.line.socket.number != number || state.line.progress != Progress::Restoring {
            return;
        }
        state.line.progress = Progress::Whole;
        state.pulse.whole(if self.flaw == Some(Flaw::CountsOldEchoes) { 1 } else { number }, now);
        self.take_off(node);
    }

    /// `Outbound::reset`, and what else finds the line unusable while publications go over it. Whoever reads tells of its
    /// end. What has left may still arrive.
    pub(super) fn give_up_line(&mut self, node: usize) {
        let line = &mut self.nodes[node].line;
        if line.takes_publications() {
            line.given_up = true;
            let number = line.socket.number;
            self.step(node, Step::LineBroke(number));
        }
    }

    pub(super) fn line_broke(&mut self, node: usize, number: u64) {
        let now = self.now();
        let state = &mut self.nodes[node];
        if state.line.socket.number != number || state.line.progress == Progress::Down {
            return;
        }
        state.line.broke(true);
        state.line.given_up = false;
        let was_whole = std::mem::replace(&mut state.line.progress, Progress::Down) == Progress::Whole;
        if was_whole && self.flaw != Some(Flaw::CountsOldEchoes) {
            state.pulse.lost(now);
            state.acted_at_echo = false;
        }
        self.give_up_sent(node);
        let pause_us = self.chance.within(RECONNECT_US);
        self.step_after(node, pause_us, Step::Resubscribe);
    }

    pub(super) fn resubscribe(&mut self, node: usize) {
        let now_us = self.now_us;
        if self.nodes[node].line.socket.is_stalled(now_us) {
            return self.step_after(node, RECONNECT_US.start, Step::Resubscribe);
        }
        let run = self.leads_to();
        let line = &mut self.nodes[node].line;
        line.socket.opened(run, now_us);
        line.progress = Progress::Restoring;
        self.write(node, Road::Line, Command::Subscribe);
    }
}
