//! How the work of the servers is spread over their threads: whether a large room is served by all cores at once.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Context as _;

/// Threads that are told one by one, the busiest first.
const TOLD_MAX: usize = 8;

/// What a thread must have carried of it all to be told.
const SHARE_MIN: f64 = 0.01;

/// Time on a core of each living thread of some processes, in nanoseconds, by thread id.
#[derive(Debug, Clone, Default)]
pub(crate) struct Threads(BTreeMap<u32, u64>);

impl Threads {
    /// What they have used since they started.
    pub(crate) fn of(pids: &[u32]) -> anyhow::Result<Self> {
        let mut threads = BTreeMap::new();
        for pid in pids {
            let tasks = fs::read_dir(format!("/proc/{pid}/task"))
                .with_context(|| format!("failed to read the process {pid}"))?;
            for task in tasks {
                let task = task?;
                let Some(tid) = task.file_name().to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                // A thread may end between the listing and the reading.
                let Ok(schedstat) = fs::read_to_string(task.path().join("schedstat")) else { continue };
                let on_core = schedstat.split_whitespace().next().and_then(|field| field.parse().ok());
                threads.insert(tid, on_core.unwrap_or(0));
            }
        }
        Ok(Self(threads))
    }

    /// The share of each thread in what all have used since `before`, the busiest first; those that count.
    pub(crate) fn shares_since(&self, before: &Self) -> Vec<f64> {
        let used = |(tid, now): (&u32, &u64)| now.saturating_sub(before.0.get(tid).copied().unwrap_or(0));
        let all: Vec<f64> = self.0.iter().map(|thread| used(thread) as f64).collect();
        let sum: f64 = all.iter().sum();
        if sum == 0.0 {
            return Vec::new();
        }
        let mut shares: Vec<f64> =
            all.iter().map(|used| used / sum).filter(|share| *share >= SHARE_MIN).collect();
        shares.sort_by(|one, other| other.total_cmp(one));
        shares.truncate(TOLD_MAX);
        shares
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn shares_are_of_what_was_used_meanwhile() {
        let threads = |used: &[(u32, u64)]| Threads(used.iter().copied().collect());
        let before = threads(&[(1, 1_000), (2, 500)]);
        // The first has rested, the third is new, the fourth has hardly done anything.
        let now = threads(&[(1, 1_000), (2, 6_500), (3, 3_960), (4, 40)]);
        assert_eq!(now.shares_since(&before), [0.6, 0.396]);
        assert!(before.shares_since(&before).is_empty());
    }

    #[test]
    fn this_process_has_a_thread() {
        assert!(!Threads::of(&[std::process::id()]).unwrap().0.is_empty());
        assert!(Threads::of(&[u32::MAX]).is_err());
    }
}
