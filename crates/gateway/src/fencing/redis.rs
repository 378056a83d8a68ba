//! The server: one command after the other, in the order of their arrival.
//!
//! Stands for the scripts of the Redis crate, for PUBLISH and SUBSCRIBE. What a script publishes leaves in the same step. A
//! master that was *deposed* answers from what it knew, publishes to whoever is still subscribed there, and writes nothing.

use super::places::{Loser, Places, Verdict};
use super::{Flaw, LEASE_US};

/// What a node asks of the server.
#[derive(Clone, Debug)]
pub(super) enum Command {
    /// `pulse.lua`.
    Pulse(u64),
    /// SUBSCRIBE to the node's channel and the room.
    Subscribe,
    /// PUBLISH of room traffic; which message.
    Publish(usize),
    /// `claim.lua`.
    Claim { user: usize, session: usize },
    /// `check.lua`.
    Check { user: usize, session: usize, epoch: u64, restore: bool, vouch: bool },
    /// `release.lua`.
    Release { user: usize, session: usize, reaped_us: Option<u64> },
    /// PUBLISH on the node channel of `to`: `session` is silent, for the wait of `winner`.
    Confirm { to: usize, winner: usize, session: usize },
    /// What stands in the list of nodes about oneself.
    Own,
    /// `enlist.lua`; whether the node knows what stands there.
    Enlist(bool),
    /// The node's own index.
    Held,
    /// The list of nodes, and which of them have a lease: those that may have to be taken over from.
    Dead,
    /// `reap_begin.lua`.
    ReapBegin(usize),
    /// Whether the lease of a node is there; asked between the two halves of a take-over.
    Lease(usize),
    /// The index of a dead node.
    HeldBy(usize),
    /// `reap_end.lua`; whether its lease turned out to be there.
    ReapEnd(usize, bool),
}

/// What it answers.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Done,
    /// READONLY.
    Refused,
    Claimed {
        epoch: u64,
        losers: Vec<Loser>,
    },
    Verdict(Verdict),
    Own(Standing),
    Sessions(Vec<(usize, usize)>),
    Nodes(Vec<usize>),
    Began(Option<u64>),
    Lease(bool),
}

/// How an incarnation stands in the list of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Unknown,
    Listed { since_us: u64 },
    Reaping { by: usize, began_us: u64, until_us: u64 },
    Reaped,
}

/// What goes out on subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Push {
    Pulse(u64),
    /// `session` lost its place; the node of `winner` waits to hear that it is silent.
    Evict {
        session: usize,
        winner: usize,
    },
    Confirmed {
        winner: usize,
        session: usize,
    },
    Room(usize),
}

#[derive(Clone)]
pub(super) struct Redis {
    /// Which run of the server; its `run_id`.
    pub(super) run: u64,
    /// Another one is the master now.
    deposed: bool,
    pub(super) places: Places,
    /// When each node's lease ends.
    leases: Vec<u64>,
    roster: Vec<Standing>,
    flaw: Option<Flaw>,
}

impl Redis {
    pub(super) fn new(run: u64, nodes: usize, flaw: Option<Flaw>) -> Self {
        Self {
            run,
            deposed: false,
            places: Places::default(),
            leases: vec![0; nodes],
            roster: vec![Standing::Unknown; nodes],
            flaw,
        }
    }

    /// Another server takes over, with all that was written. What is left is the one that it takes over from.
    pub(super) fn depose(&mut self) -> Self {
        let successor = Self { run: self.run + 1, ..self.clone() };
        Self { deposed: true, ..std::mem::replace(self, successor) }
    }

