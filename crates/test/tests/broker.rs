//! The broker port, held to one contract: in memory, and on a real Redis with all that can happen to one.

#![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt as _;
use tidegate_core::broker::{ANSWER_REFUSED, Error, PulseError};
use tidegate_core::memory::Exchange;
use tidegate_core::registry::Vitals;
use tidegate_core::{
    Answer, Ask, Asker, Incarnation, Namespace, NodeId, Request, RequestId, Room, Selection, Subscriber,
    Topic,
};
use tidegate_redis::{ConnectError, Options, RedisBroker};
use tidegate_test::broker_suite::{
    self as suite, Cluster, Event, LEASE_TTL, Node, PATIENCE, Recorder, outcomes, publish, room, settled, to,
};
use tidegate_test::cluster::AUTHORITY;
use tidegate_test::redis_server::RedisServer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

struct MemoryCluster(Exchange);

impl Cluster for MemoryCluster {
    async fn node(&self, name: &str) -> Node {
        let recorder = Arc::new(Recorder::default());
        let subscriber = Arc::clone(&recorder) as Arc<dyn Subscriber>;
        Node {
            broker: self.0.join(NodeId::parse(name).unwrap(), Incarnation::random(), subscriber),
            recorder,
        }
    }
}

/// On a server, and whether nodes meet there over TLS.
struct RedisCluster(RedisServer, bool);

impl RedisCluster {
    fn start() -> Self {
        Self(RedisServer::start(), false)
    }

    fn start_secure() -> Self {
        Self(RedisServer::start_secure(), true)
    }

    fn options(&self, name: &str) -> Options {
        let url = if self.1 { self.0.secure_url() } else { self.0.url() };
        Options {
            tls_ca: self.1.then(|| AUTHORITY.into()),
            // A busy machine must not look like a broken connection, except where a test asks for one.
            command_timeout: Duration::from_secs(10),
            fence_after: Duration::from_secs(10),
            ..Options::new(&url, NodeId::parse(name).unwrap())
        }
    }

    async fn node_with(&self, options: Options) -> Node {
        let recorder = Arc::new(Recorder::default());
        let subscriber = Arc::clone(&recorder) as Arc<dyn Subscriber>;
        Node { broker: RedisBroker::connect(options, subscriber).await.unwrap(), recorder }
    }
}

impl Cluster for RedisCluster {
    async fn node(&self, name: &str) -> Node {
        self.node_with(self.options(name)).await
    }
}

macro_rules! contract {
    ($($test:ident),* $(,)?) => {
        mod in_memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::suite::$test(&super::MemoryCluster(super::Exchange::new())).await;
            })*
        }
        mod on_redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::suite::$test(&super::RedisCluster::start()).await;
            })*
        }
        mod on_redis_over_tls {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::suite::$test(&super::RedisCluster::start_secure()).await;
            })*
        }
    };
}

contract! {
    a_closed_broker_asks_nothing,
    a_node_hears_its_own_publications,
    a_node_id_has_one_holder,
    a_pulse_comes_back,
    a_topic_outlives_its_namesake,
    closing_flushes_and_refuses,
    every_listener_is_asked_and_every_answer_comes,
    every_publishers_order_holds,
    every_word_arrives,
    one_publishers_order_holds_across_topics,
    publishers_are_told_once_and_find_room,
    requests_and_publications_keep_one_order,
    several_rooms_travel_on_the_topic_of_the_namespace,
    the_owner_alone_answers_who_wants_one_answer,
    topics_are_apart,
    unsubscribing_stops_and_the_last_wish_counts,
    what_is_published_after_subscribing_arrives,
}

/// Waits until the recorder was told `Lost`, and after it `Whole` with a higher generation than `before`.
async fn restored(node: &Node, before: u64) {
    let lost_then_whole = |events: &[Event]| {
        let whole = events.iter().rposition(|event| matches!(event, Event::Whole(now) if *now > before));
        let lost = events.iter().rposition(|event| *event == Event::Lost);
        matches!((lost, whole), (Some(lost), Some(whole)) if lost < whole)
    };
    node.recorder.until("a new whole subscription", lost_then_whole).await;
}

