//! The offline port's contract, as tests that every implementation has to pass. Nodes and claims are those of the
//! registry's suite, whose places the inboxes stand beside.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_core::OfflineStore;
use tidegate_core::offline::{
    Arrival, Full, Holder, HolderError, Letter, Message, Page, Quotas, SendError, Sender, Sent, Serial,
    Settled, Settlement, Span, Status, Stored,
};
use tidegate_core::registry::{Claim, Place, Policy, Refresh, Transport, Verdict};
use tidegate_msgpack::write;
use tokio::task::JoinSet;

use crate::broker_suite::Event;
use crate::registry_suite::{Cluster, Node, ODD_NAMES, claim, claim_as, node, pair, place, stale};

/// A session of the claim, as the owner of its inbox.
#[must_use]
pub fn holder(held: &Claim) -> Holder {
    Holder { place: held.place.clone(), session: held.session, claim: held.id }
}

/// A text, as one MessagePack value.
#[must_use]
pub fn text(data: &str) -> Bytes {
    let mut value = Vec::new();
    write::str(&mut value, data);
    value.into()
}

/// What the operator sends to a user of `/`.
#[must_use]
pub fn letter(to: &str, data: &str) -> Letter {
    Letter { to: place(to), from: Sender::Operator, event: "e".into(), data: text(data), id: None, ttl: None }
}

/// How long something waits that is to expire: longer than a busy machine needs for what comes before that.
const BRIEF: Duration = Duration::from_millis(1_500);

/// Stores go by the clock of Redis or of the system, which cannot be paused.
async fn brief_is_over() {
    tokio::time::sleep(BRIEF + Duration::from_millis(100)).await;
}

/// What a session sends to a user of `/`.
#[must_use]
pub fn letter_of(from: &Claim, to: &str, data: &str) -> Letter {
    Letter { from: Sender::Session(holder(from)), ..letter(to, data) }
}

/// Everything behind `after`, in one page.
#[must_use]
pub fn all_after(after: Serial) -> Span {
    Span { after, until: None, messages_max: 10_000, bytes_max: usize::MAX >> 1 }
}

/// The texts of a page.
#[must_use]
pub fn texts(page: &Page) -> Vec<Bytes> {
    page.messages.iter().map(|message| message.data.clone()).collect()
}

fn store(node: &Node) -> Arc<dyn OfflineStore> {
    store_with(node, Quotas::default())
}

fn store_with(node: &Node, quotas: Quotas) -> Arc<dyn OfflineStore> {
    (node.stores.0)(quotas)
}

async fn sent(store: &Arc<dyn OfflineStore>, letter: Letter) -> Sent {
    store.send(letter).await.expect("there is room")
}

async fn read(store: &Arc<dyn OfflineStore>, held: &Claim) -> Page {
    store.read(holder(held), all_after(Serial::ZERO)).await.expect("the place is held")
}

async fn settle(store: &Arc<dyn OfflineStore>, held: &Claim, serials: &[Serial]) -> u64 {
    let settlement = Settlement { holder: holder(held), serials: serials.to_vec() };
    let settled = store.settle(vec![settlement]).await.expect("the store is up");
    let [settled] = settled.try_into().expect("one outcome a settlement");
    match settled {
        Settled::Deleted(messages) => messages,
        other => panic!("{other:?}"),
    }
}

async fn refused(store: &Arc<dyn OfflineStore>, held: &Claim, serial: Serial) -> Settled {
    let settlement = Settlement { holder: holder(held), serials: vec![serial] };
    let [settled] =
        store.settle(vec![settlement]).await.expect("the store is up").try_into().expect("one outcome");
    settled
}

async fn stored(store: &Arc<dyn OfflineStore>, user: &str) -> Stored {
    store.stored(place(user)).await.expect("the store is up")
}

/// What a node was told so far, once all of before has arrived.
async fn arrivals(node: &Node) -> Vec<Arrival> {
    node.pulse().await;
    let arrivals = node.recorder.events().into_iter().filter_map(|event| match event {
        Event::Arrived(arrival) => Some(arrival),
        _ => None,
    });
    arrivals.collect()
}

