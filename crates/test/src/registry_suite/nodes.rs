//! Which nodes there are, and what becomes of the sessions of one that is gone.

use tidegate_core::Namespace;
use tidegate_core::registry::{Claim, NodeRow, OnDuplicate, Own, Page, Policy, Tended, Verdict, Vitals};

use super::{
    ANNOUNCE, Cluster, LEASE_TTL, Node, came, claim, claim_as, gone, node, pair, passed, stale, unix_ms, went,
};

/// The nodes as `node` sees them, by name.
async fn nodes(node: &Node) -> Vec<NodeRow> {
    let mut rows = node.registry.nodes().await.expect("the registry is up");
    rows.sort_by(|one, other| one.node.cmp(&other.node));
    rows
}

async fn own(node: &Node) -> Own {
    node.registry.own().await.expect("the registry is up")
}

async fn tend(node: &Node) -> Tended {
    node.registry.tend(Some(ANNOUNCE)).await.expect("the registry is up")
}

/// The sessions in `room` of `/`, of which there are not many.
async fn members(node: &Node, room: &str) -> usize {
    let page = Page { after: None, limit: 10_000 };
    let listed = node.registry.members(Namespace::root(), room.into(), page).await;
    listed.expect("the registry is up").items.len()
}

/// Every node with a lease is listed with what it last said of itself, for as long as it has one.
pub async fn nodes_are_listed_as_they_say_they_are(cluster: &impl Cluster) {
    let begun = unix_ms();
    let (a, b) = pair(cluster).await;
    let c = node(cluster, "c").await;
    let vitals = Vitals { connections: 12, sessions: 34, draining: false, version: "0.1.0-odd+b".into() };
    a.broker.pulse(1, LEASE_TTL, vitals.clone()).await.expect("the node holds its id");
    let going = Vitals { connections: u64::MAX >> 11, sessions: 0, draining: true, version: "".into() };
    b.broker.pulse(1, LEASE_TTL, going.clone()).await.expect("the node holds its id");

    let rows = nodes(&c).await;
    assert_eq!(rows, nodes(&a).await);
    let mut expected = Vec::new();
    for ((node, vitals), row) in [(&a, vitals), (&b, going), (&c, Vitals::default())].into_iter().zip(&rows) {
        assert!((begun..=unix_ms()).contains(&row.started_at_ms), "{}", row.started_at_ms);
        let (node, incarnation) = (node.node.clone(), node.incarnation.clone());
        expected.push(NodeRow { node, incarnation, started_at_ms: row.started_at_ms, vitals });
    }
    assert_eq!(rows, expected);

    cluster.crash(c).await;
    b.registry.close().await;
    b.broker.close().await;
    assert_eq!(nodes(&a).await, expected[..1]);
    // The next one of its name is another.
    let b = node(cluster, "b").await;
    let rows = nodes(&a).await;
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[1].node, &rows[1].incarnation), (&b.node, &b.incarnation));
    assert_ne!(rows[1].incarnation, expected[1].incarnation);
}

/// A node is unknown until it writes itself into the list, and again once it has gone.
pub async fn a_node_knows_where_it_stands(cluster: &impl Cluster) {
    let (a, b) = (cluster.join("a").await, node(cluster, "b").await);
    a.pulse().await;
    assert_eq!((own(&a).await, own(&b).await), (Own::Unknown, Own::Listed));
    a.registry.tend(None).await.expect("the registry is up");
    assert_eq!(own(&a).await, Own::Listed);
    a.registry.close().await;
    assert_eq!((own(&a).await, own(&b).await), (Own::Unknown, Own::Listed));
}

/// What is held in the name of a node is what it claimed and did not release, the displaced included.
pub async fn held_is_what_was_not_released(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    assert_eq!(a.registry.held().await, Ok(vec![]));
    let mut mine = Vec::new();
    for number in 0..500 {
        mine.push(a.hold(claim(&format!("u{}", number % 50), &format!("d{number}"))).await);
    }
    let winner = b.claim(claim("u7", "d7")).await.0;
    b.registry.kick(mine[8].place.clone(), Some("d8".into()), winner.id).await.expect("the registry is up");
    b.release(&stale(&mine[9])).await;
    let expect = async |node: &Node, expected: &[Claim]| {
        let held = node.registry.held().await.expect("the registry is up");
        assert_eq!(held.len(), expected.len());
        assert!(expected.iter().all(|claim| held.contains(&gone(claim))));
    };
    expect(&a, &mine).await;
    expect(&b, &[winner]).await;
    let released = mine.split_off(6);
    a.registry.release(released.iter().map(gone).collect()).await.expect("the registry is up");
    // Twice is as good as once.
    a.registry.release(released.iter().map(gone).collect()).await.expect("the registry is up");
    expect(&a, &mine).await;
}

