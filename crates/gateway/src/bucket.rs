//! A token bucket in sixteen bytes: so many events a second, so many at once.

/// Refilled by the time that has passed; full at the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    /// Thousandths of a token, so that one refill per millisecond loses nothing.
    thousandths: u64,
    refilled_ms: u64,
}

impl Bucket {
    pub(crate) fn full(now_ms: u64, burst: u32) -> Self {
        Self { thousandths: u64::from(burst) * 1_000, refilled_ms: now_ms }
    }

    /// Takes one token if there is one. A rate of 0 is no limit.
    pub(crate) fn take(&mut self, now_ms: u64, per_second: u32, burst: u32) -> bool {
        if per_second == 0 {
            return true;
        }
        let elapsed = now_ms.saturating_sub(self.refilled_ms);
        self.refilled_ms = now_ms;
        let refill = elapsed.saturating_mul(u64::from(per_second));
        self.thousandths = self.thousandths.saturating_add(refill).min(u64::from(burst) * 1_000);
        if self.thousandths < 1_000 {
            return false;
        }
        self.thousandths -= 1_000;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let mut bucket = Bucket::full(0, 5);
        assert_eq!((0..10).filter(|_| bucket.take(0, 2, 5)).count(), 5);
        assert!(!bucket.take(499, 2, 5));
        assert!(bucket.take(500, 2, 5));
        assert!(!bucket.take(500, 2, 5));
        // A long rest fills no more than the burst.
        assert_eq!((0..10).filter(|_| bucket.take(60_000, 2, 5)).count(), 5);
    }

    #[test]
    fn zero_is_no_limit() {
        let mut bucket = Bucket::full(0, 0);
        assert!((0..1_000).all(|_| bucket.take(0, 0, 0)));
    }
}