/// Tests.
pub async fn what_is_sent_is_read_in_order(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let (here, there) = (store(&a), store(&b));
    let ann = a.hold(claim("ann", "phone")).await;
    let mut serials = Vec::new();
    for number in 0..10 {
        let store = if number % 2 == 0 { &here } else { &there };
        let sent = sent(store, letter("bob", &number.to_string())).await;
        assert_eq!((sent.status, sent.expired), (Status::Stored, 0));
        let stored = stored(store, "bob").await;
        assert_eq!((sent.count, sent.bytes), (number + 1, stored.bytes));
        assert_eq!(stored.count, number + 1);
        serials.push(sent.serial);
    }
    let from_ann = Letter { event: "hi".into(), ..letter_of(&ann, "bob", "10") };
    serials.push(sent(&here, from_ann).await.serial);
    assert!(serials.is_sorted_by(|one, other| one < other), "{serials:?}");

    // Whoever reads, and wherever it is.
    let bob = b.hold(claim("bob", "desk")).await;
    assert_eq!(there.open(holder(&bob)).await, Ok(serials[10]));
    let page = read(&there, &bob).await;
    assert_eq!(page.messages.iter().map(|message| message.serial).collect::<Vec<_>>(), serials);
    assert_eq!(texts(&page), (0..=10).map(|number: u32| text(&number.to_string())).collect::<Vec<_>>());
    assert_eq!((page.upto, page.has_more, page.expired), (serials[10], false, 0));
    let [first, .., last] = &page.messages[..] else { panic!("eleven messages") };
    assert_eq!((&first.from, &first.node, &*first.event), (&None, &a.node, "e"));
    assert_eq!((last.from.as_deref(), &last.node, &*last.event), (Some("ann"), &a.node, "hi"));
    // It stays until it is settled.
    assert_eq!(read(&there, &bob).await, page);
    assert_eq!(settle(&there, &bob, &serials[..4]).await, 4);
    assert_eq!(read(&there, &bob).await.messages, page.messages[4..]);
    assert_eq!(settle(&there, &bob, &serials).await, 7);
    let nothing = read(&there, &bob).await;
    assert_eq!((nothing.messages.len(), nothing.upto), (0, serials[10]));
    let stored = stored(&here, "bob").await;
    assert_eq!(stored, Stored::default());
    // Serials go on where they were.
    assert!(sent(&here, letter("bob", "later")).await.serial > serials[10]);
}

/// Tests.
pub async fn pages_follow_each_other(cluster: &impl Cluster) {
    let a = node(cluster, "a").await;
    let store = store(&a);
    let bob = a.hold(claim("bob", "phone")).await;
    let mut serials = Vec::new();
    for number in 0..7 {
        serials.push(sent(&store, letter("bob", &format!("{number}{}", "x".repeat(100)))).await.serial);
    }
    let page = async |span: Span| {
        let page = store.read(holder(&bob), span).await.expect("the place is held");
        let found: Vec<_> = page.messages.iter().map(|message| message.serial).collect();
        (found, page.upto, page.has_more)
    };
    let wide = all_after(Serial::ZERO);
    assert_eq!(page(Span { messages_max: 3, ..wide }).await, (serials[..3].to_vec(), serials[2], true));
    let second = Span { after: serials[2], messages_max: 3, ..wide };
    assert_eq!(page(second).await, (serials[3..6].to_vec(), serials[5], true));
    let third = Span { after: serials[5], messages_max: 3, ..wide };
    assert_eq!(page(third).await, (serials[6..].to_vec(), serials[6], false));
    assert_eq!(page(Span { after: serials[6], ..wide }).await, (vec![], serials[6], false));
    assert_eq!(page(Span { messages_max: 7, ..wide }).await, (serials.clone(), serials[6], false));
    // Two of them fit, a third does not; and one is given in any case.
    assert_eq!(page(Span { bytes_max: 300, ..wide }).await, (serials[..2].to_vec(), serials[1], true));
    assert_eq!(page(Span { bytes_max: 1, ..wide }).await, (serials[..1].to_vec(), serials[0], true));
    // Up to one of them, though there is more.
    let until = Span { until: Some(serials[3]), ..wide };
    assert_eq!(page(until).await, (serials[..4].to_vec(), serials[3], false));
    assert_eq!(page(Span { messages_max: 3, ..until }).await, (serials[..3].to_vec(), serials[2], true));
    let behind = Span { after: serials[3], ..until };
    assert_eq!(page(behind).await, (vec![], serials[3], false));
    // An inbox that nothing was ever sent to.
    let eve = a.hold(claim("eve", "phone")).await;
    assert_eq!(store.open(holder(&eve)).await, Ok(Serial::ZERO));
    let nothing = store.read(holder(&eve), Span { until: Some(Serial::ZERO), ..wide }).await;
    assert_eq!(nothing, Ok(Page { messages: vec![], upto: Serial::ZERO, has_more: false, expired: 0 }));
}

