//! What is typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::target::Target;
use crate::{acks, churn, crossnode, fanout, idle, offline, rooms, slow, takeover};

/// The command line.
#[derive(Parser)]
#[command(name = "tidegate-loadtest", about = "Measures Socket.IO servers, and draws what it finds")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) scenario: Scenario,
}

/// What is to be done.
#[derive(Subcommand)]
pub(crate) enum Scenario {
    /// Many connections that do nothing: resident memory per connection.
    Idle {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        options: idle::Options,
    },
    /// One publisher, one room, many subscribers: CPU per delivery, latency, order, loss.
    Fanout {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        options: fanout::Options,
    },
    /// Many small rooms in which everyone publishes: the same, as chat has it.
    Rooms {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        options: rooms::Options,
    },
    /// Events that are acknowledged: CPU and latency of a round trip.
    Acks {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        options: acks::Options,
    },
    /// Clients that come and go: CPU and latency of a connect.
    Churn {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        options: churn::Options,
    },
    /// Some subscribers stop reading: what the others notice, and what the server does about it.
    Slow {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        options: slow::Options,
    },
    /// A publisher on the first server, subscribers on the others: what a message costs each of them, and Redis.
    Crossnode {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        options: crossnode::Options,
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
    /// Runs the scenario that a file describes; settings that follow take the place of the file's.
    Run {
        /// A file such as those in loadtest/scenarios.
        file: PathBuf,
        /// Settings of the scenario, such as --url and --pid.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        settings: Vec<String>,
    },
    /// Prints the medians of recorded runs, and their ratio to a base.
    Compare {
        /// File that runs were appended to with `--json`.
        file: PathBuf,
        /// Label of the runs that the others are held against.
        #[arg(long, default_value = "stock")]
        base: String,
        /// Writes the comparison to this file as a page with bars.
        #[arg(long)]
        report: Option<PathBuf>,
    },
    /// Holds connections for a run that has started this process.
    #[command(hide = true)]
    Worker {
        /// Threads of this process.
        #[arg(long, default_value_t = 1)]
        threads: u32,
    },
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
