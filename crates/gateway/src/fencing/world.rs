//! The world: its clock, what happens next, and who is told.
//!
//! Everything happens at a virtual time in microseconds and takes none. What happens at one node is one *step* of one
//! of its tasks; a node that is paused takes its steps later, all of them, while its clock runs on. A pause may begin
//! before any step.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

use tokio::time::Instant;

use super::chance::Chance;
use super::clients::{Client, Move};
use super::ledger::{Event, Ledger};
use super::network::{Asked, Purpose};
use super::node::{Node, Step};
use super::places::Verdict;
use super::redis::{Answer, Command, Push, Redis};
use super::{ACTIVE_US, COMMAND_TIMEOUT_US, FENCE_US, Flaw, REST_US, Setup};

/// What can happen.
pub(super) enum Happening {
    /// A node goes on with something.
    Step(usize, Step),
    /// A command reaches the server; which node's, on which connection, and when it was sent.
    Arrives {
        node: usize,
        number: u64,
        sent_us: u64,
        ask: u64,
        command: Command,
    },
    /// A SUBSCRIBE of the node's channel and of the room reaches the server.
    Subscribes {
        node: usize,
        generation: u64,
    },
    Client(Move),
    Fault,
    /// Faults are over, and nobody comes or publishes any more.
    Rest,
}

struct Queued {
    at_us: u64,
    /// Of two things at one time, the one that was known first happens first.
    order: u64,
    happening: Happening,
}

/// One CONNECT of a client.
#[derive(Clone, Copy)]
pub(super) struct Attempt {
    pub(super) user: usize,
    pub(super) client: usize,
    pub(super) node: usize,
}

pub(super) struct World {
    pub(super) setup: Setup,
    pub(super) flaw: Option<Flaw>,
    pub(super) chance: Chance,
    pub(super) now_us: u64,
    start: Instant,
    queue: BinaryHeap<Reverse<Queued>>,
    order: u64,
    asks: u64,
    pub(super) redis: Redis,
    pub(super) nodes: Vec<Node>,
    pub(super) clients: Vec<Client>,
    pub(super) attempts: Vec<Attempt>,
    /// Publications, and whose session's each is.
    pub(super) messages: Vec<usize>,
    pub(super) ledger: Ledger,
    pub(super) resting: bool,
}

impl World {
    /// Lives through one history; the clock of the runtime must be paused.
    pub(super) async fn run(setup: Setup, flaw: Option<Flaw>) -> Ledger {
        let mut world = Self {
            chance: Chance::new(setup.seed),
            now_us: 0,
            start: Instant::now(),
            queue: BinaryHeap::new(),
            order: 0,
            asks: 0,
            redis: Redis::new(0, setup.nodes, flaw),
            nodes: (0..setup.nodes).map(|_| Node::new()).collect(),
            clients: Vec::new(),
            attempts: Vec::new(),
            messages: Vec::new(),
            ledger: Ledger::default(),
            resting: false,
            setup,
            flaw,
        };
        for node in 0..world.nodes.len() {
            world.step_after(node, 0, Step::Resubscribe);
            world.step_after(node, 0, Step::Beat);
            world.step_after(node, 0, Step::Tick);
        }
        for user in 0..world.setup.users {
            let soon_us = world.chance.within(300_000..1_000_000);
            world.after(soon_us, Happening::Client(Move::LogIn { user }));
        }
        world.after(1_000_000, Happening::Fault);
        world.after(ACTIVE_US, Happening::Rest);
        while let Some(Reverse(Queued { at_us, happening, .. })) = world.queue.pop() {
            if at_us > ACTIVE_US + REST_US {
                break;
            }
            if at_us > world.now_us {
                // It also lets the runtime see which timers have run out.
                tokio::time::advance(Duration::from_micros(at_us - world.now_us)).await;
                world.now_us = at_us;
            }
            world.happen(happening);
        }
        world.inspect();
        world.ledger
    }

    /// The time as nodes read it.
    pub(super) fn now(&self) -> Instant {
        self.start + Duration::from_micros(self.now_us)
    }

    /// How long until `instant`, and a moment more, since timers tick in milliseconds.
    pub(super) fn until_us(&self, instant: Instant) -> u64 {
        let left = instant.saturating_duration_since(self.now());
        u64::try_from(left.as_micros()).expect("virtual times are short") + 1_100
    }