/// Tests.
pub async fn a_key_stores_once(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let quotas = Quotas { id_ttl: BRIEF, ..Quotas::default() };
    let (here, there) = (store_with(&a, quotas), store_with(&b, quotas));
    let (ann, eve) = (a.hold(claim("ann", "phone")).await, b.hold(claim("eve", "phone")).await);
    let keyed = |letter: Letter, id: &str| Letter { id: Some(id.into()), ..letter };
    let first = sent(&here, keyed(letter_of(&ann, "bob", "1"), "k")).await;
    assert_eq!(first.status, Status::Stored);
    for store in [&here, &here] {
        let again = sent(store, keyed(letter_of(&ann, "bob", "another"), "k")).await;
        assert_eq!((again.serial, again.status), (first.serial, Status::Duplicate));
    }
    // Whoever else, whomever else to, and whatever else the key.
    let others = [
        (&here, keyed(letter_of(&ann, "bob", "2"), "K")),
        (&there, keyed(letter_of(&eve, "bob", "3"), "k")),
        (&there, keyed(letter("bob", "4"), "k")),
        (&there, letter("bob", "5")),
        (&there, letter("bob", "5")),
        (&here, keyed(letter_of(&ann, "carl", "6"), "k")),
    ];
    for (store, letter) in others {
        assert_eq!(sent(store, letter).await.status, Status::Stored);
    }
    assert_eq!(stored(&here, "bob").await.count, 6);
    // Also once it has been delivered.
    let bob = a.hold(claim("bob", "phone")).await;
    assert_eq!(settle(&here, &bob, &[first.serial]).await, 1);
    let again = sent(&here, keyed(letter_of(&ann, "bob", "1"), "k")).await;
    assert_eq!((again.serial, again.status), (first.serial, Status::Duplicate));
    // But not for ever.
    brief_is_over().await;
    let anew = sent(&here, keyed(letter_of(&ann, "bob", "1"), "k")).await;
    assert!(anew.status == Status::Stored && anew.serial > first.serial);
}

/// Tests.
pub async fn a_full_inbox_refuses(cluster: &impl Cluster) {
    let a = node(cluster, "a").await;
    let bob = a.hold(claim("bob", "phone")).await;
    let few = store_with(&a, Quotas { messages_max: 3, ..Quotas::default() });
    let mut serials = Vec::new();
    for number in 0..3 {
        serials.push(sent(&few, letter("bob", &number.to_string())).await.serial);
    }
    let refused = Err(SendError::Full(Full::Messages));
    assert_eq!(few.send(letter("bob", "3")).await, refused);
    let keyed = Letter { id: Some("k".into()), ..letter("bob", "3") };
    assert_eq!(few.send(keyed.clone()).await, refused);
    // The others are none of its business.
    assert_eq!(sent(&few, letter("carl", "0")).await.status, Status::Stored);
    // What was promised is there, and nothing else.
    assert_eq!(read(&few, &bob).await.messages.len(), 3);
    assert_eq!(settle(&few, &bob, &serials[1..2]).await, 1);
    // A key that was refused has stored nothing.
    assert_eq!(sent(&few, keyed).await.status, Status::Stored);
    assert_eq!(few.send(letter("bob", "4")).await, refused);

    let small = store_with(&a, Quotas { bytes_max: 1_024, ..Quotas::default() });
    let large = |number: u32| letter("eve", &format!("{number}{}", "x".repeat(400)));
    let eve = a.hold(claim("eve", "phone")).await;
    let first = sent(&small, large(0)).await.serial;
    sent(&small, large(1)).await;
    assert_eq!(small.send(large(2)).await, Err(SendError::Full(Full::Bytes)));
    let waiting = stored(&small, "eve").await;
    assert!(waiting.count == 2 && (802..=1_024).contains(&waiting.bytes), "{waiting:?}");
    // A smaller one still fits.
    let last = sent(&small, letter("eve", "2")).await.serial;
    assert_eq!(settle(&small, &eve, &[first, last]).await, 2);
    let left = stored(&small, "eve").await;
    assert!(left.count == 1 && (401..=512).contains(&left.bytes), "{left:?}");
    sent(&small, large(3)).await;
}

