//! Who gets a place, who has to go, and who is told of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tidegate_core::registry::{
    Claim, ClaimError, Displaced, EvictReason, Evicted, Eviction, OnDuplicate, Place, Policy, Refresh,
    Transport, Verdict,
};
use tidegate_core::{ClaimId, Namespace, NodeId, SessionId};
use tokio::task::JoinSet;

use super::{
    Cluster, Node, ODD_NAMES, claim, claim_as, fence_after, gone, node, pair, place, stale, unix_ms,
};
use crate::broker_suite::Event;

const REPLACE: OnDuplicate = OnDuplicate::Replace;
const REJECT: OnDuplicate = OnDuplicate::Reject;

fn displaced(node: &Node, loser: &Claim) -> Displaced {
    Displaced { session: loser.session, node: node.node.clone(), fence_after: fence_after(&node.node) }
}

/// One of each device: the newcomer ends its predecessor, on whichever node, and nobody else.
pub async fn a_newcomer_displaces_its_device(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let phone = a.hold(claim("u", "phone")).await;
    let desk = b.hold(claim("u", "desk")).await;
    let other = b.hold(claim("v", "phone")).await;
    let elsewhere = Place { namespace: Namespace::from("/chat"), user: "u".into() };
    b.hold(Claim { place: elsewhere.clone(), ..claim("u", "phone") }).await;

    let (second, answer) = b.claim(claim("u", "phone")).await;
    assert_eq!(answer.displaced, [displaced(&a, &phone)]);
    assert_eq!(a.told().await, [b.evicts(&second, &phone)]);
    assert_eq!(b.told().await, []);
    assert_eq!(a.find("u").await, [b.row(&desk), b.row(&second)]);
    assert_eq!(a.find("v").await, [b.row(&other)]);
    assert_eq!(a.registry.find(vec![elsewhere]).await.map(|found| found[0].len()), Ok(1));

    // Now on its own node. Its node has said that the first is gone.
    a.release(&phone).await;
    let (third, answer) = b.claim(claim("u", "phone")).await;
    assert_eq!(answer.displaced, [displaced(&b, &second)]);
    assert_eq!(b.told().await, [b.evicts(&third, &second)]);
    assert_eq!(a.told().await.len(), 1);
}

/// So many of all devices: the oldest go.
pub async fn a_newcomer_displaces_the_oldest(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let two = |device| claim_as("u", device, Policy::Max(2), REPLACE);
    let first = a.hold(two("d1")).await;
    let second = b.hold(two("d1")).await;
    let (third, answer) = b.claim(two("d2")).await;
    assert_eq!(answer.displaced, [displaced(&a, &first)]);
    assert_eq!(a.told().await, [b.evicts(&third, &first)]);
    assert_eq!(b.sessions("u").await, [second.session, third.session]);

    // A newcomer that suffers fewer ends more.
    a.release(&first).await;
    let (single, answer) = a.claim(claim_as("u", "d3", Policy::Max(1), REPLACE)).await;
    let ended: HashSet<_> = answer.displaced.iter().map(|displaced| displaced.session).collect();
    assert_eq!(ended, HashSet::from([second.session, third.session]));
    assert_eq!(answer.displaced.len(), 2);
    let told = b.told().await;
    assert_eq!(told.len(), 2);
    for loser in [&second, &third] {
        assert!(told.contains(&a.evicts(&single, loser)));
    }
    assert_eq!(b.find("u").await, [a.row(&single)]);
}

/// Without a limit everybody stays, the oldest listed first.
pub async fn without_a_limit_nobody_goes(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let mut rows = Vec::new();
    for number in 0..40 {
        let home = if number % 3 == 0 { &a } else { &b };
        let on_duplicate = if number % 2 == 0 { REPLACE } else { REJECT };
        let held = home.hold(claim_as("u", "d", Policy::Unlimited, on_duplicate)).await;
        rows.push(home.row(&held));
    }
    assert_eq!(a.find("u").await, rows);
    assert_eq!((a.told().await, b.told().await), (vec![], vec![]));
}

