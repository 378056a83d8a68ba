//! The broker port's contract, as tests that every implementation has to pass.

mod requests;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tidegate_core::broker::{Done, Error, PulseError};
use tidegate_core::offline::Arrival;
use tidegate_core::registry::{Eviction, Vitals};
use tidegate_core::{
    Answer, Broker, ClaimId, Flags, Namespace, NodeId, Publication, Request, RequestId, Room, Rooms,
    SessionId, Subscriber, Topic,
};
use tidegate_msgpack::write;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

pub use self::requests::*;

/// How long anything awaited may take. It is only ever used up by a failing test.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How long the leases of the suite live.
pub const LEASE_TTL: Duration = Duration::from_secs(10);

/// More than any test publishes before it looks at the outcomes.
const OUTCOMES_MAX: usize = 4096;

/// Nodes joined by the broker under test.
pub trait Cluster: Sync {
    /// Another node. Names may repeat; that makes two nodes with one id.
    fn node(&self, name: &str) -> impl Future<Output = Node> + Send;
}

/// One node: its broker, and what that told it.
#[derive(Clone)]
pub struct Node {
    /// The broker under test.
    pub broker: Arc<dyn Broker>,
    /// Everything it said.
    pub recorder: Arc<Recorder>,
}

/// One call of a [`Subscriber`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A publication.
    Publication(Publication),
    /// A request.
    Request(Request),
    /// An answer: to which request, of which node, and what.
    Answered(RequestId, Option<NodeId>, Answer),
    /// The subscription is whole, as this generation.
    Whole(u64),
    /// It is not.
    Lost,
    /// A pulse, and its generation.
    Pulse(u64, u64),
    /// A session of this node lost its place.
    Evict(Eviction),
    /// A message was stored for sessions of this node.
    Arrived(Arrival),
    /// A session of another node is silent.
    Confirmed(ClaimId, SessionId),
    /// Something was dropped, for this reason.
    Dropped(&'static str),
    /// The link for commands is up, or down.
    Link(bool),
}

/// Writes down every call.
#[derive(Default)]
pub struct Recorder {
    events: Mutex<Vec<Event>>,
    count: watch::Sender<usize>,
    observed: Mutex<Vec<&'static str>>,
    held: Mutex<bool>,
    released: Condvar,
}

impl Recorder {
    /// All calls so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        lock(&self.events).clone()
    }

    /// The publications among them.
    #[must_use]
    pub fn publications(&self) -> Vec<Publication> {
        let events = lock(&self.events);
        let publications = events.iter().filter_map(|event| match event {
            Event::Publication(publication) => Some(publication.clone()),
            _ => None,
        });
        publications.collect()
    }

    /// The generation of the last [`Event::Whole`].
    #[must_use]
    pub fn generation(&self) -> u64 {
        let events = lock(&self.events);
        let last = events.iter().rev().find_map(|event| match event {
            Event::Whole(generation) => Some(*generation),
            _ => None,
        });
        last.unwrap_or_default()
    }

    /// How often `command` was observed.
    #[must_use]
    pub fn observed(&self, command: &str) -> usize {
        lock(&self.observed).iter().filter(|observed| **observed == command).count()
    }

    /// Waits until `condition` holds of the calls so far.
    ///
    /// # Panics
    /// When it does not within [`PATIENCE`].
    pub async fn until(&self, what: impl fmt::Display, mut condition: impl FnMut(&[Event]) -> bool) {
        let mut count = self.count.subscribe();
        let holds = async {
            loop {
                count.mark_unchanged();
                if condition(&lock(&self.events)) {
                    return;
                }
                count.changed().await.expect("the recorder holds the sender");
            }
        };
        if tokio::time::timeout(PATIENCE, holds).await.is_err() {
            let events = self.events();
            let last = &events[events.len().saturating_sub(20)..];
            panic!("waited in vain for {what}; the last of {} calls: {last:#?}", events.len());
        }
    }

    /// Waits for this very call.
    ///
    /// # Panics
    /// When it does not come within [`PATIENCE`].
    pub async fn until_event(&self, event: Event) {
        self.until(format!("{event:?}"), |events| events.contains(&event)).await;
    }

    /// Waits for this publication, once all that one publisher sent before it has arrived.
    ///
    /// # Panics
    /// When it does not come within [`PATIENCE`].
    pub async fn until_publication(&self, publication: &Publication) {
        self.until_event(Event::Publication(publication.clone())).await;
    }

    /// Lets deliveries of publications block while the guard lives. The runtime must have several threads.
    #[must_use]
    pub fn hold(&self) -> Held<'_> {
        *lock(&self.held) = true;
        Held(self)
    }

    fn record(&self, event: Event) {
        lock(&self.events).push(event);
        self.count.send_modify(|count| *count += 1);
    }
}

