//! Looks at the processes and at what is done while a run goes on, so that its course can be drawn.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::clock::now_ns;
use crate::process::{Cpu, resident_bytes};

/// How often it looks, at first.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// When there are so many looks, every other one is forgotten, and it looks half as often from there on. A run of an hour
/// stays below this.
const LOOKS_MAX: usize = 2000;

/// One process that is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) pid: u32,
    /// Whether it belongs to this tool.
    pub(crate) is_tool: bool,
}

/// A run's course.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Course {
    /// Seconds since the beginning, of each look.
    pub(crate) seconds: Vec<f64>,
    /// What was done in each second up to the look.
    pub(crate) per_second: Vec<f64>,
    pub(crate) processes: Vec<Process>,
    pub(crate) spans: Vec<Span>,
}

/// One process at each look.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) is_tool: bool,
    /// Cores it kept busy up to the look.
    pub(crate) cores: Vec<f64>,
    pub(crate) resident_bytes: Vec<u64>,
}

/// A part of the run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Span {
    pub(crate) name: String,
    pub(crate) from: f64,
    pub(crate) to: f64,
}

/// What a run has done so far, and when that was found.
#[derive(Debug, Default)]
pub(crate) struct Done {
    count: AtomicU64,
    at_ns: AtomicU64,
}

