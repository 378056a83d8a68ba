//! The two meters: a clock, and callgrind.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tidegate_gateway::bench::Meter;

/// For how long a step is timed.
const TIMED: Duration = Duration::from_millis(250);

/// Rounds that are counted. The median counts: in some of them the allocator puts its house in order.
const ROUNDS_COUNTED: usize = 5;

/// The argument that a run under callgrind gets.
pub(crate) const COUNTED: &str = "--counted";

/// Times steps.
pub(crate) struct Timed {
    filter: String,
    /// Names, and nanoseconds in the quickest round: everything else that a machine does can only make a round longer.
    pub(crate) rows: Vec<(String, f64)>,
}

impl Timed {
    pub(crate) fn new(filter: String) -> Self {
        Self { filter, rows: Vec::new() }
    }
}

impl Meter for Timed {
    fn measure(&mut self, name: &str, times: u32, prepare: &mut dyn FnMut(), act: &mut dyn FnMut()) {
        if !name.contains(&self.filter) {
            return;
        }
        let (began, mut quickest) = (Instant::now(), Duration::MAX);
        while began.elapsed() < TIMED {
            prepare();
            let round = Instant::now();
            for _ in 0..times {
                act();
            }
            quickest = quickest.min(round.elapsed());
        }
        self.rows.push((name.to_owned(), quickest.as_secs_f64() * 1e9 / f64::from(times)));
    }
}

/// Performs steps for callgrind to count.
pub(crate) struct Counted {
    filter: String,
}

impl Counted {
    pub(crate) fn new(filter: String) -> Self {
        Self { filter }
    }
}

impl Meter for Counted {
    fn measure(&mut self, name: &str, times: u32, prepare: &mut dyn FnMut(), act: &mut dyn FnMut()) {
        if !name.contains(&self.filter) {
            return;
        }
        // What is made only once has been made after the first round.
        prepare();
        (0..times).for_each(|_| act());
        for _ in 0..ROUNDS_COUNTED {
            prepare();
            counted(times, act);
        }
        println!("{times}");
    }
}

/// What callgrind counts, known to it by name.
#[inline(never)]
fn counted(times: u32, act: &mut dyn FnMut()) {
    for _ in 0..times {
        act();
    }
}

/// The instructions of each step, counted by a run of this program under callgrind.
pub(crate) fn count(filter: &str) -> io::Result<Vec<f64>> {
    let directory = std::env::temp_dir().join(format!("tidegate-micro-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let counts = counts_in(&directory, filter);
    std::fs::remove_dir_all(&directory)?;
    counts
}

fn counts_in(directory: &Path, filter: &str) -> io::Result<Vec<f64>> {
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .args(["--toggle-collect=*meter::counted", "--dump-after=*meter::counted"])
        .arg(format!("--callgrind-out-file={}", directory.join("dump").display()))
        .arg(std::env::current_exe()?)
        .args([COUNTED, filter])
        // The allocator would give memory back by the clock, which is fifty times slower in there.
        .env("_RJEM_MALLOC_CONF", "dirty_decay_ms:-1,muzzy_decay_ms:-1")
        .stderr(Stdio::piped())
        .output()?;
    let (said, complaints) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    if !run.status.success() {
        return Err(io::Error::other(format!("{}\n{complaints}", run.status)));
    }
    let mut at = 0;
    let mut of_step = |times: &str| {
        let times: f64 = times.parse().map_err(|_| io::Error::other(format!("\"{times}\" is no number")))?;
        let mut totals = [0.0; ROUNDS_COUNTED];
        for total in &mut totals {
            at += 1;
            *total = total_of(&directory.join(format!("dump.{at}")))?;
        }
        totals.sort_by(f64::total_cmp);
        Ok(totals[ROUNDS_COUNTED / 2] / times)
    };
    said.lines().map(&mut of_step).collect()
}

fn total_of(dump: &Path) -> io::Result<f64> {
    let text = std::fs::read_to_string(dump)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
    total.ok_or_else(|| io::Error::other(format!("no totals in {}", dump.display())))
}
