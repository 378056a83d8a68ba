//! Who is to be written to next.
//!
//! Users take turns, and none is written to again before the last message to it was answered. The order of its
//! messages is then known, whoever sends them.

use std::collections::VecDeque;

/// One message to one user.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) user: u32,
    /// Number of the message among all to this user.
    pub(super) number: u64,
    /// Messages to this user after this one.
    left: u64,
}

/// The turns that nobody has taken yet.
#[derive(Debug, Default)]
pub(super) struct Rota(VecDeque<Turn>);

impl Rota {
    /// `total` messages, as many to each user as to the others, or one more to the first of them. Their numbers go on
    /// from `first`.
    pub(super) fn new(users: u32, first: u64, total: u64) -> Rota {
        let (each, rest) = (total / u64::from(users), total % u64::from(users));
        let turns = (0..users).filter_map(|user| {
            let share = each + u64::from(u64::from(user) < rest);
            Some(Turn { user, number: first, left: share.checked_sub(1)? })
        });
        Rota(turns.collect())
    }

    /// The longest waiting turn.
    pub(super) fn next(&mut self) -> Option<Turn> {
        self.0.pop_front()
    }

    /// `turn` was answered: its user waits for the next one.
    pub(super) fn done(&mut self, turn: &Turn) {
        let Turn { user, number, left } = *turn;
        if let Some(left) = left.checked_sub(1) {
            self.0.push_back(Turn { user, number: number + 1, left });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn everyone_gets_a_share_in_order(
            users in 1u32..20,
            first in 0u64..5,
            total in 0u64..200,
            returns in proptest::collection::vec(any::<prop::sample::Index>(), 0..400),
        ) {
            let mut rota = Rota::new(users, first, total);
            let (mut taken, mut numbers) = (Vec::new(), BTreeMap::<u32, Vec<u64>>::new());
            let mut returns = returns.into_iter();
            loop {
                // Some turns are under way at a time, and end in any order.
                while taken.len() < 4 && let Some(turn) = rota.next() {
                    prop_assert!(taken.iter().all(|other: &Turn| other.user != turn.user));
                    numbers.entry(turn.user).or_default().push(turn.number);
                    taken.push(turn);
                }
                if taken.is_empty() {
                    break;
                }
                let at = returns.next().map_or(0, |index| index.index(taken.len()));
                rota.done(&taken.swap_remove(at));
            }
            let each = total / u64::from(users);
            prop_assert_eq!(numbers.values().map(Vec::len).sum::<usize>() as u64, total);
            for numbers in numbers.values() {
                let count = numbers.len() as u64;
                prop_assert!(count == each || count == each + 1);
                prop_assert_eq!(numbers, &(first..first + count).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn turns_go_round() {
        let mut rota = Rota::new(2, 5, 3);
        let first = rota.next().unwrap();
        rota.done(&first);
        assert_eq!((first.user, first.number), (0, 5));
        assert_eq!(rota.next(), Some(Turn { user: 1, number: 5, left: 0 }));
        assert_eq!(rota.next(), Some(Turn { user: 0, number: 6, left: 0 }));
        assert_eq!(rota.next(), None);
    }
}
