//! The log: one event a line on stderr, as JSON or for people.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::Log;

/// Starts logging. May be called once per process; later calls change nothing.
pub fn start(log: &Log) {
    let filter = EnvFilter::builder().parse_lossy(&log.level);
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if log.json {
        // Fields stand beside the message, so that a collector needs no path to reach them.
        lines.json().flatten_event(true).with_current_span(false).try_init()
    } else {
        lines.with_ansi(std::io::stderr().is_terminal()).try_init()
    };
    if started.is_err() {
        tracing::debug!("logging had been started before");
    }
}
