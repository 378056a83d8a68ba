//! What goes wrong, and the end of it: when everything has healed and some time has passed, all must be well.

use super::clients::State;
use super::ledger::Event;
use super::node::Step;
use super::redis::Redis;
use super::world::{Happening, World};

/// Which connections something happens to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Commands,
    Subscription,
    Both,
}

impl World {
    /// Most faults are short, some outlast the fence, a few the lease.
    fn length_us(&mut self) -> u64 {
        match self.chance.within(0..100) {
            0..40 => self.chance.within(5_000..300_000),
            40..85 => self.chance.within(300_000..2_600_000),
            _ => self.chance.within(2_600_000..7_500_000),
        }
    }

    fn disturb(&mut self, node: usize, for_us: u64) {
        self.note(Event::Disturbed { node, for_us });
    }

    /// A pause may begin before any step.
    pub(super) fn pause_by_chance(&mut self, node: usize) {
        if self.resting || self.setup.calm || !self.chance.permille(2) {
            return;
        }
        let us = if self.chance.permille(700) { self.chance.within(100..20_000) } else { self.length_us() };
        self.pause(node, us);
    }

    fn pause(&mut self, node: usize, us: u64) {
        self.disturb(node, us);
        let until_us = self.now_us + us;
        let state = &mut self.nodes[node];
        state.paused_until_us = state.paused_until_us.max(until_us);
    }

    pub(super) fn fault(&mut self) {
        if self.resting || self.setup.calm {
            return;
        }
        let node = self.chance.pick(self.nodes.len());
        let us = self.length_us();
        let side = match self.chance.within(0..3) {
            0 => Side::Commands,
            1 => Side::Subscription,
            _ => Side::Both,
        };
        let restarts = self.chance.permille(self.setup.restart_permille);
        match self.chance.within(0..10) {
            _ if restarts => self.restart(),
            0..3 => self.pause(node, us),
            3..7 => self.stall(node, side, us),
            _ => self.sever(node, side),
        }
        let next_us = self.chance.within(100_000..self.setup.fault_every_us * 2);
        self.after(next_us, Happening::Fault);
    }

    fn stall(&mut self, node: usize, side: Side, us: u64) {
        self.disturb(node, us);
        let until_us = self.now_us + us;
        let state = &mut self.nodes[node];
        if side != Side::Subscription {
            state.link.stall(until_us);
        }
        if side != Side::Commands {
            state.subscription.stall(until_us);
            // The ping of every second and its timeout (`watch_over`).
            let (noticed_us, generation) =
                (self.chance.within(1_000_000..2_000_000), self.nodes[node].subscription.generation);
            if noticed_us < us {
                self.step_after(node, noticed_us, Step::SubscriptionBroke(generation));
            }
        }
    }

    /// Connections are gone. When the node notices, of each, is another matter.
    fn sever(&mut self, node: usize, side: Side) {
        if side != Side::Subscription {
            let noticed_us = self.noticed_us(node);
            let lingers = self.chance.permille(500);
            let link = &mut self.nodes[node].link;
            link.broke(lingers);
            let number = link.number;
            self.step_after(node, noticed_us, Step::LinkBroke(number));
        }
        if side != Side::Commands {
            let noticed_us = self.noticed_us(node);
            let subscription = &mut self.nodes[node].subscription;
            subscription.broke();
            let generation = subscription.generation;
            self.step_after(node, noticed_us, Step::SubscriptionBroke(generation));
        }
    }

    fn noticed_us(&mut self, node: usize) -> u64 {
        let at_once = self.chance.permille(600);
        let us = if at_once { self.chance.within(100..5_000) } else { self.chance.within(5_000..1_900_000) };
        self.disturb(node, us);
        us
    }

    /// The server starts again, and has forgotten everything.
    fn restart(&mut self) {
        self.note(Event::Restarted);
        self.redis = Redis::new(self.redis.run + 1, self.nodes.len(), self.flaw);
        for node in 0..self.nodes.len() {
            self.nodes[node].link.forget_lingering();
            self.sever(node, Side::Both);
            self.nodes[node].link.forget_lingering();
        }
    }

    /// Faults are over. Clients come again and do nothing else.
    pub(super) fn rest(&mut self) {
        self.resting = true;
        for node in &mut self.nodes {
            node.paused_until_us = 0;
            node.link.heal();
            node.subscription.heal();
        }
    }

    /// At rest, everybody is where the registry says, and nobody twice.
    pub(super) fn inspect(&mut self) {
        let mut unrest = Vec::new();
        for user in 0..self.setup.users {
            let mut live = Vec::new();
            for (number, client) in self.clients.iter().enumerate() {
                let attempt = self.attempts[client.session];
                if attempt.user != user {
                    continue;
                }
                let session = client.session;
                let seated = self.nodes[attempt.node].sessions.contains_key(&session);
                match client.state {
                    State::Live if seated => live.push(session),
                    State::Live => unrest.push(format!("user {user}: {session} is no session of its node")),
                    State::Connecting | State::Away => {
                        unrest.push(format!("user {user}: client {number} is still {:?}", client.state));
                    }
                    State::Evicted | State::Left if seated => {
                        unrest.push(format!("user {user}: {session} is gone, and its node does not know"));
                    }
                    State::Evicted | State::Left => {}
                }
            }
            let places = self.redis.places.all().filter(|(of, ..)| *of == user);
            let rows: Vec<usize> =
                places.filter(|(.., entry)| entry.mark.is_none()).map(|(_, session, _)| session).collect();
            if live.len() > 1 {
                unrest.push(format!("user {user}: {live:?} are live at once"));
            }
            if let Some(session) = live.iter().find(|session| !rows.contains(session)) {
                unrest.push(format!("user {user}: {session} is live and has no row"));
            }
            self.ledger.orphans += rows.iter().filter(|session| !live.contains(session)).count();
        }
        self.ledger.unrest = unrest;
    }
}
