//! How long something took, many times: counted, added up over processes, and read as percentiles.

use hdrhistogram::Histogram;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// From a microsecond to a minute. What is beyond counts as its end.
const NS_MIN: u64 = 1000;
const NS_MAX: u64 = 60_000_000_000;
/// Two digits: an error of one per cent, and a histogram that fits in a cache.
const DIGITS: u8 = 2;
/// Percentiles that a latency is told by. Those that need more values than there are, are left out.
const PERCENTILES: [f64; 16] =
    [0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9, 99.95, 99.99, 99.995, 99.999];
/// Bars of the distribution for each power of ten.
const BARS_PER_DECADE: f64 = 12.0;

/// A histogram of nanoseconds.
#[derive(Debug, Clone)]
pub(crate) struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Times {
        Times(Histogram::new_with_bounds(NS_MIN, NS_MAX, DIGITS).expect("these bounds make a histogram"))
    }
}

impl Times {
    pub(crate) fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    pub(crate) fn add(&mut self, other: &Times) {
        self.0.add(&other.0).expect("all histograms have the same bounds");
    }

    pub(crate) fn len(&self) -> u64 {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Between processes: each value that occurs, and how often.
impl Serialize for Times {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let values = self.0.iter_recorded();
        serializer.collect_seq(values.map(|value| (value.value_iterated_to(), value.count_at_value())))
    }
}

impl<'de> Deserialize<'de> for Times {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Times, D::Error> {
        let mut times = Times::default();
        for (ns, count) in Vec::<(u64, u64)>::deserialize(deserializer)? {
            times.0.saturating_record_n(ns, count);
        }
        Ok(times)
    }
}

/// What a histogram says, in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
    /// Percentile and value.
    pub(crate) percentiles: Vec<(f64, f64)>,
    /// Upper end and count of each bar, on a logarithmic scale; empty bars at either end are left out.
    pub(crate) bars: Vec<(f64, u64)>,
}

impl Latency {
    pub(crate) fn of(times: &Times) -> Latency {
        let us = |ns: u64| ns as f64 / 1e3;
        let at = |percentile: f64| us(times.0.value_at_quantile(percentile / 100.0));
        let count = times.len();
        let is_known = |percentile: &f64| (1.0 - percentile / 100.0) * count as f64 >= 0.999;
        let mut percentiles: Vec<_> = PERCENTILES.into_iter().filter(is_known).map(|p| (p, at(p))).collect();
        if count > 0 {
            percentiles.push((100.0, us(times.0.max())));
        }
        Latency {
            count,
            p50: at(50.0),
            p99: at(99.0),
            max: us(times.0.max()),
            percentiles,
            bars: bars(times),
        }
    }

    /// The figures by name.
    pub(crate) fn figures(&self, name: &str) -> Vec<(String, f64)> {
        let named = [("p50", self.p50), ("p99", self.p99), ("max", self.max)];
        named.into_iter().map(|(what, us)| (format!("{name} {what}, us"), us)).collect()
    }
}

fn bars(times: &Times) -> Vec<(f64, u64)> {
    let bar_of = |ns: u64| ((ns as f64 / 1e3).max(0.1).log10() * BARS_PER_DECADE).ceil() as i32;
    let mut bars: Vec<(i32, u64)> = Vec::new();
    for value in times.0.iter_recorded() {
        let bar = bar_of(value.value_iterated_to());
        match bars.last_mut() {
            Some((last, count)) if *last == bar => *count += value.count_at_value(),
            _ => {
                let next = bars.last().map_or(bar, |(last, _)| last + 1);
                bars.extend((next..bar).map(|between| (between, 0)));
                bars.push((bar, value.count_at_value()));
            }
        }
    }
    bars.into_iter().map(|(bar, count)| (10f64.powf(f64::from(bar) / BARS_PER_DECADE), count)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;

    use super::*;

    fn times(values: &[u64]) -> Times {
        let mut times = Times::default();
        values.iter().for_each(|&ns| times.record(ns));
        times
    }

    proptest! {
        #[test]
        fn what_crosses_a_pipe_and_is_added_up_is_as_if_it_had_been_counted_in_one_place(
            first in proptest::collection::vec(0u64..100_000_000_000, 0..50),
            second in proptest::collection::vec(0u64..100_000_000, 0..50),
        ) {
            let mut sum: Times = serde_json::from_str(&serde_json::to_string(&times(&first)).unwrap()).unwrap();
            sum.add(&times(&second));
            let all = times(&[first, second].concat());
            prop_assert_eq!(sum.0.iter_recorded().collect::<Vec<_>>(), all.0.iter_recorded().collect::<Vec<_>>());
            let latency = Latency::of(&all);
            prop_assert_eq!(latency.bars.iter().map(|(_, count)| count).sum::<u64>(), all.len());
            prop_assert!(latency.bars.is_sorted_by(|a, b| a.0 < b.0));
            prop_assert!(latency.percentiles.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1));
        }
    }

    #[test]
    fn percentiles_reach_as_far_as_there_are_values() {
        let rows = |count: u64| {
            Latency::of(&times(&(1..=count).map(|at| at * 1000).collect::<Vec<_>>())).percentiles
        };
        assert_eq!(rows(0), []);
        let of_ten: Vec<_> = rows(10).into_iter().map(|(percentile, _)| percentile).collect();
        assert_eq!(of_ten, [0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 100.0]);
        let of_thousand = rows(1000);
        assert_eq!(of_thousand[of_thousand.len() - 2].0, 99.9);
        let p99 = of_thousand.iter().find(|(percentile, _)| *percentile == 99.0).unwrap().1;
        assert!((p99 - 990.0).abs() <= 10.0, "{p99}");
    }
}
