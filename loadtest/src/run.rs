//! One run: the crew that holds the connections, what it costs, and its course.

use std::time::Duration;

use anyhow::bail;
use tokio::time::{Instant, sleep_until};

use crate::crew::Crew;
use crate::fleet::{capped, has_ports};
use crate::link::{Job, Order, Share};
use crate::meter::{Meter, Reading, Spent};
use crate::progress::Progress;
use crate::record::Record;
use crate::tally::Tally;
use crate::target::{Place, Target};
use crate::times::Latency;
use crate::watch::{Subject, Watch};

/// Connections that a process needs besides those of its share: a publisher, and pipes.
const BESIDE: u32 = 64;

/// What is measured besides the servers.
#[derive(Default)]
pub(crate) struct Beside {
    pub(crate) redis: Option<String>,
    pub(crate) redis_pid: Option<u32>,
}

/// A run whose connections are open.
pub(crate) struct Run<'a> {
    pub(crate) target: &'a Target,
    pub(crate) crew: Crew,
    pub(crate) meter: Meter,
    pub(crate) watch: Watch,
    pub(crate) progress: Progress,
    /// What opening the connections took.
    pub(crate) opening: Spent,
    /// How many connections there are.
    pub(crate) count: u32,
    /// Whether they are opened before anything is measured, and stay.
    pub(crate) has_connections: bool,
    /// The part that the load is judged by.
    measured: Spent,
}

/// A part of a run.
pub(crate) struct Phase {
    pub(crate) tally: Tally,
    pub(crate) spent: Spent,
}

impl<'a> Run<'a> {
    /// Opens `wanted` connections to `place`, or as many as can be, divided among the workers that `job` is for.
    pub(crate) async fn open(
        target: &'a Target,
        place: &Place,
        wanted: u32,
        beside: Beside,
        job: impl Fn(Share) -> Job,
    ) -> anyhow::Result<Run<'a>> {
        Run::open_groups(target, place, wanted, 1, beside, job).await
    }

    /// The same where so many connections each belong together and must not be divided: `job` is told of groups.
    pub(crate) async fn open_groups(
        target: &'a Target,
        place: &Place,
        groups: u32,
        members: u32,
        beside: Beside,
        job: impl Fn(Share) -> Job,
    ) -> anyhow::Result<Run<'a>> {
        let wanted = groups.saturating_mul(members);
        let count = capped(wanted, BESIDE, target.processes)? / members.max(1) * members;
        has_ports(count, place.pairs())?;
        if count == 0 {
            bail!("there is nothing to do: no connections");
        }
        let progress = Progress::new();
        let shares = Share::divide(count / members, target.processes);
        let jobs: Vec<Job> = shares.into_iter().map(job).collect();
        let servers_before = Meter::new(&target.pids, vec![std::process::id()], None, None)?.read()?;
        progress.phase(&format!("opening {count} connections"), count.into());
        let mut crew = Crew::hire(jobs, target.threads, target.processes > 1, &progress).await?;

        let tools: Vec<u32> = std::iter::once(std::process::id()).chain(crew.pids()).collect();
        let mut meter = Meter::new(&target.pids, tools.clone(), beside.redis.as_deref(), beside.redis_pid)?;
        let mut watch = Watch::begin(subjects(&target.pids, beside.redis_pid, &tools), crew.done().clone());
        watch.enter("opening");
        crew.carried_out().await?;
        watch.leave();
        let opening = meter.spent(&servers_before)?;
        Ok(Run {
            target,
            crew,
            meter,
            watch,
            progress,
            opening,
            count,
            has_connections: true,
            measured: Spent::default(),
        })
    }

    /// Lets the crew do what it is there for, for so long, and waits until what is under way has ended.
    pub(crate) async fn timed(&mut self, what: &str, seconds: f64) -> anyhow::Result<Phase> {
        let duration = Duration::from_secs_f64(seconds);
        self.progress.timed(what, duration);
        let before = self.start(what).await?;
        let (began, done_before) = (Instant::now(), self.crew.done().count());
        let mut shown = began;
        loop {
            tokio::select! {
                biased;
                () = sleep_until(began + duration) => break,
                event = self.crew.next() => { event?; }
            }
            if shown.elapsed() > Duration::from_millis(250) {
                shown = Instant::now();
                let done = self.crew.done().count().saturating_sub(done_before) as f64;
                self.progress.pass(what, began.elapsed(), done / began.elapsed().as_secs_f64());
            }
        }
        self.halt(&before).await
    }

    /// A part of the run begins, which has an end that the progress may show.
    pub(crate) async fn begin(&mut self, what: &str, total: u64) -> anyhow::Result<Reading> {
        self.progress.phase(what, total);
        self.start(what).await
    }

    async fn start(&mut self, what: &str) -> anyhow::Result<Reading> {
        let before = self.meter.read()?;
        self.watch.enter(what);
        self.crew.order(Order::Start).await?;
        Ok(before)
    }

    /// It ends.
    pub(crate) async fn halt(&mut self, before: &Reading) -> anyhow::Result<Phase> {
        let tally = self.crew.order(Order::Halt).await?;
        let spent = self.meter.spent(before)?;
        self.watch.leave();
        for why in &tally.told {
            self.progress.say(why);
        }
        self.measured = spent.clone();
        Ok(Phase { tally, spent })
    }

    /// The record, as far as it is the same for every scenario. The load was measured in the last part, or in `judged`.
    pub(crate) fn record(self, scenario: &str, judged: Option<&Spent>) -> Record {
        self.progress.end();
        let mut record = Record::new(scenario, &self.target.label);
        record.load = judged.unwrap_or(&self.measured).busyness(self.target.threads);
        record.course = self.watch.course();
        if self.has_connections {
            record.figures.add("opening, seconds", self.opening.seconds);
            if let Some(cpu) = self.opening.server() {
                record.figures.add("server CPU, us per connection", cpu.us_per(self.count.into()));
            }
        }
        record
    }
}

