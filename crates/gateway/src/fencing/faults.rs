//! What goes wrong, and the end of it: when everything has healed and some time has passed, all must be well.

use super::clients::State;
use super::ledger::Event;
use super::network::Way;
use super::node::Step;
use super::redis::Redis;
use super::world::{Happening, World};

/// Which connections something happens to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Commands,
    Line,
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
            1 => Side::Line,
            _ => Side::Both,
        };
        let restarts = self.chance.permille(self.setup.restart_permille);
        let hands_over = self.chance.permille(self.setup.handover_permille);
        match self.chance.within(0..10) {
            _ if restarts => self.restart(),
            _ if hands_over => self.hand_over(),
            0..3 => self.pause(node, us),
            3..7 => self.stall(node, side, us),
            _ => self.sever(node, side),
        }
        let next_us = self.chance.within(100_000..self.setup.fault_every_us * 2);
        self.after(next_us, Happening::Fault);
    }

    fn stall(&mut self, node: usize, side: Side, us: u64) {
        self.disturb(node, us);
        let way = match self.chance.permille(self.setup.one_way_permille) {
            true if self.chance.permille(500) => Way::Out,
            true => Way::Back,
            false => Way::Both,
        };
        let until_us = self.now_us + us;
        // The ping of every second and its timeout (`watch_over`), or that of TCP where something comes in all the same.
        if side != Side::Line {
            let noticed_us = self.chance.within(1_000_000..2_000_000);
            let socket = &mut self.nodes[node].link.socket;
            socket.stall(way, until_us);
            let number = socket.number;
            if noticed_us < us {
                self.step_after(node, noticed_us, Step::PingTimedOut(number));
            }
        }
        if side != Side::Commands {
            let noticed_us = self.chance.within(1_000_000..2_000_000);
            let socket = &mut self.nodes[node].line.socket;
            socket.stall(way, until_us);
            let number = socket.number;
            if noticed_us < us {
                self.step_after(node, noticed_us, Step::LineBroke(number));
            }
        }
    }

    /// Connections are gone. When the node notices, of each, is another matter.
    fn sever(&mut self, node: usize, side: Side) {
        if side != Side::Line {
            let noticed_us = self.noticed_us(node);
            let lingers = self.chance.permille(500);
            let socket = &mut self.nodes[node].link.socket;
            socket.broke(lingers);
            let number = socket.number;
            self.step_after(node, noticed_us, Step::LinkBroke(number));
        }
        if side != Side::Commands {
            let noticed_us = self.noticed_us(node);
            let lingers = self.chance.permille(500);
            let line = &mut self.nodes[node].line;
            line.broke(lingers);
            let number = line.socket.number;
            self.step_after(node, noticed_us, Step::LineBroke(number));
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
        self.deposed = None;
        for node in 0..self.nodes.len() {
            self.sever(node, Side::Both);
            self.forget_lingering(node);
        }
    }

    fn forget_lingering(&mut self, node: usize) {
        self.nodes[node].link.socket.forget_lingering();
        self.nodes[node].line.socket.forget_lingering();
    }

    /// Another server becomes the master, and has everything. Nodes hear of it when the one before refuses their pulses,
    /// or when it cuts them off.
    fn hand_over(&mut self) {
        if let Some(before) = &self.deposed {
            let run = before.run;
            self.retire(run);
        }
        self.note(Event::HandedOver);
        let stays_us = self.chance.within(1_000..4_000_000);
        for node in 0..self.nodes.len() {
            self.disturb(node, stays_us);
        }
        let before = self.redis.depose();
        self.after(stays_us, Happening::Retires(before.run));
        self.deposed = Some(before);
    }

    pub(super) fn retire(&mut self, run: u64) {
        if self.deposed.as_ref().is_none_or(|redis| redis.run != run) {
            return;
        }
        self.deposed = None;
        for node in 0..self.nodes.len() {
            if self.nodes[node].link.socket.run == run {
                self.sever(node, Side::Commands);
            }
            if self.nodes[node].line.socket.run == run {
                self.sever(node, Side::Line);
            }
        }
    }

    /// Faults are over. Clients come again and do nothing else.
    pub(super) fn rest(&mut self) {
        self.resting = true;
        for node in &mut self.nodes {
            node.paused_until_us = 0;
            node.link.socket.heal();
            node.line.socket.heal();
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
