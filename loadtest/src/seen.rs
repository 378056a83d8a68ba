//! Which messages of one publisher a subscriber has seen, in a few bytes.

/// How far back a repetition is told from a late arrival. The publisher never has more in flight.
pub(crate) const WINDOW: u64 = 64;

/// What a message was to its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Newer than everything before it.
    InOrder,
    /// New, but something newer had come before it.
    Late,
    /// It had come before.
    Repeated,
}

/// The newest number, and which of the [`WINDOW`] up to it have come.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    /// One more than the newest number, so that nothing seen is zero.
    next: u64,
    /// Bit i stands for the number `next - 1 - i`.
    window: u64,
}

impl Seen {
    pub(crate) fn see(&mut self, number: u64) -> Verdict {
        if number >= self.next {
            let step = number + 1 - self.next;
            self.window = if step < WINDOW { self.window << step } else { 0 } | 1;
            self.next = number + 1;
            return Verdict::InOrder;
        }
        let back = self.next - 1 - number;
        // Older than the window: it cannot be in flight any more, so it must be a repetition.
        if back >= WINDOW || self.window & (1 << back) != 0 {
            return Verdict::Repeated;
        }
        self.window |= 1 << back;
        Verdict::Late
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_agrees_with_a_set(numbers in proptest::collection::vec(0u64..WINDOW, 1..200), offset in 0u64..1 << 40) {
            let (mut seen, mut set, mut newest) = (Seen::default(), HashSet::new(), None);
            for number in numbers {
                let number = number + offset;
                let expected = if !set.insert(number) {
                    Verdict::Repeated
                } else if newest.is_none_or(|newest| number > newest) {
                    Verdict::InOrder
                } else {
                    Verdict::Late
                };
                newest = newest.max(Some(number));
                prop_assert_eq!(seen.see(number), expected);
            }
        }
    }

    #[test]
    fn a_jump_past_the_window_forgets_it() {
        let mut seen = Seen::default();
        assert_eq!(seen.see(0), Verdict::InOrder);
        assert_eq!(seen.see(WINDOW), Verdict::InOrder);
        assert_eq!(seen.see(1), Verdict::Late);
        assert_eq!(seen.see(1), Verdict::Repeated);
        assert_eq!(seen.see(0), Verdict::Repeated);
    }
}
