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

/// How long to wait before a store that did not answer is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

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
        loop {
            if let Some(errand) = &mut self.errand {
                let Poll::Ready(fetched) = errand.as_mut().poll(context) else { return };
                self.errand = None;
                self.fetched(fetched);
                self.has_news = true;
            }
            if !self.has_news {
                return;
            }
            self.settle_written();
            let window = self.node.window();
            let wanted = self.sessions.iter().find_map(|session| {
                let wanted = session.inbox.wanted(&window)?;
                Some((Arc::clone(session), wanted))
            });
            let Some((session, wanted)) = wanted else {
                self.has_news = false;
                return;
            };
            self.errand = Some(Box::pin(fetch(Arc::clone(&self.node), session, wanted)));
        }
    }

    fn fetched(&mut self, fetched: Fetched) {
        let Fetched { session, wanted, page } = fetched;
        match page {
            Some(page) if self.node.pulse.check(Instant::now()).is_ok() => {
                self.node.metrics.offline_expired.inc_by(page.expired);
                session.inbox.read(&self.node, &session, &wanted, &page);
            }
            // Deaf since; it is read again when the node hears.
            Some(_) => session.inbox.unread(wanted.round),
            None => {}
        }
    }

    /// Settles what has left, for sessions whose clients acknowledge nothing.
    fn settle_written(&self) {
        let mut is_left = false;
        for session in &self.sessions {
            let (written, more) = session.inbox.written(session);
            is_left |= more;
            if !written.is_empty() {
                self.node.registrar.settle(session, written);
            }
        }
        self.outbox.watch_while(is_left);
    }
}

/// Reads until there is an answer; nothing if the session has none to expect.
async fn fetch(node: Arc<Inner>, session: Arc<Session>, wanted: Wanted) -> Fetched {
    let page = loop {
        // What is read now is given only by a node that hears; there is no use in reading before.
        node.pulse.acting().await;
        let Some(holder) = session.holder() else { break None };
        match node.offline.read(holder, wanted.span).await {
            Ok(page) => break Some(page),
            // Its eviction is on its way.
            Err(HolderError::Displaced) => break None,
            // It will be put back, or the store will be reached again.
            Err(HolderError::Absent | HolderError::Unavailable(_)) => tokio::time::sleep(RETRY_AFTER).await,
        }
        if session.is_over() {
            break None;
        }
    };
    Fetched { session, wanted, page }
}
