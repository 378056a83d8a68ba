//! Who is in which room, and what is announced of it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tidegate_core::registry::{Claim, Listed, Occupied, Page, Place, Stay};
use tidegate_core::{Namespace, Room, Topic};
use tokio::task::JoinSet;

use super::{ANNOUNCE, Cluster, Node, ODD_NAMES, announcement, came, claim, node, pair, went};

/// More pages than any list of the suite has.
const PAGES_MAX: usize = 1000;

async fn enter(node: &Node, stays: Vec<Stay>) {
    node.registry.enter(stays, Some(ANNOUNCE)).await.expect("the registry is up");
}

async fn depart(node: &Node, stays: Vec<Stay>) {
    node.registry.depart(stays, ANNOUNCE).await.expect("the registry is up");
}

/// All members, page by page. What was on a page before may come again.
async fn members(node: &Node, namespace: &Namespace, room: &str, limit: usize) -> HashSet<Stay> {
    let room = Room::from(room);
    let pages = pages(limit, |page| node.registry.members(namespace.clone(), room.clone(), page));
    pages.await.into_iter().collect()
}

/// All rooms of `/` with their numbers of users.
async fn rooms(node: &Node, namespace: &Namespace, limit: usize) -> BTreeMap<Room, u64> {
    let pages = pages(limit, |page| node.registry.rooms(namespace.clone(), page)).await;
    pages.into_iter().map(|Occupied { room, users }| (room, users)).collect()
}

async fn pages<T, F>(limit: usize, list: impl Fn(Page) -> F) -> Vec<T>
where
    F: Future<Output = Result<Listed<T>, tidegate_core::registry::Error>>,
{
    let (mut items, mut after) = (Vec::new(), None);
    for _ in 0..PAGES_MAX {
        let listed = list(Page { after, limit }).await.expect("the registry is up");
        items.extend(listed.items);
        after = listed.next;
        if after.is_none() {
            return items;
        }
    }
    panic!("a list without an end, with {} items so far", items.len());
}

/// A user is announced when the first of its sessions comes and when the last one leaves, whatever their devices and
/// nodes, and not in between.
pub async fn a_user_is_announced_once(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    a.listen(&["r", "other"]).await;
    b.listen(&["r"]).await;
    let [one, two, three] = ["phone", "desk", "desk"].map(|device| claim("u", device));
    let other = claim("v", "phone");

    enter(&a, vec![a.stay(&one, "r")]).await;
    assert_eq!(a.announced("r").await, [came("r", "u")]);
    enter(&a, vec![a.stay(&one, "r")]).await;
    enter(&b, vec![b.stay(&two, "r"), b.stay(&other, "r")]).await;
    enter(&b, vec![b.stay(&three, "r"), b.stay(&three, "other")]).await;
    depart(&a, vec![a.stay(&one, "r")]).await;
    depart(&b, vec![b.stay(&two, "r"), b.stay(&other, "other")]).await;
    assert_eq!(b.announced("r").await, [came("r", "u"), came("r", "v")]);
    depart(&b, vec![b.stay(&three, "r")]).await;
    depart(&b, vec![b.stay(&three, "r"), b.stay(&one, "r")]).await;
    for node in [&a, &b] {
        assert_eq!(node.announced("r").await, [came("r", "u"), came("r", "v"), went("r", "u")]);
    }
    assert_eq!(a.announced("other").await, [came("other", "u")]);

    // A session that is not there takes nobody with it, and who came twice is there once.
    enter(&b, vec![b.stay(&other, "r")]).await;
    depart(&b, vec![b.stay(&claim("v", "desk"), "r")]).await;
    let page = Page { after: None, limit: 100 };
    let listed = a.registry.members(Namespace::root(), "r".into(), page).await.expect("the registry is up");
    assert_eq!(listed, Listed { items: vec![b.stay(&other, "r")], next: None });

    // And again.
    enter(&a, vec![a.stay(&one, "r")]).await;
    let announced = a.announced("r").await;
    assert_eq!(announced[2..], [went("r", "u"), came("r", "u")]);
}

