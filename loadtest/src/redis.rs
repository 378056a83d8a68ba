//! What Redis says it has done, by the one command that tells: INFO.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

/// How long Redis may take for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// INFO of every section.
const QUESTION: &[u8] = b"*2\r\n$4\r\nINFO\r\n$3\r\nall\r\n";
/// INFO with everything it has is a few kilobytes; what claims to be more than this is something else.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Fewer calls of a command than this for each of something, or in a second, are not printed.
const CALLS_SHOWN_MIN: f64 = 0.005;

/// A connection of its own. It blocks: it is asked between the measured parts only, when the tool has nothing else
/// to do.
pub(crate) struct Redis {
    stream: BufReader<TcpStream>,
}

/// What a server has counted since it started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Calls by command, those of scripts included; INFO itself, which only this tool calls, is left out.
    calls: BTreeMap<String, u64>,
    /// User and system time of the whole process.
    cpu_us: u64,
    /// Memory it has allocated, in bytes.
    pub(crate) used_bytes: u64,
}

/// What it has done in some time, or for each of some number of things.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// Calls by command, those of scripts included.
    pub(crate) calls: BTreeMap<String, f64>,
    /// Time on a core, in microseconds.
    pub(crate) cpu_us: f64,
}

impl Redis {
    /// Connects to `redis://host:port`. Passwords and TLS are not supported.
    pub(crate) fn connect(url: &str) -> anyhow::Result<Redis> {
        let address = url.strip_prefix("redis://").map(|rest| rest.trim_end_matches('/'));
        let address = address.with_context(|| format!("not of the form redis://host:port: {url}"))?;
        let stream = TcpStream::connect(address).with_context(|| format!("failed to reach {url}"))?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(Redis { stream: BufReader::new(stream) })
    }

    pub(crate) fn counts(&mut self) -> anyhow::Result<Counts> {
        let info = self.info().context("failed to ask Redis for INFO")?;
        counts(&info).context("unreadable INFO of Redis")
    }

    /// One command with a bulk string for an answer, in RESP 2.
    fn info(&mut self) -> anyhow::Result<String> {
        self.stream.get_mut().write_all(QUESTION)?;
        let mut head = String::new();
        self.stream.by_ref().take(1024).read_line(&mut head)?;
        let head = head.trim_end();
        let Some(Ok(bytes)) = head.strip_prefix('$').map(str::parse::<usize>) else {
            bail!("the answer is {head:?}");
        };
        if bytes > ANSWER_BYTES_MAX {
            bail!("the answer has {bytes} bytes");
        }
        let mut body = vec![0; bytes + 2];
        self.stream.read_exact(&mut body)?;
        body.truncate(bytes);
        Ok(String::from_utf8(body)?)
    }
}

/// Reads INFO: lines of `name:value`.
fn counts(info: &str) -> Option<Counts> {
    let field = |name: &str| {
        let mut lines = info.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(found, _)| *found == name).map(|(_, value)| value.trim_end())
    };
    let seconds = |name| field(name)?.parse::<f64>().ok();
    let calls = info.lines().filter_map(|line| {
        let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(':')?;
        let calls = figures.strip_prefix("calls=")?.split(',').next()?.parse().ok()?;
        (name != "info").then(|| (name.to_owned(), calls))
    });
    Some(Counts {
        calls: calls.collect(),
        cpu_us: ((seconds("used_cpu_user")? + seconds("used_cpu_sys")?) * 1e6).round() as u64,
        used_bytes: field("used_memory")?.parse().ok()?,
    })
}

impl Counts {
    /// What was done since `before`.
    pub(crate) fn since(&self, before: &Counts) -> Cost {
        let calls = self.calls.iter().filter_map(|(name, calls)| {
            let more = calls.saturating_sub(before.calls.get(name).copied().unwrap_or(0));
            (more > 0).then(|| (name.clone(), more as f64))
        });
        Cost { calls: calls.collect(), cpu_us: self.cpu_us.saturating_sub(before.cpu_us) as f64 }
    }
}

impl Cost {
    /// Calls of all commands together.
    pub(crate) fn calls_total(&self) -> f64 {
        // Not `sum`, which makes a negative zero of no calls.
        self.calls.values().fold(0.0, |total, calls| total + calls)
    }

    /// The share of one of `count`; nothing of nothing.
    pub(crate) fn per(&self, count: f64) -> Cost {
        if count <= 0.0 {
            return Cost::default();
        }
        let calls = self.calls.iter().map(|(name, calls)| (name.clone(), calls / count));
        Cost { calls: calls.collect(), cpu_us: self.cpu_us / count }
    }

