//! One node's two connections to the server, and how they fail.
//!
//! Stands for TCP: what is sent arrives in order, or a connection ends; and for what the node does to its sockets, which is
//! the same for both. A connection can *stall*, in one direction or both: nothing gets through until it heals, and neither
//! end knows. It can *break*: what is under way is lost, and the node notices at once or later. What a node had sent before
//! that may still arrive, at most `fence_after` later (`TCP_USER_TIMEOUT`). Between the two there is no order.

use super::FENCE_US;
use super::chance::Chance;

/// On which connection something travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Road {
    /// The one for commands; answers name what they answer.
    Commands { ask: u64 },
    /// The one for publications and the subscription; answers come in order.
    Line,
}

/// Which way nothing gets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Out,
    Back,
    Both,
}

/// What became of something that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Arrives,
    Lost,
    /// It was not acknowledged for too long, which ended its connection.
    TooLate,
}

/// One connection after the other.
pub(super) struct Socket {
    /// Which connection this is, or was; numbers only grow.
    pub(super) number: u64,
    /// Which run of the server it leads to, or led to.
    pub(super) run: u64,
    /// What is true, whatever the node believes.
    broken: bool,
    /// Connections before this whose bytes are still under way.
    lingering: Vec<u64>,
    out: Direction,
    back: Direction,
}

#[derive(Default)]
struct Direction {
    stalled_until_us: u64,
    last_arrival_us: u64,
}

impl Direction {
    fn arrival_us(&mut self, now_us: u64, chance: &mut Chance) -> u64 {
        self.last_arrival_us =
            (now_us + latency_us(chance)).max(self.stalled_until_us).max(self.last_arrival_us);
        self.last_arrival_us
    }

    fn stall(&mut self, until_us: u64) {
        self.stalled_until_us = self.stalled_until_us.max(until_us);
    }
}

impl Socket {
    pub(super) fn new() -> Self {
        Self {
            number: 0,
            run: 0,
            broken: false,
            lingering: Vec::new(),
            out: Direction::default(),
            back: Direction::default(),
        }
    }

    /// When something sent now arrives at the server, if the connection lasts.
    pub(super) fn arrival_us(&mut self, now_us: u64, chance: &mut Chance) -> u64 {
        self.out.arrival_us(now_us, chance)
    }

    /// When something that the server says now arrives at the node, if the connection lasts.
    pub(super) fn return_us(&mut self, now_us: u64, chance: &mut Chance) -> u64 {
        self.back.arrival_us(now_us, chance)
    }

    /// What becomes now of what was sent at `sent_us` on connection `number`.
    pub(super) fn fate(&self, number: u64, sent_us: u64, now_us: u64) -> Fate {
        let open = self.is_answering(number);
        if !open && !self.lingering.contains(&number) {
            Fate::Lost
        } else if now_us <= sent_us + FENCE_US {
            Fate::Arrives
        } else if open {
            Fate::TooLate
        } else {
            Fate::Lost
        }
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

    /// A new connection, to `run` of the server.
    pub(super) fn opened(&mut self, run: u64, now_us: u64) {
        self.number += 1;
        self.run = run;
        self.broken = false;
        self.out.last_arrival_us = now_us;
        self.back.last_arrival_us = now_us;
    }

    pub(super) fn stall(&mut self, way: Way, until_us: u64) {
        if way != Way::Back {
            self.out.stall(until_us);
        }
        if way != Way::Out {
            self.back.stall(until_us);
        }
    }

    /// Whether nobody could connect.
    pub(super) fn is_stalled(&self, now_us: u64) -> bool {
        now_us < self.out.stalled_until_us.max(self.back.stalled_until_us)
    }

    /// Nothing that is under way arrives any more.
    pub(super) fn forget_lingering(&mut self) {
        self.lingering.clear();
    }

    /// From now on everything gets through. What is under way stays late.
    pub(super) fn heal(&mut self) {
        self.out.stalled_until_us = 0;
        self.back.stalled_until_us = 0;
        self.lingering.clear();
    }
}

/// One way through the network: mostly a fraction of a millisecond, now and then much more.
pub(super) fn latency_us(chance: &mut Chance) -> u64 {
    if chance.permille(30) { chance.within(1_000..20_000) } else { chance.within(50..800) }
}