/// See [`Recorder::hold`].
pub struct Held<'a>(&'a Recorder);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        *lock(&self.0.held) = false;
        self.0.released.notify_all();
    }
}

/// A test that fails while it holds the lock has failed already; the others go on.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Subscriber for Recorder {
    fn publication(&self, publication: Publication) {
        if *lock(&self.held) {
            // The runtime's other tasks move to another thread first.
            tokio::task::block_in_place(|| {
                let held = lock(&self.held);
                drop(self.released.wait_while(held, |held| *held));
            });
        }
        self.record(Event::Publication(publication));
    }

    fn request(&self, request: Request) {
        self.record(Event::Request(request));
    }

    fn answered(&self, id: RequestId, from: Option<NodeId>, answer: Answer) {
        self.record(Event::Answered(id, from, answer));
    }

    fn whole(&self, generation: u64) {
        self.record(Event::Whole(generation));
    }

    fn lost(&self) {
        self.record(Event::Lost);
    }

    fn pulse(&self, number: u64, generation: u64) {
        self.record(Event::Pulse(number, generation));
    }

    fn evict(&self, eviction: Eviction) {
        self.record(Event::Evict(eviction));
    }

    fn arrived(&self, arrival: Arrival) {
        self.record(Event::Arrived(arrival));
    }

    fn confirmed(&self, claim: ClaimId, session: SessionId) {
        self.record(Event::Confirmed(claim, session));
    }

    fn dropped(&self, reason: &'static str) {
        self.record(Event::Dropped(reason));
    }

    fn observe(&self, command: &'static str, _elapsed: Duration) {
        lock(&self.observed).push(command);
    }

    fn link(&self, up: bool) {
        self.record(Event::Link(up));
    }
}

/// The topic of a room of `/`.
#[must_use]
pub fn room(name: &str) -> Topic {
    Topic::Room(Namespace::root(), Room::from(name))
}

/// An event `e` with `number`, to rooms of `/`.
#[must_use]
pub fn to(rooms: &[&str], number: u64) -> Publication {
    let mut data = Vec::new();
    write::array(&mut data, 2);
    write::str(&mut data, "e");
    write::uint(&mut data, number);
    Publication {
        namespace: Namespace::root(),
        rooms: rooms.iter().map(|name| Room::from(*name)).collect(),
        except: Rooms::new(),
        flags: Flags::default(),
        data: data.into(),
    }
}

/// Publishes and waits for the outcome.
///
/// # Errors
/// The outcome.
///
/// # Panics
/// When there is none within [`PATIENCE`].
pub async fn publish(broker: &Arc<dyn Broker>, publication: Publication) -> Result<(), Error> {
    let (outcome, mut outcomes) = outcomes();
    broker.publish(publication, outcome());
    settled(&mut outcomes).await
}

