//! How a node goes away: not ready, no newcomers, connections closed at a pace, everything given back.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate_core::DisconnectReason;
use tokio::time::Instant;

use crate::node::Node;
use crate::options::DrainOptions;

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
        for (closed, outbox) in outboxes.iter().enumerate() {
            // A few at a time, for a timer's resolution is a millisecond.
            let due = spread.saturating_mul(u32::try_from(closed).unwrap_or(u32::MAX));
            // A pace that would outlast the drain is hurried at its end.
            let due = due.min(timeout.mul_f64(PACE_SHARE));
            if due > started.elapsed() + PACE_STEP {
                tokio::time::sleep_until(started + due).await;
            }
            outbox.send_away();
        }
        let closed = outboxes.len();
        inner.connections.close();
        let answers = (timeout.saturating_sub(started.elapsed()) / 2).min(ANSWERS_TIMEOUT);
        let answered = tokio::time::timeout(answers, inner.connections.wait()).await.is_ok();
        if !answered {
            for outbox in &outboxes {
                outbox.close(DisconnectReason::ServerShuttingDown);
            }
        }
        drop(outboxes);
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

/// How long the answers to what clients have begun are waited for, from the last closing on. The broker and the registry
/// answer within `redis.command_timeout_ms`, which is two seconds by default.
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the last answers of a drain may take to leave.
const REQUESTS_TIMEOUT: Duration = Duration::from_secs(2);

/// Share of the drain's timeout in which connections are closed; the rest is for their last bytes.
const PACE_SHARE: f64 = 0.8;

/// Closings a second that are never undercut by an even spread: a node with ten clients gains nothing from waiting.
const PACE_MIN_PER_SECOND: f64 = 50.0;

/// Time from one closing to the next.
fn pace(connections: usize, options: &DrainOptions) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "a pace needs no exact integers")]
    let even = connections as f64 / (options.timeout.as_secs_f64() * PACE_SHARE).max(0.001);
    let per_second = match options.connections_per_second {
        0 => even.max(PACE_MIN_PER_SECOND),
        set => f64::from(set),
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
        assert_eq!(pace(8_000, &set), Duration::from_millis(100));
    }
}