/// Tests.
pub async fn a_sender_has_its_minute(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let quotas = Quotas { sender_per_minute_max: 4, ..Quotas::default() };
    let (here, there) = (store_with(&a, quotas), store_with(&b, quotas));
    let (ann, desk) = (a.hold(claim("ann", "phone")).await, b.hold(claim("ann", "desk")).await);
    let eve = b.hold(claim("eve", "phone")).await;
    // On all nodes and by all devices together, to whomever.
    for (store, from, to) in
        [(&here, &ann, "bob"), (&there, &desk, "bob"), (&here, &ann, "carl"), (&there, &desk, "dan")]
    {
        sent(store, letter_of(from, to, "x")).await;
    }
    for (store, from) in [(&here, &ann), (&there, &desk)] {
        let Err(SendError::RateLimited { retry_after }) = store.send(letter_of(from, "bob", "x")).await
        else {
            panic!("the fifth is one too many")
        };
        assert!(
            retry_after <= Duration::from_secs(60) && retry_after > Duration::from_secs(30),
            "{retry_after:?}"
        );
    }
    assert_eq!(stored(&here, "bob").await.count, 2);
    // Nobody else is slower for it.
    sent(&there, letter_of(&eve, "bob", "x")).await;
    for _ in 0..6 {
        sent(&here, letter("bob", "x")).await;
    }
    let unlimited = store_with(&a, Quotas { sender_per_minute_max: 0, ..quotas });
    sent(&unlimited, letter_of(&ann, "bob", "x")).await;
}

/// Tests.
pub async fn what_expires_makes_room(cluster: &impl Cluster) {
    let a = node(cluster, "a").await;
    let bob = a.hold(claim("bob", "phone")).await;
    let quotas = Quotas { messages_max: 3, ..Quotas::default() };
    let store = store_with(&a, quotas);
    let brief = |data: &str| Letter { ttl: Some(BRIEF), ..letter("bob", data) };
    sent(&store, letter("bob", "stays")).await;
    sent(&store, brief("goes")).await;
    let last = sent(&store, brief("goes, too")).await.serial;
    assert_eq!(stored(&store, "bob").await.count, 3);
    assert_eq!(store.send(letter("bob", "4")).await, Err(SendError::Full(Full::Messages)));
    brief_is_over().await;
    // Whoever comes first counts them.
    let page = read(&store, &bob).await;
    assert_eq!((texts(&page), page.upto, page.expired), (vec![text("stays")], last, 2));
    let waiting = stored(&store, "bob").await;
    assert!(waiting.count == 1 && waiting.expired == 0 && waiting.bytes < 60, "{waiting:?}");
    assert_eq!(settle(&store, &bob, &[last]).await, 0);
    sent(&store, brief("a")).await;
    sent(&store, brief("b")).await;
    brief_is_over().await;
    assert_eq!(sent(&store, letter("bob", "c")).await.expired, 2);
    // A longer time than others have is theirs.
    let old = store_with(&a, Quotas { age_max: BRIEF, ..quotas });
    let patient = Letter { ttl: Some(Duration::from_secs(60)), ..letter("carl", "x") };
    sent(&old, patient).await;
    sent(&old, letter("carl", "y")).await;
    brief_is_over().await;
    assert_eq!(stored(&old, "carl").await, Stored { count: 0, bytes: 0, expired: 2 });

    // What was promised for longer is kept for longer, and what is promised for less goes before it.
    let eve = a.hold(claim("eve", "phone")).await;
    sent(&store, letter("eve", "long")).await;
    let young = sent(&old, letter("eve", "short")).await.serial;
    brief_is_over().await;
    let waiting = stored(&old, "eve").await;
    assert_eq!((waiting.count, waiting.expired), (1, 1));
    let page = read(&old, &eve).await;
    assert_eq!((texts(&page), page.upto), (vec![text("long")], young));
}