/// Who is put back after a loss is not announced, and is announced when it leaves.
pub async fn entering_may_be_silent(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    a.listen(&["r"]).await;
    let (one, two) = (claim("u", "d1"), claim("u", "d2"));
    a.registry.enter(vec![a.stay(&one, "r")], None).await.expect("the registry is up");
    enter(&b, vec![b.stay(&two, "r")]).await;
    assert_eq!(a.announced("r").await, []);
    let stays = HashSet::from([a.stay(&one, "r"), b.stay(&two, "r")]);
    assert_eq!(members(&a, &Namespace::root(), "r", 100).await, stays);
    depart(&a, vec![a.stay(&one, "r")]).await;
    depart(&b, vec![b.stay(&two, "r")]).await;
    assert_eq!(a.announced("r").await, [went("r", "u")]);
    assert_eq!(members(&a, &Namespace::root(), "r", 100).await, HashSet::new());
}

/// However sessions of one user race into a room and out of it, comings and goings take turns.
pub async fn racing_sessions_are_announced_once(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    a.listen(&["r"]).await;
    let claims: Vec<_> = (0..40).map(|number| claim("u", &format!("d{number}"))).collect();
    let race = async |joins: bool| {
        let mut racing = JoinSet::new();
        for (number, claim) in claims.iter().enumerate() {
            let home = if number % 2 == 0 { &a } else { &b };
            let (registry, stays) = (Arc::clone(&home.registry), vec![home.stay(claim, "r")]);
            racing.spawn(async move {
                let done = if joins {
                    registry.enter(stays, Some(ANNOUNCE))
                } else {
                    registry.depart(stays, ANNOUNCE)
                };
                done.await.expect("the registry is up");
            });
        }
        racing.join_all().await;
    };
    race(true).await;
    assert_eq!(a.announced("r").await, [came("r", "u")]);
    assert_eq!(members(&b, &Namespace::root(), "r", 7).await.len(), 40);
    race(false).await;
    assert_eq!(a.announced("r").await, [came("r", "u"), went("r", "u")]);

    // Each comes and goes at once.
    let mut racing = JoinSet::new();
    for (number, claim) in claims.iter().enumerate() {
        let home = if number % 2 == 0 { &a } else { &b };
        let (registry, stays) = (Arc::clone(&home.registry), vec![home.stay(claim, "r")]);
        racing.spawn(async move {
            registry.enter(stays.clone(), Some(ANNOUNCE)).await.expect("the registry is up");
            registry.depart(stays, ANNOUNCE).await.expect("the registry is up");
        });
    }
    racing.join_all().await;
    let announced = a.announced("r").await;
    assert!(announced.len() >= 4 && announced.len().is_multiple_of(2));
    for turn in announced.chunks(2) {
        assert_eq!(turn, [came("r", "u"), went("r", "u")]);
    }
    assert_eq!(rooms(&a, &Namespace::root(), 10).await, BTreeMap::new());
}

