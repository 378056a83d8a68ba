//! One node's two connections to the server, and how they fail.
//!
//! Stands for `commands.rs`, `outbound.rs`, `subscriptions.rs` and `inbound.rs` of the Redis crate, and for TCP: what
//! is sent arrives in order, or a connection ends. A connection can *stall*: nothing gets through until it heals, and
//! neither end knows. It can *break*: what is under way is lost, and the node notices at once or later. What a node had
//! sent on a command connection before that may still arrive, at most `fence_after` later (`TCP_USER_TIMEOUT`).

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::FENCE_US;
use super::chance::Chance;
use super::redis::Push;
use crate::session::Deed;

/// Anything that waits for an answer of the server.
pub(super) enum Purpose {
    /// A beat; without an answer it has failed.
    Pulse(oneshot::Sender<()>),
    Publish(Outgoing),
    /// The claim of a session.
    Claim(usize),
    /// What the audit, or tending, does next depends on it.
    Upkeep,
    Release,
    /// Nobody waits.
    Nothing,
}

/// A publication that its publisher waits for.
pub(super) struct Outgoing {
    pub(super) message: usize,
    /// Its session's, which is silent only once this is over.
    pub(super) deed: Deed,
    pub(super) deadline_us: u64,
}

/// A command that was sent and is not answered.
pub(super) struct Asked {
    pub(super) ask: u64,
    pub(super) purpose: Purpose,
}

/// The connection for commands.
pub(super) struct Link {
    /// Which connection this is, or was; numbers only grow.
    pub(super) number: u64,
    /// What the node believes.
    pub(super) up: bool,
    /// What is true.
    broken: bool,
    /// Connections before this whose bytes are still under way.
    lingering: Vec<u64>,
    stalled_until_us: u64,
    last_arrival_us: u64,
    last_answer_us: u64,
    pub(super) asked: Vec<Asked>,
    /// Publications that wait for the connection, or for the subscription.
    pub(super) outbound: VecDeque<Outgoing>,
    /// The server's run that the node last spoke to, and until when its claims settle (`settling.rs`).
    pub(super) run: u64,
    pub(super) settles_at_us: u64,
}

impl Link {
    pub(super) fn new() -> Self {
        Self {
            number: 0,
            up: true,
            broken: false,
            lingering: Vec::new(),
            stalled_until_us: 0,
            last_arrival_us: 0,
            last_answer_us: 0,
            asked: Vec::new(),
            outbound: VecDeque::new(),
            run: 0,
            settles_at_us: 0,
        }
    }

    /// When something sent now arrives at the server, if its connection lasts.
    pub(super) fn arrival_us(&mut self, now_us: u64, chance: &mut Chance) -> u64 {
        self.last_arrival_us =
            (now_us + latency_us(chance)).max(self.stalled_until_us).max(self.last_arrival_us);
        self.last_arrival_us
    }

    /// When an answer given now arrives at the node.
    pub(super) fn answer_us(&mut self, now_us: u64, chance: &mut Chance) -> u64 {
        self.last_answer_us =
            (now_us + latency_us(chance)).max(self.stalled_until_us).max(self.last_answer_us);
        self.last_answer_us
    }

    /// Whether what was sent at `sent_us` on connection `number` still gets through now.
    pub(super) fn carries(&self, number: u64, sent_us: u64, now_us: u64) -> bool {
        let open = if number == self.number { !self.broken } else { self.lingering.contains(&number) };
        open && now_us <= sent_us + FENCE_US
    }

    /// The connection is no more, whether the node knows or not. `lingers` when what was sent may still arrive.
    pub(super) fn broke(&mut self, lingers: bool) {
        if !self.broken && lingers {
            self.lingering.push(self.number);
        }
        self.broken = true;
    }

    pub(super) fn is_answering(&self, number: u64) -> bool {
        number == self.number && !self.broken
    }

    pub(super) fn reconnected(&mut self, run: u64, now_us: u64) {
        self.number += 1;
        self.up = true;
        self.broken = false;
        self.last_arrival_us = now_us;
        self.last_answer_us = now_us;
        if self.run != run {
            self.run = run;
            self.settles_at_us = now_us + FENCE_US;
        }
    }

    pub(super) fn stall(&mut self, until_us: u64) {
        self.stalled_until_us = self.stalled_until_us.max(until_us);
    }

    pub(super) fn is_stalled(&self, now_us: u64) -> bool {
        now_us < self.stalled_until_us
    }

    /// Nothing that is under way arrives any more.
    pub(super) fn forget_lingering(&mut self) {
        self.lingering.clear();
    }

    /// From now on everything gets through. What is under way stays late.
    pub(super) fn heal(&mut self) {
        self.stalled_until_us = 0;
        self.lingering.clear();
    }

    /// Everything that will not be answered any more.
    pub(super) fn take_asked(&mut self) -> Vec<Asked> {
        std::mem::take(&mut self.asked)
    }

    pub(super) fn answered(&mut self, ask: u64) -> Option<Purpose> {
        let at = self.asked.iter().position(|asked| asked.ask == ask)?;
        Some(self.asked.remove(at).purpose)
    }
}

/// How far a subscription has come, as the node knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Down,
    Restoring,
    Whole,
}

/// The connection for subscriptions.
pub(super) struct Subscription {
    pub(super) generation: u64,
    pub(super) progress: Progress,
    /// The connection that the server knows.
    pub(super) known: Option<u64>,
    stalled_until_us: u64,
    last_arrival_us: u64,
    /// What the server has pushed and the node has not read.
    pub(super) in_flight: VecDeque<Push>,
}

impl Subscription {
    pub(super) fn new() -> Self {
        Self {
            generation: 0,
            progress: Progress::Down,
            known: None,
            stalled_until_us: 0,
            last_arrival_us: 0,
            in_flight: VecDeque::new(),
        }
    }

    /// Something is pushed; when it arrives, if the connection lasts.
    pub(super) fn push(&mut self, push: Push, now_us: u64, chance: &mut Chance) -> u64 {
        self.in_flight.push_back(push);
        self.last_arrival_us =
            (now_us + latency_us(chance)).max(self.stalled_until_us).max(self.last_arrival_us);
        self.last_arrival_us
    }

    /// The connection is no more, and what is under way with it.
    pub(super) fn broke(&mut self) {
        self.known = None;
        self.in_flight.clear();
        self.last_arrival_us = 0;
    }

    pub(super) fn stall(&mut self, until_us: u64) {
        self.stalled_until_us = self.stalled_until_us.max(until_us);
    }

    pub(super) fn is_stalled(&self, now_us: u64) -> bool {
        now_us < self.stalled_until_us
    }

    pub(super) fn heal(&mut self) {
        self.stalled_until_us = 0;
    }
}

/// One way through the network: mostly a fraction of a millisecond, now and then much more.
pub(super) fn latency_us(chance: &mut Chance) -> u64 {
    if chance.permille(30) { chance.within(1_000..20_000) } else { chance.within(50..800) }
}