/// A source of [`Done`]s, and where their outcomes come out: those of the last few thousand.
pub fn outcomes() -> (impl Fn() -> Done, mpsc::Receiver<Result<(), Error>>) {
    let (sender, receiver) = mpsc::channel(OUTCOMES_MAX);
    let done = move || {
        let sender = sender.clone();
        Done::call(move |outcome| {
            // The test may have stopped listening; one that listens for more than there is room for fails.
            let _ = sender.try_send(outcome);
        })
    };
    (done, receiver)
}

/// The next outcome.
///
/// # Errors
/// The outcome.
///
/// # Panics
/// When there is none within [`PATIENCE`].
pub async fn settled(outcomes: &mut mpsc::Receiver<Result<(), Error>>) -> Result<(), Error> {
    let outcome = tokio::time::timeout(PATIENCE, outcomes.recv()).await;
    outcome.expect("every publication is told its outcome").expect("the sender is kept beside the receiver")
}

async fn subscribe(node: &Node, topics: &[Topic]) {
    node.broker.subscribe(topics.to_vec()).await.expect("the broker is up");
}

/// A publication to several rooms travels on the namespace's topic, and arrives as it was published.
pub async fn several_rooms_travel_on_the_topic_of_the_namespace(cluster: &impl Cluster) {
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    subscribe(&a, &[Topic::Namespace(Namespace::root())]).await;
    subscribe(&b, &[room("x"), room("y"), room("end")]).await;
    subscribe(&a, &[room("end")]).await;

    let mut several = to(&["x", "y"], 1);
    several.except = Rooms::from_iter([Room::from("z")]);
    several.flags.volatile = true;
    let nowhere = to(&[], 2);
    for publication in [&several, &nowhere, &to(&["end"], 3)] {
        publish(&b.broker, publication.clone()).await.expect("the broker is up");
    }
    for node in [&a, &b] {
        node.recorder.until_publication(&to(&["end"], 3)).await;
    }
    assert_eq!(a.recorder.publications(), [several, nowhere, to(&["end"], 3)]);
    assert_eq!(b.recorder.publications(), [to(&["end"], 3)]);
}

/// The publisher's own node is served like every other.
pub async fn a_node_hears_its_own_publications(cluster: &impl Cluster) {
    let a = cluster.node("a").await;
    subscribe(&a, &[room("x")]).await;
    publish(&a.broker, to(&["x"], 1)).await.expect("the broker is up");
    a.recorder.until_publication(&to(&["x"], 1)).await;
    assert_eq!(a.recorder.publications().len(), 1);
    let whole = Event::Whole(a.recorder.generation());
    assert_eq!(a.recorder.events()[..2], [Event::Link(true), whole], "told before anything else");
}

/// A node hears the topics it subscribed to, and no others.
pub async fn topics_are_apart(cluster: &impl Cluster) {
    let nodes = [cluster.node("a").await, cluster.node("b").await, cluster.node("c").await];
    let elsewhere = Namespace::from("/chat");
    subscribe(&nodes[0], &[room("x")]).await;
    subscribe(&nodes[1], &[room("xx"), Topic::Namespace(Namespace::root())]).await;
    subscribe(&nodes[2], &[Topic::Room(elsewhere.clone(), Room::from("x")), Topic::Namespace(elsewhere)])
        .await;
    for node in &nodes {
        subscribe(node, &[room("end")]).await;
    }

    publish(&nodes[2].broker, to(&["x"], 1)).await.expect("the broker is up");
    publish(&nodes[2].broker, to(&["end"], 2)).await.expect("the broker is up");
    for node in &nodes {
        node.recorder.until_publication(&to(&["end"], 2)).await;
    }
    assert_eq!(nodes[0].recorder.publications(), [to(&["x"], 1), to(&["end"], 2)]);
    assert_eq!(nodes[1].recorder.publications(), [to(&["end"], 2)]);
    assert_eq!(nodes[2].recorder.publications(), [to(&["end"], 2)]);
}

