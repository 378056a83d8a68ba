//! What a run is doing, for whoever waits for it: a bar where stderr is a terminal, a line for each phase elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::record::number;

/// How the bar looks. `{msg}` is the phase.
const BAR: &str = "{msg} [{bar:32}] {pos}/{len} {per_sec} {eta}";
/// How it looks in a phase that lasts for a time, of which it shows tenths of seconds.
const TIMED: &str = "{msg} [{bar:32}] {eta}";

/// The bar, or its absence. Clones are of the same.
#[derive(Clone)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn new() -> Progress {
        Progress(ProgressBar::new(0))
    }

    /// A phase begins that is over after `total` of something.
    pub(crate) fn phase(&self, what: &str, total: u64) {
        self.begin(what, total, BAR);
    }

    /// A phase begins that is over after some time.
    pub(crate) fn timed(&self, what: &str, duration: Duration) {
        self.begin(what, tenths(duration), TIMED);
    }

    fn begin(&self, what: &str, total: u64, look: &str) {
        if self.0.is_hidden() {
            eprintln!("{what}");
            return;
        }
        self.0.reset();
        if let Ok(style) = ProgressStyle::with_template(look) {
            self.0.set_style(style.progress_chars("=> "));
        }
        self.0.set_message(what.to_owned());
        self.0.set_length(total);
    }

    /// So many are done.
    pub(crate) fn set(&self, done: u64) {
        self.0.set_position(done);
    }

    /// So much of the time has passed, and so many of something are done each second.
    pub(crate) fn pass(&self, what: &str, passed: Duration, per_second: f64) {
        if !self.0.is_hidden() {
            self.0.set_message(format!("{what}, {}/s", number(per_second)));
            self.0.set_position(tenths(passed));
        }
    }

    /// A line above the bar.
    pub(crate) fn say(&self, line: &str) {
        self.0.suspend(|| eprintln!("{line}"));
    }

    /// The bar goes away.
    pub(crate) fn end(&self) {
        self.0.finish_and_clear();
    }
}

fn tenths(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis() / 100).unwrap_or(u64::MAX)
}
