//! The clock that messages are stamped by. It is the machine's, so that what one process has sent can be timed by another.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since some moment that is the same for every process of the machine.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Neither is negative: the clock starts at zero.
    let (seconds, ns) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap_or(0) * 1_000_000_000 + ns.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on() {
        let before = now_ns();
        assert!(before > 0 && now_ns() >= before);
    }
}
