//! What requests bring to a polling connection, until its task looks.
//!
//! A channel of the runtime sets room aside for 32 messages from its start, a kilobyte for every polling client. Hardly
//! ever is there one here, so an empty box has room for none.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::engines::Input;

/// Letters that may wait: one POST, one violation, one upgrade. More cannot come at once but from a client that has done
/// wrong already.
const LETTERS_MAX: usize = 4;

/// The box, as requests see it.
#[derive(Default)]
pub(crate) struct Letterbox {
    state: Mutex<State>,
    reader: AtomicWaker,
    /// There is room again, or nobody reads any more.
    changed: Notify,
}

#[derive(Default)]
struct State {
    letters: VecDeque<Input>,
    closed: bool,
}

/// Nobody reads any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Closed;

/// The connection's end. When it is dropped, the box is closed, and what is left in it is thrown away.
pub(crate) struct Letters(Arc<Letterbox>);

impl Letterbox {
    /// A box and its reader.
    pub(crate) fn new() -> (Arc<Self>, Letters) {
        let letterbox = Arc::new(Self::default());
        (Arc::clone(&letterbox), Letters(letterbox))
    }

    /// Puts a letter in, once there is room.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub(crate) async fn send(&self, letter: Input) -> Result<(), Closed> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before the look, so that no change between the two is missed.
            changed.as_mut().enable();
            {
                let mut state = self.state.lock();
                if state.closed {
                    return Err(Closed);
                }
                if state.letters.len() < LETTERS_MAX {
                    state.letters.push_back(letter);
                    drop(state);
                    self.reader.wake();
                    return Ok(());
                }
            }
            changed.await;
        }
    }

    /// Resolves when nobody reads any more.
    pub(crate) async fn closed(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.state.lock().closed {
                return;
            }
            changed.await;
        }
    }
}

impl Letters {
    /// The next letter; none once the box is closed and empty. For one task only, which is woken for the next.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Input>> {
        let Letterbox { state, reader, changed } = &*self.0;
        reader.register(context.waker());
        let mut state = state.lock();
        let Some(letter) = state.letters.pop_front() else {
            return if state.closed { Poll::Ready(None) } else { Poll::Pending };
        };
        if state.letters.is_empty() {
            state.letters = VecDeque::new();
        }
        drop(state);
        changed.notify_waiters();
        Poll::Ready(Some(letter))
    }

    /// Takes nothing more, and throws away what is there.
    pub(crate) fn close(&mut self) {
        let letters = {
            let mut state = self.0.state.lock();
            state.closed = true;
            std::mem::take(&mut state.letters)
        };
        // Whoever waits for one to be taken hears of its end.
        drop(letters);
        self.0.changed.notify_waiters();
    }
}

impl Drop for Letters {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tidegate_core::DisconnectReason;

    use super::*;

    const VIOLATION: DisconnectReason = DisconnectReason::ParseError;

    #[tokio::test]
    async fn letters_come_in_order_and_wait_for_room() {
        let (letterbox, mut letters) = Letterbox::new();
        for _ in 0..LETTERS_MAX {
            letterbox.send(Input::Violation(DisconnectReason::TransportError)).await.unwrap();
        }
        let late = letterbox.send(Input::Violation(VIOLATION));
        let reading = async {
            let mut read = Vec::new();
            for _ in 0..=LETTERS_MAX {
                tokio::task::yield_now().await;
                match poll_fn(|context| letters.poll_next(context)).await {
                    Some(Input::Violation(reason)) => read.push(reason),
                    _ => panic!("something else came"),
                }
            }
            read
        };
        let (sent, read) = tokio::join!(late, reading);
        assert_eq!(sent, Ok(()));
        assert_eq!(read.last(), Some(&VIOLATION));
        assert_eq!(letterbox.state.lock().letters.capacity(), 0, "an empty box has room for none");
    }

    #[tokio::test]
    async fn whoever_waits_hears_that_nobody_reads_any_more() {
        let (letterbox, letters) = Letterbox::new();
        for _ in 0..LETTERS_MAX {
            letterbox.send(Input::Violation(VIOLATION)).await.unwrap();
        }
        let closing = async {
            tokio::task::yield_now().await;
            drop(letters);
        };
        let (sent, (), ()) =
            tokio::join!(letterbox.send(Input::Violation(VIOLATION)), letterbox.closed(), closing);
        assert_eq!(sent, Err(Closed));
        assert_eq!(letterbox.send(Input::Violation(VIOLATION)).await, Err(Closed));
    }
}