/// Waits until publications get through again.
async fn published(node: &Node, publication: &tidegate_core::Publication) {
    let deadline = Instant::now() + PATIENCE;
    while publish(&node.broker, publication.clone()).await.is_err() {
        assert!(Instant::now() < deadline, "redis is back, and publishing still fails");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until a pulse gets through again: the connection for commands comes back by itself, sooner or later than the other.
async fn pulsed(node: &Node, number: u64) {
    let deadline = Instant::now() + PATIENCE;
    while node.broker.pulse(number, LEASE_TTL, Vitals::default()).await.is_err() {
        assert!(Instant::now() < deadline, "redis is back, and the pulse still fails");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_is_reconnected_to_and_every_subscription_restored() {
    killed(RedisCluster::start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_over_tls() {
    killed(RedisCluster::start_secure()).await;
}

/// Two authorities that nobody asked, a host that no certificate names, and a server without TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_be_believed_is_not_used() {
    let cluster = RedisCluster::start_secure();
    let stranger = include_bytes!("../certificates/renewed.pem");
    let by_number = cluster.0.secure_url().replace("127.0.0.1", "127.0.0.2");
    let in_clear = format!("rediss://127.0.0.1:{}", cluster.0.port());
    for options in [
        Options { tls_ca: Some(stranger.to_vec()), ..cluster.options("a") },
        Options { url: by_number, ..cluster.options("a") },
        Options { url: in_clear, ..cluster.options("a") },
    ] {
        let options = Options { connect_timeout: Duration::from_millis(500), ..options };
        let refused = RedisBroker::connect(options, Arc::new(Recorder::default())).await.err();
        assert!(matches!(refused, Some(ConnectError::Unreachable { .. })), "{refused:?}");
    }
    cluster.node("a").await.broker.close().await;
}

async fn killed(mut cluster: RedisCluster) {
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let topics: Vec<_> = (0..2500).map(|number| room(&format!("r{number}"))).collect();
    b.broker.subscribe(topics).await.unwrap();
    b.broker.unsubscribe(vec![room("r7")]).await.unwrap();
    let (before_a, before_b) = (a.recorder.generation(), b.recorder.generation());

    cluster.0.kill();
    b.recorder.until_event(Event::Lost).await;
    b.recorder.until_event(Event::Link(false)).await;
    assert_eq!(b.broker.pulse(1, LEASE_TTL, Vitals::default()).await, Err(PulseError::Unavailable));
    // Wished for and given up during the outage.
    b.broker.unsubscribe(vec![room("r8")]).await.unwrap();
    let wished = b.broker.subscribe(vec![room("late")]);
    let mut had = b.broker.subscribe(vec![room("r0")]);
    assert!((&mut had).now_or_never().is_none(), "what an old connection confirmed is confirmed no longer");
    cluster.0.restart();
    wished.await.unwrap();
    had.await.unwrap();
    restored(&a, before_a).await;
    restored(&b, before_b).await;

    published(&a, &to(&["r0"], 0)).await;
    for (number, name) in ["r7", "r8", "r1", "r2499", "late"].into_iter().enumerate() {
        publish(&a.broker, to(&[name], number as u64)).await.unwrap();
    }
    b.recorder.until_publication(&to(&["late"], 4)).await;
    let seen: Vec<_> = b.recorder.publications();
    assert_eq!(seen, [to(&["r0"], 0), to(&["r1"], 2), to(&["r2499"], 3), to(&["late"], 4)]);
    pulsed(&b, 2).await;
    b.recorder.until_event(Event::Pulse(2, b.recorder.generation())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wish_on_its_way_survives_the_connection() {
    let mut cluster = RedisCluster::start();
    let a = cluster.node("a").await;
    cluster.0.freeze();
    let wished = a.broker.subscribe(vec![room("x")]);
    // A later one, that cannot be sent before the first is answered.
    let given_up = a.broker.unsubscribe(vec![room("x"), room("y")]);
    let wished_again = a.broker.subscribe(vec![room("x")]);
    tokio::task::yield_now().await;
    cluster.0.kill();
    cluster.0.restart();
    for wish in [wished, given_up, wished_again] {
        wish.await.unwrap();
    }
    restored(&a, 1).await;
    published(&a, &to(&["x"], 1)).await;
    a.recorder.until_publication(&to(&["x"], 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publications_are_held_through_an_outage_in_order() {
    let cluster = RedisCluster::start();
    let options = cluster.options("a");
    let name = format!("name=tidegate:{} ", options.incarnation.as_str());
    let (a, b) = (cluster.node_with(options).await, cluster.node("b").await);
    b.broker.subscribe(vec![room("x")]).await.unwrap();

    // Only the connection goes that a publishes on; b stays subscribed, so that all that is accepted must arrive.
    let clients: String = cluster.0.ask(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
    let client = clients.lines().find(|client| client.contains(&name)).unwrap();
    let id = client.split(' ').next().unwrap().trim_start_matches("id=");
    let killed: i64 = cluster.0.ask(&["CLIENT", "KILL", "ID", id]).await;
    assert_eq!(killed, 1);
    a.recorder.until_event(Event::Lost).await;
    let (done, mut told) = outcomes();
    let mut accepted = Vec::new();
    for number in 0..200 {
        a.broker.publish(to(&["x"], number), done());
    }
    for number in 0..200 {
        if settled(&mut told).await.is_ok() {
            accepted.push(to(&["x"], number));
        }
    }
    assert!(!accepted.is_empty(), "the connection came back, and nothing was sent on it");
    b.recorder.until_publication(accepted.last().unwrap()).await;
    let seen = b.recorder.publications();
    assert_eq!(seen.iter().filter(|seen| accepted.contains(seen)).cloned().collect::<Vec<_>>(), accepted);
    let numbers: Vec<_> = (0..200).map(|number| to(&["x"], number)).collect();
    let order: Vec<_> = seen.iter().map(|seen| numbers.iter().position(|sent| sent == seen)).collect();
    assert!(order.is_sorted_by(|one, next| one < next), "out of order or twice: {order:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publications_are_refused_when_the_outage_lasts() {
    let mut cluster = RedisCluster::start();
    let timeout = Duration::from_millis(300);
    let a = cluster.node_with(Options { command_timeout: timeout, ..cluster.options("a") }).await;
    cluster.0.kill();
    a.recorder.until_event(Event::Link(false)).await;
    let (done, mut told) = outcomes();
    let begun = Instant::now();
    for number in 0..10 {
        a.broker.publish(to(&["x"], number), done());
    }
    for _ in 0..10 {
        assert_eq!(settled(&mut told).await, Err(Error::Unavailable));
    }
    assert!(begun.elapsed() >= timeout, "refused before their time was over");
    assert_eq!(a.broker.subscribe(vec![room("x")]).await, Err(Error::Unavailable));

    // The wish outlives the refusal.
    cluster.0.restart();
    restored(&a, 0).await;
    published(&a, &to(&["x"], 99)).await;
    a.recorder.until_publication(&to(&["x"], 99)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_publishing_queue_is_bounded() {
    let cluster = RedisCluster::start();
    let options = Options { publish_queue_bytes_max: 64 * 1024, ..cluster.options("a") };
    let a = cluster.node_with(options).await;
    a.broker.subscribe(vec![room("x")]).await.unwrap();
    cluster.0.freeze();
    let (done, mut told) = outcomes();
    let mut refused = 0;
    while refused < 10 {
        a.broker.publish(to(&["x"], 0), done());
        while let Ok(outcome) = told.try_recv() {
            assert_eq!(outcome, Err(Error::Unavailable), "redis is frozen");
            refused += 1;
        }
    }
    let ready = a.broker.ready().expect("a full queue is not ready");
    cluster.0.thaw();
    tokio::time::timeout(PATIENCE, ready).await.unwrap();
    assert_eq!(settled(&mut told).await, Ok(()));
    assert_eq!(publish(&a.broker, to(&["x"], 1)).await, Ok(()));
    a.recorder.until_publication(&to(&["x"], 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_are_sent_in_batches() {
    let cluster = RedisCluster::start();
    let a = cluster.node("a").await;
    let calls = async |command: &str| {
        let stats: String = cluster.0.ask(&["INFO", "commandstats"]).await;
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        line.map_or(0, |line| line.split(',').next().unwrap().parse::<u32>().unwrap())
    };
    assert_eq!(calls("subscribe").await, 1, "the node's own channel");

    let many: Vec<_> = (0..3000).map(|number| room(&format!("many{number}"))).collect();
    a.broker.subscribe(many.clone()).await.unwrap();
    assert_eq!(calls("subscribe").await, 4);
    a.broker.subscribe(many.clone()).await.unwrap();
    assert_eq!(calls("subscribe").await, 4, "what is confirmed is not sent again");

    let wishes: Vec<_> =
        (0..300).map(|number| a.broker.subscribe(vec![room(&format!("one{number}"))])).collect();
    for wish in wishes {
        wish.await.unwrap();
    }
    assert!(
        calls("subscribe").await <= 4 + 30,
        "300 calls at once were not gathered: {}",
        calls("subscribe").await
    );
    a.broker.unsubscribe(many).await.unwrap();
    assert_eq!(calls("unsubscribe").await, 3);
    assert_eq!(calls("psubscribe").await, 0);
    assert!(a.recorder.observed("subscribe") >= 4 && a.recorder.observed("unsubscribe") == 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_the_wanted_channels_are_subscribed() {
    let cluster = RedisCluster::start();
    let a = cluster.node("a").await;
    let chat = Namespace::from("/chat");
    a.broker
        .subscribe(vec![room("x"), room("y"), Topic::Namespace(Namespace::root()), Topic::Namespace(chat)])
        .await
        .unwrap();
    a.broker.unsubscribe(vec![room("y")]).await.unwrap();
    let mut channels: Vec<String> = cluster.0.ask(&["PUBSUB", "CHANNELS"]).await;
    channels.sort();
    assert_eq!(channels, ["socket.io#/#", "socket.io#/#x#", "socket.io#/chat#", "tidegate:{node:a}:ch"]);
    let patterns: i64 = cluster.0.ask(&["PUBSUB", "NUMPAT"]).await;
    assert_eq!(patterns, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_of_several_topics_goes_with_the_last() {
    let cluster = RedisCluster::start();
    let a = cluster.node("a").await;
    let namesakes = || {
        let room = |namespace: &str, room: &str| Topic::Room(Namespace::from(namespace), Room::from(room));
        vec![room("/a", "b#c"), room("/a#b", "c"), Topic::Namespace(Namespace::from("/a#b#c"))]
    };
    let channels = async || cluster.0.ask::<Vec<String>>(&["PUBSUB", "CHANNELS", "socket.io#*"]).await;

    a.broker.subscribe(namesakes()).await.unwrap();
    for topic in namesakes() {
        assert_eq!(channels().await, ["socket.io#/a#b#c#"]);
        a.broker.unsubscribe(vec![topic]).await.unwrap();
    }
    assert_eq!(channels().await, Vec::<String>::new());

    // All in one go.
    a.broker.subscribe(namesakes()).await.unwrap();
    a.broker.unsubscribe(namesakes()).await.unwrap();
    assert_eq!(channels().await, Vec::<String>::new());

    // Restored with the connection, and still counted as one.
    a.broker.subscribe(namesakes()).await.unwrap();
    let before = a.recorder.generation();
    let _: i64 = cluster.0.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    restored(&a, before).await;
    a.broker.unsubscribe(namesakes().split_off(1)).await.unwrap();
    assert_eq!(channels().await, ["socket.io#/a#b#c#"]);
    let breaks = a.recorder.events().iter().filter(|event| **event == Event::Lost).count();
    assert_eq!(breaks, 1, "a confirmation was counted twice or not at all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_dropped_and_counted() {
    let cluster = RedisCluster::start();
    let a = cluster.node("a").await;
    a.broker.subscribe(vec![room("x"), Topic::Namespace(Namespace::root())]).await.unwrap();
    let mut connection = cluster.0.connection().await;
    let mut send = async |channel: &str, payload: &[u8]| {
        let mut command = redis::cmd("PUBLISH");
        command.arg(channel).arg(payload);
        let receivers: i64 = command.query_async(&mut connection).await.unwrap();
        assert_eq!(receivers, 1, "{channel}");
    };
    send("socket.io#/#", b"").await;
    send("socket.io#/#", b"\xc1garbage").await;
    send("socket.io#/#", b"\x93\xa1u\x82\xa4type\x02\xa4data\x91\xa7evicted\x80").await;
    send("socket.io#/#x#", b"\x93\xa1u\x83\xa4type\x02\xa4data\x91\xa1e\xa3nsp\xa2/y\x80").await;
    send("tidegate:{node:a}:ch", b"garbage").await;
    send(
        "tidegate:{node:a}:ch",
        b"\x82\xa1v\x01\xa4kind\x81\xa5Pulse\x82\xabincarnation\xa5other\xa6number\x07",
    )
    .await;
    // To several rooms, on the channel of one: whoever receives follows from the payload alone.
    send("socket.io#/#x#", b"\x93\xa1u\x82\xa4type\x02\xa4data\x92\xa1e\x01\x81\xa5rooms\x92\xa1x\xa1z")
        .await;
    a.recorder.until_publication(&to(&["x", "z"], 1)).await;
    a.broker.pulse(9, LEASE_TTL, Vitals::default()).await.unwrap();
    a.recorder.until_event(Event::Pulse(9, a.recorder.generation())).await;

    let mut dropped: Vec<_> = a.recorder.events();
    dropped.retain(|event| matches!(event, Event::Dropped(_) | Event::Pulse(..) | Event::Lost));
    dropped.sort_by_key(|event| format!("{event:?}"));
    let generation = a.recorder.generation();
    assert_eq!(
        dropped,
        [
            Event::Dropped("adapter_malformed"),
            Event::Dropped("adapter_malformed"),
            Event::Dropped("adapter_namespace_mismatch"),
            Event::Dropped("adapter_reserved_event"),
            Event::Dropped("unknown_node_message"),
            Event::Pulse(9, generation),
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_subscription_is_lost_and_whole_again() {
    let cluster = RedisCluster::start();
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    b.broker.subscribe(vec![room("x")]).await.unwrap();
    for _ in 0..3 {
        let before = b.recorder.generation();
        let _: i64 = cluster.0.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        restored(&b, before).await;
        publish(&a.broker, to(&["x"], before)).await.unwrap();
        b.recorder.until_publication(&to(&["x"], before)).await;
    }
    let events = b.recorder.events();
    let mut told = events.iter().filter(|event| matches!(event, Event::Whole(_) | Event::Lost));
    assert!(matches!(told.next(), Some(Event::Whole(_))));
    while let Some(event) = told.next() {
        assert_eq!(*event, Event::Lost);
        assert!(matches!(told.next(), Some(Event::Whole(_))), "lost and whole take turns: {events:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_stops_answering_counts_as_lost() {
    let cluster = RedisCluster::start();
    let fence_after = Duration::from_millis(300);
    let a = cluster.node_with(Options { fence_after, ..cluster.options("a") }).await;
    let before = a.recorder.generation();
    cluster.0.freeze();
    assert_eq!(a.broker.pulse(1, LEASE_TTL, Vitals::default()).await, Err(PulseError::Unavailable));
    a.recorder.until_event(Event::Lost).await;
    a.recorder.until_event(Event::Link(false)).await;
    cluster.0.thaw();
    restored(&a, before).await;
    a.recorder
        .until("the link", |events| {
            events.iter().rfind(|event| matches!(event, Event::Link(_))) == Some(&Event::Link(true))
        })
        .await;
    a.broker.pulse(2, LEASE_TTL, Vitals::default()).await.unwrap();
    a.recorder.until_event(Event::Pulse(2, a.recorder.generation())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_answered_in_time_is_given_up_with_its_connection() {
    let cluster = RedisCluster::start();
    let command_timeout = Duration::from_millis(200);
    let a = cluster.node_with(Options { command_timeout, ..cluster.options("a") }).await;
    a.broker.subscribe(vec![room("x")]).await.unwrap();
    let breaks = |of: Event, count: usize| {
        a.recorder.until(format!("break {count}: {of:?}"), move |events: &[Event]| {
            events.iter().filter(|event| **event == of).count() >= count
        })
    };

    cluster.0.freeze();
    assert_eq!(publish(&a.broker, to(&["x"], 1)).await, Err(Error::Unavailable));
    cluster.0.thaw();
    breaks(Event::Lost, 1).await;
    published(&a, &to(&["x"], 2)).await;
    a.recorder.until_publication(&to(&["x"], 2)).await;

    // Both connections go with a pulse that fails, and what was on its way over them.
    let whole = a.recorder.generation();
    cluster.0.freeze();
    let (done, mut told) = outcomes();
    a.broker.publish(to(&["x"], 3), done());
    assert_eq!(a.broker.pulse(1, LEASE_TTL, Vitals::default()).await, Err(PulseError::Unavailable));
    assert_eq!(settled(&mut told).await, Err(Error::Unavailable));
    breaks(Event::Link(false), 1).await;
    breaks(Event::Lost, 2).await;
    cluster.0.thaw();
    restored(&a, whole).await;
    // The outcome of the first was unknown; it may have arrived, but was not sent again.
    let firsts = a.recorder.publications().into_iter().filter(|seen| *seen == to(&["x"], 1)).count();
    assert!(firsts <= 1, "{firsts}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn more_than_can_be_read_is_a_gap_and_said_so() {
    let cluster = RedisCluster::start();
    let a = cluster.node("a").await;
    a.broker.subscribe(vec![room("x")]).await.unwrap();
    let before = a.recorder.generation();
    // What the node does not read waits at Redis, up to this bound.
    let _: String = cluster.0.ask(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 0 0"]).await;
    let held = a.recorder.hold();
    // Sixty-four kilobytes of event data each.
    let mut payload = b"\x93\xa1u\x82\xa4type\x02\xa4data\x92\xa1e\xda".to_vec();
    payload.extend(u16::MAX.to_be_bytes());
    payload.extend(vec![b'.'; usize::from(u16::MAX)]);
    payload.extend(b"\x81\xa5rooms\x91\xa1x");
    let mut connection = cluster.0.connection().await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "the queue has no bound");
        let mut command = redis::cmd("PUBLISH");
        command.arg("socket.io#/#x#").arg(&payload);
        let receivers: i64 = command.query_async(&mut connection).await.unwrap();
        if receivers == 0 {
            break;
        }
    }
    drop(held);
    restored(&a, before).await;
    publish(&a.broker, to(&["x"], 1)).await.unwrap();
    a.recorder.until_publication(&to(&["x"], 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_refuses_writes_lets_no_pulse_through() {
    let cluster = RedisCluster::start();
    let a = cluster.node("a").await;
    a.broker.pulse(1, LEASE_TTL, Vitals::default()).await.unwrap();
    a.recorder.until_event(Event::Pulse(1, a.recorder.generation())).await;
    let before = a.recorder.generation();
    // A master that was deposed: replica of a server that does not exist.
    let _: String = cluster.0.ask(&["REPLICAOF", "127.0.0.1", "1"]).await;
    assert_eq!(a.broker.pulse(2, LEASE_TTL, Vitals::default()).await, Err(PulseError::Unavailable));
    let _: String = cluster.0.ask(&["REPLICAOF", "NO", "ONE"]).await;
    // Both connections lead elsewhere now, if there is an elsewhere.
    restored(&a, before).await;
    pulsed(&a, 3).await;
    a.recorder
        .until("pulse 3", |events| events.iter().any(|event| matches!(event, Event::Pulse(3, _))))
        .await;
    assert!(!a.recorder.events().iter().any(|event| matches!(event, Event::Pulse(2, _))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lease_says_who_holds_it_and_is_given_back() {
    let cluster = RedisCluster::start();
    let options = cluster.options("a");
    let incarnation = options.incarnation.as_str().to_owned();
    let (a, other) = (cluster.node_with(options).await, cluster.node("a").await);
    let exists: i64 = cluster.0.ask(&["EXISTS", "tidegate:{node:a}:lease"]).await;
    assert_eq!(exists, 0, "connecting takes no lease");

    a.broker.pulse(1, LEASE_TTL, Vitals::default()).await.unwrap();
    let held: String = cluster.0.ask(&["HGET", "tidegate:{node:a}:lease", "incarnation"]).await;
    assert_eq!(held, incarnation);
    let fence: u64 = cluster.0.ask(&["HGET", "tidegate:{node:a}:lease", "fence_after_ms"]).await;
    assert_eq!(fence, 10_000);
    let started_at: u64 = cluster.0.ask(&["HGET", "tidegate:{node:a}:lease", "started_at"]).await;
    assert!(started_at > 1_600_000_000_000, "{started_at}");
    let left: i64 = cluster.0.ask(&["PTTL", "tidegate:{node:a}:lease"]).await;
    assert!(left > 0 && left <= 10_000, "{left}");

    let refused = other.broker.pulse(1, LEASE_TTL, Vitals::default()).await;
    assert!(
        matches!(&refused, Err(PulseError::Conflict { incarnation: holder, .. }) if *holder == incarnation),
        "{refused:?}"
    );
    other.broker.close().await;
    let exists: i64 = cluster.0.ask(&["EXISTS", "tidegate:{node:a}:lease"]).await;
    assert_eq!(exists, 1, "a loser gives nothing back");
    a.broker.close().await;
    let exists: i64 = cluster.0.ask(&["EXISTS", "tidegate:{node:a}:lease"]).await;
    assert_eq!(exists, 0);
    // Both nodes' connections are gone as well.
    let channels: Vec<String> = cluster.0.ask(&["PUBSUB", "CHANNELS"]).await;
    assert_eq!(channels, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_broker_keeps_nothing_of_its_subscriber() {
    let cluster = RedisCluster::start();
    let node = cluster.node("a").await;
    node.broker.subscribe(vec![room("x")]).await.unwrap();
    node.broker.close().await;
    assert_eq!(Arc::strong_count(&node.recorder), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_redis_is_an_error_that_names_where_it_was_looked_for() {
    let mut server = RedisServer::start();
    server.kill();
    let url = format!("redis://user:secret@127.0.0.1:{}/0", server.port());
    let options = Options {
        connect_timeout: Duration::from_millis(300),
        ..Options::new(&url, NodeId::parse("a").unwrap())
    };
    let recorder = Arc::new(Recorder::default());
    let error = RedisBroker::connect(options, Arc::clone(&recorder) as _).await.err().unwrap();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&format!("redis://user:***@127.0.0.1:{}", server.port())), "{text}");
    assert!(text.contains("refused") && !text.contains("secret"), "{text}");
    assert_eq!(recorder.events(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_up_late_is_waited_for() {
    let mut cluster = RedisCluster::start();
    let options = Options { connect_timeout: PATIENCE, ..cluster.options("a") };
    cluster.0.kill();
    let recorder = Arc::new(Recorder::default());
    let mut connecting = JoinSet::new();
    connecting.spawn(RedisBroker::connect(options, Arc::clone(&recorder) as _));
    tokio::task::yield_now().await;
    cluster.0.restart();
    connecting.join_next().await.unwrap().unwrap().unwrap();
    assert!(recorder.generation() > 0);
}

#[tokio::test]
async fn a_redis_that_is_too_old_is_refused_by_its_version() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    // As much of a server as the question needs.
    let mut server = JoinSet::new();
    server.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while stream.read_buf(&mut asked).await.is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&asked).into_owned();
            if text.contains("\r\nINFO\r\n") {
                let info = "# Server\r\nredis_version:6.0.16\r\n";
                stream.write_all(format!("${}\r\n{info}\r\n", info.len()).as_bytes()).await.unwrap();
                asked.clear();
            } else if text.ends_with("\r\n") {
                let greetings = text.matches("HELLO\r\n").count();
                let others = text.matches("CLIENT\r\n").count();
                let answer = ["%1\r\n+proto\r\n:3\r\n".repeat(greetings), "+OK\r\n".repeat(others)].concat();
                stream.write_all(answer.as_bytes()).await.unwrap();
                asked.clear();
            }
        }
    });
    let options = Options { connect_timeout: PATIENCE, ..Options::new(&url, NodeId::parse("a").unwrap()) };
    let error = RedisBroker::connect(options, Arc::new(Recorder::default())).await.err().unwrap();
    assert!(matches!(&error, ConnectError::Version { found, .. } if found == "6.0.16"), "{error:?}");
}

/// A server of another kind, as far as Redis sees it: what it publishes, and what its subscription brings.
struct Peer {
    subscribed: TcpStream,
    commands: redis::aio::MultiplexedConnection,
    received: Vec<u8>,
}

impl Peer {
    async fn new(redis: &RedisServer, channels: &[&str]) -> Self {
        let mut subscribed = TcpStream::connect(("127.0.0.1", redis.port())).await.unwrap();
        subscribed.write_all(format!("SUBSCRIBE {}\r\n", channels.join(" ")).as_bytes()).await.unwrap();
        let mut peer = Self { subscribed, commands: redis.connection().await, received: Vec::new() };
        peer.until(format!(":{}\r\n", channels.len()).as_bytes()).await;
        peer.received.clear();
        peer
    }

    async fn publish(&mut self, channel: &str, payload: &[u8]) -> i64 {
        let mut command = redis::cmd("PUBLISH");
        command.arg(channel).arg(payload).query_async(&mut self.commands).await.unwrap()
    }

    async fn until(&mut self, expected: &[u8]) {
        let arrives = async {
            while !self.received.windows(expected.len()).any(|window| window == expected) {
                assert!(self.subscribed.read_buf(&mut self.received).await.unwrap() > 0);
            }
        };
        let arrived = tokio::time::timeout(PATIENCE, arrives).await;
        assert!(arrived.is_ok(), "{} in {}", expected.escape_ascii(), self.received.escape_ascii());
    }

    async fn until_message(&mut self, channel: &str, payload: &[u8]) {
        let head =
            format!("*3\r\n$7\r\nmessage\r\n${}\r\n{channel}\r\n${}\r\n", channel.len(), payload.len());
        self.until(&[head.as_bytes(), payload, b"\r\n"].concat()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_server_is_answered_where_it_listens() {
    let cluster = RedisCluster::start();
    let a = cluster.node("a").await;
    a.broker.subscribe(vec![suite::requests()]).await.unwrap();
    let mut peer = Peer::new(&cluster.0, &["socket.io-request#/#", "socket.io-response#/#"]).await;
    // The peer's own subscription counts, too.
    assert_eq!(a.broker.listeners(Namespace::root()).await, Ok(2));

    let asked = br#"{"uid":"asukF3","requestId":"GMYxk7","type":1}"#;
    assert_eq!(peer.publish("socket.io-request#/#", asked).await, 2);
    let asker = Asker { uid: Some("asukF3".into()), ..Asker::new(RequestId::from("GMYxk7")) };
    let request = Request { namespace: Namespace::root(), asker: Some(asker.clone()), ask: Ask::Rooms };
    a.recorder.until_event(Event::Request(request)).await;
    a.broker.answer(&asker, &Namespace::root(), Answer::Rooms(vec![Room::from("r")]));
    let answer = br#"{"requestId":"GMYxk7","rooms":["r"],"node":"a"}"#;
    peer.until_message("socket.io-response#/#", answer).await;
    a.broker.answer(&asker, &Namespace::root(), Answer::Acknowledged(Bytes::from_static(b"\x2a")));
    let answer = b"\x84\xa4type\x09\xa9requestId\xa6GMYxk7\xa6packet\x2a\xa4node\xa1a";
    peer.until_message("socket.io-response#/#", answer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_server_is_asked_and_heard_on_both_channels() {
    let cluster = RedisCluster::start();
    let a = cluster.node("a").await;
    a.broker.subscribe(vec![suite::answers()]).await.unwrap();
    let mut peer = Peer::new(&cluster.0, &["socket.io-request#/#"]).await;
    let mut channels: Vec<String> = cluster.0.ask(&["PUBSUB", "CHANNELS", "socket.io-response*"]).await;
    channels.sort();
    let [base, own] = channels.as_slice() else { panic!("{channels:?}") };
    assert_eq!(base, "socket.io-response#/#");
    let uid = own.strip_prefix(base).unwrap().strip_suffix('#').unwrap();

    let id = RequestId::from("EMhdbd");
    suite::request(&a.broker, Some(&id), Ask::Fetch { selection: Selection::default() }).await.unwrap();
    let asked = format!(
        r#"{{"uid":"{uid}","requestId":"EMhdbd","type":5,"opts":{{"rooms":[],"except":[]}},"node":"a"}}"#
    );
    peer.until_message("socket.io-request#/#", asked.as_bytes()).await;
    // As `publishOnSpecificResponseChannel` has it, and as it is without.
    for (channel, count) in [(own, 1), (base, 2)] {
        let answer = format!(r#"{{"type":8,"requestId":"EMhdbd","clientCount":{count}}}"#);
        assert_eq!(peer.publish(channel, answer.as_bytes()).await, 1);
        a.recorder.until_event(Event::Answered(id.clone(), None, Answer::Clients(count))).await;
    }

    // Both are restored, and both are given up.
    let before = a.recorder.generation();
    let _: i64 = cluster.0.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    restored(&a, before).await;
    let answer = br#"{"type":8,"requestId":"EMhdbd","clientCount":3}"#;
    assert_eq!(peer.publish(own, answer).await, 1);
    a.recorder.until_event(Event::Answered(id, None, Answer::Clients(3))).await;
    a.broker.unsubscribe(vec![suite::answers()]).await.unwrap();
    let channels: Vec<String> = cluster.0.ask(&["PUBSUB", "CHANNELS", "socket.io*"]).await;
    assert_eq!(channels, Vec::<String>::new());
    let breaks = a.recorder.events().iter().filter(|event| **event == Event::Lost).count();
    assert_eq!(breaks, 1, "a confirmation was counted twice or not at all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_answers_that_cannot_be_read_are_dropped_and_counted() {
    let cluster = RedisCluster::start();
    let a = cluster.node("a").await;
    a.broker.subscribe(vec![suite::requests(), suite::answers()]).await.unwrap();
    let mut peer = Peer::new(&cluster.0, &["elsewhere"]).await;
    for (channel, payload, reason) in [
        ("socket.io-request#/#", &b""[..], "request_malformed"),
        ("socket.io-request#/#", b"{\"type\":", "request_malformed"),
        // It ends a stock server.
        ("socket.io-request#/#", br#"{"requestId":"i","type":5}"#, "request_malformed"),
        ("socket.io-request#/#", br#"{"requestId":"i","type":77}"#, "request_unknown"),
        (
            "socket.io-request#/#",
            b"\x83\xa4type\x07\xa6packet\x82\xa4type\x02\xa4data\x91\xa7evicted\xa4opts\x80",
            "adapter_reserved_event",
        ),
        ("socket.io-response#/#", b"{}", "answer_malformed"),
        ("socket.io-response#/#", b"\xc1", "answer_malformed"),
    ] {
        let count =
            |events: &[Event]| events.iter().filter(|event| **event == Event::Dropped(reason)).count();
        let before = count(&a.recorder.events());
        assert_eq!(peer.publish(channel, payload).await, 1, "{channel}");
        a.recorder.until(reason, |events| count(events) == before + 1).await;
    }
    assert_eq!(peer.publish("socket.io-request#/#", br#"{"type":1}"#).await, 1);
    let request = Request { namespace: Namespace::root(), asker: None, ask: Ask::Rooms };
    a.recorder.until_event(Event::Request(request)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_finds_no_room_is_counted() {
    let cluster = RedisCluster::start();
    let a = cluster.node_with(Options { publish_queue_bytes_max: 1024, ..cluster.options("a") }).await;
    let rooms = vec![Room::from("r".repeat(1024))];
    a.broker.answer(&Asker::new(RequestId::random()), &Namespace::root(), Answer::Rooms(rooms));
    a.recorder.until_event(Event::Dropped(ANSWER_REFUSED)).await;
}
