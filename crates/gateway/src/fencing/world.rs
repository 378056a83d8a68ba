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
use super::line::Said;
use super::link::Purpose;
use super::network::{Fate, Road};
use super::node::{Node, Step};
use super::outbound::Parcel;
use super::places::Verdict;
use super::redis::{Answer, Command, Push, Redis};
use super::{ACTIVE_US, Flaw, REST_US, Setup};

/// What can happen.
pub(super) enum Happening {
    /// A node goes on with something.
    Step(usize, Step),
    /// A command reaches the server, if it does.
    Arrives(Sent, Command),
    /// A run of the server that was deposed cuts everybody off.
    Retires(u64),
    Client(Move),
    Fault,
    /// Faults are over, and nobody comes or publishes any more.
    Rest,
}

/// Where a command comes from: which node, on which connection, to which run of the server, and when it was sent.
#[derive(Clone, Copy)]
pub(super) struct Sent {
    node: usize,
    road: Road,
    number: u64,
    run: u64,
    sent_us: u64,
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
    /// The master before, for as long as it is there.
    pub(super) deposed: Option<Redis>,
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
            deposed: None,
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
            Happening::Arrives(sent, command) => self.arrives(sent, &command),
            Happening::Retires(run) => self.retire(run),
            Happening::Client(step) => self.client(step),
            Happening::Fault => self.fault(),
            Happening::Rest => self.rest(),
        }
    }

    pub(super) fn next_ask(&mut self) -> u64 {
        self.asks += 1;
        self.asks
    }

    /// Writes a command to a connection.
    pub(super) fn write(&mut self, node: usize, road: Road, command: Command) {
        let now_us = self.now_us;
        let socket = self.nodes[node].socket(road);
        let at_us = socket.arrival_us(now_us, &mut self.chance);
        let sent = Sent { node, road, number: socket.number, run: socket.run, sent_us: now_us };
        self.after(at_us - now_us, Happening::Arrives(sent, command));
    }

    fn arrives(&mut self, sent: Sent, command: &Command) {
        let Sent { node, road, number, sent_us, .. } = sent;
        let now_us = self.now_us;
        let socket = self.nodes[node].socket(road);
        match (socket.fate(number, sent_us, now_us), road) {
            (Fate::Lost, _) => {}
            (Fate::Arrives, _) => self.execute(sent, command),
            (Fate::TooLate, Road::Commands { .. }) => {
                socket.broke(false);
                self.step(node, Step::LinkBroke(number));
            }
            (Fate::TooLate, Road::Line) => {
                self.nodes[node].line.broke(false);
                self.step(node, Step::LineBroke(number));
            }
        }
    }

    fn execute(&mut self, sent: Sent, command: &Command) {
        let Sent { node, road, number, run, .. } = sent;
        let Some(redis) = [Some(&mut self.redis), self.deposed.as_mut()]
            .into_iter()
            .flatten()
            .find(|redis| redis.run == run)
        else {
            return;
        };
        let (answer, pushes) = redis.execute(node, command, self.now_us);
        self.note_executed(run, command, &answer);
        let answers = self.nodes[node].socket(road).is_answering(number);
        // What a node publishes to itself comes before the answer, or after it, as versions of the server have it.
        let answer_first = self.chance.permille(500);
        if answers && answer_first {
            self.answer_to(node, road, number, command, answer.clone());
        }
        for (to, push) in pushes {
            match to {
                Some(to) => self.push(to, push, run),
                None => (0..self.nodes.len()).for_each(|to| self.push(to, push, run)),
            }
        }
        if answers && !answer_first {
            self.answer_to(node, road, number, command, answer);
        }
    }

    fn note_executed(&mut self, run: u64, command: &Command, answer: &Answer) {
        match (command, answer) {
            (Command::Claim { session, .. }, Answer::Claimed { .. }) => {
                self.note(Event::Claimed { session: *session });
            }
            (Command::Check { session, .. }, Answer::Verdict(Verdict::Held | Verdict::Restored))
                if run == self.redis.run =>
            {
                self.note(Event::Checked { session: *session });
            }
            (Command::Publish(message), _) => self.note(Event::Carried { message: *message }),
            (Command::Confirm { winner, session, .. }, _) => {
                self.note(Event::Silent { session: *session, winner: *winner });
            }
            (Command::ReapBegin(dead), Answer::Began(Some(_))) => self.note(Event::Reaped { node: *dead }),
            _ => {}
        }
    }

    fn answer_to(&mut self, node: usize, road: Road, number: u64, command: &Command, answer: Answer) {
        match (road, command) {
            (Road::Commands { ask }, _) => {
                let now_us = self.now_us;
                let at_us = self.nodes[node].link.socket.return_us(now_us, &mut self.chance);
                self.step_after(node, at_us - now_us, Step::Answered { number, ask, answer });
            }
            (Road::Line, Command::Subscribe) => {
                self.nodes[node].line.subscribed = true;
                self.say(node, Said::Subscribed);
            }
            (Road::Line, _) => self.say(node, Said::Published),
        }
    }

    /// Something is published on `run` of the server.
    fn push(&mut self, to: usize, push: Push, run: u64) {
        let line = &self.nodes[to].line;
        if line.subscribed && line.socket.run == run {
            self.say(to, Said::Push(push));
        }
    }

    /// Which run of the server whoever connects now finds: where its name leads to the wrong one for a while, that.
    pub(super) fn leads_to(&mut self) -> u64 {
        let deposed = self.deposed.as_ref().map(|redis| redis.run);
        deposed.filter(|_| self.chance.permille(200)).unwrap_or(self.redis.run)
    }

    /// Sends what the real parts of the node gave to their broker.
    fn send_wished(&mut self, node: usize) {
        let (pulses, confirms) = self.nodes[node].wire.take();
        for (number, answered) in pulses {
            self.ask(node, Command::Pulse(number), Purpose::Pulse(answered));
        }
        for (to, winner, session) in confirms {
            self.note(Event::Confirms { session, winner });
            if self.flaw == Some(Flaw::ConfirmsOverCommands) {
                self.ask(node, Command::Confirm { to, winner, session }, Purpose::Nothing);
            } else {
                self.post(node, Parcel::Confirmation { to, winner, session }, None);
            }
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
