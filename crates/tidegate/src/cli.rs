//! The command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Fault, Origin, Sources};
use crate::exit::Exit;
use crate::healthcheck::Question;
use crate::{app, healthcheck, log, token};

/// Most nodes of one process. `--nodes` is for trying a cluster out on one machine, and ports are ten apart.
const NODES_MAX: i64 = 64;

/// Polls of tasks after which a worker of a serving process looks at the sockets again. A client that floods keeps its
/// worker busy, and meanwhile the sockets of all others on that worker wait; tokio's default of 61 polls is long when
/// each handles a whole read of events.
const POLLS_BETWEEN_EVENTS: u32 = 16;

/// A horizontally scaled realtime gateway that speaks Socket.IO.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node
    Serve(Serve),
    /// Check the configuration and print it, secrets masked
    Check(File),
    /// Print a token signed with the configured secret, for trying things out
    Token(Token),
    /// Exit with 0 when the node is ready, else with 1
    Healthcheck(Healthcheck),
}

#[derive(Args, Debug)]
struct File {
    /// The configuration file, in TOML
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct Serve {
    #[command(flatten)]
    file: File,
    /// Address of the client port [server.listen]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Address of the admin port [server.admin_listen]
    #[arg(long, value_name = "ADDR")]
    admin_listen: Option<String>,
    /// The Redis that joins the nodes [redis.url]
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// What the node is called in the cluster [server.node_id]
    #[arg(long, value_name = "ID")]
    node_id: Option<String>,
    /// For development: no authentication, no Redis, logs for people
    #[arg(long)]
    dev: bool,
    /// Nodes in this process, their ports ten apart
    #[arg(long, value_name = "N", default_value_t = 1, requires = "dev",
          value_parser = clap::value_parser!(u16).range(1..=NODES_MAX))]
    nodes: u16,
}

#[derive(Args, Debug)]
struct Token {
    #[command(flatten)]
    file: File,
    /// The user
    #[arg(long, value_name = "USER")]
    sub: String,
    /// Bind the token to this device
    #[arg(long, value_name = "D")]
    device: Option<String>,
    /// How long it is valid, such as 90s, 30m, 1h or 7d
    #[arg(long, value_name = "TTL", default_value = "1h", value_parser = token::ttl)]
    ttl: Duration,
    /// A namespace it may connect to, as a glob
    #[arg(long, value_name = "N")]
    namespace: Vec<String>,
    /// Rooms it may join, as a glob
    #[arg(long, value_name = "PATTERN")]
    join: Vec<String>,
    /// Rooms it may publish to, as a glob
    #[arg(long, value_name = "PATTERN")]
    publish: Vec<String>,
    /// Users it may send messages to, as a glob
    #[arg(long, value_name = "PATTERN")]
    send: Vec<String>,
}

#[derive(Args, Debug)]
struct Healthcheck {
    /// The node's admin port
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8081")]
    admin_url: String,
    /// Ask /healthz in place of /readyz: whether the process answers, not whether it may have newcomers. For whatever
    /// kills what is unhealthy, since no node is ready while Redis is away
    #[arg(long)]
    live: bool,
}

/// What the process was started with. Only this reads it.
#[derive(Clone, Debug)]
pub struct Started {
    /// The arguments, the program's name first.
    pub arguments: Vec<OsString>,
    /// The environment; what is not UTF-8 has no value.
    pub environment: Vec<(String, Option<String>)>,
}

impl Started {
    /// Of this process.
    #[must_use]
    pub fn here() -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok())))
            .collect();
        Self { arguments: std::env::args_os().collect(), environment }
    }
}