    /// Carries out a command of `node`. Whom the pushes go to: a node, or everybody who is subscribed.
    pub(super) fn execute(
        &mut self,
        node: usize,
        command: &Command,
        now_us: u64,
    ) -> (Answer, Vec<(Option<usize>, Push)>) {
        if self.deposed && self.would_write(command) {
            return (Answer::Refused, Vec::new());
        }
        let mut pushes = Vec::new();
        let answer = match *command {
            Command::Pulse(number) => {
                self.leases[node] = now_us + LEASE_US;
                pushes.push((Some(node), Push::Pulse(number)));
                Answer::Done
            }
            Command::Subscribe => Answer::Done,
            Command::Publish(message) => {
                pushes.push((None, Push::Room(message)));
                Answer::Done
            }
            Command::Claim { user, session } => {
                let (epoch, losers) = self.places.claim((user, session), node, now_us, self.flaw);
                pushes.extend(evictions(&losers, session));
                Answer::Claimed { epoch, losers }
            }
            Command::Check { user, session, epoch, restore, vouch } => {
                let (verdict, losers) =
                    self.places.check((user, session), (node, epoch), (restore, vouch), now_us);
                pushes.extend(evictions(&losers, session));
                Answer::Verdict(verdict)
            }
            Command::Release { user, session, reaped_us } => {
                self.places.release((user, session), reaped_us, self.flaw);
                Answer::Done
            }
            Command::Confirm { to, winner, session } => {
                pushes.push((Some(to), Push::Confirmed { winner, session }));
                Answer::Done
            }
            Command::Own => Answer::Own(self.roster[node]),
            Command::Enlist(knows) => {
                if knows || matches!(self.roster[node], Standing::Unknown | Standing::Listed { .. }) {
                    self.roster[node] = Standing::Listed { since_us: now_us };
                }
                Answer::Done
            }
            Command::Held => Answer::Sessions(self.places.held(node)),
            Command::Dead => {
                let listed = |other: &usize| {
                    matches!(self.roster[*other], Standing::Listed { .. } | Standing::Reaping { .. })
                };
                let dead = |other: &usize| *other != node && now_us >= self.leases[*other] && listed(other);
                Answer::Nodes((0..self.roster.len()).filter(dead).collect())
            }
            Command::ReapBegin(dead) => Answer::Began(self.reap(dead, node, now_us)),
            Command::Lease(other) => Answer::Lease(now_us < self.leases[other]),
            Command::HeldBy(dead) => Answer::Sessions(self.places.held(dead)),
            Command::ReapEnd(dead, alive) => {
                if matches!(self.roster[dead], Standing::Reaping { by, .. } if by == node) {
                    self.roster[dead] =
                        if alive { Standing::Listed { since_us: now_us } } else { Standing::Reaped };
                }
                Answer::Done
            }
        };
        (answer, pushes)
    }

    fn would_write(&self, command: &Command) -> bool {
        match *command {
            Command::Subscribe
            | Command::Publish(_)
            | Command::Confirm { .. }
            | Command::Own
            | Command::Held
            | Command::Dead
            | Command::Lease(_)
            | Command::HeldBy(_) => false,
            Command::Check { user, session, vouch, .. } => vouch || !self.places.knows(user, session),
            Command::Pulse(_)
            | Command::Claim { .. }
            | Command::Release { .. }
            | Command::Enlist(_)
            | Command::ReapBegin(_)
            | Command::ReapEnd(..) => true,
        }
    }

    fn reap(&mut self, dead: usize, by: usize, now_us: u64) -> Option<u64> {
        let began_us = match self.roster[dead] {
            // One that has only just been listed may not have its lease yet.
            Standing::Listed { since_us } if since_us + LEASE_US > now_us => return None,
            Standing::Listed { .. } => now_us,
            Standing::Reaping { by: other, until_us, .. } if other != by && until_us > now_us => return None,
            Standing::Reaping { by: other, began_us, .. } if other == by => began_us,
            Standing::Reaping { .. } => now_us,
            Standing::Unknown | Standing::Reaped => return None,
        };
        self.roster[dead] = Standing::Reaping { by, began_us, until_us: now_us + LEASE_US };
        Some(began_us)
    }
}

fn evictions(losers: &[Loser], winner: usize) -> impl Iterator<Item = (Option<usize>, Push)> {
    losers.iter().map(move |loser| (Some(loser.node), Push::Evict { session: loser.session, winner }))
}