/// Tests.
pub async fn who_is_ready_is_told(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let (here, there) = (store(&a), store(&b));
    let (phone, desk) = (a.hold(claim("bob", "phone")).await, b.hold(claim("bob", "desk")).await);
    let watch = a.hold(claim("bob", "watch")).await;
    assert_eq!(sent(&there, letter("bob", "0")).await.status, Status::Stored);
    let backlog = here.open(holder(&phone)).await.expect("the place is held");
    let first = sent(&there, letter("bob", "1")).await;
    assert_eq!(first.status, Status::Live);
    assert_eq!(there.open(holder(&desk)).await, Ok(first.serial));
    assert_eq!(here.open(holder(&watch)).await, Ok(first.serial));
    // Ready twice is ready.
    assert_eq!(here.open(holder(&watch)).await, Ok(first.serial));
    let second = sent(&there, letter_of(&phone, "bob", "2")).await;

    let told = |serial: Serial, before: Serial, data: &str, from: Option<&str>| Message {
        serial,
        from: from.map(Into::into),
        node: if before == backlog || from.is_some() { b.node.clone() } else { a.node.clone() },
        event: "e".into(),
        data: text(data),
    };
    let mut at_a = arrivals(&a).await;
    at_a.iter_mut().for_each(|arrival| arrival.sessions.sort());
    let mut both = vec![phone.session, watch.session];
    both.sort();
    let arrival = |sessions: &[_], before, serial, message| Arrival {
        namespace: phone.place.namespace.clone(),
        sessions: sessions.to_vec(),
        before,
        serial,
        message: Some(message),
    };
    let one = told(first.serial, backlog, "1", None);
    let two = told(second.serial, first.serial, "2", Some("bob"));
    assert_eq!(
        at_a,
        [
            arrival(&[phone.session], backlog, first.serial, one),
            arrival(&both, first.serial, second.serial, two.clone()),
        ]
    );
    assert_eq!(arrivals(&b).await, [arrival(&[desk.session], first.serial, second.serial, two)]);

    // Who has left, or has lost its place, is told nothing more.
    a.release(&phone).await;
    let young = b.claim(claim("bob", "watch")).await.0;
    let third = sent(&here, letter("bob", "3")).await;
    assert_eq!(third.status, Status::Live, "the desk is ready");
    assert_eq!(arrivals(&a).await.len(), 2);
    assert_eq!(arrivals(&b).await.len(), 2);
    b.release(&desk).await;
    assert_eq!(sent(&here, letter("bob", "4")).await.status, Status::Stored, "the young watch is not");
    assert_eq!(read(&there, &young).await.messages.len(), 5);
}

/// Tests.
pub async fn a_large_message_is_read(cluster: &impl Cluster) {
    let a = node(cluster, "a").await;
    let store = store(&a);
    let bob = a.hold(claim("bob", "phone")).await;
    let backlog = store.open(holder(&bob)).await.expect("the place is held");
    let data = "x".repeat(65_000);
    let sent = sent(&store, letter("bob", &data)).await;
    let told = arrivals(&a).await;
    let [arrival] = &told[..] else { panic!("one arrival: {told:?}") };
    assert_eq!((arrival.before, arrival.serial), (backlog, sent.serial));
    let page = read(&store, &bob).await;
    assert_eq!(texts(&page), [text(&data)]);
    assert!(arrival.message.as_ref().is_none_or(|message| *message == page.messages[0]));
}

