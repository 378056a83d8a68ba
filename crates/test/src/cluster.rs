//! Whole gateway nodes in one process, joined in memory or over a real Redis, and what tests ask of them.
//!
//! Nothing here waits for a while: everything waits for a condition, and at most [`PATIENCE`].

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidegate_client::{Client, Event, Parser, Signal, Socket, Transports, Value};
use tidegate_core::memory::Exchange;
use tidegate_core::offline::Quotas;
use tidegate_core::{Broker, Incarnation, NodeId};
use tidegate_gateway::auth::Authenticator;
use tidegate_gateway::namespaces::Namespaces;
use tidegate_gateway::tls::Credentials;
use tidegate_gateway::{
    DrainOptions, EngineOptions, Joining, Limits, Node, OfflineOptions, Options, PulseOptions, ServerOptions,
    StartError,
};
use tidegate_redis::RedisBroker;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::lying::Lies;
use crate::redis_server::RedisServer;

/// How long anything awaited may take. It is only ever used up by a failing test.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at something that cannot wake us.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Metrics that appear with their first sample.
const LATE_FAMILIES: [&str; 2] = ["tidegate_handshakes_refused_total", "tidegate_operations_total"];

/// Shards of a node, and worker threads of a test: two, so that a room is spread over both.
const SHARDS: usize = 2;

/// What joins the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The exchange in memory.
    Memory,
    /// A `redis-server` of the cluster's own.
    Redis,
}

/// Runs each of the named functions, which take a [`Backend`], as one test in memory and one on Redis.
#[macro_export]
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod in_memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test($crate::cluster::Backend::Memory).await;
            })*
        }
        mod on_redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test($crate::cluster::Backend::Redis).await;
            })*
        }
    };
}

/// Nodes that meet each other. It owns every task it started; [`Cluster::shutdown`] waits for them.
pub struct Cluster {
    exchange: Exchange,
    /// The cluster's own server.
    _redis: Option<RedisServer>,
    /// Where the nodes meet; in memory when there is none.
    url: Option<String>,
    nodes: Mutex<Vec<Node>>,
    serving: TaskTracker,
}

/// A running node and where it listens. Clones are the same node.
#[derive(Clone)]
pub struct Server {
    /// The node.
    pub node: Node,
    /// Its client port, on loopback.
    pub address: SocketAddr,
    /// Whether clients speak TLS there.
    pub is_secure: bool,
}

/// Who signed the certificate of [`credentials`], in PEM.
pub const AUTHORITY: &str = include_str!("../certificates/ca.pem");

/// A certificate for loopback, for nodes whose clients speak TLS.
///
/// # Panics
/// Never: the certificate and its key are part of the tests.
#[must_use]
pub fn credentials() -> Credentials {
    let (certificate, key) =
        (include_bytes!("../certificates/server.pem"), include_bytes!("../certificates/server.key"));
    Credentials::from_pem(certificate, key).expect("they belong together")
}

/// What a node of a test is told unless the test says otherwise: everything open, no limit that a test could meet by
/// being slow, and a fence that a machine busy with compiling does not reach.
///
/// # Panics
/// When `name` cannot be a node's id.
#[must_use]
pub fn options(name: &str) -> Options {
    Options {
        node: NodeId::parse(name).expect("the test names its nodes well"),
        incarnation: Incarnation::random(),
        engine: EngineOptions {
            path: "/socket.io/".to_owned(),
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(45),
            upgrade_timeout: Duration::from_secs(10),
            payload_bytes_max: 1_000_000,
            polling: true,
            websocket: true,
        },
        server: ServerOptions {
            tls: None,
            allowed_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            connections_max: 10_000,
            page: None,
        },
        limits: Limits {
            outbox_bytes_max: 4 << 20,
            rooms_per_session_max: 1_000,
            name_bytes_max: 256,
            events_per_second_max: 0,
            events_burst: 400,
            connections_per_ip_max: 0,
        },
        auth: Authenticator::Open,
        namespaces: Namespaces::new(Vec::new(), true),
        pulse: PulseOptions {
            interval: Duration::from_millis(50),
            fence_after: Duration::from_secs(10),
            lease_ttl: Duration::from_secs(20),
            lease_renew: Duration::from_millis(200),
            hold: Duration::from_secs(10),
        },
        offline: OfflineOptions { message_bytes_max: 65_536, window: 32, quotas: Quotas::default() },
        drain: DrainOptions { timeout: Duration::from_secs(10), connections_per_second: 0 },
        tracer: None,
        version: "test".to_owned(),
        revision: "test".to_owned(),
    }
}

impl Cluster {
    /// A cluster without nodes.
    #[must_use]
    pub fn new(backend: Backend) -> Self {
        let redis = (backend == Backend::Redis).then(RedisServer::start);
        let url = redis.as_ref().map(RedisServer::url);
        Self { _redis: redis, url, ..Self::empty() }
    }

    /// A cluster without nodes, whose nodes will meet at `url`.
    #[must_use]
    pub fn at(url: String) -> Self {
        Self { url: Some(url), ..Self::empty() }
    }