impl Done {
    pub(crate) fn set(&self, count: u64) {
        self.count.store(count, Ordering::Relaxed);
        self.at_ns.store(now_ns(), Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// What was seen at one moment.
#[derive(Debug, Clone, Default)]
struct Look {
    seconds: f64,
    done: u64,
    /// When that was found.
    done_at_ns: u64,
    /// CPU in nanoseconds and resident bytes of each process.
    processes: Vec<(u64, u64)>,
}

/// Looks until it is asked for the course, or dropped.
pub(crate) struct Watch {
    began: Instant,
    subjects: Vec<Subject>,
    looks: Arc<Mutex<Vec<Look>>>,
    spans: Vec<Span>,
    /// The one task that looks.
    _looking: JoinSet<()>,
}

impl Watch {
    /// `done` is what the run has done so far.
    pub(crate) fn begin(subjects: Vec<Subject>, done: Arc<Done>) -> Watch {
        let began = Instant::now();
        let looks = Arc::new(Mutex::new(Vec::new()));
        let mut looking = JoinSet::new();
        looking.spawn(look(began, subjects.clone(), done, looks.clone()));
        Watch { began, subjects, looks, spans: Vec::new(), _looking: looking }
    }

    /// A part of the run begins; the one before is over if it was not.
    pub(crate) fn enter(&mut self, name: &str) {
        self.leave();
        let now = self.began.elapsed().as_secs_f64();
        self.spans.push(Span { name: name.to_owned(), from: now, to: f64::INFINITY });
    }

    /// The present part is over.
    pub(crate) fn leave(&mut self) {
        let now = self.began.elapsed().as_secs_f64();
        if let Some(span) = self.spans.last_mut().filter(|span| span.to.is_infinite()) {
            span.to = now;
        }
    }

    /// The most memory that all servers together had since the present part began.
    pub(crate) fn peak_bytes(&self) -> u64 {
        let from = self.spans.last().map_or(0.0, |span| span.from);
        let of_servers = |look: &Look| {
            let processes = look.processes.iter().zip(&self.subjects);
            processes.filter(|(_, subject)| !subject.is_tool).map(|((_, bytes), _)| bytes).sum::<u64>()
        };
        let looks = lock(&self.looks);
        looks.iter().filter(|look| look.seconds >= from).map(of_servers).max().unwrap_or(0)
    }

    /// What was seen.
    pub(crate) fn course(mut self) -> Course {
        self.leave();
        let looks = lock(&self.looks).clone();
        course(&self.subjects, &looks, std::mem::take(&mut self.spans))
    }
}

async fn look(began: Instant, subjects: Vec<Subject>, done: Arc<Done>, looks: Arc<Mutex<Vec<Look>>>) {
    let mut every = interval(LOOK_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut step, mut tick) = (1, 0);
    loop {
        every.tick().await;
        tick += 1;
        if tick % step != 0 {
            continue;
        }
        let before = lock(&looks).last().cloned().unwrap_or_default();
        let processes = subjects.iter().enumerate().map(|(at, subject)| {
            let seen = Cpu::of(&[subject.pid]).ok().zip(resident_bytes(&[subject.pid]).ok());
            // Of one that has ended, the last is what there is.
            let last = before.processes.get(at).copied().unwrap_or_default();
            seen.map_or(last, |(cpu, bytes)| (cpu.total_ns, bytes))
        });
        let look = Look {
            seconds: began.elapsed().as_secs_f64(),
            done: done.count(),
            done_at_ns: done.at_ns.load(Ordering::Relaxed),
            processes: processes.collect(),
        };
        let mut looks = lock(&looks);
        looks.push(look);
        if looks.len() >= LOOKS_MAX {
            thin(&mut looks);
            step *= 2;
        }
    }
}

/// Forgets every other look.
fn thin(looks: &mut Vec<Look>) {
    let mut is_kept = false;
    looks.retain(|_| {
        is_kept = !is_kept;
        is_kept
    });
}

/// Differences between looks, in a second.
fn course(subjects: &[Subject], looks: &[Look], spans: Vec<Span>) -> Course {
    let mut course = Course { spans, ..Course::default() };
    let process = |subject: &Subject| Process {
        name: subject.name.clone(),
        is_tool: subject.is_tool,
        ..Process::default()
    };
    course.processes = subjects.iter().map(process).collect();
    for pair in looks.windows(2) {
        let [before, now] = pair else { continue };
        let seconds = now.seconds - before.seconds;
        if seconds <= 0.0 {
            continue;
        }
        course.seconds.push(rounded(now.seconds));
        // Workers tell what they have done now and then, not when somebody looks: what counts is the time between two
        // tellings, unless one is from before the last look but one.
        let told = now.done_at_ns.saturating_sub(before.done_at_ns) as f64 / 1e9;
        let is_fresh = before.done_at_ns > 0 && told > seconds / 2.0 && told < seconds * 2.0;
        let done = now.done.saturating_sub(before.done) as f64;
        course.per_second.push((done / if is_fresh { told } else { seconds }).round());
        for ((process, (cpu, bytes)), (cpu_before, _)) in
            course.processes.iter_mut().zip(&now.processes).zip(&before.processes)
        {
            process.cores.push(rounded(cpu.saturating_sub(*cpu_before) as f64 / 1e9 / seconds));
            process.resident_bytes.push(*bytes);
        }
    }
    course
}

/// Three digits after the point: the record is a line that people may look at.
fn rounded(figure: f64) -> f64 {
    (figure * 1e3).round() / 1e3
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_course_is_made_of_differences() {
        let look = |seconds: f64, done, cpu| Look {
            seconds,
            done,
            done_at_ns: (seconds * 0.9e9) as u64,
            processes: vec![(cpu, 7)],
        };
        let subject = Subject { name: "server".to_owned(), pid: 1, is_tool: false };
        let looks = [look(1.0, 10, 0), look(1.5, 30, 250_000_000), look(1.5, 30, 1), look(2.5, 20, 0)];
        let course = course(&[subject], &looks, Vec::new());
        // Twenty in nine tenths of the half second between the looks.
        assert_eq!((course.seconds, course.per_second), (vec![1.5, 2.5], vec![44.0, 0.0]));
        assert_eq!(course.processes[0].cores, [0.5, 0.0]);
        assert_eq!(course.processes[0].resident_bytes, [7, 7]);
    }

    #[test]
    fn thinning_keeps_the_first_and_every_other() {
        let mut looks: Vec<Look> = (0..5).map(|at| Look { done: at, ..Look::default() }).collect();
        thin(&mut looks);
        assert_eq!(looks.iter().map(|look| look.done).collect::<Vec<_>>(), [0, 2, 4]);
    }

    #[tokio::test]
    async fn this_process_is_seen() {
        let subject = Subject { name: "tool".to_owned(), pid: std::process::id(), is_tool: false };
        let mut watch = Watch::begin(vec![subject], Arc::default());
        watch.enter("part");
        tokio::time::sleep(LOOK_EVERY * 3).await;
        assert!(watch.peak_bytes() > 0);
        let course = watch.course();
        assert!(course.spans[0].to.is_finite() && !course.processes[0].resident_bytes.is_empty());
    }
}
