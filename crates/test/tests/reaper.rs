//! Take-overs on Redis that do not go straight: reapers that are late, stuck or gone, and nodes that come back.

#![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::AsyncCommands as _;
use tidegate_core::registry::{Claim, Own, Page, Refresh, Stay, Tended, Transport, Verdict};
use tidegate_core::{Incarnation, Namespace, NodeId, Subscriber};
use tidegate_msgpack::{Reader, write};
use tidegate_redis::{Options, RedisBroker};
use tidegate_test::broker_suite::Recorder;
use tidegate_test::redis_server::RedisServer;
use tidegate_test::registry_suite::{
    ANNOUNCE, Node, PATIENCE, Stores, claim, fence_after, passed, place, unix_ms,
};

/// Further ahead than any test lasts.
const LATER_MS: u64 = 3_600_000;

async fn join(server: &RedisServer, name: &str) -> Node {
    let node = NodeId::parse(name).unwrap();
    let options = Options {
        // A busy machine must not look like a broken connection.
        command_timeout: Duration::from_secs(10),
        fence_after: fence_after(&node),
        ..Options::new(&server.url(), node.clone())
    };
    let recorder = Arc::new(Recorder::default());
    let incarnation = options.incarnation.clone();
    let broker = RedisBroker::connect(options, Arc::clone(&recorder) as Arc<dyn Subscriber>).await.unwrap();
    let store = Arc::clone(&broker);
    let stores = Stores(Arc::new(move |quotas| store.offline(quotas)));
    let node = Node { registry: broker.registry(), stores, broker, recorder, node, incarnation };
    node.pulse().await;
    node.registry.tend(None).await.unwrap();
    node
}

/// How an entry of the list of nodes stands, beside living.
enum Stands<'a> {
    Reaping { since_ms: u64, until_ms: u64, by: &'a Incarnation },
    Reaped { at_ms: u64 },
}

/// Writes an entry as a reaper would have.
async fn write_entry(server: &RedisServer, node: &Node, stands: Stands<'_>) {
    let mut entry = Vec::new();
    let head = |entry: &mut Vec<u8>, length, state| {
        write::array(entry, length);
        write::str(entry, node.node.as_str());
        write::uint(entry, 0);
        write::uint(entry, 0);
        write::uint(entry, state);
    };
    match stands {
        Stands::Reaping { since_ms, until_ms, by } => {
            head(&mut entry, 7, 1);
            write::uint(&mut entry, since_ms);
            write::uint(&mut entry, until_ms);
            write::str(&mut entry, by.as_str());
        }
        Stands::Reaped { at_ms } => {
            head(&mut entry, 5, 2);
            write::uint(&mut entry, at_ms);
        }
    }
    let field = node.incarnation.as_str();
    let _: () = server.connection().await.hset("tidegate:nodes", field, entry).await.unwrap();
}

async fn end_lease(server: &RedisServer, node: &Node) {
    let ended: i64 = server.ask(&["DEL", &format!("tidegate:{{node:{}}}:lease", node.node)]).await;
    assert_eq!(ended, 1);
}

async fn members(node: &Node, room: &str) -> Vec<Stay> {
    let page = Page { after: None, limit: 100 };
    node.registry.members(Namespace::root(), room.into(), page).await.unwrap().items
}

/// A session in room `r`.
async fn settle(node: &Node, user: &str) -> (Claim, Stay) {
    let held = node.hold(claim(user, "d")).await;
    let stay = node.stay(&held, "r");
    node.registry.enter(vec![stay.clone()], None).await.unwrap();
    (held, stay)
}

