//! What waits for a WebSocket, and how it leaves.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf as _, Bytes};

use crate::message::Message;
use crate::socket::{Socket, UNSENT_BYTES_MAX};

/// Slices of one vectored write. The kernel takes 1,024; past 64 the gain per message is lost in the noise, and the
/// array must fit a stack frame.
pub(crate) const SLICES_MAX: usize = 64;

/// What an item weighs beside its bytes, about: its place in the queue.
pub(super) const ITEM_WEIGHT: usize = 64;

/// Most that a socket over TLS may have taken, and not let leave, in bytes with their items' shares.
pub(super) const UNSENT_WEIGHT_MAX: usize = UNSENT_BYTES_MAX + SLICES_MAX * ITEM_WEIGHT;

/// How a client on a WebSocket takes binary messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binary {
    Frames,
    /// As base64 in text frames, which is what `b64=1` in its query asks for.
    Base64,
}

impl Binary {
    pub(super) fn form(self, message: &Message) -> &Bytes {
        match self {
            Self::Frames => message.websocket(),
            Self::Base64 => message.websocket_text(),
        }
    }
}

pub(super) struct Item {
    pub(super) bytes: Bytes,
    /// May still be dropped: volatile, and no byte of it has left.
    pub(super) volatile: bool,
    /// Some bytes of it have left, so the rest must follow before anything else can.
    pub(super) started: bool,
}

impl Item {
    pub(super) fn whole(bytes: Bytes, volatile: bool) -> Self {
        Self { bytes, volatile, started: false }
    }

    pub(super) fn weight(&self) -> usize {
        self.bytes.len() + ITEM_WEIGHT
    }
}

/// What one write took out of a queue.
#[derive(Default)]
pub(super) struct Sent {
    pub(super) weight: usize,
    pub(super) volatile: u32,
}

/// What waits for one socket, the oldest first.
#[derive(Default)]
pub(super) struct Queue(VecDeque<Item>);

impl Queue {
    pub(super) fn push(&mut self, item: Item) {
        self.0.push_back(item);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn weight(&self) -> usize {
        self.0.iter().map(Item::weight).sum()
    }

    /// Drops what may still be dropped; returns how many messages that were, and what they weighed.
    pub(super) fn drop_volatile(&mut self) -> (u64, usize) {
        let (mut messages, mut weight) = (0, 0);
        self.0.retain(|item| {
            if item.volatile {
                messages += 1;
                weight += item.weight();
            }
            !item.volatile
        });
        (messages, weight)
    }

    /// Takes the first item, if some of it has left already.
    pub(super) fn take_started(&mut self) -> Option<Item> {
        self.0.pop_front().filter(|item| item.started)
    }

    /// Writes up to [`SLICES_MAX`] items at once and removes what was taken.
    pub(super) fn write(&mut self, socket: &Socket) -> io::Result<Sent> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut count = 0;
        for (slice, item) in slices.iter_mut().zip(self.0.iter()) {
            *slice = IoSlice::new(&item.bytes);
            count += 1;
        }
        let written = match &slices[..count] {
            [one] => socket.write(one)?,
            several => socket.write_vectored(several)?,
        };
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let (mut sent, mut rest) = (Sent::default(), written);
        while rest > 0 {
            let Some(front) = self.0.front_mut() else { break };
            if front.volatile {
                front.volatile = false;
                sent.volatile += 1;
            }
            if rest >= front.bytes.len() {
                rest -= front.bytes.len();
                sent.weight += front.weight();
                self.0.pop_front();
            } else {
                front.bytes.advance(rest);
                front.started = true;
                sent.weight += rest;
                rest = 0;
            }
        }
        Ok(sent)
    }
}
