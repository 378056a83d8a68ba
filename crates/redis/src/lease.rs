//! The node's lease and its pulse.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use redis::{ErrorKind, RedisError, Script, ServerErrorKind};
use tidegate_core::broker::PulseError;
use tidegate_core::registry::Vitals;
use tidegate_core::{Incarnation, Subscriber};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::keys::Keys;
use crate::node_message::NodeMessage;
use crate::options::Options;
use crate::outbound::Outbound;
use crate::registry::Learned;
use crate::server::Session;

/// The node's lease and its pulse, which are one write.
pub(crate) struct Lease {
    key: String,
    channel: String,
    incarnation: Incarnation,
    fence_after: Duration,
    started_at_ms: u128,
    pulse_timeout: Duration,
    sessions: watch::Receiver<Option<Session>>,
    outbound: Arc<Outbound>,
    /// Weak, since the subscriber usually owns the broker.
    subscriber: Weak<dyn Subscriber>,
    learned: Arc<Learned>,
    beat: Script,
    release: Script,
    /// Whether the latest pulse was refused; each series of refusals is logged once.
    failing: AtomicBool,
}

impl Lease {
    pub(crate) fn new(
        options: &Options,
        keys: &Keys,
        sessions: watch::Receiver<Option<Session>>,
        outbound: Arc<Outbound>,
        subscriber: Weak<dyn Subscriber>,
        learned: Arc<Learned>,
    ) -> Self {
        Self {
            key: keys.node_lease(&options.node),
            channel: keys.node_channel(&options.node),
            incarnation: options.incarnation.clone(),
            fence_after: options.fence_after,
            started_at_ms: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis()),
            pulse_timeout: options.pulse_timeout(),
            sessions,
            outbound,
            subscriber,
            learned,
            beat: Script::new(include_str!("lua/pulse.lua")),
            release: Script::new(include_str!("lua/release_lease.lua")),
            failing: AtomicBool::new(false),
        }
    }

    /// One beat, see `lua/pulse.lua`.
    pub(crate) async fn pulse(
        &self,
        number: u64,
        lease_ttl: Duration,
        vitals: &Vitals,
    ) -> Result<(), PulseError> {
        let lease_ttl_ms = u64::try_from(lease_ttl.as_millis()).unwrap_or(u64::MAX);
        self.learned.lease_ttl_ms.store(lease_ttl_ms, Ordering::Relaxed);
        let session = self.sessions.borrow().clone();
        let Some(mut session) = session else { return Err(PulseError::Unavailable) };
        let message = NodeMessage::Pulse { incarnation: self.incarnation.as_str().into(), number };
        let mut beat = self.beat.key(&self.key);
        beat.arg(self.incarnation.as_str())
            .arg(u64::try_from(self.fence_after.as_millis()).unwrap_or(u64::MAX))
            .arg(self.started_at_ms.to_string())
            .arg(lease_ttl_ms)
            .arg(&self.channel)
            .arg(message.encode())
            .arg(vitals.connections)
            .arg(vitals.sessions)
            .arg(u8::from(vitals.draining))
            .arg(&*vitals.version);
        let sent = Instant::now();
        let answer = tokio::select! {
            answer = tokio::time::timeout(self.pulse_timeout, beat.invoke_async(&mut session.connection)) => answer,
            () = session.broken.cancelled() => return Err(PulseError::Unavailable),
        };
        let holder: Option<(String, i64)> = match answer {
            Ok(Ok(holder)) => holder,
            Ok(Err(error)) => {
                self.failed(&session, &error);
                return Err(PulseError::Unavailable);
            }
            Err(_) => {
                // The node fences itself now. What it wrote and Redis has not acknowledged is given up with the
                // connections, so that it is not much later than the node's silence.
                session.broken.cancel();
                self.outbound.reset();
                return Err(PulseError::Unavailable);
            }
        };
        self.failing.store(false, Ordering::Relaxed);
        if let Some(subscriber) = self.subscriber.upgrade() {
            subscriber.observe("pulse", sent.elapsed());
        }
        match holder {
            None => Ok(()),
            Some((incarnation, left_ms)) => {
                // A lease without an end, which no node writes, does not run out before ours would.
                let lease_left = u64::try_from(left_ms).map_or(lease_ttl, Duration::from_millis);
                Err(PulseError::Conflict { incarnation, lease_left })
            }
        }
    }

    fn failed(&self, session: &Session, error: &RedisError) {
        match error.kind() {
            // A master that was deposed: the name may lead to the new one. What is published here reaches nobody there.
            ErrorKind::Server(ServerErrorKind::ReadOnly) => {
                session.broken.cancel();
                self.outbound.reset();
            }
            // It answers, so the connection is not at fault.
            ErrorKind::Server(_) | ErrorKind::Extension => {}
            _ => session.broken.cancel(),
        }
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "redis refuses the pulse");
        }
    }

    /// Deletes the lease, if it is this node's and Redis answers.
    pub(crate) async fn give_back(&self) {
        let session = self.sessions.borrow().clone();
        let Some(mut session) = session else { return };
        let mut release = self.release.key(&self.key);
        release.arg(self.incarnation.as_str());
        let released = release.invoke_async::<i64>(&mut session.connection);
        // Without an answer the lease ends by itself, after its time to live.
        if let Ok(Err(error)) = tokio::time::timeout(self.pulse_timeout, released).await {
            tracing::debug!(%error, "failed to release the node's lease");
        }
    }
}
