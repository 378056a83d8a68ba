//! Medians of recorded runs side by side. Machines drift, so what counts is the ratio to a base measured in the
//! same minutes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Context as _;

use crate::record::Record;

/// The figures of one label in one setting, by name.
type Figures = BTreeMap<String, Vec<f64>>;

/// A table of every setting and figure: the median per label, the number of runs, the ratio to `base`.
pub(crate) fn table(lines: &str, base: &str) -> anyhow::Result<String> {
    let mut settings: BTreeMap<String, BTreeMap<String, Figures>> = BTreeMap::new();
    for (at, line) in lines.lines().enumerate() {
        let record: Record =
            serde_json::from_str(line).with_context(|| format!("line {} is no record", at + 1))?;
        let (setting, label, figures) = figures(record);
        let slot = settings.entry(setting).or_default().entry(label).or_default();
        for (name, figure) in figures {
            slot.entry(name).or_default().push(figure);
        }
    }

    let mut out = String::new();
    for (setting, labels) in &settings {
        writeln!(out, "{setting}")?;
        for (label, figures) in labels {
            for (name, values) in figures {
                let middle = median(values);
                write!(out, "  {label:<17} {name:<40} {middle:>14.3}  of {} runs", values.len())?;
                let base_values = labels.get(base).filter(|_| label != base).and_then(|base| base.get(name));
                match base_values.map(|values| median(values)) {
                    Some(base_middle) if base_middle != 0.0 => {
                        writeln!(out, ", {:.3} x {base}", middle / base_middle)?;
                    }
                    _ => writeln!(out)?,
                }
            }
        }
    }
    Ok(out)
}

/// What a record is about, whose it is, and its figures.
fn figures(record: Record) -> (String, String, Vec<(String, f64)>) {
    let named = |figures: Vec<(&str, f64)>| {
        figures.into_iter().map(|(name, figure)| (name.to_owned(), figure)).collect()
    };
    match record {
        Record::Fanout(run) => {
            let setting = format!(
                "fanout, {} subscribers, {} bytes, {} in flight",
                run.subscribers, run.bytes, run.in_flight
            );
            let mut figures = vec![
                ("deliveries per second", run.deliveries_per_second),
                ("load CPU, us per delivery", run.load_us_per_delivery),
                ("latency p50, us", run.latency_us.p50),
                ("latency p99, us", run.latency_us.p99),
                ("late", run.late as f64),
                ("missing, repeated or lost", (run.missing + run.repeated + u64::from(run.lost)) as f64),
            ];
            figures.extend(run.server_us_per_delivery.map(|us| ("server CPU, us per delivery", us)));
            figures.extend(run.connect_cpu_us.map(|us| ("server CPU, us per connection", us)));
            (setting, run.label, named(figures))
        }
        Record::Idle(run) => {
            let figures = vec![
                ("resident bytes per connection", run.bytes_per_connection),
                ("server CPU, us per connection", run.connect_cpu_us),
                ("missing, repeated or lost", f64::from(run.lost)),
            ];
            (format!("idle, {} connections", run.connections), run.label, named(figures))
        }
        Record::Takeover(run) => (run.setting(), run.label.clone(), run.figures()),
        Record::Offline(run) => (run.setting(), run.label.clone(), run.figures()),
    }
}

/// The middle of at least one figure; between the two in the middle when there is no single one.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { f64::midpoint(sorted[half - 1], sorted[half]) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::record::Idle;

    fn idle(label: &str, bytes_per_connection: f64) -> String {
        let record = Record::Idle(Idle {
            label: label.to_owned(),
            connections: 10,
            before_bytes: 0,
            after_bytes: 0,
            bytes_per_connection,
            connect_cpu_us: 0.0,
            connect_seconds: 0.0,
            lost: 0,
        });
        serde_json::to_string(&record).unwrap() + "\n"
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), 3.0);
    }

    #[test]
    fn runs_are_gathered_by_label_and_held_against_the_base() {
        let lines = [idle("ours", 1.0), idle("stock", 10.0), idle("ours", 3.0), idle("ours", 2.0)].concat();
        let table = table(&lines, "stock").unwrap();
        let line = table.lines().find(|line| line.contains("ours") && line.contains("resident")).unwrap();
        assert!(line.ends_with("2.000  of 3 runs, 0.200 x stock"), "{line}");
        assert!(!table.contains("NaN") && !table.contains("inf"), "{table}");
    }

    #[test]
    fn a_broken_line_is_named() {
        let error = table(&(idle("a", 1.0) + "{}\n"), "a").unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
