//! What the server's processes, and this one, have used. From `/proc`, so Linux only.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde::{Deserialize, Serialize};

/// CPU time of some processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cpu {
    /// Time on a core, to the nanosecond: the sum of `schedstat` over the threads that live.
    pub(crate) total_ns: u64,
    /// Time its threads were ready and had to wait for a core.
    #[serde(default)]
    pub(crate) waited_ns: u64,
    /// User share, to the clock tick (10 ms).
    pub(crate) user_ms: u64,
    /// Kernel share, to the clock tick (10 ms).
    pub(crate) system_ms: u64,
}

/// `/proc/PID/stat` counts in ticks of this length: USER_HZ is 100 on every platform Linux still has.
const TICK_MS: u64 = 10;

impl Cpu {
    /// What these processes have used since they started.
    pub(crate) fn of(pids: &[u32]) -> anyhow::Result<Cpu> {
        let mut sum = Cpu::default();
        for pid in pids {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
                .with_context(|| format!("failed to read the process {pid}"))?;
            let (user, system) = ticks(&stat).ok_or_else(|| anyhow!("unreadable stat of process {pid}"))?;
            sum.user_ms += user * TICK_MS;
            sum.system_ms += system * TICK_MS;
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                // A thread may end between the listing and the reading.
                let Ok(schedstat) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
                let mut fields = schedstat.split_whitespace().map(str::parse::<u64>);
                let (Some(Ok(on_core)), Some(Ok(waited))) = (fields.next(), fields.next()) else {
                    return Err(anyhow!("unreadable schedstat"));
                };
                sum.total_ns += on_core;
                sum.waited_ns += waited;
            }
        }
        if sum.total_ns == 0 {
            // A kernel without schedstats.
            sum.total_ns = (sum.user_ms + sum.system_ms) * 1_000_000;
        }
        Ok(sum)
    }

    /// All of them together.
    pub(crate) fn sum(all: &[Cpu]) -> Cpu {
        all.iter().fold(Cpu::default(), |sum, one| Cpu {
            total_ns: sum.total_ns + one.total_ns,
            waited_ns: sum.waited_ns + one.waited_ns,
            user_ms: sum.user_ms + one.user_ms,
            system_ms: sum.system_ms + one.system_ms,
        })
    }

    /// What was used since `before`.
    pub(crate) fn since(self, before: Cpu) -> Cpu {
        Cpu {
            total_ns: self.total_ns.saturating_sub(before.total_ns),
            waited_ns: self.waited_ns.saturating_sub(before.waited_ns),
            user_ms: self.user_ms.saturating_sub(before.user_ms),
            system_ms: self.system_ms.saturating_sub(before.system_ms),
        }
    }

    /// Microseconds per one of `count`; zero of zero.
    pub(crate) fn us_per(self, count: u64) -> f64 {
        if count == 0 { 0.0 } else { self.total_ns as f64 / 1e3 / count as f64 }
    }
}

/// User and system ticks: fields 14 and 15 of proc(5) stat, counted behind the command's closing bracket.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Resident memory of these processes, in bytes.
pub(crate) fn resident_bytes(pids: &[u32]) -> anyhow::Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))
            .with_context(|| format!("failed to read the process {pid}"))?;
        sum += field_kb(&status, "VmRSS:").with_context(|| format!("process {pid} has no VmRSS"))? * 1024;
    }
    Ok(sum)
}

/// Waits until memory stands still, at most `limit`, and gives it.
pub(crate) async fn settled_bytes(pids: &[u32], limit: Duration) -> anyhow::Result<u64> {
    const LOOK_EVERY: Duration = Duration::from_millis(500);
    /// Three looks within one part in two hundred.
    const STEADY_LOOKS: u32 = 3;
    let deadline = tokio::time::Instant::now() + limit;
    let (mut last, mut steady) = (resident_bytes(pids)?, 0);
    while steady < STEADY_LOOKS && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = resident_bytes(pids)?;
        steady = if now.abs_diff(last) <= last / 200 { steady + 1 } else { 0 };
        last = now;
    }
    Ok(last)
}

fn field_kb(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// How many connections this process may open beside what it needs for itself.
pub(crate) fn connections_max() -> anyhow::Result<u32> {
    const FOR_OURSELVES: u64 = 64;
    let limits = fs::read_to_string(Path::new("/proc/self/limits")).context("failed to read own limits")?;
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files")).and_then(|line| {
        let soft = line.split_whitespace().next()?;
        if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
    });
    let soft = soft.context("own limits do not name open files")?;
    Ok(u32::try_from(soft.saturating_sub(FOR_OURSELVES)).unwrap_or(u32::MAX))
}

/// How many connections may lead from one address to one port of a server.
pub(crate) fn ports_max() -> anyhow::Result<u32> {
    let range =
        fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").context("failed to read the ports")?;
    let mut ends = range.split_whitespace().map(str::parse::<u32>);
    let (Some(Ok(first)), Some(Ok(last))) = (ends.next(), ends.next()) else {
        return Err(anyhow!("unreadable range of ports: {range}"));
    };
    Ok(last.saturating_sub(first) + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_command_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194304 100 0 0 0 12 34 0 0 20 0 1 0 5 6 7";
        assert_eq!(ticks(stat), Some((12, 34)));
        assert_eq!(ticks("7 (a"), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let pid = std::process::id();
        assert!(resident_bytes(&[pid]).unwrap() > 0);
        assert!(connections_max().unwrap() > 0);
        let before = Cpu::of(&[pid]).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while Cpu::of(&[pid]).unwrap().since(before).total_ns == 0 {
            assert!(std::time::Instant::now() < deadline, "CPU time stands still while this test runs");
        }
        assert!(Cpu::of(&[u32::MAX]).is_err());
    }

    #[test]
    fn memory_is_found_by_its_name() {
        assert_eq!(field_kb("VmHWM:\t   9 kB\nVmRSS:\t  1234 kB\n", "VmRSS:"), Some(1234));
        assert_eq!(field_kb("VmHWM: 9 kB", "VmRSS:"), None);
    }
}
