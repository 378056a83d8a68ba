//! What Redis is asked: how many commands each thing costs, counted by Redis itself, and that a node hears nothing of
//! rooms that it does not hold. The table in `loadtest/README.md` is what the tests count.

#![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{self, join_all};
use futures_util::stream::{self, StreamExt as _};
use serde_json::json;
use tidegate_client::{Client, Transports, Value};
use tidegate_gateway::Options;
use tidegate_gateway::namespaces::{NamespaceRule, Namespaces};
use tidegate_test::cluster::{Cluster, Server, any_port, ask_ok, connect, next, options};
use tidegate_test::monitor::{Command, Monitor};
use tidegate_test::redis_server::RedisServer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, tcp};
use tokio::task::JoinSet;

/// How many clients, rooms or messages there are where there are many.
const MANY: usize = 1_000;

/// Most reads of a thousand publications, which leave in batches; some thirty are usual.
const READS_MAX: u64 = 250;

const RECEIVED: &str = "tidegate_messages_received_total{namespace=\"/\"}";

/// Where the table stands.
const README: &str = include_str!("../../../loadtest/README.md");

/// A node that does nothing by itself meanwhile: its pulse and its leases come far apart, so that all that Redis is
/// asked is for what a client does.
fn still(name: &str) -> Options {
    let mut options = options(name);
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    options.pulse.interval = minutes(10);
    options.pulse.fence_after = minutes(60);
    options.pulse.lease_ttl = minutes(120);
    options.pulse.lease_renew = minutes(30);
    options.limits.rooms_per_session_max = 20_000;
    let lobby = NamespaceRule { presence: true, ..NamespaceRule::new("/lobby") };
    options.namespaces = Namespaces::new(vec![NamespaceRule::new("/"), lobby], true);
    options
}

async fn anonymous(server: &Server) -> Client {
    connect(server.client().transports(Transports::WebSocket), "/").await
}

async fn user_in(namespace: &str, server: &Server, name: impl Into<String>) -> Client {
    let options = server.client().transports(Transports::WebSocket);
    connect(options.auth(json!({ "user": name.into() })), namespace).await
}

async fn user(server: &Server, name: impl Into<String>) -> Client {
    user_in("/", server, name).await
}

/// `1 SADD, 1 script, 1 SUBSCRIBE to 3`: in the order of names, with the channels where there is more than one each.
fn summary(commands: &[Command]) -> String {
    let mut found = BTreeMap::<&str, (usize, usize)>::new();
    for command in commands {
        let name = if command.name == "EVALSHA" { "script" } else { command.name.as_str() };
        let (count, words) = found.entry(name).or_default();
        *count += 1;
        *words += command.arguments.len();
    }
    let told = found.into_iter().map(|(name, (count, words))| match name {
        "script" if count != 1 => format!("{count} scripts"),
        // Each channel is given up at its own time, at which others go along: how often one asks is left to chance.
        "UNSUBSCRIBE" if words > 1 => format!("UNSUBSCRIBE of {words}"),
        "SUBSCRIBE" if words != count => format!("{count} SUBSCRIBE to {words}"),
        _ => format!("{count} {name}"),
    });
    let told: Vec<_> = told.collect();
    if told.is_empty() { "nothing".to_owned() } else { told.join(", ") }
}

/// The table, as far as it is counted.
struct Book {
    monitor: Monitor,
    table: String,
}

impl Book {
    async fn open(redis: &RedisServer) -> Self {
        let monitor = Monitor::start(redis).await;
        Self { monitor, table: "| what happens | what Redis is asked |\n|---|---|\n".to_owned() }
    }

    fn enter(&mut self, what: &str, asked: &str) {
        writeln!(self.table, "| {what} | {asked} |").unwrap();
    }

    /// `doing` must make the nodes ask exactly this, at once or a little later.
    async fn exactly<T>(&mut self, what: &str, asked: &str, doing: impl Future<Output = T>) -> T {
        let (output, commands) = self.monitor.during(doing, |commands| summary(commands) == asked).await;
        assert_eq!(summary(&commands), asked, "{what}: {commands:?}");
        self.enter(what, asked);
        output
    }
}

/// How often Redis has read from any connection.
async fn reads(redis: &RedisServer) -> u64 {
    let stats: String = redis.ask(&["INFO", "stats"]).await;
    let reads = stats.lines().find_map(|line| line.strip_prefix("total_reads_processed:"));
    reads.unwrap().parse().unwrap()
}

