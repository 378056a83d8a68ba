//! The queue of publications (`outbound.rs` of the Redis crate). What a node publishes and what it confirms go one way, in
//! one order, one batch at a time.

use std::collections::VecDeque;

use super::COMMAND_TIMEOUT_US;
use super::ledger::Event;
use super::network::Road;
use super::node::Step;
use super::redis::Command;
use super::world::World;
use crate::session::Deed;

/// Most publications of one batch; few, so that some wait for the next.
const BATCH_MAX: usize = 4;

/// Something to be published.
#[derive(Clone, Copy, Debug)]
pub(super) enum Parcel {
    /// Which message.
    Publication(usize),
    /// To the node of `winner`: `session` is silent.
    Confirmation { to: usize, winner: usize, session: usize },
}

impl Parcel {
    pub(super) fn command(self) -> Command {
        match self {
            Self::Publication(message) => Command::Publish(message),
            Self::Confirmation { to, winner, session } => Command::Confirm { to, winner, session },
        }
    }
}

struct Outgoing {
    parcel: Parcel,
    /// The publisher's session, until it is told what became of it; it is silent only after that.
    deed: Option<Deed>,
    deadline_us: u64,
}

#[derive(Default)]
pub(super) struct Outbound {
    queue: VecDeque<Outgoing>,
    /// The batch on its way: sent over the line and not answered.
    sent: VecDeque<Outgoing>,
    /// How many batches there have been.
    batches: u64,
}

impl World {
    /// `Outbound::push`.
    pub(super) fn post(&mut self, node: usize, parcel: Parcel, deed: Option<Deed>) {
        let deadline_us = self.now_us + COMMAND_TIMEOUT_US;
        self.nodes[node].outbound.queue.push_back(Outgoing { parcel, deed, deadline_us });
        self.step_after(node, COMMAND_TIMEOUT_US, Step::Expire);
        self.take_off(node);
    }

    /// Sends the next batch, if nothing is on its way and the subscription is whole; whether commands get through is no
    /// matter.
    pub(super) fn take_off(&mut self, node: usize) {
        let state = &mut self.nodes[node];
        let outbound = &mut state.outbound;
        if !state.line.takes_publications() || !outbound.sent.is_empty() || outbound.queue.is_empty() {
            return;
        }
        let count = outbound.queue.len().min(BATCH_MAX);
        let batch: Vec<_> = outbound.queue.drain(..count).collect();
        outbound.batches += 1;
        let (batch_number, heard) = (outbound.batches, state.line.heard);
        self.step_after(node, COMMAND_TIMEOUT_US, Step::Overdue { batch: batch_number, heard });
        for outgoing in batch {
            self.write(node, Road::Line, outgoing.parcel.command());
            self.nodes[node].outbound.sent.push_back(outgoing);
        }
    }

    /// The first of what was sent is answered.
    pub(super) fn published(&mut self, node: usize) {
        let Some(outgoing) = self.nodes[node].outbound.sent.pop_front() else { return };
        self.take_off(node);
        if let (Parcel::Publication(message), Some(deed)) = (outgoing.parcel, outgoing.deed) {
            self.note(Event::Acked { message });
            drop(deed);
        }
    }

    /// Whose time is over is told so, sent or not. What was sent is on its way all the same.
    pub(super) fn expire(&mut self, node: usize) {
        let now_us = self.now_us;
        let Outbound { queue, sent, .. } = &mut self.nodes[node].outbound;
        let expired = queue.iter().take_while(|outgoing| outgoing.deadline_us <= now_us).count();
        drop(queue.drain(..expired));
        for outgoing in sent.iter_mut().filter(|outgoing| outgoing.deadline_us <= now_us) {
            drop(outgoing.deed.take());
        }
    }

    /// A batch has been on its way for a whole timeout; `heard` is what had come in before. A line on which nothing comes
    /// stands still.
    pub(super) fn overdue(&mut self, node: usize, batch: u64, heard: u64) {
        let Outbound { sent, batches, .. } = &self.nodes[node].outbound;
        if *batches != batch || sent.is_empty() {
            return;
        }
        let heard_now = self.nodes[node].line.heard;
        if heard_now == heard {
            return self.give_up_line(node);
        }
        self.step_after(node, COMMAND_TIMEOUT_US, Step::Overdue { batch, heard: heard_now });
    }

    /// The line broke. What became of what is on its way will not be known, and nothing is sent again.
    pub(super) fn give_up_sent(&mut self, node: usize) {
        for outgoing in std::mem::take(&mut self.nodes[node].outbound.sent) {
            if let Parcel::Publication(message) = outgoing.parcel {
                self.note(Event::GivenUp { message });
            }
            drop(outgoing.deed);
        }
    }
}
