//! The program as an operator meets it: exit codes, output, signals. Each test runs the real binary.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// A child that hangs is a failure; nothing here takes longer than a few seconds.
const LIMIT: Duration = Duration::from_secs(60);

fn tidegate(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).env_clear().envs(environment.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs to the end: the exit code, standard output, standard error.
fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
    let child = tidegate(arguments, environment).spawn().unwrap();
    let Output { status, stdout, stderr } = Running(Some(child)).wait();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// A child that does not outlive its test.
struct Running(Option<Child>);

impl Running {
    fn wait(mut self) -> Output {
        let child = self.0.take().unwrap();
        let pid = child.id();
        let (tell, told) = mpsc::channel();
        let waiting = std::thread::spawn(move || tell.send(child.wait_with_output()));
        let output = told.recv_timeout(LIMIT).unwrap_or_else(|_| {
            kill(pid, "-KILL");
            panic!("still running after {LIMIT:?}: {:?}", told.recv())
        });
        waiting.join().unwrap().unwrap();
        output.unwrap()
    }

    fn signal(&self, signal: &str) {
        kill(self.0.as_ref().unwrap().id(), signal);
    }
}

fn kill(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A serving process and its log.
struct Server {
    child: Running,
    log: BufReader<ChildStderr>,
}

impl Server {
    fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = tidegate(arguments, environment).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child: Running(Some(child)), log }
    }

    /// Reads the log up to the next `ready` line. The log ends with the process, so this cannot wait for ever
    /// unless the process does.
    fn ready(&mut self) -> String {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            assert!(self.log.read_line(&mut line).unwrap() > 0, "ended before it was ready: {seen}");
            if line.contains("ready") {
                return line;
            }
            seen.push_str(&line);
        }
    }

    fn stop(mut self, signal: &str) -> (i32, String) {
        self.child.signal(signal);
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        (self.child.wait().status.code().unwrap(), rest)
    }
}

fn field(ready: &str, name: &str) -> String {
    let ready: serde_json::Value = serde_json::from_str(ready).unwrap();
    ready[name].as_str().unwrap_or_else(|| panic!("no field {name} in {ready}")).to_owned()
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

const FREE_PORTS: [&str; 4] = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
const OPEN: (&str, &str) = ("TIDEGATE_AUTH__MODE", "none");

#[test]
fn usage_errors_exit_64_and_answers_0() {
    for arguments in [
        &["serve", "--nodes", "2"][..],
        &["serve", "--dev", "--nodes", "0"],
        &["serve", "--colour"],
        &["fly"],
        &[],
        &["token"],
        &["token", "--sub", "ann", "--ttl", "soon"],
        &["check", "--config", "/no/such/file"],
        &["healthcheck", "--admin-url", "gw:8081"],
    ] {
        assert_eq!(run(arguments, &[]).0, 64, "{arguments:?}");
    }
    for arguments in [&["--help"][..], &["--version"], &["serve", "--help"]] {
        let (code, out, _) = run(arguments, &[]);
        assert_eq!(code, 0, "{arguments:?}");
        assert!(out.contains("tidegate"), "{out}");
    }
}

#[test]
fn check_prints_what_holds_or_every_fault() {
    let (code, out, _) =
        run(&["check"], &[("TIDEGATE_AUTH__JWT__SECRET", "hunter2"), ("TIDEGATE_PORT", "x")]);
    assert_eq!(code, 0);
    assert!(out.contains("jwt.secret = \"***\" # environment, TIDEGATE_AUTH__JWT__SECRET"), "{out}");
    assert!(!out.contains("hunter2"), "{out}");

    let faults = [("TIDEGATE_SERVER__LISTEN", "here"), ("TIDEGATE_REDIS__URI", "redis://h")];
    let (code, out, log) = run(&["check"], &faults);
    assert_eq!((code, out.as_str()), (64, ""));
    assert!(log.starts_with("tidegate: 3 faults in the configuration\n"), "{log}");
    for key in ["server.listen = \"here\"", "redis.uri", "auth: is not configured"] {
        assert!(log.contains(key), "{log}");
    }
}

#[test]
fn token_prints_only_the_token() {
    let secret = [("TIDEGATE_AUTH__JWT__SECRET", "hunter2")];
    let (code, out, _) = run(&["token", "--sub", "ann", "--join", "room:*", "--ttl", "90s"], &secret);
    assert_eq!(code, 0);
    let token = out.strip_suffix('\n').unwrap();
    assert_eq!(token.split('.').count(), 3, "{out}");
    assert!(!token.contains(char::is_whitespace), "{out}");

    let (code, out, log) = run(&["token", "--sub", "ann"], &[OPEN]);
    assert_eq!((code, out.as_str()), (64, ""));
    assert!(log.contains("auth.jwt.secret"), "{log}");
}

#[test]
fn a_node_without_authentication_does_not_start_by_accident() {
    let (code, _, log) = run(&["serve"], &[]);
    assert_eq!(code, 64);
    assert!(log.contains("auth.mode = \"none\""), "{log}");
}

#[test]
fn serving_from_ready_to_stopped() {
    let arguments = [&["serve", "--node-id", "gw-1"][..], &FREE_PORTS].concat();
    let mut server = Server::start(&arguments, &[OPEN, ("TIDEGATE_LOG__LEVEL", "info")]);
    let ready = server.ready();
    assert_eq!(field(&ready, "message"), "ready");
    assert_eq!(field(&ready, "node"), "gw-1");
    let (listen, admin) = (field(&ready, "listen"), field(&ready, "admin"));
    assert!(!listen.ends_with(":0") && !admin.ends_with(":0"), "{ready}");

    assert!(get(&admin, "/healthz").starts_with("HTTP/1.1 200 "));
    assert!(get(&admin, "/readyz").ends_with("{\"ready\":true}"));
    assert!(get(&admin, "/metrics").contains("tidegate_build_info"));
    assert!(get(&admin, "/openapi.json").contains("/api/v1/nodes"));
    assert!(get(&admin, "/api/v1/nodes").starts_with("HTTP/1.1 401 "));
    assert!(get(&listen, "/").starts_with("HTTP/1.1 404 "));
    let url = format!("http://{admin}");
    assert_eq!(run(&["healthcheck", "--admin-url", &url], &[]).0, 0);

    let (code, log) = server.stop("-TERM");
    assert_eq!(code, 0, "{log}");
    let (code, _, log) = run(&["healthcheck", "--admin-url", &url], &[]);
    assert_eq!(code, 1);
    assert!(log.contains("cannot ask"), "{log}");
}

#[test]
fn several_nodes_share_one_process() {
    let arguments = [&["serve", "--dev", "--nodes", "3", "--node-id", "gw"][..], &FREE_PORTS].concat();
    let mut server = Server::start(&arguments, &[("TIDEGATE_LOG__FORMAT", "json")]);
    let ready: Vec<String> = (0..3).map(|_| server.ready()).collect();
    let names: Vec<String> = ready.iter().map(|line| field(line, "node")).collect();
    assert_eq!(names, ["gw-0", "gw-1", "gw-2"]);
    for line in &ready {
        assert!(get(&field(line, "admin"), "/readyz").starts_with("HTTP/1.1 200 "));
    }
    assert_eq!(server.stop("-INT").0, 0);
}

#[test]
fn a_port_that_is_taken_is_the_configuration() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, _, log) = run(&["serve", "--listen", &address, "--admin-listen", "127.0.0.1:0"], &[OPEN]);
    assert_eq!(code, 64, "{log}");
    assert!(log.contains("server.listen: cannot listen on"), "{log}");
}

