//! Chance, from a seed: the same seed makes the same world.

use std::ops::Range;

/// SplitMix64: one addition and two multiplications a number, and every seed is a good one.
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start).max(1)
    }

    pub(super) fn pick(&mut self, count: usize) -> usize {
        usize::try_from(self.within(0..count as u64)).expect("it is below a usize")
    }

    /// True so many times of a thousand.
    pub(super) fn permille(&mut self, times: u64) -> bool {
        self.within(0..1_000) < times
    }
}