    fn empty() -> Self {
        Self {
            exchange: Exchange::new(),
            _redis: None,
            url: None,
            nodes: Mutex::default(),
            serving: TaskTracker::new(),
        }
    }

    /// Nodes `a` and `b` with the options of [`options`].
    ///
    /// # Panics
    /// When they do not start.
    pub async fn pair(backend: Backend) -> (Self, Server, Server) {
        let cluster = Self::new(backend);
        let (a, b) = (cluster.add(options("a")).await, cluster.add(options("b")).await);
        (cluster, a, b)
    }

    /// Starts a node on a port of its own.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn add(&self, options: Options) -> Server {
        self.add_at(options, any_port().await).await
    }

    /// Starts a node on `listener`.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn add_at(&self, options: Options, listener: TcpListener) -> Server {
        let started = self.try_add(options, listener).await;
        started.unwrap_or_else(|fault| panic!("the node does not start: {fault}"))
    }

    /// Starts a node on `listener`, or hears why not.
    ///
    /// # Errors
    /// Why it did not start.
    ///
    /// # Panics
    /// When the cluster's Redis cannot be reached.
    pub async fn try_add(&self, options: Options, listener: TcpListener) -> Result<Server, StartError> {
        let (id, incarnation) = (options.node.clone(), options.incarnation.clone());
        let fence_after = options.pulse.fence_after;
        let is_secure = options.server.tls.is_some();
        let redis = self.url.as_ref().map(|url| tidegate_redis::Options {
            command_timeout: Duration::from_secs(10),
            fence_after: options.pulse.fence_after,
            incarnation: options.incarnation.clone(),
            ..tidegate_redis::Options::new(url, id.clone())
        });
        let quotas = options.offline.quotas;
        let joining = Joining::new(options, SHARDS)?;
        let subscriber = joining.subscriber();
        let (broker, registry, offline): (Arc<dyn Broker>, _, _) = if let Some(redis) = redis {
            let broker = RedisBroker::connect(redis, subscriber).await.expect("the server is up");
            let (registry, offline) = (broker.registry(), broker.offline(quotas));
            (broker, registry, offline)
        } else {
            let registry = self.exchange.registry(id.clone(), incarnation.clone(), fence_after);
            let offline = self.exchange.offline(id.clone(), incarnation.clone(), quotas);
            (self.exchange.join(id, incarnation, subscriber), registry, offline)
        };
        let node = joining.start(broker, registry, offline, PATIENCE).await?;
        Ok(self.serve(node, listener, is_secure))
    }

    /// Starts a node whose broker tells `lies`, and gives it `limit` to hear its first pulse.
    ///
    /// # Errors
    /// Why it did not start.
    ///
    /// # Panics
    /// When the cluster is not in memory.
    pub async fn add_lying(
        &self,
        options: Options,
        lies: &Arc<Lies>,
        limit: Duration,
    ) -> Result<Server, StartError> {
        assert!(self.url.is_none(), "lies are told about the exchange in memory");
        let (id, incarnation) = (options.node.clone(), options.incarnation.clone());
        let fence_after = options.pulse.fence_after;
        let (quotas, is_secure) = (options.offline.quotas, options.server.tls.is_some());
        let joining = Joining::new(options, SHARDS)?;
        let registry = self.exchange.registry(id.clone(), incarnation.clone(), fence_after);
        let offline = self.exchange.offline(id.clone(), incarnation.clone(), quotas);
        let broker = lies.join(&self.exchange, id, incarnation, joining.subscriber());
        let node = joining.start(broker, registry, offline, limit).await?;
        Ok(self.serve(node, any_port().await, is_secure))
    }

    fn serve(&self, node: Node, listener: TcpListener, is_secure: bool) -> Server {
        let address = listener.local_addr().expect("a bound listener has an address");
        let serving = node.clone();
        // Ends when the node has drained. If it panics, nobody is served and the test fails of that.
        self.serving.spawn(async move { serving.serve(listener).await });
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).push(node.clone());
        Server { node, address, is_secure }
    }

    /// Drains every node and waits for all tasks. Draining again what has drained does nothing.
    ///
    /// # Panics
    /// When it takes longer than [`PATIENCE`].
    pub async fn shutdown(self) {
        let drains = TaskTracker::new();
        let nodes = self.nodes.into_inner().unwrap_or_else(PoisonError::into_inner);
        for node in nodes {
            drains.spawn(async move { node.drain().await });
        }
        drains.close();
        self.serving.close();
        within("every node to drain", drains.wait()).await;
        within("every port to close", self.serving.wait()).await;
    }
}

/// A listener on loopback.
///
/// # Panics
/// When there is no port left.
pub async fn any_port() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port")
}

/// A listener on loopback at an address of its own, for a server that leaves and comes back: on that of the others, the
/// kernel may give the port to anybody's connection in between.
///
/// # Panics
/// When there is no port left.
pub async fn lasting_port() -> TcpListener {
    TcpListener::bind("127.0.0.2:0").await.expect("loopback has a free port")
}