/// Tests.
pub async fn ready_stays_ready(cluster: &impl Cluster) {
    let a = node(cluster, "a").await;
    let store = store(&a);
    let bob = a.hold(claim("bob", "phone")).await;
    store.open(holder(&bob)).await.expect("the place is held");
    let refresh = Refresh {
        place: bob.place.clone(),
        session: bob.session,
        claim: bob.id,
        transport: Transport::Polling,
        seen_at_ms: bob.epoch + 1_000,
    };
    a.registry.refresh(vec![refresh]).await.expect("the registry is up");
    assert_eq!(a.find("bob").await[0].transport, Transport::Polling);
    assert_eq!(a.check(&bob, true).await, Verdict::Held);
    assert_eq!(sent(&store, letter("bob", "1")).await.status, Status::Live);
    // A registry that has lost only that learns it by a check.
    let desk = a.hold(claim("eve", "desk")).await;
    assert_eq!(sent(&store, letter("eve", "1")).await.status, Status::Stored);
    assert_eq!(a.check(&Claim { ready: true, ..desk.clone() }, true).await, Verdict::Held);
    assert_eq!(a.check(&desk, true).await, Verdict::Held);
    assert_eq!(sent(&store, letter("eve", "2")).await.status, Status::Live);
    // One that is put back is as ready as it says.
    for ready in [false, true] {
        a.release(&bob).await;
        assert_eq!(store.open(holder(&bob)).await, Err(HolderError::Absent));
        assert_eq!(a.check(&Claim { ready, ..bob.clone() }, true).await, Verdict::Restored);
        let status = if ready { Status::Live } else { Status::Stored };
        assert_eq!(sent(&store, letter("bob", "2")).await.status, status);
    }
    assert_eq!(arrivals(&a).await.len(), 3);
}

/// Tests.
pub async fn a_stale_claim_does_nothing_in_an_inbox(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let (here, there) = (store(&a), store(&b));
    let old = a.hold(claim("bob", "phone")).await;
    here.open(holder(&old)).await.expect("the place is held");
    let serial = sent(&here, letter("bob", "1")).await.serial;
    let (young, _) = b.claim(claim("bob", "phone")).await;
    let span = all_after(Serial::ZERO);
    for loser in [&old, &stale(&young)] {
        assert_eq!(here.open(holder(loser)).await, Err(HolderError::Displaced));
        assert_eq!(here.read(holder(loser), span).await, Err(HolderError::Displaced));
        assert_eq!(refused(&here, loser, serial).await, Settled::Displaced);
        let sent = here.send(letter_of(loser, "carl", "x")).await;
        assert_eq!(sent, Err(SendError::Sender(HolderError::Displaced)));
    }
    let stranger = claim("bob", "desk");
    assert_eq!(here.open(holder(&stranger)).await, Err(HolderError::Absent));
    assert_eq!(here.read(holder(&stranger), span).await, Err(HolderError::Absent));
    assert_eq!(refused(&here, &stranger, serial).await, Settled::Absent);
    let sent = here.send(letter_of(&stranger, "carl", "x")).await;
    assert_eq!(sent, Err(SendError::Sender(HolderError::Absent)));
    assert_eq!(stored(&here, "carl").await.count, 0);
    // The inbox is the winner's, who has to say that it is ready.
    assert_eq!(there.open(holder(&young)).await, Ok(serial));
    assert_eq!(texts(&read(&there, &young).await), [text("1")]);
    assert_eq!(settle(&there, &young, &[serial]).await, 1);
    // Of several settlements each counts by itself.
    let serial = self::sent(&there, letter("bob", "2")).await.serial;
    let both = [&old, &young].map(|held| Settlement { holder: holder(held), serials: vec![serial] });
    assert_eq!(there.settle(both.into()).await, Ok(vec![Settled::Displaced, Settled::Deleted(1)]));
}

/// Tests.
pub async fn a_device_settles_for_all(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let (here, there) = (store(&a), store(&b));
    let (phone, desk) = (a.hold(claim("bob", "phone")).await, b.hold(claim("bob", "desk")).await);
    let serial = sent(&here, letter("bob", "1")).await.serial;
    let later = sent(&here, letter("bob", "2")).await.serial;
    for (store, held) in [(&here, &phone), (&there, &desk)] {
        assert_eq!(read(store, held).await.messages.len(), 2);
    }
    assert_eq!(settle(&there, &desk, &[serial]).await, 1);
    assert_eq!(settle(&here, &phone, &[serial, later]).await, 1);
    assert_eq!(read(&here, &phone).await.messages, []);
}

