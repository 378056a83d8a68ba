//! What a run found, for people and for [`crate::compare`].

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::offline::Offline;
use crate::process::Cpu;
use crate::takeover::Takeover;

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "scenario", rename_all = "lowercase")]
pub(crate) enum Record {
    Fanout(Fanout),
    Idle(Idle),
    Takeover(Box<Takeover>),
    Offline(Box<Offline>),
}

/// One publisher, one room.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fanout {
    pub(crate) label: String,
    pub(crate) subscribers: u32,
    pub(crate) messages: u64,
    /// Length of the message's data; meta and framing come on top.
    pub(crate) bytes: usize,
    pub(crate) in_flight: u64,
    pub(crate) seconds: f64,
    pub(crate) deliveries: u64,
    pub(crate) deliveries_per_second: f64,
    /// CPU of the server's processes, absent without `--pid`.
    pub(crate) server_cpu: Option<Cpu>,
    pub(crate) server_us_per_delivery: Option<f64>,
    /// The tool's own CPU per delivery; with `seconds` it says whether the tool was the limit.
    pub(crate) load_us_per_delivery: f64,
    /// From the moment of the publish to the delivery.
    pub(crate) latency_us: Latency,
    /// Deliveries that something newer had overtaken.
    pub(crate) late: u64,
    /// Deliveries that had been made before.
    pub(crate) repeated: u64,
    /// Deliveries that never came.
    pub(crate) missing: u64,
    /// Subscribers whose connection ended.
    pub(crate) lost: u32,
    pub(crate) connect_seconds: f64,
    pub(crate) connect_cpu_us: Option<f64>,
}

/// How long something took, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Latency {
    /// For nanoseconds, from a microsecond to a minute at two digits: what is beyond counts as its end.
    pub(crate) fn histogram() -> anyhow::Result<Histogram<u64>> {
        Ok(Histogram::new_with_bounds(1000, 60_000_000_000, 2)?)
    }

    /// Of a histogram of nanoseconds.
    pub(crate) fn of(ns: &Histogram<u64>) -> Latency {
        let us = |ns: u64| ns as f64 / 1e3;
        Latency { p50: us(ns.value_at_quantile(0.5)), p99: us(ns.value_at_quantile(0.99)), max: us(ns.max()) }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {:.0} us, p99 {:.0} us, max {:.0} us", self.p50, self.p99, self.max)
    }
}

/// Connections that do nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Idle {
    pub(crate) label: String,
    pub(crate) connections: u32,
    pub(crate) before_bytes: u64,
    pub(crate) after_bytes: u64,
    pub(crate) bytes_per_connection: f64,
    pub(crate) connect_cpu_us: f64,
    pub(crate) connect_seconds: f64,
    /// Connections that ended meanwhile.
    pub(crate) lost: u32,
}

impl Record {
    /// Whether nothing was lost, repeated, out of order or refused.
    pub(crate) fn is_sound(&self) -> bool {
        match self {
            Record::Fanout(run) => run.late == 0 && run.repeated == 0 && run.missing == 0 && run.lost == 0,
            Record::Idle(run) => run.lost == 0,
            Record::Takeover(run) => run.is_sound(),
            Record::Offline(run) => run.is_sound(),
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Record::Fanout(run) => {
                writeln!(
                    f,
                    "{}: {} subscribers, {} messages of {} bytes, {} in flight",
                    run.label, run.subscribers, run.messages, run.bytes, run.in_flight
                )?;
                writeln!(
                    f,
                    "  {} deliveries in {:.2} s, {:.0} per second",
                    run.deliveries, run.seconds, run.deliveries_per_second
                )?;
                if let (Some(us), Some(cpu)) = (run.server_us_per_delivery, run.server_cpu) {
                    writeln!(
                        f,
                        "  server CPU {us:.3} us per delivery ({} ms user, {} ms system)",
                        cpu.user_ms, cpu.system_ms
                    )?;
                }
                writeln!(f, "  load CPU {:.3} us per delivery", run.load_us_per_delivery)?;
                writeln!(f, "  latency {}", run.latency_us)?;
                write!(f, "  connected in {:.2} s", run.connect_seconds)?;
                if let Some(us) = run.connect_cpu_us {
                    write!(f, ", server CPU {us:.0} us per connection")?;
                }
                let Fanout { late, repeated, missing, lost, .. } = run;
                write!(f, "\n  {late} late, {repeated} repeated, {missing} missing, {lost} subscribers lost")
            }
            Record::Idle(run) => {
                writeln!(
                    f,
                    "{}: {} idle connections, resident {} -> {} KiB, {:.0} bytes each",
                    run.label,
                    run.connections,
                    run.before_bytes / 1024,
                    run.after_bytes / 1024,
                    run.bytes_per_connection
                )?;
                write!(
                    f,
                    "  connected in {:.2} s, server CPU {:.0} us per connection, {} lost",
                    run.connect_seconds, run.connect_cpu_us, run.lost
                )
            }
            Record::Takeover(run) => run.fmt(f),
            Record::Offline(run) => run.fmt(f),
        }
    }
}

/// Adds one line to `file`.
pub(crate) fn append(file: &Path, record: &Record) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    let opened = OpenOptions::new().create(true).append(true).open(file);
    opened.and_then(|mut file| file.write_all(&line)).with_context(|| format!("failed to write {file:?}"))
}