/// Carries out one command.
#[must_use]
pub fn run(started: Started) -> Exit {
    let cli = match Cli::try_parse_from(started.arguments) {
        Ok(cli) => cli,
        Err(answer) => {
            // Help and version are answers, too; when nobody reads them, nothing is lost.
            let _ = answer.print();
            return if answer.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    let environment = started.environment;
    match cli.command {
        Command::Serve(serve) => serve.run(environment),
        Command::Check(file) => match file.load(Sources { environment, nodes: 1, ..Sources::default() }) {
            Ok(config) => print(&config.effective()),
            Err(exit) => exit,
        },
        Command::Token(token) => token.run(environment),
        Command::Healthcheck(healthcheck) => healthcheck.run(),
    }
}

impl File {
    /// Reads the file into `sources` and loads them, or reports every fault.
    fn load(&self, mut sources: Sources) -> Result<Config, Exit> {
        if let Some(path) = &self.config {
            sources.file = read(path).map_err(|fault| report(&[fault]))?;
        }
        Config::load(&sources).map_err(|faults| report(&faults))
    }
}

impl Serve {
    fn run(self, environment: Vec<(String, Option<String>)>) -> Exit {
        let flags = [
            ("server.listen", "--listen", self.listen),
            ("server.admin_listen", "--admin-listen", self.admin_listen),
            ("redis.url", "--redis", self.redis),
            ("server.node_id", "--node-id", self.node_id),
        ];
        let flags = flags.into_iter().filter_map(|(key, flag, text)| Some((key, flag, text?))).collect();
        let sources = Sources { environment, flags, dev: self.dev, nodes: self.nodes, ..Sources::default() };
        let config = match self.file.load(sources) {
            Ok(config) => config,
            Err(exit) => return exit,
        };
        let name = log::start(&config.log);
        let mut workers = tokio::runtime::Builder::new_multi_thread();
        workers.event_interval(POLLS_BETWEEN_EVENTS);
        let ended = match runtime(workers) {
            Ok(runtime) => {
                let ended = runtime.block_on(app::run(&config, &name));
                // Whoever is still asking a disk or a name server, both of which may hang, is not waited for.
                runtime.shutdown_background();
                ended
            }
            Err(exit) => return exit,
        };
        match ended {
            Ok(()) => Exit::Done,
            Err(fault) => {
                tracing::error!(code = fault.exit().code(), "{fault}");
                fault.exit()
            }
        }
    }
}

impl Token {
    fn run(self, environment: Vec<(String, Option<String>)>) -> Exit {
        let config = match self.file.load(Sources { environment, nodes: 1, ..Sources::default() }) {
            Ok(config) => config,
            Err(exit) => return exit,
        };
        let request = token::Request {
            sub: self.sub,
            device: self.device,
            ttl: self.ttl,
            namespaces: self.namespace,
            join: self.join,
            publish: self.publish,
            send: self.send,
        };
        let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        match token::sign(&config, &request, unix_s) {
            Ok(token) => print(&format!("{token}\n")),
            Err(fault) => {
                eprintln!("tidegate: {fault}");
                match fault {
                    token::Error::NoSecret | token::Error::Name { .. } => Exit::Usage,
                    token::Error::Sign(_) => Exit::Defect,
                }
            }
        }
    }
}

impl Healthcheck {
    const fn question(&self) -> Question {
        if self.live { Question::Alive } else { Question::Ready }
    }

    fn run(self) -> Exit {
        let asked = match runtime(tokio::runtime::Builder::new_current_thread()) {
            Ok(runtime) => runtime.block_on(healthcheck::run(&self.admin_url, self.question())),
            Err(exit) => return exit,
        };
        match asked {
            Ok(()) => Exit::Done,
            Err(fault) => {
                eprintln!("tidegate: {fault}");
                match fault {
                    healthcheck::Error::Url(_) => Exit::Usage,
                    _ => Exit::Negative,
                }
            }
        }
    }
}

fn runtime(mut builder: tokio::runtime::Builder) -> Result<tokio::runtime::Runtime, Exit> {
    builder.enable_all().build().map_err(|fault| {
        eprintln!("tidegate: cannot start the runtime: {fault}");
        Exit::Defect
    })
}

fn read(path: &Path) -> Result<String, Fault> {
    std::fs::read_to_string(path).map_err(|fault| Fault {
        key: path.display().to_string(),
        value: None,
        origin: Origin::Flag("--config"),
        problem: format!("cannot be read: {fault}"),
    })
}

fn report(faults: &[Fault]) -> Exit {
    let noun = if faults.len() == 1 { "fault" } else { "faults" };
    eprintln!("tidegate: {} {noun} in the configuration", faults.len());
    for fault in faults {
        eprintln!("  {fault}");
    }
    Exit::Usage
}

/// Prints an answer. A reader that went away, as `head` does, is no failure.
fn print(text: &str) -> Exit {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    Exit::Done
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