/// Listens where a server has left, once its port is closed.
///
/// # Panics
/// When it is not within [`PATIENCE`].
pub async fn listen_again(address: SocketAddr) -> TcpListener {
    within(format!("{address} to be free"), async {
        loop {
            match TcpListener::bind(address).await {
                Ok(listener) => return listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    })
    .await
}

impl Server {
    /// How a client of the node connects.
    #[must_use]
    pub fn client(&self) -> tidegate_client::Options {
        let scheme = if self.is_secure { "https" } else { "http" };
        let options =
            tidegate_client::Options::new(format!("{scheme}://{}", self.address)).authorities(AUTHORITY);
        tidegate_client::Options { connect_timeout: PATIENCE, ..options }
    }

    /// A client in `/` that speaks this parser over this transport.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn connect(&self, parser: Parser, transports: Transports) -> Client {
        connect(self.client().parser(parser).transports(transports), "/").await
    }

    /// A client in `/`, by WebSocket and with the default parser.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn websocket(&self) -> Client {
        self.connect(Parser::Text, Transports::WebSocket).await
    }

    /// The sample `name`, labels included, of the node's metrics; 0 when its family is known and it is not there.
    ///
    /// # Panics
    /// When there is no such family: a test must not pass because of a typing error.
    #[must_use]
    pub fn metric(&self, name: &str) -> i64 {
        let text = self.node.metrics_text().expect("metrics can be written");
        let family = name.split('{').next().unwrap_or(name);
        let is_known = LATE_FAMILIES.contains(&family) || text.contains(&format!("# TYPE {family} "));
        assert!(is_known, "no metric is called {family}");
        let sample = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        sample.map_or(0, |value| value.parse().expect("the value is a whole number"))
    }

    /// Waits until the sample `name` is `value`.
    ///
    /// # Panics
    /// When it does not become that within [`PATIENCE`].
    pub async fn until_metric(&self, name: &str, value: i64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.metric(name);
            if now == value {
                return;
            }
            assert!(Instant::now() < deadline, "{name} is {now} and does not become {value}");
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

/// Connects a client and joins `namespace`.
///
/// # Panics
/// When it is refused.
pub async fn connect(options: tidegate_client::Options, namespace: &str) -> Client {
    let connected = Client::connect(options, namespace).await;
    connected.unwrap_or_else(|fault| panic!("the client does not connect: {fault}"))
}

/// Asks the gateway for something and returns the one argument of the acknowledgement.
///
/// # Panics
/// When there is none within [`PATIENCE`].
pub async fn ask(socket: &Socket, event: &str, argument: impl Into<Value>) -> Value {
    let answer = socket.emit_with_ack(event, &[argument.into()], PATIENCE).await;
    let answer = answer.unwrap_or_else(|fault| panic!("{event} is not acknowledged: {fault}"));
    assert_eq!(answer.len(), 1, "{event} is acknowledged with {answer:?}");
    answer[0].clone()
}

/// As [`ask`], for what must succeed.
///
/// # Panics
/// Also when it is refused.
pub async fn ask_ok(socket: &Socket, event: &str, argument: impl Into<Value>) -> Value {
    let answer = ask(socket, event, argument).await;
    assert_eq!(answer["ok"], Value::Bool(true), "{event}: {answer:?}");
    answer
}

/// As [`ask`], for what must be refused; returns the code.
///
/// # Panics
/// Also when it succeeds.
pub async fn ask_refused(socket: &Socket, event: &str, argument: impl Into<Value>) -> String {
    let answer = ask(socket, event, argument).await;
    assert_eq!(answer["ok"], Value::Bool(false), "{event}: {answer:?}");
    answer["error"]["code"].as_str().expect("a refusal has a code").to_owned()
}

/// The next event of a socket.
///
/// # Panics
/// When there is none within [`PATIENCE`], or the socket is disconnected first.
pub async fn next(socket: &Socket) -> Event {
    let event = within("an event", socket.next_event()).await;
    event.unwrap_or_else(|fault| panic!("no event but {fault}"))
}

/// The next thing that happens to a socket.
///
/// # Panics
/// When nothing does within [`PATIENCE`], or nothing ever will.
pub async fn next_signal(socket: &Socket) -> Signal {
    within("a signal", socket.next_signal()).await.expect("the client lives")
}

/// Waits for `future`.
///
/// # Panics
/// When it does not end within [`PATIENCE`].
pub async fn within<T>(what: impl fmt::Display, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// Looks until `condition` holds.
///
/// # Panics
/// When it does not within [`PATIENCE`].
pub async fn eventually(what: impl fmt::Display, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Tries until `attempt` succeeds.
///
/// # Panics
/// When it does not within [`PATIENCE`].
pub async fn retried<T, E: fmt::Display>(
    what: impl fmt::Display,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(fault) => assert!(Instant::now() < deadline, "waited in vain for {what}: {fault}"),
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