/// Who is to be refused changes nothing, and nobody hears of it.
pub async fn a_newcomer_may_be_refused(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let phone = a.hold(claim("per", "phone")).await;
    let desk = b.hold(claim_as("per", "desk", Policy::PerDevice, REJECT)).await;
    let one = a.hold(claim_as("max", "d1", Policy::Max(2), REJECT)).await;
    let two = b.hold(claim_as("max", "d2", Policy::Max(2), REJECT)).await;
    for (user, policy) in [("per", Policy::PerDevice), ("max", Policy::Max(2)), ("max", Policy::Max(1))] {
        for (home, device) in [(&a, "phone"), (&b, "desk")] {
            let refused = home.registry.claim(claim_as(user, device, policy, REJECT)).await;
            assert_eq!(refused, Err(ClaimError::Taken), "{user} {policy:?}");
        }
    }
    assert_eq!(a.find("per").await, [a.row(&phone), b.row(&desk)]);
    assert_eq!(a.find("max").await, [a.row(&one), b.row(&two)]);
    assert_eq!((a.told().await, b.told().await), (vec![], vec![]));

    // Once there is room there is a place.
    a.release(&phone).await;
    b.hold(claim_as("per", "phone", Policy::PerDevice, REJECT)).await;
    b.release(&two).await;
    a.hold(claim_as("max", "d3", Policy::Max(2), REJECT)).await;
}

/// A client that comes back for a session of its own takes that one's place, or a free one, and nobody else's.
pub async fn who_comes_back_displaces_nobody_else(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    for on_duplicate in [REPLACE, REJECT] {
        for (policy, device) in
            [(Policy::PerDevice, "phone"), (Policy::Max(1), "desk"), (Policy::Max(2), "desk")]
        {
            let user = format!("{policy:?} {on_duplicate:?}");
            let comes_back = |held: &Claim, device| Claim {
                resumes: Some(held.session),
                ..claim_as(&user, device, policy, on_duplicate)
            };
            // Its own, which nobody has found dead yet.
            let first = a.hold(claim_as(&user, "phone", policy, REPLACE)).await;
            let (second, answer) = b.claim(comes_back(&first, "phone")).await;
            assert_eq!(answer.displaced.len(), usize::from(policy != Policy::Max(2)), "{user}");
            // Somebody came meanwhile, once it was gone; or displaced it, and it did not hear of it.
            b.release(&second).await;
            a.release(&first).await;
            let others = match policy {
                Policy::Max(2) => vec![
                    a.hold(claim_as(&user, "other", policy, REPLACE)).await,
                    a.hold(claim_as(&user, device, policy, REPLACE)).await,
                ],
                _ => vec![a.hold(claim_as(&user, device, policy, REPLACE)).await],
            };
            let rows: Vec<_> = others.iter().map(|held| a.row(held)).collect();
            let refused = b.registry.claim(comes_back(&second, device)).await;
            assert_eq!(refused, Err(ClaimError::Taken), "{user}");
            assert_eq!(a.find(&user).await, rows);
            // Whoever comes by itself is a newcomer like any other.
            if on_duplicate == REPLACE {
                let (_, answer) = b.claim(claim_as(&user, device, policy, REPLACE)).await;
                assert_eq!(answer.displaced.len(), 1, "{user}");
            }
        }
    }
}

/// A client whose answer was lost comes back for the same session again, and what it made in between is its own, too. It
/// goes before the session of a dead node.
pub async fn who_comes_back_twice_is_not_in_its_own_way(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let c = node(cluster, "c").await;
    let comes_back =
        |policy, had: &Claim| Claim { resumes: Some(had.session), ..claim_as("u", "phone", policy, REPLACE) };
    let first = a.hold(claim("u", "phone")).await;
    let (second, _) = b.claim(comes_back(Policy::PerDevice, &first)).await;
    a.release(&first).await;
    let (third, answer) = a.claim(comes_back(Policy::PerDevice, &first)).await;
    assert_eq!(answer.displaced.len(), 1);
    assert_eq!(a.find("u").await, [a.row(&third)]);
    b.release(&second).await;

    let dead = c.hold(claim_as("u", "desk", Policy::Max(2), REPLACE)).await;
    cluster.crash(c).await;
    let (fourth, answer) = b.claim(comes_back(Policy::Max(2), &third)).await;
    let ended: Vec<_> = answer.displaced.iter().map(|displaced| displaced.session).collect();
    assert_eq!(ended, [third.session], "its own, though the other is dead: {:?}", dead.session);
    assert_eq!(a.find("u").await.len(), 2);
    // And for the one that resumed it, by whoever knows of that one.
    a.release(&third).await;
    b.claim(comes_back(Policy::Max(2), &fourth)).await;
}