/// What one publisher sends arrives in order and exactly once, whatever the topics and whoever joins meanwhile.
pub async fn one_publishers_order_holds_across_topics(cluster: &impl Cluster) {
    const COUNT: u64 = 2000;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let all = [room("r0"), room("r1"), room("r2"), Topic::Namespace(Namespace::root())];
    subscribe(&b, &all).await;
    // Subscribed twice is delivered once.
    subscribe(&b, &all).await;

    let joins = async {
        for number in 0..200 {
            subscribe(&b, &[room(&format!("join{number}"))]).await;
            tokio::task::yield_now().await;
        }
    };
    let publications = async {
        let (done, mut outcomes) = outcomes();
        for number in 0..COUNT {
            let rooms: &[&str] = [&["r0"][..], &["r1"], &["r2"], &[]][(number % 4) as usize];
            a.broker.publish(to(rooms, number), done());
            if number % 16 == 0 {
                tokio::task::yield_now().await;
            }
        }
        for _ in 0..COUNT {
            settled(&mut outcomes).await.expect("the broker is up");
        }
    };
    tokio::join!(joins, publications);

    b.recorder.until_publication(&to(&[], COUNT - 1)).await;
    let expected =
        (0..COUNT).map(|number| to([&["r0"][..], &["r1"], &["r2"], &[]][(number % 4) as usize], number));
    assert!(b.recorder.publications().into_iter().eq(expected), "out of order, missing, or twice");
}

/// Publishers on several nodes at once: each one's order holds at every receiver, and nothing is lost or doubled.
pub async fn every_publishers_order_holds(cluster: &impl Cluster) {
    const COUNT: u64 = 300;
    let nodes = [cluster.node("a").await, cluster.node("b").await, cluster.node("c").await];
    for node in &nodes {
        subscribe(node, &[room("x")]).await;
    }
    let mut publishers = JoinSet::new();
    for (publisher, node) in nodes.iter().enumerate() {
        let broker = Arc::clone(&node.broker);
        publishers.spawn(async move {
            let (done, mut outcomes) = outcomes();
            for number in 0..COUNT {
                broker.publish(to(&["x"], publisher as u64 * COUNT + number), done());
                tokio::task::yield_now().await;
            }
            for _ in 0..COUNT {
                settled(&mut outcomes).await.expect("the broker is up");
            }
        });
    }
    publishers.join_all().await;
    for node in &nodes {
        node.recorder.until("all publications", |events| publications(events) == 3 * COUNT as usize).await;
        let seen = node.recorder.publications();
        for publisher in 0..3 {
            let own: Vec<_> = (0..COUNT).map(|number| to(&["x"], publisher * COUNT + number)).collect();
            let seen: Vec<_> = seen.iter().filter(|publication| own.contains(publication)).cloned().collect();
            assert_eq!(seen, own, "publisher {publisher}");
        }
    }
}

fn publications(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::Publication(_))).count()
}

/// What is published after a subscription was confirmed arrives, every time.
pub async fn what_is_published_after_subscribing_arrives(cluster: &impl Cluster) {
    const COUNT: u64 = 500;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    for number in 0..COUNT {
        let name = format!("r{number}");
        subscribe(&b, &[room(&name)]).await;
        a.broker.publish(to(&[&name], number), Done::nobody());
    }
    b.recorder.until("every one", |events| publications(events) == COUNT as usize).await;
    let expected = (0..COUNT).map(|number| to(&[&format!("r{number}")], number));
    assert!(b.recorder.publications().into_iter().eq(expected));
}