/// What runs of `count` of something have in common: how many and how fast, at what cost, and how long each took.
pub(crate) fn rates(record: &mut Record, spent: &Spent, count: u64, many: &str, one: &str) {
    record.figures.add("seconds", spent.seconds);
    record.figures.add(many, count as f64);
    let per_second = if spent.seconds > 0.0 { count as f64 / spent.seconds } else { 0.0 };
    record.figures.add(format!("{many} per second"), per_second);
    if let Some(cpu) = spent.server() {
        record.figures.add(format!("server CPU, us per {one}"), cpu.us_per(count));
        let all = (cpu.user_ms + cpu.system_ms).max(1) as f64;
        record.figures.add("server CPU, share of the kernel", cpu.system_ms as f64 / all);
        for (at, share) in spent.threads.iter().enumerate().filter(|_| spent.threads.len() > 1) {
            record.figures.add(format!("server thread {}, share of its CPU", at + 1), *share);
        }
    }
    record.figures.add(format!("load CPU, us per {one}"), spent.load().us_per(count));
}

/// The latency of a phase, and the failures that every scenario has.
pub(crate) fn outcome(record: &mut Record, tally: &Tally) {
    record.took("latency", Latency::of(&tally.took));
    record.faults.add("lost connections", tally.lost);
}

/// Parses how many of something there are to be in a second.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.01..=1_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("a number from 0.01 to 1000000".to_owned()),
    }
}

/// Parses how long something lasts.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number from 0 to 3600".to_owned()),
    }
}

/// Everything that is looked at, by name.
pub(crate) fn subjects(servers: &[u32], redis: Option<u32>, tools: &[u32]) -> Vec<Subject> {
    let mut all = Vec::new();
    let mut add = |name: String, pid: u32, is_tool| all.push(Subject { name, pid, is_tool });
    for (at, &pid) in servers.iter().enumerate() {
        add(if servers.len() == 1 { "server".to_owned() } else { node(at) }, pid, false);
    }
    if let Some(pid) = redis {
        add("Redis".to_owned(), pid, false);
    }
    for (at, &pid) in tools.iter().enumerate() {
        let name = if at == 0 { "load tool".to_owned() } else { format!("load worker {at}") };
        add(name, pid, true);
    }
    all
}

/// The name of the server's process number `at`.
pub(crate) fn node(at: usize) -> String {
    match u8::try_from(at) {
        Ok(at @ 0..26) => format!("node {}", char::from(b'A' + at)),
        _ => format!("node {}", at + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_have_names() {
        let names = |servers: &[u32], redis, tools: &[u32]| {
            subjects(servers, redis, tools).into_iter().map(|subject| subject.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&[1], None, &[2]), ["server", "load tool"]);
        assert_eq!(
            names(&[1, 2], Some(3), &[4, 5]),
            ["node A", "node B", "Redis", "load tool", "load worker 1"]
        );
        assert_eq!(node(26), "node 27");
    }

    #[test]
    fn rates_are_of_the_whole_phase() {
        let mut record = Record::default();
        let spent = Spent { seconds: 2.0, ..Spent::default() };
        rates(&mut record, &spent, 10, "deliveries", "delivery");
        assert_eq!(record.figures.get("deliveries per second"), Some(&5.0));
        assert_eq!(record.figures.get("server CPU, us per delivery"), None);
        assert_eq!(record.figures.get("load CPU, us per delivery"), Some(&0.0));
    }
}