/// The session of a dead node is in nobody's way, but only such a session makes room.
pub async fn a_dead_nodes_session_makes_room(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let c = node(cluster, "c").await;
    let phone = c.hold(claim("per", "phone")).await;
    let alive = a.hold(claim_as("max", "d", Policy::Max(2), REJECT)).await;
    let dead = c.hold(claim_as("max", "d", Policy::Max(2), REJECT)).await;
    let name = c.node.clone();
    let refused = b.registry.claim(claim_as("per", "phone", Policy::PerDevice, REJECT)).await;
    assert_eq!(refused, Err(ClaimError::Taken));
    cluster.crash(c).await;

    let (second, answer) = b.claim(claim_as("per", "phone", Policy::PerDevice, REJECT)).await;
    let fence_after = fence_after(&name);
    let lost = |loser: &Claim| Displaced { session: loser.session, node: name.clone(), fence_after };
    assert_eq!(answer.displaced, [lost(&phone)]);
    assert_eq!(a.find("per").await, [b.row(&second)]);

    // The older one is alive and stays.
    let (third, answer) = b.claim(claim_as("max", "d", Policy::Max(2), REJECT)).await;
    assert_eq!(answer.displaced, [lost(&dead)]);
    assert_eq!(a.find("max").await, [a.row(&alive), b.row(&third)]);
    let refused = b.registry.claim(claim_as("max", "d", Policy::Max(2), REJECT)).await;
    assert_eq!(refused, Err(ClaimError::Taken));
    assert_eq!((a.told().await, b.told().await), (vec![], vec![]));
}

/// Of a hundred claims of one place from two nodes as many live as may, and every other one is told once.
pub async fn racing_claims_leave_as_many_as_may_live(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    for (user, policy, live) in
        [("per", Policy::PerDevice, 1), ("max", Policy::Max(3), 3), ("all", Policy::Unlimited, 100)]
    {
        let told_before = a.told().await.len() + b.told().await.len();
        let outcomes = race(&a, &b, |_| claim_as(user, "d", policy, REPLACE)).await;
        // Who was displaced by whom, as the winners see it: the first of them, for those that follow wait for it, too.
        let mut answers: HashMap<SessionId, HashSet<(NodeId, ClaimId)>> = HashMap::new();
        let mut epochs: Vec<(u64, SessionId)> = Vec::new();
        for (made, outcome) in outcomes {
            let claimed = outcome.expect("everybody gets in");
            epochs.push((claimed.epoch, made.session));
            for loser in claimed.displaced {
                let first = answers.entry(loser.session).or_default().insert((loser.node, made.id));
                assert!(first, "displaced twice");
            }
        }
        assert_eq!(answers.len(), 100 - live, "{policy:?}");
        epochs.sort_unstable();
        // Without a limit there is nothing to decide, and claims of one millisecond may be of one epoch.
        let distinct = epochs.is_sorted_by(|one, next| one.0 < next.0);
        assert!(distinct || policy == Policy::Unlimited, "two claims of one epoch");
        let newest: HashSet<_> = epochs.iter().skip(100 - live).map(|(_, session)| *session).collect();
        let found = a.find(user).await;
        assert!(found.is_sorted_by_key(|row| row.epoch));
        assert_eq!(found.into_iter().map(|row| row.session).collect::<HashSet<_>>(), newest);
        // And as the losers' nodes do.
        let evictions = [(&a, a.told().await), (&b, b.told().await)];
        let mut told = 0;
        for (home, eviction) in
            evictions.iter().flat_map(|(home, all)| all.iter().map(move |one| (home, one)))
        {
            if let Some(winners) = answers.get_mut(&eviction.session) {
                let winner = (home.node.clone(), eviction.confirm.1);
                assert!(winners.remove(&winner), "told twice, or for somebody who does not wait");
                told += 1;
            }
        }
        assert!(answers.values().all(HashSet::is_empty), "somebody waits for what nobody was told");
        assert!(told >= 100 - live, "{policy:?}");
        let total: usize = evictions.iter().map(|(_, all)| all.len()).sum();
        assert_eq!(total - told_before, told, "told without need");
    }
}

