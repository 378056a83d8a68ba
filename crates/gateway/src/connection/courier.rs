//! The courier: fetches what the connection's sessions have yet to read from their inboxes, and settles what was
//! written out to those that acknowledge nothing.
//!
//! One read at a time and connection, beside everything else the connection does. Whoever has something for it says so
//! through the outbox ([`Outbox::wake_news`](crate::outbox::Outbox::wake_news)).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tidegate_core::offline::{HolderError, Page};
use tokio::time::Instant;

use super::Connection;
use crate::inbox::Wanted;
use crate::node::Inner;
use crate::session::Session;

/// How long to wait before a store that did not answer, or a registry that did not know the session, is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Pages in one go before other tasks of the worker get their turn. A store in memory answers at once.
const PAGES_PER_TURN: usize = 4;

/// One read under way; none once it is over.
pub(super) type Errand = Pin<Box<dyn Future<Output = Fetched> + Send>>;

/// What came of one read.
pub(super) struct Fetched {
    session: Arc<Session>,
    wanted: Wanted,
    page: Option<Page>,
}

impl Connection {
    /// Goes on with the read under way, and begins the next.
    pub(super) fn poll_courier(&mut self, context: &mut Context<'_>) {
        if self.outbox.take_news() {
            self.has_news = true;
        }
        let mut pages = 0;
        // Nobody is given anything any more once the outbox is closed.
        while self.outbox.closed().is_none() {
            if let Some(errand) = &mut self.errand {
                let Poll::Ready(fetched) = errand.as_mut().poll(context) else { return };
                self.errand = None;
                self.fetched(fetched);
                self.has_news = true;
                pages += 1;
                if pages == PAGES_PER_TURN {
                    context.waker().wake_by_ref();
                    return;
                }
            }
            if !self.has_news {
                return;
            }
            // Before the looks, which say so when there is something to watch for.
            self.outbox.unwatch();
            self.settle_written();
            let Some((session, wanted)) = self.next_wanted() else {
                self.has_news = false;
                return;
            };
            self.errand = Some(Box::pin(fetch(Arc::clone(&self.node), session, wanted)));
        }
    }

    /// What is to be read next: each session has its turn.
    fn next_wanted(&mut self) -> Option<(Arc<Session>, Wanted)> {
        let window = self.node.window();
        let sessions = self.sessions.len();
        for at in 0..sessions {
            let at = (usize::from(self.courier_turn) + at) % sessions;
            if let Some(wanted) = self.sessions[at].inbox.wanted(&window, &self.outbox) {
                // A connection has 64 sessions at most.
                self.courier_turn = u8::try_from(at + 1).unwrap_or(0);
                return Some((Arc::clone(&self.sessions[at]), wanted));
            }
        }
        None
    }

    fn fetched(&mut self, fetched: Fetched) {
        let Fetched { session, wanted, page } = fetched;
        match page {
            Some(page) if self.node.pulse.check(Instant::now()).is_ok() => {
                self.node.metrics.offline_expired.inc_by(page.expired);
                session.inbox.read(&self.node, &session, &wanted, &page);
            }
            // It is read again: by a node that was deaf in between, once it hears.
            _ => session.inbox.unread(wanted.round),
        }
    }

    /// Settles what has left, for sessions whose clients acknowledge nothing.
    fn settle_written(&self) {
        for session in &self.sessions {
            let (is_any, is_left) = session.inbox.written(session);
            if is_any {
                self.node.registrar.settle(session);
            }
            if is_left {
                self.outbox.watch();
            }
        }
    }
}

/// Reads once. Without an answer it takes its time, so that the next attempt comes no sooner.
async fn fetch(node: Arc<Inner>, session: Arc<Session>, wanted: Wanted) -> Fetched {
    // What is read now is given only by a node that hears; there is no use in reading before.
    node.pulse.acting().await;
    let page = match session.holder() {
        Some(holder) => node.offline.read(holder, wanted.span).await,
        None => Err(HolderError::Displaced),
    };
    match page {
        Ok(page) => return Fetched { session, wanted, page: Some(page) },
        // Its eviction is on its way.
        Err(HolderError::Displaced) => {}
        Err(HolderError::Absent) => node.registrar.miss(&session),
        Err(HolderError::Unavailable(_)) => {}
    }
    tokio::time::sleep(RETRY_AFTER).await;
    Fetched { session, wanted, page: None }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use tidegate_core::DisconnectReason;
    use tidegate_core::memory::Exchange;
    use tidegate_core::offline::{Letter, Sender, Serial};
    use tidegate_msgpack::write;

    use super::*;
    use crate::connection::{Link, Speech};
    use crate::engines::EngineId;
    use crate::inbox::Settling;
    use crate::letterbox::Letterbox;
    use crate::rig::Rig;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A connection of the session, with a message waiting for it.
    async fn expecting(rig: &Rig, session: &Arc<Session>) -> Connection {
        let node = rig.inner();
        let mut data = Vec::new();
        write::str(&mut data, "one");
        let letter = Letter {
            to: session.holder().unwrap().place,
            from: Sender::Operator,
            event: "e".into(),
            data: data.into(),
            id: None,
            ttl: None,
        };
        node.offline.send(letter).await.unwrap();
        session.inbox.begin(Settling::Each, Serial::ZERO, &node.window(), 0);
        let admitted = node.admit(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
        let link = Link::polling(Letterbox::new().1);
        let speech = Speech::socket_io(node);
        let outbox = Arc::clone(&session.outbox);
        let mut connection =
            Connection::new(Arc::clone(node), outbox, EngineId::random(), link, speech, admitted);
        connection.sessions.push(Arc::clone(session));
        connection.has_news = true;
        connection
    }

    /// How often the connection asks to be polled again at once.
    fn wakes(connection: &mut Connection) -> usize {
        let wakes = Arc::new(Wakes::default());
        connection.poll_courier(&mut Context::from_waker(&Waker::from(Arc::clone(&wakes))));
        wakes.0.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn it_rests_when_everything_is_read() {
        let rig = Rig::start(&Exchange::new(), "a").await;
        let session = rig.seat("ann").await;
        let mut connection = expecting(&rig, &session).await;
        let before = session.outbox.taken();
        assert_eq!(wakes(&mut connection), 0);
        assert!(connection.errand.is_none() && !connection.has_news);
        assert!(session.outbox.taken() > before, "the message was given");
        connection.sessions.clear();
        rig.node.drain().await;
    }

    #[tokio::test]
    async fn it_reads_nothing_for_an_outbox_that_is_closed() {
        let rig = Rig::start(&Exchange::new(), "a").await;
        let session = rig.seat("ann").await;
        let mut connection = expecting(&rig, &session).await;
        session.outbox.close(DisconnectReason::SlowConsumer);
        assert_eq!(wakes(&mut connection), 0);
        assert!(connection.errand.is_none());
        connection.sessions.clear();
        rig.node.drain().await;
    }
}