async fn tend(node: &Node) -> Tended {
    node.registry.tend(Some(ANNOUNCE)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_reaper_spares_what_a_node_that_came_back_has_vouched_for() {
    let server = RedisServer::start();
    let (a, late) = (join(&server, "a").await, join(&server, "late").await);
    let (vouched, vouched_stay) = settle(&late, "vouched").await;
    settle(&late, "left").await;
    // The reaper begins, and gets stuck.
    let since_ms = unix_ms() + 1;
    let reaping = Stands::Reaping { since_ms, until_ms: since_ms + LATER_MS, by: &a.incarnation };
    write_entry(&server, &late, reaping).await;
    passed(since_ms).await;

    assert_eq!(late.registry.own().await, Ok(Own::Reaped));
    assert_eq!(late.check(&vouched, false).await, Verdict::Held);
    late.registry.enter(vec![vouched_stay.clone()], None).await.unwrap();
    let (fresh, fresh_stay) = settle(&late, "fresh").await;
    // It goes on, and looks at the lease in a moment when there is none.
    end_lease(&server, &late).await;
    assert_eq!(tend(&a).await, Tended { nodes: 1, sessions: 1 });

    assert_eq!(a.find("vouched").await, [late.row(&vouched)]);
    assert_eq!(a.find("fresh").await, [late.row(&fresh)]);
    assert_eq!(a.find("left").await, []);
    let mut stays = members(&a, "r").await;
    stays.sort_by(|one, other| other.user.cmp(&one.user));
    assert_eq!(stays, [vouched_stay, fresh_stay]);
    // What it spared is still in the index: when the node does die, the next one finds it.
    late.pulse().await;
    late.registry.tend(None).await.unwrap();
    end_lease(&server, &late).await;
    passed(unix_ms()).await;
    assert_eq!(tend(&a).await, Tended { nodes: 1, sessions: 2 });
    assert_eq!((members(&a, "r").await, late.registry.held().await), (vec![], Ok(vec![])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_back_before_its_reaper_is_through_hears_so() {
    let server = RedisServer::start();
    let (a, late) = (join(&server, "a").await, join(&server, "late").await);
    let (held, stay) = settle(&late, "u").await;
    let reaping = Stands::Reaping { since_ms: unix_ms(), until_ms: unix_ms() + LATER_MS, by: &a.incarnation };
    write_entry(&server, &late, reaping).await;
    // Before it has asked, it does not list itself as if nothing had been.
    assert_eq!(tend(&late).await, Tended::default());
    assert_eq!(tend(&a).await, Tended::default(), "it has its lease");
    assert_eq!((a.find("u").await, members(&a, "r").await), (vec![late.row(&held)], vec![stay]));
    assert_eq!(late.registry.own().await, Ok(Own::Reaped), "some of it may be gone");
    late.registry.tend(None).await.unwrap();
    assert_eq!(late.registry.own().await, Ok(Own::Listed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_has_listed_itself_again_stays_listed() {
    let server = RedisServer::start();
    let (a, late) = (join(&server, "a").await, join(&server, "late").await);
    let claims = (0..5000).map(|number| late.registry.claim(claim(&format!("u{number}"), "d")));
    assert!(join_all(claims).await.iter().all(Result::is_ok));
    end_lease(&server, &late).await;
    passed(unix_ms()).await;
    let comes_back = async {
        let mut connection = server.connection().await;
        let (deadline, field) = (Instant::now() + PATIENCE, late.incarnation.as_str());
        // Between two of the reaper's steps, it renews its lease and, having looked after its sessions, lists itself.
        let own = late.node.as_str().len() + 2;
        loop {
            assert!(Instant::now() < deadline, "the reaper does not begin");
            let entry: Vec<u8> = connection.hget("tidegate:nodes", field).await.unwrap();
            // A client's id and a time stand between its name and its state.
            let mut reader = Reader::new(&entry[own..]);
            let state = [reader.uint(), reader.uint(), reader.uint()][2];
            if state == Ok(1) {
                break;
            }
        }
        let mut entry = Vec::new();
        write::array(&mut entry, 4);
        write::str(&mut entry, late.node.as_str());
        [0, unix_ms(), 0].iter().for_each(|number| write::uint(&mut entry, *number));
        let lease = format!("tidegate:{{node:{}}}:lease", late.node);
        let mut returns = redis::pipe();
        returns.atomic().hset("tidegate:nodes", field, &entry).hset(&lease, "incarnation", field);
        let _: () = returns.query_async(&mut connection).await.unwrap();
    };
    let (tended, ()) = tokio::join!(tend(&a), comes_back);
    assert_eq!(tended.nodes, 0, "the reaper was through before that");
    assert_eq!(late.registry.own().await, Ok(Own::Listed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reaper_has_a_dead_node_to_itself_until_its_mark_is_over() {
    let server = RedisServer::start();
    let (a, late) = (join(&server, "a").await, join(&server, "late").await);
    settle(&late, "u").await;
    end_lease(&server, &late).await;
    let other = Incarnation::random();
    let mark = |until_ms| Stands::Reaping { since_ms: unix_ms(), until_ms, by: &other };
    write_entry(&server, &late, mark(unix_ms() + LATER_MS)).await;
    assert_eq!(tend(&a).await, Tended::default());
    assert_eq!(members(&a, "r").await.len(), 1);
    // The other one died, too.
    write_entry(&server, &late, mark(unix_ms() - 1)).await;
    assert_eq!(tend(&a).await, Tended { nodes: 1, sessions: 1 });
    assert_eq!(members(&a, "r").await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_reaped_long_ago_is_struck_off_with_what_it_wrote_since() {
    let server = RedisServer::start();
    let (a, late) = (join(&server, "a").await, join(&server, "late").await);
    let nodes = async || server.ask::<i64>(&["HLEN", "tidegate:nodes"]).await;
    end_lease(&server, &late).await;
    assert_eq!(tend(&a).await, Tended { nodes: 1, sessions: 0 });
    // Of a claim that was on its way for long.
    settle(&late, "u").await;
    assert_eq!((tend(&a).await, nodes().await), (Tended::default(), 2));
    let day_ago = unix_ms() - 24 * LATER_MS;
    write_entry(&server, &late, Stands::Reaped { at_ms: day_ago }).await;
    passed(unix_ms()).await;
    assert_eq!((tend(&a).await, nodes().await), (Tended { nodes: 0, sessions: 1 }, 1));
    assert_eq!((a.find("u").await, members(&a, "r").await), (vec![], vec![]));
    assert_eq!(late.registry.own().await, Ok(Own::Unknown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_usual_session_is_kept_in_redis_compact_form() {
    let server = RedisServer::start();
    let a = join(&server, "tidegate-0").await;
    let held = a.hold(claim("u", "default")).await;
    let refresh = Refresh {
        place: place("u"),
        session: held.session,
        claim: held.id,
        transport: Transport::WebSocket,
        seen_at_ms: held.epoch + 24 * LATER_MS,
    };
    a.registry.refresh(vec![refresh]).await.unwrap();
    let form: String = server.ask(&["OBJECT", "ENCODING", "tidegate:{/|u}:sessions"]).await;
    // What a listpack was called before Redis 7.
    assert!(["listpack", "ziplist"].contains(&form.as_str()), "{form}");
    let left_ms: u64 = server.ask(&["PTTL", "tidegate:{/|u}:sessions"]).await;
    assert!(left_ms > 23 * LATER_MS, "a place is kept for a day: {left_ms}");
}
