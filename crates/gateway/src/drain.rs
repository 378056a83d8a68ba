//! How a node goes away: not ready, no newcomers, connections closed at a pace, everything given back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate_core::DisconnectReason;
use tokio::time::Instant;

use crate::node::Node;
use crate::options::DrainOptions;
use crate::outbox::Outbox;

impl Node {
    /// Goes away in phases, within `drain.timeout`: not ready, handshakes refused with 503, connections closed at a
    /// pace so that their clients come back elsewhere one after the other, each when its client knows what became of what
    /// it began, then the port, then the broker with the node's lease. The port stays open until its connections are
    /// gone, for a polling client fetches even the end of its connection with a request.
    pub async fn drain(&self) {
        let inner = &self.0;
        inner.draining.store(true, Ordering::Release);
        let started = Instant::now();
        let timeout = inner.options.drain.timeout;
        // In this order, since connections move from polling to WebSockets: one that does it now is among them all the same.
        let mut outboxes = inner.engines.outboxes();
        outboxes.extend(inner.reactor.outboxes());
        outboxes.retain(|outbox| outbox.closed().is_none());
        tracing::info!(connections = outboxes.len(), "draining");
        let spread = pace(outboxes.len(), &inner.options.drain);
        let mut leaving = Leaving { outboxes, sent: Vec::new(), closed: 0 };
        while leaving.sent.len() < leaving.outboxes.len() {
            // A few at a time, for a timer's resolution is a millisecond.
            let due = started + spread.saturating_mul(u32::try_from(leaving.sent.len()).unwrap_or(u32::MAX));
            if due > Instant::now() + PACE_STEP {
                tokio::time::sleep_until(leaving.overdue().map_or(due, |overdue| overdue.min(due))).await;
            }
            leaving.close_overdue();
            if due <= Instant::now() + PACE_STEP {
                leaving.send_next();
            }
        }
        let closed = leaving.outboxes.len();
        inner.connections.close();
        // Half of what is left is for who is closed without an answer.
        let half = Instant::now() + timeout.saturating_sub(started.elapsed()) / 2;
        while let Some(overdue) = leaving.overdue() {
            let until = overdue.min(half);
            if tokio::time::timeout_at(until, inner.connections.wait()).await.is_ok() {
                break;
            }
            if until == half {
                leaving.close_all();
            }
            leaving.close_overdue();
        }
        drop(leaving);
        let left = timeout.saturating_sub(started.elapsed());
        let finished = tokio::time::timeout(left, inner.connections.wait()).await.is_ok();
        inner.closing.cancel();
        inner.requests.close();
        // What is answered by now; a request that still hangs has no connection any more.
        let _ = tokio::time::timeout(REQUESTS_TIMEOUT, inner.requests.wait()).await;
        tracing::info!(
            closed,
            finished,
            elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "drained"
        );
        self.stop().await;
    }
}

/// How close two closings of a drain may come before they wait for each other.
const PACE_STEP: Duration = Duration::from_millis(10);

/// Connections on their way out, in the order in which they are sent away.
struct Leaving {
    outboxes: Vec<Arc<Outbox>>,
    /// When each was that is.
    sent: Vec<Instant>,
    /// So many of them are closed whatever they wait for.
    closed: usize,
}

impl Leaving {
    fn send_next(&mut self) {
        self.outboxes[self.sent.len()].send_away();
        self.sent.push(Instant::now());
    }

    /// When the next one has waited long enough.
    fn overdue(&self) -> Option<Instant> {
        Some(*self.sent.get(self.closed)? + ANSWERS_TIMEOUT)
    }

    /// Closes those who have waited long enough. Most have gone by themselves.
    fn close_overdue(&mut self) {
        let now = Instant::now();
        while self.overdue().is_some_and(|overdue| overdue <= now) {
            self.close_next();
        }
    }

    fn close_all(&mut self) {
        while self.closed < self.sent.len() {
            self.close_next();
        }
    }

    fn close_next(&mut self) {
        self.outboxes[self.closed].close(DisconnectReason::ServerShuttingDown);
        self.closed += 1;
    }
}

/// How long the answers to what a client has begun are waited for. The broker and the registry give theirs within
/// `redis.command_timeout_ms`, which is two seconds by default.
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the last answers of a drain may take to leave.
const REQUESTS_TIMEOUT: Duration = Duration::from_secs(2);

/// Share of the drain's timeout in which connections are closed; the rest is for their last bytes.
const PACE_SHARE: f64 = 0.8;

/// Closings a second that are never undercut by an even spread: a node with ten clients gains nothing from waiting.
const PACE_MIN_PER_SECOND: f64 = 50.0;

/// Time from one closing to the next. A set pace that would outlast the drain gives way to an even one, for what is left at
/// the end would go all at once.
fn pace(connections: usize, options: &DrainOptions) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "a pace needs no exact integers")]
    let even = connections as f64 / (options.timeout.as_secs_f64() * PACE_SHARE).max(0.001);
    let per_second = match options.connections_per_second {
        0 => even.max(PACE_MIN_PER_SECOND),
        set => {
            let set = f64::from(set);
            if set < even {
                tracing::warn!(
                    connections,
                    timeout_ms = u64::try_from(options.timeout.as_millis()).unwrap_or(u64::MAX),
                    "drain.connections_per_second is too slow for drain.timeout_ms: closing evenly in the time there is"
                );
            }
            set.max(even)
        }
    };
    Duration::from_secs_f64(1.0 / per_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_is_spread_over_its_timeout() {
        let options = DrainOptions { timeout: Duration::from_secs(10), connections_per_second: 0 };
        assert_eq!(pace(8_000, &options), Duration::from_millis(1));
        assert_eq!(pace(2, &options), Duration::from_millis(20));
        let set = DrainOptions { connections_per_second: 10, ..options };
        assert_eq!(pace(80, &set), Duration::from_millis(100));
        assert_eq!(
            pace(8_000, &set),
            Duration::from_millis(1),
            "what it would leave to the end is spread, too"
        );
    }
}
