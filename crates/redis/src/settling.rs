//! How long claims settle after Redis may have forgotten some.

use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

/// Knows since when the commands go to a server that may not have all claims.
///
/// A server with another `run_id` than the one before has been started since, or was promoted: claims that others
/// still act on may be missing from it. Those others are found out when they next hear nothing of their pulse, which
/// takes `fence_after` at most, and no newcomer is answered before. For the process's first connection there is no
/// server before, so a node that is started within `fence_after` of a failover does not know of it.
pub(crate) struct Settling {
    state: Mutex<State>,
    fence_after: Duration,
}

struct State {
    run_id: Option<String>,
    until: Instant,
}

impl Settling {
    /// Begins with the process's first connection, to the server `run_id`, if that is known.
    pub(crate) fn new(run_id: Option<String>, fence_after: Duration, now: Instant) -> Self {
        Self { state: Mutex::new(State { run_id, until: now }), fence_after }
    }

    /// Another connection was made, to the server `run_id`. One that does not tell may be any.
    pub(crate) fn reconnected(&self, run_id: Option<String>, now: Instant) {
        let mut state = self.state.lock();
        if run_id.is_none() || state.run_id != run_id {
            state.until = now + self.fence_after;
        }
        state.run_id = run_id;
    }

    /// What is left of it at `now`.
    pub(crate) fn rest(&self, now: Instant) -> Duration {
        self.state.lock().until.saturating_duration_since(now)
    }
}

/// What the server calls this run of itself. None when it does not say, or not in time.
pub(crate) async fn run_id(connection: &mut MultiplexedConnection, timeout: Duration) -> Option<String> {
    let mut info = redis::cmd("INFO");
    info.arg("server");
    let answer = tokio::time::timeout(timeout, info.query_async::<String>(connection)).await;
    let Ok(Ok(text)) = answer else { return None };
    text.lines().find_map(|line| line.strip_prefix("run_id:")).map(|id| id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FENCE: Duration = Duration::from_secs(1);

    fn id(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn claims_settle_after_another_server_was_reached() {
        let start = Instant::now();
        let settling = Settling::new(id("a"), FENCE, start);
        assert_eq!(settling.rest(start), Duration::ZERO, "a process that starts waits for nobody");
        settling.reconnected(id("a"), start);
        assert_eq!(settling.rest(start), Duration::ZERO, "the server was there all along");
        settling.reconnected(id("b"), start);
        assert_eq!(settling.rest(start), FENCE);
        let later = start + FENCE / 4;
        settling.reconnected(id("b"), later);
        assert_eq!(settling.rest(later), FENCE * 3 / 4, "a later connection to it begins nothing anew");
        let end = start + FENCE;
        assert_eq!(settling.rest(end), Duration::ZERO);
        settling.reconnected(None, end);
        assert_eq!(settling.rest(end), FENCE, "one that does not tell may be any");
    }
}
