//! What senders, recipients and the run share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;

use super::rota::{Rota, Turn};
use super::tally::Tally;
use crate::progress::Progress;
use crate::watch::Done;

/// With nothing counted for this long a phase ends, finished or not.
const STALL_LIMIT: Duration = Duration::from_secs(10);
/// How often the run looks whether a phase is over. When it was over is known from the tally.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Everybody says `online`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Round {
    /// The first one is 1; 0 is before it.
    pub(super) number: u64,
    /// How many messages wait for each user.
    pub(super) expected: u64,
    pub(super) began: Instant,
}

/// What senders, recipients and the run share.
pub(super) struct Course {
    /// Length of a message's data.
    pub(super) bytes: usize,
    pub(super) progress: Progress,
    /// What has been done so far, for whoever watches.
    pub(super) done: Arc<Done>,
    rota: Mutex<Rota>,
    tally: Mutex<Tally>,
    /// Changes when there is something to send. The value is the status that a send is answered with then.
    posting: watch::Sender<&'static str>,
    /// Changes when everybody is to say `online`.
    rounds: watch::Sender<Round>,
}

impl Course {
    pub(super) fn new(bytes: usize, progress: Progress) -> Course {
        let started = Instant::now();
        Course {
            bytes,
            progress,
            done: Arc::default(),
            rota: Mutex::default(),
            tally: Mutex::new(Tally::new()),
            posting: watch::Sender::new(""),
            rounds: watch::Sender::new(Round { number: 0, expected: 0, began: started }),
        }
    }

    /// Has the senders work off `rota`. Each send is to be answered with `status`. Returns when that began.
    pub(super) fn post(&self, rota: Rota, status: &'static str) -> Instant {
        *lock(&self.rota) = rota;
        let began = Instant::now();
        self.posting.send_replace(status);
        began
    }

    /// Has every recipient say `online`. For each, so many messages wait. Returns when that began.
    pub(super) fn call(&self, expected: u64) -> Instant {
        let began = Instant::now();
        self.rounds.send_modify(|round| *round = Round { number: round.number + 1, expected, began });
        began
    }

    pub(super) fn posting(&self) -> watch::Receiver<&'static str> {
        self.posting.subscribe()
    }

    pub(super) fn rounds(&self) -> watch::Receiver<Round> {
        self.rounds.subscribe()
    }

    /// What is to be sent next, if anything.
    pub(super) fn turn(&self) -> Option<Turn> {
        lock(&self.rota).next()
    }

    /// What was sent has come to its end.
    pub(super) fn done(&self, turn: &Turn) {
        lock(&self.rota).done(turn);
    }

    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    /// Waits until the present phase is over, or stalled, which it says. Returns what was counted; the next phase is
    /// counted anew.
    pub(super) async fn until(&self, what: &str, total: u64, is_over: impl Fn(&Tally) -> bool) -> Tally {
        let began = Instant::now();
        let done_before = self.done.count();
        self.progress.phase(what, total);
        loop {
            {
                let mut tally = self.tally();
                let done = (tally.answered + tally.failed).max(tally.delivered);
                self.progress.set(done);
                self.done.set(done_before + done);
                let is_stalled = tally.last().max(began).elapsed() > STALL_LIMIT;
                if is_over(&tally) || is_stalled {
                    if is_stalled {
                        let seconds = STALL_LIMIT.as_secs();
                        self.progress.say(&format!("{what}: nothing has happened for {seconds} s"));
                    }
                    return std::mem::replace(&mut *tally, Tally::new());
                }
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
