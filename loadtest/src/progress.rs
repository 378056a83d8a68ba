//! What a run is doing, for whoever waits for it: a bar where stderr is a terminal, a line for each phase elsewhere.

use indicatif::{ProgressBar, ProgressStyle};

/// How the bar looks. `{msg}` is the phase.
const BAR: &str = "{msg} [{bar:32}] {pos}/{len} {per_sec} {eta}";

/// The bar, or its absence. Clones are of the same.
#[derive(Clone)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn new() -> Progress {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template(BAR) {
            bar.set_style(style.progress_chars("=> "));
        }
        Progress(bar)
    }

    /// A phase begins that is over after `total` of something.
    pub(crate) fn phase(&self, what: &str, total: u64) {
        if self.0.is_hidden() {
            eprintln!("{what}");
            return;
        }
        self.0.set_message(what.to_owned());
        self.0.set_length(total);
        self.0.reset();
    }

    /// So many are done.
    pub(crate) fn set(&self, done: u64) {
        self.0.set_position(done);
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
