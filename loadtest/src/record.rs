//! What a run found: for people a table, for programs a line of JSON, and for both a page.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::meter::Busyness;
use crate::pairs::Pairs;
use crate::times::Latency;
use crate::watch::Course;

/// One run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) scenario: String,
    /// The server's name.
    pub(crate) label: String,
    /// When it ended, in UTC.
    pub(crate) at: String,
    /// What was typed.
    pub(crate) command: String,
    /// What runs must have in common to be held against each other.
    pub(crate) setting: Pairs<String>,
    pub(crate) figures: Pairs<f64>,
    /// What must not be: all of these are zero in a sound run.
    pub(crate) faults: Pairs<u64>,
    /// What is worth knowing besides.
    #[serde(default)]
    pub(crate) notes: Vec<String>,
    pub(crate) latency: Pairs<Latency>,
    #[serde(default)]
    pub(crate) load: Busyness,
    #[serde(default)]
    pub(crate) course: Course,
}

impl Record {
    pub(crate) fn new(scenario: &str, label: &str) -> Record {
        Record {
            scenario: scenario.to_owned(),
            label: label.to_owned(),
            at: utc(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())),
            command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
            ..Record::default()
        }
    }

    /// A latency: its plots and its figures.
    pub(crate) fn took(&mut self, name: &str, latency: Latency) {
        self.figures.extend(latency.figures(name));
        self.latency.add(name, latency);
    }

    /// What must not be, as far as it was.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let found = self.faults.iter().filter(|(_, count)| **count > 0);
        found.map(|(name, count)| format!("{count} {name}")).collect()
    }

    /// Whether nothing was lost, repeated, out of order or refused.
    pub(crate) fn is_sound(&self) -> bool {
        self.faults.iter().all(|(_, count)| *count == 0)
    }

    /// What runs must have in common to be held against each other, as one line.
    pub(crate) fn setting(&self) -> String {
        let setting = self.setting.iter().map(|(name, value)| format!(", {name} {value}"));
        self.scenario.clone() + &setting.collect::<String>()
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.label, self.setting())?;
        let rows: Vec<_> = self.figures.iter().map(|(name, figure)| (name, number(*figure))).collect();
        let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, figure) in rows {
            writeln!(f, "  {name:<width$}  {figure:>14}")?;
        }
        for note in &self.notes {
            writeln!(f, "  {note}")?;
        }
        writeln!(f, "  {}", self.load)?;
        if self.is_sound() {
            let names: Vec<_> = self.faults.iter().map(|(name, _)| name).collect();
            write!(f, "  sound: none {}", names.join(", none "))
        } else {
            write!(f, "  NOT SOUND: {}", self.reasons().join(", "))
        }
    }
}

/// A figure for people: thousands apart, and as many digits as mean something.
pub(crate) fn number(figure: f64) -> String {
    let digits = match figure.abs() {
        size if size >= 100.0 || figure.fract() == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    let plain = format!("{figure:.digits$}");
    let (whole, rest) = plain.split_at(plain.find('.').unwrap_or(plain.len()));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("-", whole));
    let mut grouped = String::from(sign);
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

/// A moment in UTC, to the minute.
fn utc(unix_seconds: u64) -> String {
    let (mut days, minutes) = (unix_seconds / 86_400, unix_seconds % 86_400 / 60);
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02} {:02}:{:02} UTC", days + 1, minutes / 60, minutes % 60)
}

/// Adds one line to `file`.
pub(crate) fn append(file: &Path, record: &Record) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    let opened = OpenOptions::new().create(true).append(true).open(file);
    opened.and_then(|mut file| file.write_all(&line)).with_context(|| format!("failed to write {file:?}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn figures_are_readable() {
        let shown = [0.0, 0.1234, 1.0, 9.876, 12.34, 999.9, 1234.5, -1_234_567.0, 1e9].map(number);
        assert_eq!(
            shown,
            ["0", "0.123", "1", "9.88", "12.3", "1,000", "1,234", "-1,234,567", "1,000,000,000"]
        );
    }

    #[test]
    fn dates_know_leap_years() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_400 + 3_660), "2000-02-29 01:01 UTC");
        assert_eq!(utc(1_798_761_599), "2026-12-31 23:59 UTC");
    }

    #[test]
    fn a_run_is_told_with_its_faults() {
        let mut record = Record::new("fanout", "tidegate");
        record.setting.add("subscribers", "2");
        record.figures.add("deliveries per second", 1234.0);
        record.faults.add("late", 0u64);
        let text = record.to_string();
        assert!(text.starts_with("tidegate: fanout, subscribers 2\n") && text.contains("1,234"), "{text}");
        assert!(record.is_sound() && text.ends_with("sound: none late"), "{text}");
        record.faults.add("missing", 3u64);
        assert!(!record.is_sound() && record.to_string().ends_with("NOT SOUND: 3 missing"));
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
    }
}