async fn say(client: &Client, event: &str, argument: impl Into<Value>) {
    ask_ok(client.socket(), event, argument).await;
}

async fn publish(client: &Client, room: &str, data: usize) {
    say(client, "publish", json!({ "room": room, "data": data })).await;
}

/// All of them, so many at a time that a busy machine is done with each in time.
async fn all<T>(each: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    stream::iter(each).buffer_unordered(100).collect().await
}

/// In one thread, so that nobody takes what is asked for in one go before all of it has been said.
#[tokio::test]
async fn what_is_asked_for_what_stands_in_the_table() {
    let redis = RedisServer::start();
    let cluster = Cluster::at(redis.url());
    let a = cluster.add(still("a")).await;
    let mut book = Book::open(&redis).await;

    let first = book
        .exactly("the first client of a namespace on a node connects", "1 SUBSCRIBE to 3", anonymous(&a))
        .await;
    let other = book.exactly("an anonymous client connects", "1 SUBSCRIBE", anonymous(&a)).await;
    let ann = book.exactly("a user connects", "1 SADD, 1 SUBSCRIBE, 1 script", user(&a, "ann")).await;

    book.exactly("the first member of a room on its node joins", "1 SUBSCRIBE", say(&first, "join", "r"))
        .await;
    say(&other, "join", "r").await;
    book.exactly("anybody joins a room that its node has", "nothing", say(&ann, "join", "r")).await;
    book.exactly("an anonymous client's `heartbeat`", "nothing", say(&other, "heartbeat", json!({}))).await;
    book.exactly("a user's first `heartbeat` in ten seconds", "1 script", say(&ann, "heartbeat", json!({})))
        .await;
    book.exactly("a user's next one", "nothing", say(&ann, "heartbeat", json!({}))).await;

    book.exactly("one publishes to a room", "1 PUBLISH", publish(&other, "r", 0)).await;
    book.exactly("one publishes to a room that nobody is in", "1 PUBLISH", publish(&other, "nobody", 0))
        .await;
    let broadcast = say(&other, "broadcast", json!({ "data": 0 }));
    book.exactly("one broadcasts to a namespace", "1 PUBLISH", broadcast).await;
    let reads_before = reads(&redis).await;
    let publishes = join_all((0..MANY).map(|data| publish(&other, "r", data)));
    book.exactly("one publishes 1,000 times at once", "1000 PUBLISH", publishes).await;
    // What Redis reads at once was written at once: it goes out in batches.
    let reads = reads(&redis).await - reads_before;
    assert!(reads <= READS_MAX, "{MANY} publishes were read {reads} times");
    book.enter("what Redis reads of these", &format!("at most {READS_MAX} times"));

    say(&ann, "leave", "r").await;
    book.exactly("one leaves a room that others of its node stay in", "nothing", say(&other, "leave", "r"))
        .await;
    book.exactly("the last member of a room on its node leaves", "1 UNSUBSCRIBE", say(&first, "leave", "r"))
        .await;

    let connects = user_in("/lobby", &a, "joe");
    let joe = book
        .exactly(
            "where there is presence: a user connects as the first of its node",
            "1 SADD, 1 SUBSCRIBE to 3, 1 script",
            connects,
        )
        .await;
    let joins = say(&joe, "join", "r");
    book.exactly("where there is presence: a user joins a new room", "1 SADD, 1 SUBSCRIBE, 1 script", joins)
        .await;
    let leaves = say(&joe, "leave", "r");
    book.exactly("where there is presence: a user leaves it", "1 SREM, 1 UNSUBSCRIBE, 1 script", leaves)
        .await;
    book.exactly(
        "the last session of a namespace on a node, a user's, ends",
        "1 SREM, UNSUBSCRIBE of 3, 1 script",
        joe.close(),
    )
    .await;

    let durable = |to: &str| say(&ann, "send", json!({ "to": to, "data": 0 }));
    book.exactly("a durable message to a user who is away", "2 scripts", durable("bob")).await;

    book.exactly("a user disconnects", "1 SREM, 1 UNSUBSCRIBE, 1 script", ann.close()).await;
    book.exactly("an anonymous client disconnects", "1 UNSUBSCRIBE", other.close()).await;

    let connects = all((0..MANY).map(|number| user(&a, format!("u{number}"))));
    let is_one = |command: &Command| command.name == "SUBSCRIBE";
    let met = |commands: &[Command]| {
        let channels = commands.iter().filter(|it| is_one(it)).map(|it| it.arguments.len()).sum::<usize>();
        channels == MANY && commands.iter().filter(|it| it.name == "EVALSHA").count() == MANY
    };
    let (users, mut commands) = book.monitor.during(connects, met).await;
    commands.retain(|command| !is_one(command));
    assert_eq!(summary(&commands), "1000 SADD, 1000 scripts");
    book.enter(
        "1,000 users connect",
        "1000 SADD, 1000 scripts, SUBSCRIBE to 1000 in as few as their pace allows",
    );

    // While Redis does not answer, everything gathers behind the first one that it was asked.
    let joins = async {
        let before = a.metric(RECEIVED);
        redis.freeze();
        let joins = join_all(
            users.iter().enumerate().map(|(number, client)| say(client, "join", format!("r{number}"))),
        );
        let thaw = async {
            a.until_metric(RECEIVED, before + MANY as i64).await;
            redis.thaw();
        };
        future::join(joins, thaw).await
    };
    book.exactly("they join 1,000 new rooms while it is busy", "2 SUBSCRIBE to 1000", joins).await;
    let table = book.table;
    assert!(README.contains(&table), "the table in loadtest/README.md is not what was counted:\n{table}");
    cluster.shutdown().await;
}