/// The stays in the name of a node are those that it began and did not end, on whichever node their users are, too.
pub async fn stays_are_what_did_not_end(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    assert_eq!(a.registry.stays().await, Ok(vec![]));
    let (mine, theirs) = (a.hold(claim("u", "d")).await, b.hold(claim("u", "e")).await);
    let mut stays: Vec<_> = (0..500).map(|number| a.stay(&mine, &format!("r{number}"))).collect();
    a.registry.enter(stays.clone(), None).await.expect("the registry is up");
    b.registry.enter(vec![b.stay(&theirs, "r1")], None).await.expect("the registry is up");
    let left = stays.split_off(7);
    a.registry.depart(left, ANNOUNCE).await.expect("the registry is up");
    let held = a.registry.stays().await.expect("the registry is up");
    assert_eq!(held.len(), stays.len());
    assert!(stays.iter().all(|stay| held.contains(stay)));
    assert_eq!(b.registry.stays().await, Ok(vec![b.stay(&theirs, "r1")]));
}

/// What a dead node left is taken over once, however many see to it, and its users are announced as gone unless they
/// are there from elsewhere.
pub async fn a_dead_node_is_reaped_once(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let c = node(cluster, "c").await;
    a.listen(&["r0", "r1", "r2"]).await;
    let mut left = Vec::new();
    for number in 0..300 {
        let held = c.hold(claim(&format!("u{}", number % 40), &format!("d{number}"))).await;
        let stay = c.stay(&held, &format!("r{}", number % 2));
        c.registry.enter(vec![stay], Some(ANNOUNCE)).await.expect("the registry is up");
        left.push(held);
    }
    // One that is there from elsewhere, and one that lost its place to elsewhere.
    let stays = a.hold(claim("u0", "a")).await;
    a.registry.enter(vec![a.stay(&stays, "r0")], Some(ANNOUNCE)).await.expect("the registry is up");
    let winner = b.claim(claim("u1", "d1")).await.0;
    cluster.crash(c).await;
    assert_eq!(a.registry.tend(None).await, Ok(Tended::default()), "it was not asked to reap");
    assert_eq!(a.sessions("u2").await.len(), 8);

    // One may find that the other is at it, and is through before that.
    let (one, other) = tokio::join!(tend(&a), tend(&b));
    assert_eq!(one.nodes + other.nodes, 1);
    // Whether the mark of a session that had lost its place counts as one is nobody's business.
    assert!((299..=300).contains(&(one.sessions + other.sessions)), "{one:?} {other:?}");
    assert_eq!([tend(&a).await, tend(&b).await], [Tended::default(); 2]);
    assert_eq!((members(&a, "r0").await, members(&a, "r1").await), (1, 0));
    for user in 2..40 {
        assert_eq!(a.sessions(&format!("u{user}")).await, [], "u{user}");
    }
    assert_eq!(a.find("u0").await, [a.row(&stays)]);
    assert_eq!(b.find("u1").await, [b.row(&winner)]);
    for held in left {
        let there = Verdict::Evicted(b.replaces(&winner));
        let expected = if held.device == winner.device { there } else { Verdict::Absent };
        assert_eq!(a.check(&held, false).await, expected, "{held:?}");
    }
    for (room, first) in [("r0", 0), ("r1", 1)] {
        let announced = a.announced(room).await;
        let users = || (first..40).step_by(2).map(|user| format!("u{user}"));
        let gone: Vec<_> = users().filter(|user| user != "u0").map(|user| went(room, &user)).collect();
        assert_eq!(announced.len(), 20 + gone.len(), "{room}");
        assert_eq!(announced[..20], users().map(|user| came(room, &user)).collect::<Vec<_>>());
        assert!(gone.iter().all(|went| announced.contains(went)), "{room}: {announced:?}");
    }
    assert_eq!((a.told().await, b.told().await), (vec![], vec![]));
}

/// A node that renews its lease keeps what it has, whoever reaps.
pub async fn a_live_node_is_never_reaped(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let held = b.hold(claim("u", "d")).await;
    b.registry.enter(vec![b.stay(&held, "r")], Some(ANNOUNCE)).await.expect("the registry is up");
    for _ in 0..20 {
        let (one, other) = tokio::join!(tend(&a), tend(&b));
        assert_eq!([one, other], [Tended::default(); 2]);
    }
    assert_eq!(a.find("u").await, [b.row(&held)]);
    assert_eq!((members(&a, "r").await, own(&b).await), (1, Own::Listed));
}

