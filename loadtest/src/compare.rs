//! Medians of recorded runs side by side. Machines drift, so what counts is the ratio to a base measured in the
//! same minutes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Context as _;

use crate::pairs::Pairs;
use crate::record::Record;

/// All runs of a file.
pub(crate) struct Comparison {
    /// By what the runs are about.
    pub(crate) settings: BTreeMap<String, Setting>,
}

/// The runs of one setting.
#[derive(Default)]
pub(crate) struct Setting {
    /// By label, in the order of the file, and each with its figures by name in the order of the record.
    pub(crate) labels: Pairs<Pairs<Vec<f64>>>,
}

impl Comparison {
    /// Reads a file of records, one a line.
    pub(crate) fn read(lines: &str) -> anyhow::Result<Comparison> {
        let mut settings: BTreeMap<String, Setting> = BTreeMap::new();
        for (at, line) in lines.lines().enumerate() {
            let record: Record =
                serde_json::from_str(line).with_context(|| format!("line {} is no record", at + 1))?;
            let figures = entry(&mut settings.entry(record.setting()).or_default().labels, &record.label);
            for (name, figure) in record.figures.iter() {
                entry(figures, name).push(*figure);
            }
            let faults: u64 = record.faults.iter().map(|(_, count)| count).sum();
            entry(figures, "faults").push(faults as f64);
        }
        Ok(Comparison { settings })
    }

    /// A table of every setting and figure: the median per label, the number of runs, the ratio to `base`.
    pub(crate) fn table(&self, base: &str) -> anyhow::Result<String> {
        let mut out = String::new();
        for (setting, runs) in &self.settings {
            writeln!(out, "{setting}")?;
            for (label, figures) in runs.labels.iter() {
                for (name, values) in figures.iter() {
                    let middle = median(values);
                    write!(out, "  {label:<17} {name:<40} {middle:>14.3}  of {} runs", values.len())?;
                    match runs.ratio(label, name, base) {
                        Some(ratio) => writeln!(out, ", {ratio:.3} x {base}")?,
                        None => writeln!(out)?,
                    }
                }
            }
        }
        Ok(out)
    }
}

impl Setting {
    /// The figure of one label in terms of another's.
    pub(crate) fn ratio(&self, label: &str, figure: &str, base: &str) -> Option<f64> {
        let of = |label: &str| self.labels.get(label)?.get(figure).map(|values| median(values));
        let base_middle = of(base).filter(|middle| label != base && *middle != 0.0)?;
        Some(of(label)? / base_middle)
    }
}

/// What `pairs` have under this name; nothing, to begin with.
fn entry<'a, T: Default>(pairs: &'a mut Pairs<T>, name: &str) -> &'a mut T {
    let known = pairs.iter().position(|(found, _)| found == name);
    if known.is_none() {
        pairs.add(name, T::default());
    }
    let at = known.unwrap_or(pairs.0.len() - 1);
    &mut pairs.0[at].1
}

/// The middle of at least one figure; between the two in the middle when there is no single one.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { f64::midpoint(sorted[half - 1], sorted[half]) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn idle(label: &str, bytes_per_connection: f64) -> String {
        let mut record = Record::new("idle", label);
        record.setting.add("connections", "10");
        record.figures.add("resident bytes per connection", bytes_per_connection);
        record.figures.add("opening, seconds", 0.0);
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
        let table = Comparison::read(&lines).unwrap().table("stock").unwrap();
        let line = table.lines().find(|line| line.contains("ours") && line.contains("resident")).unwrap();
        assert!(line.ends_with("2.000  of 3 runs, 0.200 x stock"), "{line}");
        assert!(table.starts_with("idle, connections 10\n"), "{table}");
        assert!(!table.contains("NaN") && !table.contains("inf"), "{table}");
    }

    #[test]
    fn a_broken_line_is_named() {
        let error = Comparison::read(&(idle("a", 1.0) + "{}\n")).err().unwrap();
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