/// After an unsubscription nothing more arrives, and the last of several wishes counts.
pub async fn unsubscribing_stops_and_the_last_wish_counts(cluster: &impl Cluster) {
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    subscribe(&b, &[room("x"), room("end")]).await;
    b.broker.unsubscribe(vec![room("x"), room("never")]).await.expect("the broker is up");
    publish(&a.broker, to(&["x"], 1)).await.expect("the broker is up");

    for round in 0..50 {
        let (on, off) = (format!("on{round}"), format!("off{round}"));
        // None is awaited before the next is wished for.
        let mut wishes = Vec::new();
        for _ in 0..=round % 3 {
            wishes.push(b.broker.subscribe(vec![room(&on), room(&off)]));
            tokio::task::yield_now().await;
            wishes.push(b.broker.unsubscribe(vec![room(&on), room(&off)]));
            wishes.push(b.broker.subscribe(vec![room(&on), room(&off)]));
            tokio::task::yield_now().await;
            wishes.push(b.broker.unsubscribe(vec![room(&off)]));
        }
        for wish in wishes {
            wish.await.expect("the broker is up");
        }
        publish(&a.broker, to(&[&off], 2)).await.expect("the broker is up");
        publish(&a.broker, to(&[&on], 3)).await.expect("the broker is up");
    }
    publish(&a.broker, to(&["end"], 4)).await.expect("the broker is up");
    b.recorder.until_publication(&to(&["end"], 4)).await;
    let expected = (0..50).map(|round| to(&[&format!("on{round}")], 3)).chain([to(&["end"], 4)]);
    assert_eq!(b.recorder.publications(), expected.collect::<Vec<_>>());
}

/// A topic goes on whatever becomes of another whose names, written one after the other with `#`, read the same, or of the
/// socket that its room is called like.
pub async fn a_topic_outlives_its_namesake(cluster: &impl Cluster) {
    let in_room = |namespace: &str, room: &str, number| {
        let rooms: &[&str] = if room.is_empty() { &[] } else { &[room] };
        Publication { namespace: Namespace::from(namespace), ..to(rooms, number) }
    };
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let of_room = |namespace, room| (in_room(namespace, room, 0).topic(), namespace, room);
    let id = SessionId::random();
    let socket = (Topic::Socket(Namespace::from("/s"), id), "/s", id.as_str());
    let pairs = [
        [of_room("/a", "b#c"), of_room("/a#b", "c")],
        [of_room("/x", "y"), of_room("/x#y", "")],
        [of_room("/s", id.as_str()), socket],
    ];
    let mut number = 0;
    for pair in pairs.into_iter().flat_map(|[one, other]| [[one.clone(), other.clone()], [other, one]]) {
        let [(stays, namespace, room), (leaves, ..)] = pair;
        let arrives = async |number| {
            let publication = in_room(namespace, room, number);
            publish(&a.broker, publication.clone()).await.expect("the broker is up");
            b.recorder.until_publication(&publication).await;
        };
        // One after the other.
        subscribe(&b, std::slice::from_ref(&leaves)).await;
        subscribe(&b, std::slice::from_ref(&stays)).await;
        b.broker.unsubscribe(vec![leaves.clone()]).await.expect("the broker is up");
        number += 1;
        arrives(number).await;
        // Both at once, and one given up before it was sent.
        b.broker.unsubscribe(vec![stays.clone()]).await.expect("the broker is up");
        let wishes = [
            b.broker.subscribe(vec![leaves.clone(), stays.clone()]),
            b.broker.unsubscribe(vec![leaves.clone()]),
        ];
        for wish in wishes {
            wish.await.expect("the broker is up");
        }
        number += 1;
        arrives(number).await;
        // One comes as the other goes.
        b.broker.unsubscribe(vec![stays.clone()]).await.expect("the broker is up");
        subscribe(&b, std::slice::from_ref(&leaves)).await;
        let wishes = [b.broker.unsubscribe(vec![leaves]), b.broker.subscribe(vec![stays.clone()])];
        for wish in wishes {
            wish.await.expect("the broker is up");
        }
        number += 1;
        arrives(number).await;
        b.broker.unsubscribe(vec![stays]).await.expect("the broker is up");
    }
}

