//! What a session finds that asks whether it still holds its place.

use tidegate_core::registry::{Claim, EvictReason, Evicted, OnDuplicate, Own, Policy, Verdict, Vitals};

use super::{ANNOUNCE, Cluster, LEASE_TTL, Node, claim, claim_as, gone, node, pair, passed, unix_ms};

const REPLACE: OnDuplicate = OnDuplicate::Replace;
const REJECT: OnDuplicate = OnDuplicate::Reject;

/// Takes a session from the registry that its node goes on to act for, as a registry does that forgets.
async fn lose(node: &Node, held: &Claim) {
    node.release(held).await;
}

/// Every session gets its own verdict, in the order of the question.
pub async fn verdicts_come_in_order(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let held = a.hold(claim("u", "held")).await;
    let lost = a.hold(claim("u", "lost")).await;
    let replaced = a.hold(claim("u", "replaced")).await;
    let kicked = a.hold(claim("v", "kicked")).await;
    lose(&a, &lost).await;
    let winner = b.claim(claim("u", "replaced")).await.0;
    b.registry.kick(kicked.place.clone(), None, winner.id).await.expect("the registry is up");

    let evicted = Verdict::Evicted(b.replaces(&winner));
    let ended = Verdict::Evicted(Evicted { reason: EvictReason::Kicked, by: None });
    let question = vec![kicked, lost.clone(), held.clone(), replaced];
    let verdicts = a.registry.check(question.clone(), false).await;
    assert_eq!(verdicts, Ok(vec![ended.clone(), Verdict::Absent, Verdict::Held, evicted.clone()]));
    assert_eq!(a.sessions("u").await, [held.session, winner.session], "nothing was put back");

    let verdicts = a.registry.check(question.clone(), true).await;
    assert_eq!(verdicts, Ok(vec![ended.clone(), Verdict::Restored, Verdict::Held, evicted.clone()]));
    assert_eq!(a.sessions("u").await, [held.session, lost.session, winner.session], "by their old epochs");
    let verdicts = a.registry.check(question, true).await;
    assert_eq!(verdicts, Ok(vec![ended, Verdict::Held, Verdict::Held, evicted]));
    assert_eq!((a.told().await.len(), b.told().await.len()), (2, 0));
    assert_eq!(a.registry.check(Vec::new(), true).await, Ok(vec![]));
}

/// Far more at once than fit into one batch.
pub async fn many_are_checked_at_once(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let mut held = Vec::new();
    for number in 0..1000 {
        held.push(a.hold(claim(&format!("u{}", number % 300), &format!("d{number}"))).await);
    }
    let lost: Vec<_> = held.iter().step_by(7).cloned().collect();
    a.registry.release(lost.iter().map(gone).collect()).await.expect("the registry is up");
    let expected =
        |lost: Verdict| (0..1000).map(move |at| if at % 7 == 0 { lost.clone() } else { Verdict::Held });
    let verdicts = a.registry.check(held.clone(), false).await.expect("the registry is up");
    assert!(verdicts.into_iter().eq(expected(Verdict::Absent)));
    let verdicts = a.registry.check(held.clone(), true).await.expect("the registry is up");
    assert!(verdicts.into_iter().eq(expected(Verdict::Restored)));

    let places: Vec<_> = (0..300).map(|number| held[number].place.clone()).collect();
    let found = b.registry.find(places).await.expect("the registry is up");
    for (number, rows) in found.into_iter().enumerate() {
        let sessions: Vec<_> = rows.into_iter().map(|row| row.session).collect();
        let expected: Vec<_> = held.iter().skip(number).step_by(300).map(|held| held.session).collect();
        assert_eq!(sessions, expected, "user {number}");
    }
    a.registry.release(held.iter().map(gone).collect()).await.expect("the registry is up");
    assert_eq!(a.registry.held().await, Ok(vec![]));
}

/// A session that the registry lost holds its place again as if nothing had happened.
pub async fn a_lost_session_is_put_back(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let mut held = Vec::new();
    for on_duplicate in [REPLACE, REJECT] {
        for (user, policy) in
            [("per", Policy::PerDevice), ("max", Policy::Max(2)), ("all", Policy::Unlimited)]
        {
            let device = if on_duplicate == REPLACE { "d1" } else { "d2" };
            held.push(a.hold(claim_as(user, device, policy, on_duplicate)).await);
        }
    }
    cluster.lose_everything().await;
    a.pulse().await;
    passed(held[5].epoch).await;
    assert_eq!(a.sessions("per").await, []);
    // Not in their order, and with another that was never lost.
    let late = a.hold(claim("per", "d3")).await;
    let question: Vec<_> = held.iter().rev().cloned().collect();
    assert_eq!(a.registry.check(question, true).await, Ok(vec![Verdict::Restored; 6]));
    for (at, user) in ["per", "max", "all"].into_iter().enumerate() {
        let mut expected = vec![a.row(&held[at]), a.row(&held[at + 3])];
        expected.extend((user == "per").then(|| a.row(&late)));
        let mut rows = b.find(user).await;
        for (row, expected) in rows.iter_mut().zip(&expected) {
            // When it last gave a sign of life is not known any more.
            row.seen_at_ms = expected.seen_at_ms;
        }
        assert_eq!(rows, expected);
    }
    let listed = a.registry.held().await.expect("the registry is up");
    assert_eq!(listed.len(), 7, "and its node is known to hold them");
    // It is displaced and refuses like any other.
    let winner = b.claim(claim("per", "d1")).await.0;
    assert_eq!(a.told().await, [b.evicts(&winner, &held[0])]);
    b.registry.claim(claim_as("max", "d", Policy::Max(2), REJECT)).await.expect_err("two live there");
}