/// A way to Redis that counts what comes back on it.
struct Way {
    url: String,
    /// How often the needle has come.
    found: Arc<AtomicUsize>,
    /// Ends with this.
    _passing: JoinSet<()>,
}

/// What is looked for. It is in the names of rooms and so in every message of theirs.
const NEEDLE: &[u8] = b"busy-";

impl Way {
    async fn open(redis: u16) -> Self {
        let listener = any_port().await;
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let found = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&found);
        let mut passing = JoinSet::new();
        passing.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((node, _)) = listener.accept().await {
                let redis = TcpStream::connect(("127.0.0.1", redis)).await.unwrap();
                let (from_node, to_node) = node.into_split();
                let (from_redis, to_redis) = redis.into_split();
                connections.spawn(pass(from_node, to_redis, |_| {}));
                let (counted, mut seen) = (Arc::clone(&counted), Vec::new());
                connections.spawn(pass(from_redis, to_node, move |bytes| {
                    seen.extend_from_slice(bytes);
                    let found = seen.windows(NEEDLE.len()).filter(|window| *window == NEEDLE).count();
                    counted.fetch_add(found, Ordering::Relaxed);
                    // What may be the beginning of one.
                    seen.drain(..seen.len().saturating_sub(NEEDLE.len() - 1));
                }));
            }
        });
        Self { url, found, _passing: passing }
    }

    fn found(&self) -> usize {
        self.found.load(Ordering::Relaxed)
    }
}

/// Passes on what comes, until either end is gone.
async fn pass(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, mut look: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 65_536];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        look(&buffer[..read]);
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_hears_nothing_of_ten_thousand_busy_rooms_that_it_does_not_hold() {
    let redis = RedisServer::start();
    let way = Way::open(redis.port()).await;
    let (observed, others) = (Cluster::at(way.url.clone()), Cluster::at(redis.url()));
    let a = observed.add(still("a")).await;
    let (b, c) = (others.add(still("b")).await, others.add(still("c")).await);
    let (idle, member, speaker) = (anonymous(&a).await, anonymous(&b).await, anonymous(&c).await);
    say(&idle, "join", "quiet").await;
    let rooms = || (0..10_000).map(|number| format!("busy-{number}"));
    all(rooms().map(|room| say(&member, "join", room))).await;

    for data in 0..2 {
        let published = all(rooms().enumerate().map(|(number, room)| {
            let speaker = &speaker;
            async move { publish(speaker, &room, data * 10_000 + number).await }
        }));
        let heard = async {
            for _ in rooms() {
                next(member.socket()).await;
            }
        };
        future::join(published, heard).await;
    }
    // What the node is subscribed to, it hears: so does whoever counts.
    publish(&speaker, "quiet", 1).await;
    assert_eq!(next(idle.socket()).await.args[0], Value::from(1));
    assert_eq!(way.found(), 0, "messages of rooms that this node does not hold");
    say(&idle, "join", "busy-0").await;
    // The confirmation names it, and each message does.
    let confirmed = way.found();
    assert!(confirmed > 0, "the way does not count");
    publish(&speaker, "busy-0", 2).await;
    assert_eq!(next(idle.socket()).await.args[0], Value::from(2));
    assert!(way.found() > confirmed, "the way does not count");

    observed.shutdown().await;
    others.shutdown().await;
}
