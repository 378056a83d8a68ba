//! A real `redis-server` for one test.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// How long a server may take to answer. It takes some 30 ms; the rest is for a machine that is busy compiling.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Ports below the ephemeral range: a client that retries a closed port from that range may connect to itself.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// What a Redis Cluster is divided into.
const SLOTS: u16 = 16_384;

/// A server on a loopback port of its own, without persistence. It is killed when dropped.
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    directory: PathBuf,
    kind: Kind,
    child: Child,
}

/// What is special about a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Nothing.
    Plain,
    /// It is a Redis Cluster of its own.
    Cluster,
    /// It speaks TLS on this port, too.
    Secure(u16),
}

impl RedisServer {
    /// Starts `redis-server`, or what the environment variable `REDIS_SERVER` names, such as a `valkey-server`.
    ///
    /// # Panics
    /// When there is none, or it does not come up: a suite without its server has proven nothing.
    #[must_use]
    pub fn start() -> Self {
        Self::start_as(|| Kind::Plain)
    }

    /// Starts one that is a Redis Cluster all by itself: it owns every slot and insists on a cluster's rules, such as
    /// that one script touches one slot. It takes two seconds before it serves.
    ///
    /// # Panics
    /// As [`RedisServer::start`].
    #[must_use]
    pub fn start_cluster() -> Self {
        let server = Self::start_as(|| Kind::Cluster);
        // Slot by slot in many commands: older servers know no ranges, and take so much in a line.
        for begin in (0..SLOTS).step_by(1024) {
            let slots: String = (begin..begin + 1024).map(|slot| format!(" {slot}")).collect();
            let answer = server.say(&format!("CLUSTER ADDSLOTS{slots}"));
            assert!(answer.as_ref().is_ok_and(|answer| answer.starts_with("+OK")), "{answer:?}");
        }
        let deadline = Instant::now() + START_TIMEOUT;
        while !server.say("CLUSTER INFO").is_ok_and(|answer| answer.contains("cluster_state:ok")) {
            assert!(Instant::now() < deadline, "a cluster of one does not find itself");
            pause();
        }
        server
    }

    /// Starts one that speaks TLS as well, at [`RedisServer::secure_url`], with the certificate of the tests' nodes.
    ///
    /// # Panics
    /// As [`RedisServer::start`].
    #[must_use]
    pub fn start_secure() -> Self {
        Self::start_as(|| Kind::Secure(next_port()))
    }

    fn start_as(kind: impl Fn() -> Kind) -> Self {
        for _ in 0..20 {
            let port = next_port();
            let directory =
                std::env::temp_dir().join(format!("tidegate-redis-{}-{port}", std::process::id()));
            fs::create_dir_all(&directory).expect("a temporary directory can be made");
            let kind = kind();
            let mut server = Self { port, child: spawn(port, &directory, kind), directory, kind };
            if server.wait_until_up() {
                return server;
            }
        }
        panic!("redis-server did not come up on any of twenty ports");
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Where one that speaks TLS does.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn secure_url(&self) -> String {
        let Kind::Secure(port) = self.kind else { panic!("it speaks no TLS") };
        format!("rediss://127.0.0.1:{port}")
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection for the test's own questions.
    ///
    /// # Panics
    /// When the server is down.
    pub async fn connection(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.url()).expect("the url is well formed");
        // The default of half a second is short for a machine that compiles beside the test.
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(START_TIMEOUT))
            .set_response_timeout(Some(START_TIMEOUT));
        client.get_multiplexed_async_connection_with_config(&config).await.expect("the server is up")
    }

    /// Asks one question, such as `["PUBSUB", "CHANNELS"]`.
    ///
    /// # Panics
    /// When the server refuses it or the answer has another type.
    pub async fn ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let mut connection = self.connection().await;
        let mut question = redis::cmd(command[0]);
        question.arg(&command[1..]);
        question.query_async(&mut connection).await.unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// SIGKILL: connections are reset, everything is forgotten.
    ///
    /// # Panics
    /// When the process cannot be killed.
    pub fn kill(&mut self) {
        self.child.kill().expect("the child is ours to kill");
        self.child.wait().expect("a killed child can be waited for");
    }

    /// Starts a new server on the same port, after [`RedisServer::kill`].
    ///
    /// # Panics
    /// When it does not come up.
    pub fn restart(&mut self) {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            self.child = spawn(self.port, &self.directory, self.kind);
            if self.wait_until_up() {
                return;
            }
        }
        panic!("redis-server did not come up again on port {}", self.port);
    }

    /// SIGSTOP: the server stops answering, and its connections stay open.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill {signal} failed");
    }

    /// False when the process ended before it answered, most likely because the port is taken.
    fn wait_until_up(&mut self) -> bool {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            if self.answers() {
                return true;
            }
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return false;
            }
            pause();
        }
        false
    }

    /// Whether this very process answers on the port, and not another that was faster.
    fn answers(&self) -> bool {
        let process = format!("process_id:{}\r\n", self.child.id());
        self.say("INFO server").is_ok_and(|answer| answer.contains(&process))
    }

    /// Says one line on a connection of its own.
    fn say(&self, line: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(format!("{line}\r\nQUIT\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // It may have been killed before.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[expect(clippy::disallowed_methods, reason = "between two looks at another process, which cannot wake us")]
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

pub(crate) fn next_port() -> u16 {
    // Test processes run side by side, so each begins somewhere else.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = NEXT.fetch_add(1, Ordering::Relaxed);
    let random = RandomState::new().hash_one((std::process::id(), count));
    PORTS.start
        + u16::try_from(random % u64::from(PORTS.end - PORTS.start)).expect("less than the range is long")
}

fn spawn(port: u16, directory: &PathBuf, kind: Kind) -> Child {
    let program = std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
    let mut command = Command::new(&program);
    if let Kind::Secure(port) = kind {
        let certificates = concat!(env!("CARGO_MANIFEST_DIR"), "/certificates");
        command
            .args(["--tls-port", &port.to_string(), "--tls-auth-clients", "no"])
            .args(["--tls-cert-file", &format!("{certificates}/server.pem")])
            .args(["--tls-key-file", &format!("{certificates}/server.key")])
            .args(["--tls-ca-cert-file", &format!("{certificates}/ca.pem")])
            // The second one is an address that the certificate does not name.
            .args(["--bind", "127.0.0.1", "127.0.0.2"]);
    } else {
        command.args(["--bind", "127.0.0.1"]);
    }
    let spawned = command
        .args(["--port", &port.to_string(), "--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(directory)
        .args(["--cluster-enabled", if kind == Kind::Cluster { "yes" } else { "no" }])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => panic!(
            "{program} was not found. These tests run against a real server and are never skipped: install one \
             (on Debian: apt-get install redis-server), or name it in REDIS_SERVER"
        ),
        Err(error) => panic!("failed to start {program}: {error}"),
    }
}
