//! The connection for commands: kept up, watched, replaced when it breaks.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, RedisError};
use tidegate_core::Subscriber;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::line::BROKE;
use crate::outbound::Outbound;
use crate::registry::Learned;
use crate::server::{Backoff, Server, Session};
use crate::settling;

/// How often an idle connection is tried. The pulse tries this one more often; the subscription has nothing else.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(1);

/// Connects for commands, once.
pub(crate) async fn open(server: &Server) -> Result<Session, RedisError> {
    let broken = CancellationToken::new();
    let on_push = {
        let broken = broken.clone();
        move |info: PushInfo| {
            if info.kind == PushKind::Disconnection {
                broken.cancel();
            }
        }
    };
    Ok(Session { connection: server.open(on_push).await?, broken })
}

/// Keeps `sessions` holding the live connection, or none during an outage.
pub(crate) struct CommandLink {
    pub(crate) server: Arc<Server>,
    pub(crate) sessions: watch::Sender<Option<Session>>,
    pub(crate) subscriber: Arc<dyn Subscriber>,
    pub(crate) ping_timeout: Duration,
    pub(crate) learned: Arc<Learned>,
    pub(crate) outbound: Arc<Outbound>,
}

impl CommandLink {
    /// Runs until `cancel`, beginning with `first`, which is known already. Every failure of Redis is an outage to
    /// be ended here; there is nothing else that fails.
    pub(crate) async fn run(self, first: Session, cancel: CancellationToken) {
        let mut session = first;
        let mut backoff = Backoff::default();
        loop {
            let up = Instant::now();
            let connection = session.connection.clone();
            let pings = || ping(connection.clone());
            let stopped = tokio::select! {
                reason = watch_over(&session.broken, self.ping_timeout, &*self.subscriber, pings, || 0) => {
                    if reason == PING_TIMED_OUT {
                        // Pulses fail now without a timeout of their own; see `Lease`.
                        self.outbound.reset();
                    }
                    tracing::warn!(redis = self.server.masked(), reason, "lost the command connection");
                    false
                }
                () = cancel.cancelled() => true,
            };
            session.broken.cancel();
            self.sessions.send_replace(None);
            self.subscriber.link(false);
            // The last handle closes the connection, so it goes before a new one is made.
            drop((session, connection));
            if stopped {
                return;
            }
            backoff.ended(up.elapsed());
            let reconnected = tokio::select! {
                session = self.reconnect(&mut backoff) => session,
                () = cancel.cancelled() => return,
            };
            tracing::info!(redis = self.server.masked(), "restored the command connection");
            session = reconnected;
            self.sessions.send_replace(Some(session.clone()));
            self.subscriber.link(true);
        }
    }

    async fn reconnect(&self, backoff: &mut Backoff) -> Session {
        loop {
            tokio::time::sleep(backoff.next()).await;
            match open(&self.server).await {
                Ok(mut session) => {
                    // Before anybody can claim anything on it.
                    let run_id = settling::run_id(&mut session.connection, self.ping_timeout).await;
                    self.learned.settling.reconnected(run_id, Instant::now());
                    return session;
                }
                Err(error) => {
                    tracing::debug!(redis = self.server.masked(), %error, "failed to connect for commands");
                }
            }
        }
    }
}

/// What [`watch_over`] returns when nothing was heard for too long.
const PING_TIMED_OUT: &str = "ping timed out";

/// Pings until the connection is found broken, by a ping or by anybody else, and returns why. A ping whose time is over is
/// waited for on as long as `heard` says that something comes in: an answer that stands behind much else is no sign of
/// death, and what is late matters to those whom it is late for.
pub(crate) async fn watch_over(
    broken: &CancellationToken,
    timeout: Duration,
    subscriber: &dyn Subscriber,
    ping: impl Fn() -> BoxFuture<'static, bool> + Send + Sync,
    heard: impl Fn() -> u64 + Send + Sync,
) -> &'static str {
    let mut ticks = tokio::time::interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = broken.cancelled() => return BROKE,
            _ = ticks.tick() => {}
        }
        let sent = Instant::now();
        let mut answer = ping();
        let mut heard_before = heard();
        let answered = loop {
            let answered = tokio::select! {
                () = broken.cancelled() => return BROKE,
                answered = tokio::time::timeout(timeout, &mut answer) => answered,
            };
            match answered {
                Ok(answered) => break answered,
                Err(_) if heard() == heard_before => return PING_TIMED_OUT,
                Err(_) => heard_before = heard(),
            }
        };
        if !answered {
            return "ping failed";
        }
        subscriber.observe("ping", sent.elapsed());
    }
}

/// One ping on the connection for commands.
fn ping(mut connection: MultiplexedConnection) -> BoxFuture<'static, bool> {
    async move { connection.send_packed_command(&redis::cmd("PING")).await.is_ok() }.boxed()
}
