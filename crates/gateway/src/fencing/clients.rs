//! The clients: they come, publish, go away, and come again when their transport was closed.

use super::ledger::Event;
use super::network::latency_us;
use super::node::Step;
use super::world::{Attempt, Happening, World};

pub(super) struct Client {
    user: usize,
    /// Its latest CONNECT.
    pub(super) session: usize,
    pub(super) state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Connecting,
    Live,
    /// It was told that another came in its place, and stays away.
    Evicted,
    /// It went away by itself.
    Left,
    /// Its transport was closed; it comes again.
    Away,
}

/// What a client does next.
pub(super) enum Move {
    /// A user opens another client.
    LogIn {
        user: usize,
    },
    /// A client whose transport was closed comes again.
    Return {
        client: usize,
    },
    Publish {
        session: usize,
    },
    Leave {
        session: usize,
    },
}

impl World {
    pub(super) fn client(&mut self, step: Move) {
        match step {
            Move::LogIn { user } => self.log_in(user),
            Move::Return { client } => {
                if self.clients[client].state == State::Away {
                    self.connect_client(client);
                }
            }
            Move::Publish { session } => self.client_publishes(session),
            Move::Leave { session } => self.leave(session),
        }
    }

    fn log_in(&mut self, user: usize) {
        if self.resting {
            return;
        }
        self.clients.push(Client { user, session: 0, state: State::Away });
        let client = self.clients.len() - 1;
        self.connect_client(client);
        if self.chance.permille(self.setup.impatient_permille) {
            // Impatient, or reloaded: it goes before it is answered, perhaps, and comes again elsewhere.
            let patience_us = self.chance.within(1_000..600_000);
            let session = self.clients[client].session;
            self.after(patience_us, Happening::Client(Move::Leave { session }));
        } else if self.chance.permille(400) {
            let stay_us = self.chance.within(50_000..2_000_000);
            let session = self.clients[client].session;
            self.after(stay_us, Happening::Client(Move::Leave { session }));
        }
        let next_us = if self.chance.permille(350) {
            self.chance.within(1_000..300_000)
        } else {
            self.chance.within(500_000..3_000_000)
        };
        self.after(next_us, Happening::Client(Move::LogIn { user }));
    }

    fn connect_client(&mut self, client: usize) {
        let (user, node) = (self.clients[client].user, self.chance.pick(self.nodes.len()));
        let session = self.attempts.len();
        self.attempts.push(Attempt { user, client, node });
        self.clients[client].session = session;
        self.clients[client].state = State::Connecting;
        self.note(Event::Connect { session, user, node });
        let latency_us = latency_us(&mut self.chance);
        self.step_after(node, latency_us, Step::Connect(session));
    }

    fn leave(&mut self, session: usize) {
        let Attempt { client, node, .. } = self.attempts[session];
        if self.clients[client].session != session || !self.is_connected(session) {
            return;
        }
        self.clients[client].state = State::Left;
        self.note(Event::Left { session });
        self.step(node, Step::HangUp(session));
    }

    /// Whether what its node writes still reaches the client of `session`.
    pub(super) fn is_connected(&self, session: usize) -> bool {
        let client = &self.clients[self.attempts[session].client];
        client.session == session && matches!(client.state, State::Connecting | State::Live | State::Evicted)
    }

    fn client_publishes(&mut self, session: usize) {
        let Attempt { client, node, .. } = self.attempts[session];
        let client = &self.clients[client];
        if self.resting || client.session != session || client.state != State::Live {
            return;
        }
        let message = self.messages.len();
        self.messages.push(session);
        self.note(Event::Published { message, session });
        let latency_us = latency_us(&mut self.chance);
        self.step_after(node, latency_us, Step::Publish(message));
        self.publish_soon(session);
    }

    fn publish_soon(&mut self, session: usize) {
        let pause_us = self.chance.within(20_000..220_000);
        self.after(pause_us, Happening::Client(Move::Publish { session }));
    }

    pub(super) fn client_answered(&mut self, session: usize) {
        let client = &mut self.clients[self.attempts[session].client];
        if client.session == session && client.state == State::Connecting {
            client.state = State::Live;
            self.publish_soon(session);
        }
    }

    pub(super) fn client_evicted(&mut self, session: usize) {
        let client = &mut self.clients[self.attempts[session].client];
        if client.session == session && client.state == State::Live {
            client.state = State::Evicted;
        }
    }

    pub(super) fn client_closed(&mut self, session: usize) {
        let Attempt { client: number, .. } = self.attempts[session];
        let client = &mut self.clients[number];
        if client.session == session && matches!(client.state, State::Connecting | State::Live) {
            client.state = State::Away;
            let pause_us = self.chance.within(20_000..400_000);
            self.after(pause_us, Happening::Client(Move::Return { client: number }));
        }
    }
}