/// A node that lives on after it was taken for dead hears so, and does not put anybody back.
pub async fn a_node_taken_for_dead_hears_so(cluster: &impl Cluster) {
    let a = node(cluster, "a").await;
    a.listen(&["r"]).await;
    let late = cluster.join_lapsed("late").await;
    let held = late.hold(claim("u", "d")).await;
    late.registry.enter(vec![late.stay(&held, "r")], Some(ANNOUNCE)).await.expect("the registry is up");
    assert_eq!(own(&late).await, Own::Listed);
    // What is done while others take over is spared by them, and a clock of milliseconds cannot tell that apart.
    passed(unix_ms()).await;

    assert_eq!(tend(&a).await, Tended { nodes: 1, sessions: 1 });
    assert_eq!(a.announced("r").await, [came("r", "u"), went("r", "u")]);
    late.broker.pulse(1, LEASE_TTL, Vitals::default()).await.expect("nobody has its id");
    assert_eq!(own(&late).await, Own::Reaped);
    assert_eq!(late.check(&held, false).await, Verdict::Absent);
    assert_eq!(a.sessions("u").await, []);
    assert_eq!(tend(&a).await, Tended::default(), "reaped before");

    // It goes on under its name, with new sessions.
    late.registry.tend(None).await.expect("the registry is up");
    assert_eq!(own(&late).await, Own::Listed);
    let next = late.hold(claim("u", "d")).await;
    assert_eq!(tend(&a).await, Tended::default());
    assert_eq!(a.find("u").await, [late.row(&next)]);
}

/// The next run of a node is not its last one: what that left is taken over, and what this has stays.
pub async fn a_restarted_node_leaves_its_past_to_the_reaper(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let past = b.hold(claim("u", "past")).await;
    let lost = b.hold(claim_as("v", "d", Policy::PerDevice, OnDuplicate::Reject)).await;
    cluster.crash(b).await;
    let b = node(cluster, "b").await;
    let present = b.hold(claim("u", "present")).await;
    // Its past self is dead, and in nobody's way.
    let (won, answer) = a.claim(claim_as("v", "d", Policy::PerDevice, OnDuplicate::Reject)).await;
    assert_eq!(answer.displaced.len(), 1);
    // Whoever lives under the name hears of it, and can say that the session is silent.
    assert_eq!(b.told().await, [a.evicts(&won, &lost)]);
    assert_eq!(b.registry.held().await, Ok(vec![gone(&present)]));

    assert_eq!(tend(&b).await.nodes, 1);
    assert_eq!(a.find("u").await, [b.row(&present)]);
    assert_eq!(a.find("v").await, [a.row(&won)]);
    assert_eq!(a.check(&past, false).await, Verdict::Absent);
    assert_eq!(tend(&a).await, Tended::default());
}

/// A node that stops in good order leaves nothing, and takes nothing of others with it.
pub async fn closing_leaves_nothing(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let mut mine = Vec::new();
    for number in 0..300 {
        let held = a.hold(claim("u", &format!("d{number}"))).await;
        let stays = vec![a.stay(&held, "r"), a.stay(&held, &format!("r{number}"))];
        a.registry.enter(stays, Some(ANNOUNCE)).await.expect("the registry is up");
        mine.push(held);
    }
    let theirs = b.claim(claim("u", "d0")).await.0;
    b.registry.enter(vec![b.stay(&theirs, "r")], Some(ANNOUNCE)).await.expect("the registry is up");
    a.registry.close().await;
    assert_eq!(b.find("u").await, [b.row(&theirs)]);
    assert_eq!(members(&b, "r").await, 1);
    let page = Page { after: None, limit: 1000 };
    let rooms = b.registry.rooms(Namespace::root(), page).await.expect("the registry is up");
    assert_eq!(rooms.items.len(), 1);
    assert_eq!((a.registry.held().await, own(&a).await), (Ok(vec![]), Own::Unknown));
    assert_eq!(b.check(&mine[1], false).await, Verdict::Absent);
    b.release(&theirs).await;
    assert_eq!(b.check(&mine[0], false).await, Verdict::Absent, "its mark is gone, too");
    a.broker.close().await;
    assert_eq!(tend(&b).await, Tended::default());
    a.registry.close().await;
}