/// A pulse comes back to its own node, with its number and the generation of the subscription.
pub async fn a_pulse_comes_back(cluster: &impl Cluster) {
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    for number in [7, 8] {
        a.broker.pulse(number, LEASE_TTL, Vitals::default()).await.expect("nobody else has the id");
        a.recorder.until_event(Event::Pulse(number, a.recorder.generation())).await;
    }
    b.broker.pulse(1, LEASE_TTL, Vitals::default()).await.expect("another id is another lease");
    b.recorder.until_event(Event::Pulse(1, b.recorder.generation())).await;
    assert!(
        !a.recorder.events().contains(&Event::Pulse(1, a.recorder.generation())),
        "a heard another's pulse"
    );
}

/// Of two live nodes with one id, the second is told so, until the first has closed.
pub async fn a_node_id_has_one_holder(cluster: &impl Cluster) {
    let (first, second) = (cluster.node("same").await, cluster.node("same").await);
    first.broker.pulse(1, LEASE_TTL, Vitals::default()).await.expect("nobody has the id yet");
    let refused = second.broker.pulse(2, LEASE_TTL, Vitals::default()).await;
    assert!(
        matches!(
            &refused,
            Err(PulseError::Conflict { incarnation, lease_left })
                if !incarnation.is_empty() && *lease_left > Duration::ZERO && *lease_left <= LEASE_TTL
        ),
        "{refused:?}"
    );
    first.broker.pulse(3, LEASE_TTL, Vitals::default()).await.expect("it is still the holder");
    first.recorder.until_event(Event::Pulse(3, first.recorder.generation())).await;

    first.broker.close().await;
    second.broker.pulse(4, LEASE_TTL, Vitals::default()).await.expect("the holder has closed");
    second.recorder.until_event(Event::Pulse(4, second.recorder.generation())).await;
    let pulses = |event: &Event| matches!(event, Event::Pulse(..));
    assert_eq!(second.recorder.events().into_iter().filter(pulses).count(), 1);
}

/// Closing flushes what was accepted, refuses the rest, and may be repeated.
pub async fn closing_flushes_and_refuses(cluster: &impl Cluster) {
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    subscribe(&b, &[room("x")]).await;
    let (done, mut outcomes) = outcomes();
    for number in 0..100 {
        a.broker.publish(to(&["x"], number), done());
    }
    a.broker.close().await;
    for _ in 0..100 {
        assert_eq!(settled(&mut outcomes).await, Ok(()));
    }
    b.recorder.until_publication(&to(&["x"], 99)).await;
    assert_eq!(b.recorder.publications().len(), 100);

    assert_eq!(publish(&a.broker, to(&["x"], 100)).await, Err(Error::Closed));
    assert_eq!(a.broker.subscribe(vec![room("y")]).await, Err(Error::Closed));
    assert_eq!(a.broker.unsubscribe(vec![room("y")]).await, Err(Error::Closed));
    assert_eq!(a.broker.pulse(1, LEASE_TTL, Vitals::default()).await, Err(PulseError::Unavailable));
    assert!(a.broker.ready().is_none());
    a.broker.close().await;
}

/// Every publication is told its outcome once, and whoever waits for room gets it.
pub async fn publishers_are_told_once_and_find_room(cluster: &impl Cluster) {
    let a = cluster.node("a").await;
    let told = Arc::new(AtomicUsize::new(0));
    for number in 0..1000 {
        let told = Arc::clone(&told);
        let done = Done::call(move |outcome| {
            assert_eq!(outcome, Ok(()));
            told.fetch_add(1, Ordering::Relaxed);
        });
        a.broker.publish(to(&["nobody"], number), done);
        if let Some(ready) = a.broker.ready() {
            tokio::time::timeout(PATIENCE, ready).await.expect("room is made");
        }
    }
    publish(&a.broker, to(&["nobody"], 1000)).await.expect("the broker is up");
    assert_eq!(told.load(Ordering::Relaxed), 1000);
}
