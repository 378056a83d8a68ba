//! The registry on Redis, with all that can happen to one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tidegate_core::registry::{
    Claim, ClaimError, Error, OnDuplicate, Own, Page, Policy, Stay, Tended, Verdict, Vitals,
};
use tidegate_core::{Namespace, NodeId, SessionId, Subscriber};
use tidegate_redis::{Options, RedisBroker};
use tidegate_test::broker_suite::{Event, Recorder};
use tidegate_test::redis_server::RedisServer;
use tidegate_test::registry_suite::{
    ANNOUNCE, Cluster, LEASE_TTL, Node, PATIENCE, Stores, came, claim, claim_as, fence_after, gone, node,
    pair, passed, place, unix_ms, went,
};

/// Nodes on a server, under a prefix of their own.
pub(crate) struct RedisCluster {
    server: Arc<RedisServer>,
    prefix: String,
}

impl RedisCluster {
    pub(crate) fn start() -> Self {
        Self::on(&Arc::new(RedisServer::start()))
    }

    /// Another cluster on the same server.
    pub(crate) fn on(server: &Arc<RedisServer>) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let prefix = format!("t{}", COUNT.fetch_add(1, Ordering::Relaxed));
        Self { server: Arc::clone(server), prefix }
    }

    fn options(&self, name: &str) -> Options {
        let node = NodeId::parse(name).unwrap();
        Options {
            // A busy machine must not look like a broken connection, except where a test asks for one.
            command_timeout: Duration::from_secs(10),
            fence_after: fence_after(&node),
            prefix: self.prefix.clone(),
            adapter_prefix: format!("{}-adapter", self.prefix),
            ..Options::new(&self.server.url(), node)
        }
    }

    async fn join_with(&self, options: Options) -> Node {
        let recorder = Arc::new(Recorder::default());
        let subscriber = Arc::clone(&recorder) as Arc<dyn Subscriber>;
        let (node, incarnation) = (options.node.clone(), options.incarnation.clone());
        let broker = RedisBroker::connect(options, subscriber).await.unwrap();
        let registry = broker.registry();
        let store = Arc::clone(&broker);
        let stores = Stores(Arc::new(move |quotas| store.offline(quotas)));
        Node { broker, registry, stores, recorder, node, incarnation }
    }

    async fn end_lease(&self, node: &NodeId) {
        let ended: i64 = self.server.ask(&["DEL", &format!("{}:{{node:{node}}}:lease", self.prefix)]).await;
        assert_eq!(ended, 1, "the lease is called something else");
    }

    async fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.server.ask(&["KEYS", &format!("{}:*", self.prefix)]).await;
        keys.sort();
        keys
    }
}

impl Cluster for RedisCluster {
    async fn join(&self, name: &str) -> Node {
        self.join_with(self.options(name)).await
    }

    async fn join_lapsed(&self, name: &str) -> Node {
        let late = node(self, name).await;
        self.end_lease(&late.node).await;
        late
    }

