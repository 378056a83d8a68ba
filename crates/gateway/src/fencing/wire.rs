//! The broker that a node's real parts speak to: it keeps what they want sent, until the world sends it.

use std::time::Duration;

use futures_util::future::{self, BoxFuture, FutureExt as _};
use parking_lot::Mutex;
use tidegate_core::broker::{Broker, Done, Error, PulseError};
use tidegate_core::registry::Vitals;
use tidegate_core::{Answer, Asker, ClaimId, Namespace, NodeId, Publication, Request, SessionId, Topic};
use tokio::sync::oneshot;

#[derive(Default)]
pub(super) struct Wire(Mutex<Wished>);

#[derive(Default)]
struct Wished {
    pulses: Vec<(u64, oneshot::Sender<()>)>,
    confirms: Vec<(usize, usize, usize)>,
}

impl Wire {
    /// Pulses, with who waits for each, and confirmations: the node, its wait, and who is silent.
    #[expect(clippy::type_complexity, reason = "two lists that are read in one place")]
    pub(super) fn take(&self) -> (Vec<(u64, oneshot::Sender<()>)>, Vec<(usize, usize, usize)>) {
        let Wished { pulses, confirms } = std::mem::take(&mut *self.0.lock());
        (pulses, confirms)
    }
}

impl Broker for Wire {
    fn publish(&self, _: Publication, done: Done) {
        // Publications are the world's own; see `traffic`.
        done.tell(Err(Error::Closed));
    }

    fn ready(&self) -> Option<BoxFuture<'static, ()>> {
        None
    }

    fn subscribe(&self, _: Vec<Topic>) -> BoxFuture<'static, Result<(), Error>> {
        future::ready(Ok(())).boxed()
    }

    fn unsubscribe(&self, _: Vec<Topic>) -> BoxFuture<'static, Result<(), Error>> {
        future::ready(Ok(())).boxed()
    }

    fn request(&self, _: Request, done: Done) {
        done.tell(Err(Error::Closed));
    }

    fn answer(&self, _: &Asker, _: &Namespace, _: Answer) {}

    fn listeners(&self, _: Namespace) -> BoxFuture<'static, Result<usize, Error>> {
        future::ready(Err(Error::Closed)).boxed()
    }

    fn pulse(&self, number: u64, _: Duration, _: Vitals) -> BoxFuture<'static, Result<(), PulseError>> {
        let (answered, answer) = oneshot::channel();
        self.0.lock().pulses.push((number, answered));
        answer.map(|answer| answer.map_err(|_| PulseError::Unavailable)).boxed()
    }

    fn confirm(&self, to: NodeId, claim: ClaimId, session: SessionId) {
        let number = |text: &str| text.parse().expect("the world numbers everything");
        let confirm = (number(to.as_str()), number(claim.as_str()), number(session.as_str()));
        self.0.lock().confirms.push(confirm);
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        future::ready(()).boxed()
    }
}