/// Where newcomers are refused, exactly one of a hundred gets in.
pub async fn racing_claims_that_may_be_refused_leave_one(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let outcomes = race(&a, &b, |number| {
        let policy = if number % 2 == 0 { Policy::PerDevice } else { Policy::Max(1) };
        claim_as("u", "d", policy, REJECT)
    })
    .await;
    let (made, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(|(_, outcome)| outcome.is_ok());
    assert!(refused.iter().all(|(_, outcome)| *outcome == Err(ClaimError::Taken)));
    assert_eq!(made.len(), 1);
    assert_eq!(a.sessions("u").await, [made[0].0.session]);
    assert_eq!((a.told().await, b.told().await), (vec![], vec![]));
}

/// A hundred claims at once, half of them from each node.
async fn race(
    a: &Node,
    b: &Node,
    claim: impl Fn(usize) -> Claim,
) -> Vec<(Claim, Result<tidegate_core::registry::Claimed, ClaimError>)> {
    let mut racing = JoinSet::new();
    for number in 0..100 {
        let registry = Arc::clone(if number % 4 < 2 { &a.registry } else { &b.registry });
        let claim = claim(number);
        racing.spawn(async move { (claim.clone(), registry.claim(claim).await) });
    }
    racing.join_all().await
}

/// A claim whose answer got lost is made again with the same answer, also when its maker has lost by then.
pub async fn claiming_again_changes_nothing(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let old = a.hold(claim("u", "d")).await;
    let fresh = claim("u", "d");
    let (held, first) = b.claim(fresh.clone()).await;
    assert_eq!(first.displaced, [displaced(&a, &old)]);
    for _ in 0..2 {
        assert_eq!(b.registry.claim(fresh.clone()).await, Ok(first.clone()));
    }
    assert_eq!(a.told().await.len(), 1);
    assert_eq!(a.find("u").await, [b.row(&held)]);
    // What its loser's node has released is not waited for any more.
    a.release(&old).await;
    assert_eq!(b.claim(fresh.clone()).await.1.epoch, first.epoch);
    // Also where newcomers are refused: it is none.
    let firm = claim_as("v", "d", Policy::Max(1), REJECT);
    let answer = b.claim(firm.clone()).await.1;
    assert_eq!(b.claim(firm).await.1, answer);

    let newest = a.claim(claim("u", "d")).await.0;
    assert_eq!(b.claim(fresh).await.1.epoch, first.epoch);
    assert_eq!(a.find("u").await, [a.row(&newest)]);
    assert_eq!(b.check(&held, true).await, Verdict::Evicted(a.replaces(&newest)));
    assert_eq!((a.told().await.len(), b.told().await.len()), (1, 1));
}

/// Whoever was displaced is found displaced until its own node lets go, also when the winner has left meanwhile.
pub async fn the_mark_outlives_the_winner(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let old = a.hold(claim("u", "d")).await;
    let winner = b.claim(claim("u", "d")).await.0;
    let verdict = Verdict::Evicted(b.replaces(&winner));
    assert_eq!(a.check(&old, true).await, verdict);
    b.release(&winner).await;
    assert_eq!(b.sessions("u").await, []);
    assert_eq!(a.check(&old, true).await, verdict);
    assert_eq!(a.check(&old, false).await, verdict);
    // Nor does a later one change who it was; and it waits for it, since whoever displaced it has gone and does not.
    let (later, answer) = b.claim(claim("u", "d")).await;
    assert_eq!(answer.displaced, [displaced(&a, &old)]);
    let again = Eviction { evicted: b.replaces(&winner), ..b.evicts(&later, &old) };
    assert_eq!(a.told().await, [b.evicts(&winner, &old), again]);
    assert_eq!(a.check(&old, true).await, verdict);
    a.release(&old).await;
    assert_eq!(b.find("u").await, [b.row(&later)]);
    b.release(&later).await;
    assert_eq!(a.check(&old, false).await, Verdict::Absent);
}

/// A step that names a claim does nothing to a session that another claim holds.
pub async fn a_stale_claim_does_nothing(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let held = a.hold(claim("u", "d")).await;
    let stale = stale(&held);
    b.release(&stale).await;
    let other_place = Claim { place: place("v"), ..held.clone() };
    b.release(&other_place).await;
    b.registry.refresh(vec![refresh(&stale, 1)]).await.expect("the registry is up");
    let verdict = b.check(&stale, true).await;
    assert!(!matches!(verdict, Verdict::Held | Verdict::Restored), "{verdict:?}");
    assert_eq!(a.find("u").await, [a.row(&held)]);
    assert_eq!(a.check(&held, false).await, Verdict::Held);
    // The mark of the displaced is no less safe.
    let winner = b.claim(claim("u", "d")).await.0;
    a.release(&stale).await;
    assert_eq!(a.check(&held, true).await, Verdict::Evicted(b.replaces(&winner)));
    assert_eq!(a.told().await.len(), 1);
}

fn refresh(held: &Claim, seen_at_ms: u64) -> Refresh {
    Refresh {
        place: held.place.clone(),
        session: held.session,
        claim: held.id,
        transport: Transport::WebSocket,
        seen_at_ms,
    }
}

/// What is known of a session follows it, and brings nobody back.
pub async fn a_refresh_is_found(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let polling = |device| Claim { transport: Transport::Polling, ..claim("u", device) };
    let (one, two) = (a.hold(polling("d1")).await, a.hold(polling("d2")).await);
    assert_eq!(b.find("u").await, [a.row(&one), a.row(&two)]);
    let seen_at_ms = one.epoch + 12_345;
    a.registry.refresh(vec![refresh(&one, seen_at_ms)]).await.expect("the registry is up");
    let mut row = a.row(&one);
    (row.transport, row.seen_at_ms) = (Transport::WebSocket, seen_at_ms);
    assert_eq!(b.find("u").await, [row, a.row(&two)]);
    assert_eq!(a.check(&one, false).await, Verdict::Held);
    assert_eq!(a.claim(Claim { epoch: 0, ..one.clone() }).await.1.epoch, one.epoch);

    let winner = b.claim(claim("u", "d1")).await.0;
    let absent = Claim { session: SessionId::random(), ..claim("u", "d3") };
    let changed =
        vec![refresh(&one, seen_at_ms + 1), refresh(&absent, seen_at_ms), refresh(&two, seen_at_ms)];
    a.registry.refresh(changed).await.expect("the registry is up");
    assert_eq!(a.sessions("u").await, [two.session, winner.session]);
    assert_eq!(a.check(&one, true).await, Verdict::Evicted(b.replaces(&winner)));
}

/// A kick ends the sessions of a place or of one of its devices, and they do not come back.
pub async fn a_kick_ends_sessions(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let all = |device| claim_as("u", device, Policy::Unlimited, REPLACE);
    let phones = [a.hold(all("phone")).await, b.hold(all("phone")).await];
    let desk = a.hold(all("desk")).await;
    let other = a.hold(claim("v", "phone")).await;
    let kick = async |device: Option<&str>, wait| {
        let kicked = b.registry.kick(place("u"), device.map(Into::into), wait).await;
        let mut rows = kicked.expect("the registry is up");
        rows.sort_by_key(|row| row.epoch);
        rows
    };
    let kicked = Evicted { reason: EvictReason::Kicked, by: None };

    assert_eq!(kick(Some("tablet"), ClaimId::random()).await, []);
    let wait = ClaimId::random();
    assert_eq!(kick(Some("phone"), wait).await, [a.row(&phones[0]), b.row(&phones[1])]);
    for (home, phone) in [&a, &b].into_iter().zip(&phones) {
        let mut eviction = b.evicts(phone, phone);
        (eviction.evicted, eviction.confirm) = (kicked.clone(), (b.node.clone(), wait));
        assert_eq!(home.told().await, [eviction]);
        assert_eq!(home.check(phone, true).await, Verdict::Evicted(kicked.clone()));
    }
    assert_eq!(a.find("u").await, [a.row(&desk)]);

    let everybody = ClaimId::random();
    assert_eq!(kick(None, everybody).await, [a.row(&desk)], "who was kicked before is not kicked again");
    assert_eq!(kick(None, everybody).await, []);
    assert_eq!(a.find("u").await, []);
    assert_eq!(a.find("v").await, [a.row(&other)]);
    assert_eq!((a.told().await.len(), b.told().await.len()), (2, 1));

    // Its place is free for somebody else.
    for (home, gone) in [(&a, &phones[0]), (&b, &phones[1]), (&a, &desk)] {
        home.release(gone).await;
    }
    let next = b.hold(claim_as("u", "phone", Policy::Max(1), REJECT)).await;
    assert_eq!(a.find("u").await, [b.row(&next)]);
}

/// The node whose session has to go hears of it before the echo of any pulse that is sent after the claim.
pub async fn an_eviction_is_heard_before_the_next_pulse(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    for round in 0..50 {
        let old = a.claim(claim("u", "d")).await.0;
        a.pulse().await;
        b.claim(claim("u", "d")).await;
        // Waits for the echo and for nothing else.
        a.pulse().await;
        let events = a.recorder.events();
        let evicted =
            events.iter().rposition(|event| matches!(event, Event::Evict(one) if one.session == old.session));
        let echo = events.iter().rposition(|event| matches!(event, Event::Pulse(..)));
        assert!(evicted.is_some() && evicted < echo, "round {round}");
    }
}

/// A confirmation reaches the node it is meant for, and no other.
pub async fn a_confirmation_reaches_who_waits(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let (wait, session) = (ClaimId::random(), SessionId::random());
    a.broker.confirm(b.node.clone(), wait, session);
    b.recorder.until_event(Event::Confirmed(wait, session)).await;
    b.broker.confirm(b.node.clone(), wait, session);
    let twice = |events: &[Event]| {
        events.iter().filter(|event| **event == Event::Confirmed(wait, session)).count() == 2
    };
    b.recorder.until("a confirmation from itself", twice).await;
    a.pulse().await;
    assert!(!a.recorder.events().contains(&Event::Confirmed(wait, session)));
}

/// Epochs order the claims of a place, and are about the time.
pub async fn epochs_order_claims(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let (mut last, begun) = (0, unix_ms());
    for number in 0..100_u64 {
        let home = if number % 2 == 0 { &a } else { &b };
        let held = home.claim(claim("u", "d")).await.0;
        assert!(held.epoch > last, "{} after {last}", held.epoch);
        assert!((begun..=unix_ms() + number).contains(&held.epoch), "{} is not about now", held.epoch);
        last = held.epoch;
    }
}

/// Places whose names look alike are apart, and devices come back as they were.
pub async fn every_name_is_a_place_of_its_own(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let long = "ü".repeat(128);
    let mut users: Vec<&str> = ODD_NAMES.to_vec();
    users.extend([&long, "b|c", "c", "a%7Cb", "a|b}"]);
    let mut held = Vec::new();
    for namespace in ["/", "/a", "/a|b", "/{a}", "/a#b", "/%", "/a b", "/日本"] {
        for user in &users {
            let place = Place { namespace: Namespace::from(namespace), user: (*user).into() };
            let device = users[held.len() % users.len()];
            held.push(a.hold(Claim { place, ..claim("", device) }).await);
        }
    }
    let places = held.iter().map(|held| held.place.clone()).collect();
    let found = b.registry.find(places).await.expect("the registry is up");
    let rows: Vec<_> = held.iter().map(|held| vec![a.row(held)]).collect();
    assert_eq!(found, rows);
    let listed = a.registry.held().await.expect("the registry is up");
    assert_eq!(listed.len(), held.len());
    assert!(held.iter().all(|held| listed.contains(&gone(held))));
    a.registry.release(held.iter().map(gone).collect()).await.expect("the registry is up");
    assert_eq!(a.registry.held().await, Ok(vec![]));
    assert_eq!(b.sessions("a|b").await, []);
}
