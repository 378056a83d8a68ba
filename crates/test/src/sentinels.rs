//! A master, a replica and three sentinels for one test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::redis_server::next_port;

/// How long the five may take to know each other. It takes about two seconds, most of it for sentinels to meet.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Between two looks at another process, which cannot wake us.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The name under which the sentinels know the master.
const MASTER: &str = "main";

/// Five processes on loopback, killed when dropped.
pub struct Sentinels {
    directory: PathBuf,
    /// The master as it was in the beginning, then the replica.
    servers: Vec<(Child, u16)>,
    sentinels: Vec<(Child, u16)>,
}

impl Sentinels {
    /// Starts them, and waits until a failover could be made.
    ///
    /// # Panics
    /// When `redis-server` is missing, or they do not find each other.
    pub async fn start() -> Self {
        let port = next_port();
        let directory =
            std::env::temp_dir().join(format!("tidegate-sentinels-{}-{port}", std::process::id()));
        fs::create_dir_all(&directory).expect("a temporary directory can be made");
        let mut all = Self { directory, servers: Vec::new(), sentinels: Vec::new() };
        let master = all.add_server(port, &[]);
        all.add_server(next_port(), &["--replicaof", "127.0.0.1", &master.to_string()]);
        for _ in 0..3 {
            all.add_sentinel(next_port(), master);
        }
        let deadline = Instant::now() + START_TIMEOUT;
        while !all.know_each_other().await {
            assert!(Instant::now() < deadline, "the sentinels do not find each other and the replica");
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        all
    }

    /// The URL that leads to the master by way of the sentinels, one of which does not exist.
    #[must_use]
    pub fn url(&self) -> String {
        let addresses: Vec<_> = self.sentinels.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
        format!("redis+sentinel://127.0.0.1:1,{}/{MASTER}", addresses.join(","))
    }

    /// SIGKILL for the first master.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn kill_master(&mut self) {
        let (master, _) = &mut self.servers[0];
        master.kill().expect("the child is ours to kill");
        master.wait().expect("a killed child can be waited for");
    }

    fn add_server(&mut self, port: u16, more: &[&str]) -> u16 {
        let directory = self.directory.join(port.to_string());
        fs::create_dir_all(&directory).expect("a temporary directory can be made");
        let port_text = port.to_string();
        let mut arguments =
            vec!["--port", &port_text, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        // The default would make a replica wait for five seconds.
        arguments.extend(["--repl-diskless-sync-delay", "0"]);
        arguments.extend(more);
        self.servers.push((spawn(&directory, &arguments), port));
        port
    }

    fn add_sentinel(&mut self, port: u16, master: u16) {
        let directory = self.directory.join(port.to_string());
        fs::create_dir_all(&directory).expect("a temporary directory can be made");
        let file = directory.join("sentinel.conf");
        let settings = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor {MASTER} 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds {MASTER} 1000\nsentinel failover-timeout {MASTER} 3000\n"
        );
        fs::write(&file, settings).expect("a file can be written there");
        let child = spawn(&directory, &[&file.to_string_lossy(), "--sentinel"]);
        self.sentinels.push((child, port));
    }

    async fn know_each_other(&self) -> bool {
        for (_, port) in &self.sentinels {
            let known = ask(*port, &["SENTINEL", "MASTER", MASTER]).await;
            if known.get("num-slaves") != Some(&"1".to_owned())
                || known.get("num-other-sentinels") != Some(&"2".to_owned())
            {
                return false;
            }
        }
        // A replica that has not copied anything yet is not elected.
        let replica = ask(self.sentinels[0].1, &["SENTINEL", "REPLICAS", MASTER]).await;
        replica.is_empty() || replica.get("master-link-status") == Some(&"ok".to_owned())
    }
}

/// The answer to a question, empty while there is none or it is no map.
async fn ask(port: u16, question: &[&str]) -> std::collections::HashMap<String, String> {
    let client = redis::Client::open(("127.0.0.1", port)).expect("an address is a connection's");
    let Ok(mut connection) = client.get_multiplexed_async_connection().await else {
        return Default::default();
    };
    let mut command = redis::cmd(question[0]);
    command.arg(&question[1..]);
    command.query_async(&mut connection).await.unwrap_or_default()
}

fn spawn(directory: &Path, arguments: &[&str]) -> Child {
    let program = std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
    let spawned = Command::new(&program)
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    spawned.unwrap_or_else(|fault| panic!("failed to start {program}: {fault}"))
}

impl Drop for Sentinels {
    fn drop(&mut self) {
        for (child, _) in self.sentinels.iter_mut().chain(&mut self.servers) {
            // It may have been killed before.
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}
