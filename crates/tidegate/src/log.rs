//! The log: one event a line on stderr, as JSON or for people.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, OnceLock};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::Log;

/// Starts logging. May be called once per process; later calls change nothing.
///
/// What it returns names the node that the process runs, once that is known: it stands in every line of JSON from then on.
pub fn start(log: &Log) -> Name {
    let name = Name::default();
    let filter = EnvFilter::builder().parse_lossy(&log.level);
    let lines = tracing_subscriber::fmt().with_env_filter(filter);
    let started = if log.json {
        // Fields stand beside the message, so that a collector needs no path to reach them.
        lines.json().flatten_event(true).with_current_span(false).with_writer(name.clone()).try_init()
    } else {
        lines.with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).try_init()
    };
    if started.is_err() {
        tracing::debug!("logging had been started before");
    }
    name
}

/// The node that lines are about.
#[derive(Clone, Default)]
pub struct Name(Arc<OnceLock<String>>);

impl Name {
    /// Names it. The first name stays.
    pub fn set(&self, node: &str) {
        // It is set by the one who starts the node, once.
        let _ = self.0.set(format!("{{\"node\":{},", serde_json::Value::from(node)));
    }
}

impl<'a> MakeWriter<'a> for Name {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { head: self.0.get().map(String::as_str) }
    }
}

/// One line on its way to stderr: the subscriber writes each in one piece.
pub struct Line<'a> {
    /// What a line begins with instead of a brace.
    head: Option<&'a str>,
}

impl Line<'_> {
    fn named<'b>(&self, line: &'b [u8]) -> Option<(&str, &'b [u8])> {
        let names_one = line.windows(FIELD.len()).any(|part| part == FIELD);
        // An event may be about another node, and then says so.
        Some((self.head.filter(|_| !names_one)?, line.strip_prefix(b"{")?))
    }
}

/// How a line that names a node does it.
const FIELD: &[u8] = b"\"node\":";

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut stderr = io::stderr().lock();
        match self.named(line) {
            // In one write, since other processes may share the file.
            Some((head, rest)) => stderr.write_all(&[head.as_bytes(), rest].concat())?,
            None => stderr.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_its_node_once() {
        let name = Name::default();
        assert_eq!(name.make_writer().named(b"{\"message\":\"early\"}\n"), None);
        name.set("gw-\"1\"");
        name.set("later");
        let line = name.make_writer();
        let head = "{\"node\":\"gw-\\\"1\\\"\",";
        assert_eq!(line.named(b"{\"message\":\"m\"}\n"), Some((head, &b"\"message\":\"m\"}\n"[..])));
        assert_eq!(line.named(b"{\"message\":\"m\",\"node\":\"other\"}\n"), None);
        assert_eq!(line.named(b"for people"), None);
    }
}