    pub(super) fn after(&mut self, us: u64, happening: Happening) {
        self.order += 1;
        self.queue.push(Reverse(Queued { at_us: self.now_us + us, order: self.order, happening }));
    }

    /// A step that another has made possible: taken when its task gets its turn.
    pub(super) fn step(&mut self, node: usize, step: Step) {
        let us = if self.chance.permille(10) {
            self.chance.within(1_000..10_000)
        } else {
            self.chance.within(1..120)
        };
        self.step_after(node, us, step);
    }

    pub(super) fn step_after(&mut self, node: usize, us: u64, step: Step) {
        self.after(us, Happening::Step(node, step));
    }

    pub(super) fn note(&mut self, event: Event) {
        self.ledger.write(self.now_us, event);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Step(node, step) => {
                self.pause_by_chance(node);
                let paused_until_us = self.nodes[node].paused_until_us;
                if self.now_us < paused_until_us {
                    self.step_after(node, paused_until_us - self.now_us, step);
                    return;
                }
                self.take(node, step);
                self.send_wished(node);
            }
            Happening::Arrives { node, number, sent_us, ask, command } => {
                if self.nodes[node].link.carries(number, sent_us, self.now_us) {
                    self.execute(node, number, ask, &command);
                }
            }
            Happening::Subscribes { node, generation } => {
                if self.nodes[node].subscription.generation == generation {
                    self.nodes[node].subscription.known = Some(generation);
                    self.push(node, Push::Subscribed);
                }
            }
            Happening::Client(step) => self.client(step),
            Happening::Fault => self.fault(),
            Happening::Rest => self.rest(),
        }
    }

    fn execute(&mut self, node: usize, number: u64, ask: u64, command: &Command) {
        let (answer, pushes) = self.redis.execute(node, command, self.now_us);
        match (command, &answer) {
            (Command::Claim { session, .. }, _) => self.note(Event::Claimed { session: *session }),
            (Command::Check { session, .. }, Answer::Verdict(Verdict::Held | Verdict::Restored)) => {
                self.note(Event::Checked { session: *session });
            }
            (Command::ReapBegin(dead), Answer::Began(Some(_))) => self.note(Event::Reaped { node: *dead }),
            _ => {}
        }
        for (to, push) in pushes {
            match to {
                Some(to) => self.push(to, push),
                None => (0..self.nodes.len()).for_each(|to| self.push(to, push)),
            }
        }
        let (node_state, now_us) = (&mut self.nodes[node], self.now_us);
        if node_state.link.is_answering(number) {
            let at_us = node_state.link.answer_us(now_us, &mut self.chance);
            self.step_after(node, at_us - now_us, Step::Answered { number, ask, answer });
        }
    }

    fn push(&mut self, to: usize, push: Push) {
        let now_us = self.now_us;
        let subscription = &mut self.nodes[to].subscription;
        if let Some(generation) = subscription.known {
            let at_us = subscription.push(push, now_us, &mut self.chance);
            self.step_after(to, at_us - now_us, Step::Intake(generation));
        }
    }

    /// Sends a command, whose outcome comes back for `purpose`. Without a connection it has failed at once.
    pub(super) fn ask(&mut self, node: usize, command: Command, purpose: Purpose) {
        let now_us = self.now_us;
        if !self.nodes[node].link.up {
            return self.failed(node, purpose);
        }
        self.asks += 1;
        let ask = self.asks;
        // Whoever gets no answer to a pulse in time resets the connection (`lease.rs`).
        let limit_us = if matches!(purpose, Purpose::Pulse(_)) { FENCE_US } else { COMMAND_TIMEOUT_US };
        let link = &mut self.nodes[node].link;
        let at_us = link.arrival_us(now_us, &mut self.chance);
        let number = link.number;
        link.asked.push(Asked { ask, purpose });
        self.after(at_us - now_us, Happening::Arrives { node, number, sent_us: now_us, ask, command });
        self.step_after(node, limit_us, Step::TimedOut { number, ask });
    }

    /// Sends what the real parts of the node gave to their broker.
    fn send_wished(&mut self, node: usize) {
        let (pulses, confirms) = self.nodes[node].wire.take();
        for (number, answered) in pulses {
            self.ask(node, Command::Pulse(number), Purpose::Pulse(answered));
        }
        for (to, winner, session) in confirms {
            self.ask(node, Command::Confirm { to, winner, session }, Purpose::Nothing);
        }
    }
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at_us, self.order).cmp(&(other.at_us, other.order))
    }
}