/// A session that was lost is displaced by who came meanwhile, and stays so when that one has left.
pub async fn a_lost_session_loses_to_newer_ones(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    for (user, policy) in [("per", Policy::PerDevice), ("one", Policy::Max(1))] {
        for on_duplicate in [REPLACE, REJECT] {
            let user = format!("{user} {on_duplicate:?}");
            let old = a.hold(claim_as(&user, "d", policy, on_duplicate)).await;
            lose(&a, &old).await;
            passed(old.epoch).await;
            let new = b.hold(claim_as(&user, "d", policy, on_duplicate)).await;
            let verdict = Verdict::Evicted(b.replaces(&new));
            assert_eq!(a.check(&old, true).await, verdict);
            assert_eq!(a.find(&user).await, [b.row(&new)]);
            b.release(&new).await;
            assert_eq!(a.check(&old, true).await, verdict, "{user}");
            assert_eq!(a.find(&user).await, []);
            a.release(&old).await;
        }
    }
    assert_eq!(b.told().await, []);
}

/// A node that was taken for dead puts nobody back. Of its sessions, those whose users came elsewhere meanwhile are told
/// so, before a reaper forgot them or after; the others are not there, and their clients may come again.
pub async fn a_session_taken_for_dead_loses_to_newer_ones(cluster: &impl Cluster) {
    let a = node(cluster, "a").await;
    let late = cluster.join_lapsed("late").await;
    let before = late.hold(claim("before", "d")).await;
    let after = late.hold(claim("after", "d")).await;
    let two = |device| claim_as("two", device, Policy::Max(2), REPLACE);
    let crowded = late.hold(two("d1")).await;
    let alone = late.hold(claim("alone", "d")).await;
    let beside = late.hold(claim("beside", "d1")).await;
    let mut winners = vec![a.claim(claim("before", "d")).await.0];
    passed(unix_ms()).await;
    assert_eq!(a.registry.tend(Some(ANNOUNCE)).await.expect("the registry is up").nodes, 1);
    winners.push(a.hold(claim("after", "d")).await);
    a.hold(claim("beside", "d2")).await;
    a.hold(two("d2")).await;
    late.broker.pulse(1, LEASE_TTL, Vitals::default()).await.expect("nobody has its id");
    assert_eq!(late.registry.own().await, Ok(Own::Reaped));

    for (held, winner) in [&before, &after].into_iter().zip(&winners) {
        let evicted = Verdict::Evicted(a.replaces(winner));
        assert_eq!(late.check(held, false).await, evicted);
        // Whoever was told so once is told so again.
        a.release(winner).await;
        assert_eq!(late.check(held, false).await, evicted);
        late.release(held).await;
    }
    for held in [&crowded, &alone, &beside] {
        assert_eq!(late.check(held, false).await, Verdict::Absent);
    }
    let third = a.claim(two("d3")).await.0;
    assert_eq!(late.check(&crowded, false).await, Verdict::Evicted(a.replaces(&third)));
    late.release(&crowded).await;
    assert_eq!(late.registry.held().await, Ok(vec![]));
    assert_eq!(a.sessions("two").await.len(), 2);
}

/// A session that was lost displaces those of before it, whose nodes are told like any loser's.
pub async fn a_lost_session_displaces_older_ones(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    for (number, policy) in [Policy::PerDevice, Policy::Max(1)].into_iter().enumerate() {
        let user = format!("u{number}");
        let old = a.hold(claim_as(&user, "d", policy, REPLACE)).await;
        let new = b.claim(claim_as(&user, "d", policy, REPLACE)).await.0;
        // Both are lost, and the loser is quicker to come back.
        lose(&a, &old).await;
        lose(&b, &new).await;
        assert_eq!(a.check(&old, true).await, Verdict::Restored);
        assert_eq!(b.check(&new, true).await, Verdict::Restored);
        assert_eq!(a.sessions(&user).await, [new.session]);
        let verdict = Verdict::Evicted(b.replaces(&new));
        assert_eq!(a.check(&old, true).await, verdict);
        let told = a.told().await;
        assert_eq!(told.last(), Some(&b.evicts(&new, &old)));
        assert_eq!(told.len(), 2 * (number + 1), "once at the claim, once at the return");
    }
    assert_eq!(b.told().await, []);
}

/// Where so many may live, a lost session comes back for the oldest, or not at all.
pub async fn a_lost_session_counts_with_the_others(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let c = node(cluster, "c").await;
    let two = |device| claim_as("u", device, Policy::Max(2), REPLACE);
    let mut held = Vec::new();
    for (home, device) in [(&a, "d1"), (&b, "d2"), (&c, "d3"), (&a, "d4")] {
        held.push(home.claim(two(device)).await.0);
    }
    let [first, second, third, fourth] = held.try_into().expect("four were made");
    for (home, held) in [(&a, &first), (&b, &second), (&c, &third), (&a, &fourth)] {
        lose(home, held).await;
    }
    let told_before = (a.told().await.len(), b.told().await.len(), c.told().await.len());

    assert_eq!(b.check(&second, true).await, Verdict::Restored);
    assert_eq!(a.check(&fourth, true).await, Verdict::Restored);
    // Two newer ones live.
    assert_eq!(a.check(&first, true).await, Verdict::Evicted(a.replaces(&fourth)));
    // One older one does.
    assert_eq!(c.check(&third, true).await, Verdict::Restored);
    assert_eq!(a.sessions("u").await, [third.session, fourth.session]);
    assert_eq!(b.check(&second, true).await, Verdict::Evicted(c.replaces(&third)));
    assert_eq!(b.told().await.last(), Some(&c.evicts(&third, &second)));
    let told_after = (a.told().await.len(), b.told().await.len(), c.told().await.len());
    assert_eq!(told_after, (told_before.0, told_before.1 + 1, told_before.2));
}