/// Members and rooms are all on one page or another, whatever the length of a page.
pub async fn lists_come_in_pages(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let chat = Namespace::from("/chat");
    let mut stays = [Vec::new(), Vec::new()];
    let (mut crowd, mut counts) = (HashSet::new(), BTreeMap::new());
    for number in 0..300 {
        let at = number % 2;
        let home = [&a, &b][at];
        let held = claim(&format!("u{}", number / 2), &format!("d{at}"));
        let room = format!("r{}", number % 70);
        for room in ["crowd", &room] {
            stays[at].push(home.stay(&held, room));
        }
        crowd.insert(home.stay(&held, "crowd"));
        counts.entry(Room::from(room)).or_insert_with(HashSet::new).insert(held.place.user);
    }
    let mut counts: BTreeMap<_, _> =
        counts.into_iter().map(|(room, users)| (room, users.len() as u64)).collect();
    counts.insert(Room::from("crowd"), 150);
    let elsewhere = Claim { place: Place { namespace: chat.clone(), user: "w".into() }, ..claim("", "d") };
    let [of_a, mut of_b] = stays;
    of_b.push(b.stay(&elsewhere, "crowd"));
    enter(&a, of_a.clone()).await;
    enter(&b, of_b.clone()).await;

    let root = Namespace::root();
    for limit in [1, 7, 100, 10_000] {
        assert_eq!(members(&a, &root, "crowd", limit).await, crowd, "{limit}");
        assert_eq!(rooms(&b, &root, limit).await, counts, "{limit}");
    }
    assert_eq!(members(&a, &chat, "crowd", 10).await, HashSet::from([b.stay(&elsewhere, "crowd")]));
    assert_eq!(rooms(&a, &chat, 10).await, BTreeMap::from([(Room::from("crowd"), 1)]));
    assert_eq!(members(&a, &root, "nobody", 10).await, HashSet::new());
    assert_eq!(rooms(&a, &Namespace::from("/empty"), 10).await, BTreeMap::new());

    // What was there all along is found while others come and go.
    let churn = async {
        for round in 0..20 {
            let passing = claim(&format!("passing{round}"), "d");
            let stays: Vec<_> = (0..10).map(|room| a.stay(&passing, &format!("passing{room}"))).collect();
            let crowd = vec![a.stay(&passing, "crowd")];
            enter(&a, [stays.clone(), crowd.clone()].concat()).await;
            depart(&a, [stays, crowd].concat()).await;
        }
    };
    let (seen, listed, ()) = tokio::join!(members(&b, &root, "crowd", 20), rooms(&b, &root, 5), churn);
    assert!(crowd.is_subset(&seen));
    assert!(counts.keys().all(|room| listed.contains_key(room)));

    depart(&a, of_a).await;
    depart(&b, of_b).await;
    assert_eq!(members(&a, &root, "crowd", 10).await, HashSet::new());
    assert_eq!(rooms(&a, &root, 10).await, BTreeMap::new());
    assert_eq!(rooms(&a, &chat, 10).await, BTreeMap::new());
}

/// Every name of a room, a user, a device or a namespace comes back as it was, and is nobody else's.
pub async fn every_name_is_listed_as_it_is(cluster: &impl Cluster) {
    let (a, b) = (node(cluster, "a").await, node(cluster, "b.B_-2").await);
    let long = "ü".repeat(128);
    let mut names: Vec<&str> = ODD_NAMES.to_vec();
    names.extend([&long, "b|c", "c", "0", "15"]);
    for namespace in ["/", "/a|b", "/{a}", "/a#b", "/%7C"].map(Namespace::from) {
        let topics = names.iter().map(|room| Topic::Room(namespace.clone(), Room::from(*room)));
        a.broker.subscribe(topics.collect()).await.expect("the broker is up");
        let mut stays = Vec::new();
        let mut expected = Vec::new();
        for (number, user) in names.iter().enumerate() {
            let place = Place { namespace: namespace.clone(), user: (*user).into() };
            let held = Claim { place, ..claim("", names[(number + 1) % names.len()]) };
            for room in [names[number], names[(number + 2) % names.len()]] {
                stays.push(b.stay(&held, room));
                expected.push(announcement(&namespace, &Room::from(room), "came", user));
            }
        }
        enter(&b, stays.clone()).await;
        for publication in &expected {
            a.recorder.until_publication(publication).await;
        }
        for room in &names {
            let there: HashSet<_> =
                stays.iter().filter(|stay| stay.room.as_str() == *room).cloned().collect();
            assert_eq!(members(&a, &namespace, room, 1).await, there, "{room:?} of {namespace}");
        }
        let all = names.iter().map(|room| (Room::from(*room), 2)).collect();
        assert_eq!(rooms(&a, &namespace, 3).await, all);
        depart(&b, stays).await;
        assert_eq!(rooms(&a, &namespace, 3).await, BTreeMap::new());
    }
}