    async fn crash(&self, node: Node) {
        let name = node.node.clone();
        let connection = format!(" name=tidegate:{} ", node.incarnation.as_str());
        drop(node);
        // Its connections end a moment later; while they are open, it might come back.
        let deadline = Instant::now() + PATIENCE;
        while self.server.ask::<String>(&["CLIENT", "LIST"]).await.contains(&connection) {
            assert!(Instant::now() < deadline, "the connections of {name} stay open");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // What it did last was before anybody takes over from it, also by a clock of milliseconds.
        passed(unix_ms()).await;
        self.end_lease(&name).await;
    }

    async fn lose_everything(&self) {
        let _: String = self.server.ask(&["FLUSHALL"]).await;
    }
}

/// Waits until `attempt` succeeds, as it does once the node has found its server again.
async fn until_up<T, F: Future<Output = Result<T, Error>>>(mut attempt: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(answer) => return answer,
            Err(error) => assert!(Instant::now() < deadline, "redis is back, and still: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_server_is_told_everything_again() {
    let mut cluster = RedisCluster::start();
    let (a, b) = pair(&cluster).await;
    a.listen(&["r"]).await;
    let one = a.hold(claim("u", "d1")).await;
    let two = a.hold(claim("u", "d2")).await;
    let other = b.hold(claim("v", "d")).await;
    a.registry.enter(vec![a.stay(&one, "r")], Some(ANNOUNCE)).await.unwrap();

    let server = Arc::get_mut(&mut cluster.server).expect("nobody else holds the server");
    server.kill();
    assert_eq!(a.registry.claim(claim("u", "d3")).await, Err(ClaimError::Unavailable(Error)));
    assert_eq!(a.registry.check(vec![one.clone()], true).await, Err(Error));
    assert_eq!(a.registry.find(vec![place("u")]).await, Err(Error));
    assert_eq!(a.registry.tend(Some(ANNOUNCE)).await, Err(Error));
    server.restart();

    assert_eq!(until_up(|| a.registry.own()).await, Own::Unknown);
    passed(other.epoch).await;
    // Who comes now must wait for those that nobody knows any more.
    let newcomer = claim("u", "d2");
    let claimed = until_up(|| async {
        b.registry.claim(newcomer.clone()).await.map_err(|error| match error {
            ClaimError::Unavailable(error) => error,
            ClaimError::Taken => panic!("nobody is there"),
        })
    })
    .await;
    assert_eq!(claimed.displaced, []);
    let fence = fence_after(&b.node);
    assert!(claimed.settling > Duration::ZERO && claimed.settling <= fence, "{:?}", claimed.settling);

    let verdicts = a.registry.check(vec![one.clone(), two.clone()], true).await.unwrap();
    let lost = Verdict::Evicted(b.replaces(&Claim { epoch: claimed.epoch, ..newcomer }));
    assert_eq!(verdicts, [Verdict::Restored, lost]);
    assert_eq!(b.check(&other, true).await, Verdict::Restored);
    a.registry.enter(vec![a.stay(&one, "r")], None).await.unwrap();
    let page = Page { after: None, limit: 10 };
    let members = b.registry.members(Namespace::root(), "r".into(), page).await.unwrap();
    assert_eq!(members.items, [a.stay(&one, "r")]);

    // Back in the list, with everything it has, so that nothing is forgotten should it die now.
    a.broker.pulse(1, LEASE_TTL, Vitals::default()).await.unwrap();
    b.broker.pulse(1, LEASE_TTL, Vitals::default()).await.unwrap();
    a.registry.tend(None).await.unwrap();
    assert_eq!(a.registry.own().await, Ok(Own::Listed));
    cluster.crash(a).await;
    let tended = b.registry.tend(Some(ANNOUNCE)).await.unwrap();
    assert_eq!((tended.nodes, tended.sessions), (1, 1));
    let members = b.registry.members(Namespace::root(), "r".into(), Page { after: None, limit: 10 }).await;
    assert_eq!(members.unwrap().items, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_the_server_forgot_are_loaded_again() {
    let cluster = RedisCluster::start();
    let (a, b) = pair(&cluster).await;
    a.listen(&["r"]).await;
    let forget = async || {
        let _: String = cluster.server.ask(&["SCRIPT", "FLUSH"]).await;
    };
    forget().await;
    let old = a.hold(claim("u", "d")).await;
    forget().await;
    let new = b.claim(claim("u", "d")).await.0;
    forget().await;
    assert_eq!(a.told().await, [b.evicts(&new, &old)], "once");
    // Many at once, and every one of them unknown.
    let mut claims = Vec::new();
    for number in 0..600 {
        claims.push(a.hold(claim("many", &format!("d{number}"))).await);
    }
    forget().await;
    assert_eq!(a.registry.check(claims.clone(), true).await, Ok(vec![Verdict::Held; 600]));
    forget().await;
    a.registry.enter(vec![a.stay(&new, "r"), a.stay(&old, "r")], Some(ANNOUNCE)).await.unwrap();
    assert_eq!(a.announced("r").await, [came("r", "u")]);
    forget().await;
    a.registry.release(claims.iter().map(gone).collect()).await.unwrap();
    forget().await;
    assert_eq!(b.registry.kick(place("u"), None, new.id).await.unwrap().len(), 1);
    forget().await;
    assert_eq!(b.registry.tend(Some(ANNOUNCE)).await, Ok(Tended::default()));
    assert_eq!(a.sessions("many").await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_answer_is_unavailable_and_no_reason_to_disconnect() {
    let cluster = RedisCluster::start();
    let command_timeout = Duration::from_millis(200);
    let options = Options { command_timeout, ..cluster.options("a") };
    let a = cluster.join_with(options).await;
    a.broker.pulse(1, LEASE_TTL, Vitals::default()).await.unwrap();
    let held = a.hold(claim("u", "d")).await;
    cluster.server.freeze();
    let begun = Instant::now();
    let late = claim("u", "late");
    assert_eq!(a.registry.claim(late.clone()).await, Err(ClaimError::Unavailable(Error)));
    assert!(begun.elapsed() >= command_timeout, "given up before its time was over");
    assert_eq!(a.registry.check(vec![held.clone()], true).await, Err(Error));
    assert_eq!(a.registry.release(vec![gone(&held)]).await, Err(Error));
    a.registry.close().await;
    cluster.server.thaw();
    // What was sent may have been done. Taking it back and claiming again, both are safe.
    assert_eq!(until_up(|| a.registry.release(vec![gone(&late), gone(&held)])).await, ());
    a.registry.claim(held.clone()).await.unwrap();
    assert_eq!(a.sessions("u").await, [held.session]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_goes_through_only_on_a_server_that_takes_writes() {
    let cluster = RedisCluster::start();
    let a = node(&cluster, "a").await;
    // A master that was deposed: replica of a server that does not exist.
    let _: String = cluster.server.ask(&["REPLICAOF", "127.0.0.1", "1"]).await;
    assert_eq!(a.registry.claim(claim("u", "d")).await, Err(ClaimError::Unavailable(Error)));
    let _: String = cluster.server.ask(&["REPLICAOF", "NO", "ONE"]).await;
    until_up(|| a.registry.tend(None)).await;
    assert_eq!(a.sessions("u").await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stays_once_everybody_has_gone() {
    let cluster = RedisCluster::start();
    assert_eq!(cluster.keys().await, Vec::<String>::new());
    let (a, b) = pair(&cluster).await;
    let c = node(&cluster, "c").await;
    let mut held = Vec::new();
    for number in 0..200 {
        let home = [&a, &b, &c][number % 3];
        let (held_here, _) =
            home.claim(claim(&format!("u{}", number % 20), &format!("d{}", number % 7))).await;
        let stays =
            vec![home.stay(&held_here, &format!("r{}", number % 50)), home.stay(&held_here, "all {of} us")];
        home.registry.enter(stays, Some(ANNOUNCE)).await.unwrap();
        held.push(held_here);
    }
    b.registry.kick(place("u3"), None, held[0].id).await.unwrap();
    let _ = b.registry.check(held.iter().skip(1).step_by(3).cloned().collect(), true).await.unwrap();
    assert!(cluster.keys().await.len() > 30);

    // One in good order, session by session; one all at once; one dies.
    for number in (0..200).step_by(3) {
        let stays =
            vec![a.stay(&held[number], &format!("r{}", number % 50)), a.stay(&held[number], "all {of} us")];
        a.registry.depart(stays, ANNOUNCE).await.unwrap();
        a.release(&held[number]).await;
    }
    a.registry.close().await;
    a.broker.close().await;
    cluster.crash(c).await;
    let tended = b.registry.tend(Some(ANNOUNCE)).await.unwrap();
    assert_eq!(tended.nodes, 1);
    b.registry.close().await;
    b.broker.close().await;
    // The list says of the dead one that it is, for a day, should it come back.
    let list = format!("{}:nodes", cluster.prefix);
    assert_eq!(cluster.keys().await, [&*list]);
    let entries: i64 = cluster.server.ask(&["HLEN", &list]).await;
    assert_eq!(entries, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_claim_leaves_nothing() {
    let cluster = RedisCluster::start();
    let (a, b) = pair(&cluster).await;
    let held = a.hold(claim("u", "d")).await;
    let refused = b.registry.claim(claim_as("u", "d", Policy::Max(1), OnDuplicate::Reject)).await;
    assert_eq!(refused, Err(ClaimError::Taken));
    assert_eq!(b.registry.held().await, Ok(vec![]));
    a.release(&held).await;
    let keys = cluster.keys().await;
    assert!(keys.iter().all(|key| key.ends_with(":lease") || key.ends_with(":nodes")), "{keys:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_nodes_subscription_is_ended() {
    let cluster = RedisCluster::start();
    let a = node(&cluster, "a").await;
    let late = cluster.join_lapsed("late").await;
    let before = late.recorder.generation();
    assert_eq!(a.registry.tend(Some(ANNOUNCE)).await.unwrap().nodes, 1);
    // It is back at once if it lives after all, and hears that it was deaf for a while.
    let again = |events: &[Event]| {
        events.contains(&Event::Lost)
            && events.iter().any(|event| matches!(event, Event::Whole(generation) if *generation > before))
    };
    late.recorder.until("another subscription", again).await;
    assert!(!a.recorder.events().contains(&Event::Lost));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reapers_that_overlap_do_everything_once() {
    let cluster = RedisCluster::start();
    let (a, b) = pair(&cluster).await;
    let c = node(&cluster, "c").await;
    a.listen(&["r"]).await;
    for number in 0..600 {
        let held = c.hold(claim(&format!("u{number}"), "d")).await;
        c.registry.enter(vec![c.stay(&held, "r")], None).await.unwrap();
    }
    // They hold what they take over for no longer than a lease, and the last they heard of was short.
    for reaper in [&a, &b] {
        reaper.broker.pulse(1, Duration::from_millis(1), Vitals::default()).await.unwrap();
        let lease = format!("{}:{{node:{}}}:lease", cluster.prefix, reaper.node);
        // Gone with its time to live, and there again without one.
        let _: i64 = cluster.server.ask(&["DEL", &lease]).await;
        let _: i64 = cluster.server.ask(&["HSET", &lease, "incarnation", reaper.incarnation.as_str()]).await;
    }
    cluster.crash(c).await;

    let (mut total, deadline) = (Tended::default(), Instant::now() + PATIENCE);
    while total.nodes == 0 {
        assert!(Instant::now() < deadline, "they only stand in each other's way: {total:?}");
        let (one, other) = tokio::join!(a.registry.tend(Some(ANNOUNCE)), b.registry.tend(Some(ANNOUNCE)));
        for tended in [one.unwrap(), other.unwrap()] {
            total.nodes += tended.nodes;
            total.sessions += tended.sessions;
        }
    }
    assert_eq!(total, Tended { nodes: 1, sessions: 600 });
    let announced = a.announced("r").await;
    assert_eq!(announced.len(), 600);
    assert!((0..600).all(|number| announced.contains(&went("r", &format!("u{number}")))));
    assert_eq!((a.registry.own().await, b.registry.own().await), (Ok(Own::Listed), Ok(Own::Listed)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_waits_for_its_turn_where_it_is_in_no_pulses_way() {
    let cluster = RedisCluster::start();
    let a = node(&cluster, "a").await;
    // All scripts are known to the server.
    let held = a.hold(claim("u", "d")).await;
    cluster.server.freeze();
    let crowd = (0..2000).map(|number| a.registry.claim(claim(&format!("u{number}"), "d")));
    // Nobody is answered. Whatever may be sent is sent in this time, and the rest is never sent.
    let answered =
        tokio::time::timeout(Duration::from_millis(500), futures_util::future::join_all(crowd)).await;
    assert!(answered.is_err());
    cluster.server.thaw();
    a.pulse().await;
    let sent = a.registry.held().await.unwrap().len() - 1;
    assert!((1..=512).contains(&sent), "{sent} claims stood before a pulse");
    // The turns of those who gave up are others' now.
    let claims = (0..2000).map(|number| a.registry.claim(claim(&format!("v{number}"), "d")));
    assert!(futures_util::future::join_all(claims).await.iter().all(Result::is_ok));
    assert_eq!(a.check(&held, false).await, Verdict::Held);
}

/// Values that no version of the scripts writes, in MessagePack and not.
const FOREIGN: [&[u8]; 12] = [
    b"",
    b"\xc1",
    b"text",
    b"\x80",
    b"\x90",
    b"\xc0",
    b"\x91\x00",
    b"\x91\x02",
    b"\x93\x00\xa1c\xa1e",
    b"\x98\x00\xa1c\x01\xa1d\xc0\xa1i\xa1f\x00",
    b"\x9a\x02\xa1c\x01\xa1n\x01\x00\xa1w\xa1d\xa1n\xa1e",
    b"\x98\x03\xa1c\x01\xa1d\xa1n\xa1i\x01\x00",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_node_wrote_is_passed_over() {
    let cluster = RedisCluster::start();
    let (a, b) = pair(&cluster).await;
    a.listen(&["r"]).await;
    let c = node(&cluster, "c").await;
    let dead = c.hold(claim("u", "dead")).await;
    c.registry.enter(vec![c.stay(&dead, "r")], None).await.unwrap();
    let mut connection = cluster.server.connection().await;
    let place = format!("{}:{{/|u}}:sessions", cluster.prefix);
    let keys = cluster.keys().await;
    let room = keys.iter().find(|key| key.ends_with(":room:r")).unwrap();
    let mut stays = Vec::new();
    for (number, value) in FOREIGN.into_iter().enumerate() {
        let session = format!("sssssssssssssssssss{}", char::from(b'a' + u8::try_from(number).unwrap()));
        let () = redis::cmd("HSET")
            .arg(&place)
            .arg(&session)
            .arg(value)
            .query_async(&mut connection)
            .await
            .unwrap();
        let user = format!("foreign {number}");
        let () =
            redis::cmd("HSET").arg(room).arg(&user).arg(value).query_async(&mut connection).await.unwrap();
        let session = SessionId::parse(&session).unwrap();
        stays.push(Stay { user: user.as_str().into(), ..a.stay(&Claim { session, ..claim("u", "d") }, "r") });
    }

    let old = a.hold(claim("u", "d")).await;
    let new = b.claim(claim("u", "d")).await.0;
    assert_eq!(a.told().await, [b.evicts(&new, &old)]);
    a.release(&old).await;
    b.release(&new).await;
    assert_eq!(b.check(&new, true).await, Verdict::Restored);
    assert_eq!(b.sessions("u").await, [dead.session, new.session]);
    let page = Page { after: None, limit: 100 };
    let members = a.registry.members(Namespace::root(), "r".into(), page.clone()).await.unwrap();
    assert_eq!(members.items, [c.stay(&dead, "r")]);
    // Whoever goes by such a name is found, and goes, as if it was not there.
    for stay in &stays[..6] {
        a.registry.enter(vec![stay.clone()], Some(ANNOUNCE)).await.unwrap();
        assert_eq!(a.announced("r").await.last(), Some(&came("r", &stay.user)));
    }
    a.registry.depart(stays, ANNOUNCE).await.unwrap();
    cluster.crash(c).await;
    assert_eq!(a.registry.tend(Some(ANNOUNCE)).await.unwrap(), Tended { nodes: 1, sessions: 1 });
    let members = a.registry.members(Namespace::root(), "r".into(), page).await.unwrap();
    assert_eq!(members.items, []);
    let kicked = a.registry.kick(new.place.clone(), None, old.id).await.unwrap();
    assert_eq!(kicked, [b.row(&new)]);
}
