//! Load scenarios for Socket.IO servers. It speaks to them through the client alone, so that Tidegate and any
//! other server are measured by the same tool; see `README.md` beside it for the method.

mod compare;
mod fanout;
mod fleet;
mod idle;
mod line;
mod meter;
mod offline;
mod process;
mod record;
mod redis;
mod seen;
mod stamp;
mod takeover;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use crate::record::{Record, append};

#[derive(Parser)]
#[command(
    name = "tidegate-loadtest",
    about = "Measures Socket.IO servers: fan-out, idle connections, sessions that move and durable messages"
)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// One publisher, one room, many subscribers: CPU per delivery, latency, order, loss.
    Fanout {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        options: fanout::Options,
    },
    /// Many connections that do nothing: resident memory per connection.
    Idle {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        options: idle::Options,
    },
    /// Users who log in on one node and then on the other: how fast a session moves, and what that costs Redis.
    Takeover {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        options: takeover::Options,
    },
    /// Messages to users who are away, who come back, and who are there: what storing and delivering cost Redis.
    Offline {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        options: offline::Options,
    },
    /// Prints the medians of recorded runs, and their ratio to a base.
    Compare {
        /// File that runs were appended to with `--json`.
        file: PathBuf,
        /// Label of the runs that the others are held against.
        #[arg(long, default_value = "stock")]
        base: String,
    },
}

/// What every scenario is told about the server and its record.
#[derive(Args, Clone)]
struct Target {
    /// The server, as http://host:port.
    #[arg(long)]
    url: String,
    /// Path that Engine.IO is served under.
    #[arg(long, default_value = "/socket.io/")]
    path: String,
    /// Process of the server, to be measured; repeat it for a server of several processes.
    #[arg(long = "pid")]
    pids: Vec<u32>,
    /// Connections that are opened at the same time.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    opening: u32,
    /// Threads of this tool.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// Name of the server in the record.
    #[arg(long, default_value = "server")]
    label: String,
    /// Appends the record to this file, one line of JSON per run.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tidegate-loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the scenario found the server sound.
fn run(cli: Cli) -> anyhow::Result<bool> {
    let (target, record) = match cli.scenario {
        Scenario::Fanout { target, options } => {
            let record = runtime(target.threads)?.block_on(fanout::run(&target, &options))?;
            (target, Record::Fanout(record))
        }
        Scenario::Idle { target, options } => {
            let record = runtime(target.threads)?.block_on(idle::run(&target, &options))?;
            (target, Record::Idle(record))
        }
        Scenario::Takeover { target, options } => {
            let record = runtime(target.threads)?.block_on(takeover::run(&target, &options))?;
            (target, Record::Takeover(Box::new(record)))
        }
        Scenario::Offline { target, options } => {
            let record = runtime(target.threads)?.block_on(offline::run(&target, &options))?;
            (target, Record::Offline(Box::new(record)))
        }
        Scenario::Compare { file, base } => {
            let lines = std::fs::read_to_string(&file).with_context(|| format!("failed to read {file:?}"))?;
            print!("{}", compare::table(&lines, &base)?);
            return Ok(true);
        }
    };
    println!("{record}");
    if let Some(file) = &target.json {
        append(file, &record)?;
    }
    Ok(record.is_sound())
}

fn runtime(threads: u32) -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = if threads == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    if threads > 1 {
        builder.worker_threads(threads as usize);
    }
    builder.enable_all().build().context("failed to start the runtime")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn no_two_settings_of_a_scenario_share_a_name() {
        Cli::command().debug_assert();
    }
}
