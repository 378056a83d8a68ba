//! Load scenarios for Socket.IO servers. It speaks to them through the client alone, so that Tidegate and any
//! other server are measured by the same tool; see `README.md` beside it for the method.
//!
//! Layout: `cli`, `preset` and `target` are what is asked for. A scenario (`idle`, `fanout`, `rooms`, `acks`, `churn`,
//! `slow`, `crossnode`, `takeover`, `offline`) drives a `run`, whose connections a `crew` holds: `worker`s in this process or
//! in others, reached over a `link`. `audience` and `broadcast` are what scenarios with one publisher share. `tally`,
//! `times`, `meter` and `watch` are what is found; `record`, `compare` and `report` are what is made of it.

mod acks;
mod audience;
mod broadcast;
mod churn;
mod cli;
mod clock;
mod compare;
mod crew;
mod crossnode;
mod fanout;
mod fleet;
mod gate;
mod idle;
mod line;
mod link;
mod meter;
mod offline;
mod pairs;
mod preset;
mod process;
mod progress;
mod record;
mod redis;
mod report;
mod rooms;
mod run;
mod seen;
mod slow;
mod stamp;
mod takeover;
mod tally;
mod target;
mod threads;
mod times;
mod watch;
mod worker;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser as _};

use crate::cli::{Cli, Scenario};
use crate::record::{Record, append};
use crate::target::Target;

fn main() -> ExitCode {
    match run(Cli::parse().scenario) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tidegate-loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the scenario found the server sound.
fn run(scenario: Scenario) -> anyhow::Result<bool> {
    // As many open files as the system allows. Where it cannot be told, the limit is what it is.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    match scenario {
        Scenario::Idle { target, options } => measure(&target, idle::run(&target, &options)),
        Scenario::Fanout { target, options } => measure(&target, fanout::run(&target, &options)),
        Scenario::Rooms { target, options } => measure(&target, rooms::run(&target, &options)),
        Scenario::Acks { target, options } => measure(&target, acks::run(&target, &options)),
        Scenario::Churn { target, options } => measure(&target, churn::run(&target, &options)),
        Scenario::Slow { target, options } => measure(&target, slow::run(&target, &options)),
        Scenario::Crossnode { target, options } => measure(&target, crossnode::run(&target, &options)),
        Scenario::Takeover { target, options } => measure(&target, takeover::run(&target, &options)),
        Scenario::Offline { target, options } => measure(&target, offline::run(&target, &options)),
        Scenario::Run { file, settings } => {
            let text = read(&file)?;
            let arguments = preset::arguments(&text, &settings, &Cli::command())
                .with_context(|| format!("{} cannot be run", file.display()))?;
            let program = std::env::args().take(1);
            run(Cli::try_parse_from(program.chain(arguments)).unwrap_or_else(|error| error.exit()).scenario)
        }
        Scenario::Compare { file, base, report } => {
            let comparison = compare::Comparison::read(&read(&file)?)?;
            print!("{}", comparison.table(&base)?);
            if let Some(page) = report {
                write(&page, &report::comparison(&comparison, &base)?)?;
            }
            Ok(true)
        }
        Scenario::Worker { threads } => runtime(threads)?.block_on(worker::serve()).map(|()| true),
    }
}

/// Runs a scenario, and tells what it has found.
fn measure(target: &Target, scenario: impl Future<Output = anyhow::Result<Record>>) -> anyhow::Result<bool> {
    let record = runtime(target.threads)?.block_on(scenario)?;
    println!("{record}");
    if let Some(file) = &target.json {
        append(file, &record)?;
    }
    if let Some(page) = &target.report {
        write(page, &report::page(&record)?)?;
    }
    Ok(record.is_sound())
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(file, text).with_context(|| format!("failed to write {}", file.display()))
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
