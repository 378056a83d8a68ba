//! Publications: in from a client, and from the subscription to the sessions of a node.
//!
//! Stands for `connection/packet.rs`, `Inner::publish`, and `hub/fanout.rs` with one shard. What is between the two is in
//! `outbound` and `line`. Sessions and their deeds are the real ones.

use std::collections::VecDeque;
use std::sync::Arc;

use tidegate_core::{Namespace, Rooms};

use super::LOOK_AGAIN_US;
use super::ledger::{Closed, Event};
use super::node::Step;
use super::outbound::Parcel;
use super::world::World;
use crate::session::Deed;

/// Most publications of one batch; few, so that a batch has an end.
const BATCH_MAX: usize = 8;

/// The one shard's task.
#[derive(Default)]
pub(super) struct Fanout {
    queue: VecDeque<usize>,
    taken: VecDeque<usize>,
    stage: Stage,
    /// Whether the task is at it, or waits for something to do.
    busy: bool,
}

#[derive(Default)]
enum Stage {
    #[default]
    Idle,
    /// Publications were taken, and the pulse is to be looked at.
    Taken,
    /// The first publication that was taken is to be spread.
    Spreading,
    /// To these.
    Receivers(usize, Vec<usize>),
}

impl World {
    /// `Connection::on_packet` and `on_event`: an event of a client.
    pub(super) fn publish(&mut self, node: usize, message: usize) {
        let session = self.messages[message];
        if !self.nodes[node].sessions.contains_key(&session) {
            return;
        }
        if self.may_act(node) {
            self.step(node, Step::Begin(message));
        } else if self.now() < self.nodes[node].pulse.hold_until(self.now()) {
            self.step_after(node, LOOK_AGAIN_US, Step::Publish(message));
        }
    }

    /// Behind the look at the pulse.
    pub(super) fn begin(&mut self, node: usize, message: usize) {
        let number = self.messages[message];
        if self.nodes[node].handing.contains(&number) {
            return self.step(node, Step::Begin(message));
        }
        let state = &mut self.nodes[node];
        let Some(session) = state.sessions.get(&number) else { return };
        if let Some(deed) = session.begin(&state.broker) {
            state.handing.insert(number);
            self.step(node, Step::Hand(message, deed));
        }
    }

    /// In the same turn of the connection's task.
    pub(super) fn hand(&mut self, node: usize, message: usize, deed: Deed) {
        self.nodes[node].handing.remove(&self.messages[message]);
        self.note(Event::Handed { message });
        self.post(node, Parcel::Publication(message), Some(deed));
    }

    /// `Hub::dispatch`.
    pub(super) fn dispatch(&mut self, node: usize, message: usize) {
        let fanout = &mut self.nodes[node].fanout;
        fanout.queue.push_back(message);
        if !std::mem::replace(&mut fanout.busy, true) {
            self.step(node, Step::Fanout);
        }
    }

    /// One step of `Hub::run_shard`.
    pub(super) fn fanout(&mut self, node: usize) {
        let fanout = &mut self.nodes[node].fanout;
        match std::mem::take(&mut fanout.stage) {
            Stage::Idle => {
                let count = fanout.queue.len().min(BATCH_MAX);
                if count == 0 {
                    fanout.busy = false;
                    return;
                }
                fanout.taken.extend(fanout.queue.drain(..count));
                self.nodes[node].fanout.stage = Stage::Taken;
                self.step(node, Step::Fanout);
            }
            Stage::Taken => self.look_before_spreading(node),
            Stage::Spreading => {
                if let Some(message) = fanout.taken.pop_front() {
                    let receivers = self.receivers(node);
                    self.nodes[node].fanout.stage = Stage::Receivers(message, receivers);
                }
                self.step(node, Step::Fanout);
            }
            Stage::Receivers(message, receivers) => {
                fanout.stage = Stage::Spreading;
                for session in receivers {
                    if self.is_connected(session) {
                        self.note(Event::Delivered { message, session });
                    }
                }
                self.step(node, Step::Fanout);
            }
        }
    }

    fn look_before_spreading(&mut self, node: usize) {
        if self.may_act(node) {
            self.nodes[node].fanout.stage = Stage::Spreading;
            return self.step(node, Step::Fanout);
        }
        let now = self.now();
        if now < self.nodes[node].pulse.hold_until(now) {
            self.nodes[node].fanout.stage = Stage::Taken;
            return self.step_after(node, LOOK_AGAIN_US, Step::Fanout);
        }
        self.nodes[node].fanout.taken.clear();
        for session in self.receivers(node) {
            if let Some(seated) = self.nodes[node].sessions.get(&session) {
                seated.miss();
            }
        }
        self.step(node, Step::Fanout);
    }

    /// The outbox is closed, and the connection comes to its end, after what it is in the middle of.
    pub(super) fn close_seated(&mut self, node: usize, session: usize, why: Closed) {
        if self.nodes[node].handing.contains(&session) {
            return self.step(node, Step::Close(session, why));
        }
        if let Some(seated) = self.nodes[node].sessions.remove(&session) {
            if seated.finish() {
                self.vacate(node, session, &Arc::clone(&seated));
            }
            self.close(session, why);
        }
    }

    /// Every session of the node is in the room.
    fn receivers(&self, node: usize) -> Vec<usize> {
        let selected = self.nodes[node].hub.select(&Namespace::root(), &Rooms::new(), &Rooms::new());
        selected.iter().filter_map(|session| session.id.as_str().parse().ok()).collect()
    }
}