    /// What is left when `seconds` of `each_second` are taken off.
    pub(crate) fn less(&self, each_second: &Cost, seconds: f64) -> Cost {
        let left = |all: f64, each: f64| (all - each * seconds).max(0.0);
        let calls = self.calls.iter().map(|(name, &calls)| {
            let each = each_second.calls.get(name).copied().unwrap_or(0.0);
            (name.clone(), left(calls, each))
        });
        Cost { calls: calls.collect(), cpu_us: left(self.cpu_us, each_second.cpu_us) }
    }

    /// The figures by name.
    pub(crate) fn figures(&self) -> Vec<(String, f64)> {
        let mut figures = vec![
            ("Redis CPU, us".to_owned(), self.cpu_us),
            ("Redis commands".to_owned(), self.calls_total()),
        ];
        figures.extend(self.shown().map(|(name, calls)| (format!("Redis {name}"), calls)));
        figures
    }

    fn shown(&self) -> impl Iterator<Item = (&String, f64)> {
        let calls = self.calls.iter().map(|(name, &calls)| (name, calls));
        calls.filter(|(_, calls)| *calls >= CALLS_SHOWN_MIN)
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis CPU {:.1} us, {:.2} commands", self.cpu_us, self.calls_total())?;
        for (at, (name, calls)) in self.shown().enumerate() {
            write!(f, "{}{name} {calls:.2}", if at == 0 { " (" } else { ", " })?;
        }
        if self.shown().next().is_some() { write!(f, ")") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::net::TcpListener;
    use std::thread;

    use super::*;

    const INFO: &str = "# Memory\r\nused_memory:1048576\r\nused_memory_human:1.00M\r\n\r\n\
        # CPU\r\nused_cpu_sys:0.250000\r\nused_cpu_user:1.500001\r\nused_cpu_sys_children:9.0\r\n\r\n\
        # Commandstats\r\ncmdstat_evalsha:calls=12,usec=30,usec_per_call=2.5,rejected_calls=0,failed_calls=0\r\n\
        cmdstat_script|load:calls=3,usec=1,usec_per_call=0.33\r\ncmdstat_info:calls=4,usec=9\r\n";

    fn cost(calls: &[(&str, f64)], cpu_us: f64) -> Cost {
        Cost { calls: calls.iter().map(|(name, calls)| ((*name).to_owned(), *calls)).collect(), cpu_us }
    }

    #[test]
    fn info_is_read_without_our_own_calls() {
        let counts = counts(INFO).unwrap();
        assert_eq!(
            counts.calls.iter().map(|(name, &calls)| (name.as_str(), calls)).collect::<Vec<_>>(),
            [("evalsha", 12), ("script|load", 3)]
        );
        assert_eq!((counts.cpu_us, counts.used_bytes), (1_750_001, 1_048_576));
        assert_eq!(super::counts("# Memory\r\nused_memory:1\r\n"), None);
    }

    #[test]
    fn a_cost_is_a_difference_without_what_happens_anyway() {
        let before = counts(INFO).unwrap();
        let after = INFO.replace("calls=12", "calls=112").replace("1.500001", "1.600001");
        let cost_all = counts(&after).unwrap().since(&before);
        assert_eq!(cost_all, cost(&[("evalsha", 100.0)], 100_000.0));
        let left = cost_all.less(&cost(&[("evalsha", 10.0), ("publish", 1.0)], 5000.0), 2.0);
        assert_eq!(left.per(40.0), cost(&[("evalsha", 2.0)], 2250.0));
        assert_eq!(left.less(&cost(&[("evalsha", 1000.0)], 1e9), 1.0), cost(&[("evalsha", 0.0)], 0.0));
        assert_eq!(left.per(0.0), Cost::default());
        assert_eq!(format!("{}", Cost::default().calls_total()), "0");
    }

    /// Asks a server that answers the first question with `answer`.
    fn asked(answer: &'static str) -> anyhow::Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}/", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = [0; QUESTION.len()];
            stream.read_exact(&mut question[..1]).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            // The rest of the question is read so that closing does not reset the answer.
            let _ = stream.read_exact(&mut question[1..]);
        });
        let info = Redis::connect(&url).unwrap().info();
        server.join().unwrap();
        info
    }

    #[test]
    fn an_answer_is_a_bulk_string() {
        assert_eq!(asked("$6\r\na:b\r\nc\r\n").unwrap(), "a:b\r\nc");
        for wrong in ["-NOAUTH Authentication required.\r\n", "$99999999\r\n", "$3\r\nab", ""] {
            asked(wrong).unwrap_err();
        }
        assert!(asked("-NOAUTH no\r\n").unwrap_err().to_string().contains("NOAUTH"));
        assert!(Redis::connect("localhost:6379").is_err());
    }
}