/// Tests.
pub async fn clearing_leaves_nothing_that_waits(cluster: &impl Cluster) {
    let (a, b) = pair(cluster).await;
    let (here, there) = (store(&a), store(&b));
    let bob = a.hold(claim("bob", "phone")).await;
    for number in 0..5 {
        let ttl = (number % 2 == 0).then_some(Duration::from_secs(60));
        sent(&here, Letter { ttl, ..letter("bob", "x") }).await;
    }
    let last = sent(&here, Letter { id: Some("k".into()), ..letter("bob", "x") }).await.serial;
    sent(&here, letter("carl", "x")).await;
    assert_eq!(there.clear(place("bob")).await, Ok(6));
    assert_eq!(there.clear(place("bob")).await, Ok(0));
    assert_eq!(there.clear(place("nobody")).await, Ok(0));
    assert_eq!(stored(&here, "bob").await, Stored::default());
    assert_eq!(stored(&here, "carl").await.count, 1);
    let page = read(&here, &bob).await;
    assert_eq!((page.messages.len(), page.upto), (0, last));
    assert_eq!(settle(&here, &bob, &[last]).await, 0);
    assert!(sent(&here, letter("bob", "y")).await.serial > last);
    // The key is known all the same.
    let again = sent(&here, Letter { id: Some("k".into()), ..letter("bob", "x") }).await;
    assert_eq!((again.status, again.serial), (Status::Duplicate, last));
}

/// Tests.
pub async fn every_name_has_an_inbox_of_its_own(cluster: &impl Cluster) {
    let a = node(cluster, "a").await;
    let store = store(&a);
    let namespaces = ["/", "/a", "/a|b", "/a%7Cb"];
    let places = namespaces.iter().flat_map(|namespace| {
        ODD_NAMES.iter().map(move |user| Place { namespace: (*namespace).into(), user: (*user).into() })
    });
    let places: Vec<Place> = places.collect();
    // Users, keys and senders alike.
    for (number, to) in places.iter().enumerate() {
        let held = a.hold(Claim { place: to.clone(), ..claim("", "phone") }).await;
        for (id, from) in [(&to.user, Sender::Operator), (&"k".into(), Sender::Session(holder(&held)))] {
            let id = Some(Arc::clone(id));
            let letter = Letter { to: to.clone(), from, id, ..letter("", &number.to_string()) };
            assert_eq!(sent(&store, letter).await.status, Status::Stored, "{to:?}");
        }
    }
    for (number, place) in places.iter().enumerate() {
        let held = a.claim(Claim { place: place.clone(), ..claim("", "phone") }).await.0;
        let page = read(&store, &held).await;
        assert_eq!(texts(&page), [text(&number.to_string()), text(&number.to_string())], "{place:?}");
        assert_eq!(page.messages[1].from.as_ref(), Some(&place.user));
        assert_eq!(store.clear(place.clone()).await, Ok(2));
    }
}

/// Tests.
pub async fn racing_senders_are_put_in_one_order(cluster: &impl Cluster) {
    const SENDERS: usize = 4;
    const EACH: usize = 50;
    let (a, b) = pair(cluster).await;
    let bob = a.hold(claim_as("bob", "phone", Policy::PerDevice, Default::default())).await;
    let reader = store(&a);
    let backlog = reader.open(holder(&bob)).await.expect("the place is held");
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let store = store(if sender % 2 == 0 { &a } else { &b });
        senders.spawn(async move {
            let mut serials = Vec::new();
            for number in 0..EACH {
                serials.push(sent(&store, letter("bob", &format!("{sender}:{number}"))).await.serial);
            }
            serials
        });
    }
    let mut serials = Vec::new();
    for of_one in senders.join_all().await {
        assert!(of_one.is_sorted_by(|one, other| one < other), "a sender's own order holds");
        serials.extend(of_one);
    }
    serials.sort();
    serials.dedup();
    assert_eq!(serials.len(), SENDERS * EACH);
    let page = read(&reader, &bob).await;
    assert_eq!(page.messages.iter().map(|message| message.serial).collect::<Vec<_>>(), serials);
    // Each arrival says what comes before it, so that nobody misses one.
    let mut last = backlog;
    for (arrival, message) in arrivals(&a).await.iter().zip(&page.messages) {
        assert_eq!((arrival.before, arrival.serial), (last, message.serial));
        assert_eq!(arrival.message.as_ref(), Some(message));
        last = arrival.serial;
    }
    assert_eq!(last, *serials.last().expect("there are some"));
}