#[test]
fn a_url_that_serve_refuses_is_a_fault_of_check() {
    for url in ["redis://h/99x", "redis://:hun?ter2@h", "valkey://h"] {
        for command in ["check", "serve"] {
            let (code, out, log) = run(&[command], &[OPEN, ("TIDEGATE_REDIS__URL", url)]);
            assert_eq!((code, out.as_str()), (64, ""), "{command} {url}");
            assert!(log.contains("redis.url = \"") && !log.contains("hun"), "{log}");
        }
    }
}

#[test]
fn redis_that_cannot_be_reached_is_69() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://:hunter2@{}", closed.local_addr().unwrap());
    drop(closed);
    let arguments = [&["serve", "--redis", &url][..], &FREE_PORTS].concat();
    let (code, _, log) = run(&arguments, &[OPEN, ("TIDEGATE_REDIS__CONNECT_TIMEOUT_MS", "300")]);
    assert_eq!(code, 69, "{log}");
    assert!(!log.contains("hunter2"), "{log}");
}

#[test]
fn a_stop_is_heard_while_redis_is_still_awaited() {
    // Accepted by the kernel and never answered.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", silent.local_addr().unwrap());
    let arguments = [&["serve", "--redis", &url][..], &FREE_PORTS].concat();
    let server = Server::start(&arguments, &[OPEN, ("TIDEGATE_REDIS__CONNECT_TIMEOUT_MS", "60000")]);
    // The connection is there once the node waits for Redis; its signals have been set up before.
    let waiting = silent.accept().unwrap();
    assert_eq!(server.stop("-TERM").0, 0);
    drop(waiting);
}

#[test]
fn clients_are_refused_until_the_node_is_ready() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", silent.local_addr().unwrap());
    let patience = ("TIDEGATE_REDIS__CONNECT_TIMEOUT_MS", "60000");
    // Their ports are free again and unlikely to be handed out to anybody else so soon.
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (listen, admin) = (free(), free());
    let arguments = ["serve", "--redis", &url, "--listen", &listen, "--admin-listen", &admin];
    let server = Server::start(&arguments, &[OPEN, patience]);
    let waiting = silent.accept().unwrap();
    assert!(get(&admin, "/readyz").starts_with("HTTP/1.1 503 "));
    let refused = TcpStream::connect(&listen).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

    // A port that is taken is known without waiting for Redis.
    let taken = ["serve", "--redis", &url, "--listen", &admin, "--admin-listen", "127.0.0.1:0"];
    let (code, _, log) = run(&taken, &[OPEN, patience]);
    assert_eq!(code, 64, "{log}");
    assert!(log.contains("server.listen: cannot listen on"), "{log}");

    assert_eq!(server.stop("-TERM").0, 0);
    drop(waiting);
}

/// Says to [`panics_on_another_thread`] that it runs in a process of its own, which it ends.
const ALONE: &str = "TIDEGATE_TEST_ALONE";

/// What [`a_panic_anywhere_ends_the_process_with_70`] runs in a process of its own. Nothing elsewhere.
#[test]
fn panics_on_another_thread() {
    if std::env::var_os(ALONE).is_none() {
        return;
    }
    tidegate::exit::on_panic();
    let _ = std::thread::spawn(|| panic!("on purpose")).join();
}

#[test]
fn a_panic_anywhere_ends_the_process_with_70() {
    let mut this = Command::new(std::env::current_exe().unwrap());
    this.args(["--exact", "panics_on_another_thread", "--nocapture"]).env(ALONE, "1");
    let child = this.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let output = Running(Some(child)).wait();
    assert_eq!(output.status.code(), Some(70));
    assert!(String::from_utf8_lossy(&output.stderr).contains("on purpose"));
}
