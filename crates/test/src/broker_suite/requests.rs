//! What servers ask of each other, and what they answer.

use std::sync::Arc;
use std::time::Duration;

use tidegate_core::broker::{Done, Error};
use tidegate_core::{
    Answer, Ask, Asker, Broker, Namespace, NodeId, RemoteSocket, Request, RequestId, Room, Rooms, Selection,
    Topic,
};

use super::{Cluster, Event, Node, outcomes, publish, room, settled, subscribe, to};

/// The topic of requests to the servers of `/`.
#[must_use]
pub fn requests() -> Topic {
    Topic::Requests(Namespace::root())
}

/// The topic of answers to what is asked in `/`.
#[must_use]
pub fn answers() -> Topic {
    Topic::Answers(Namespace::root())
}

/// Asks the servers of `/` and waits for the outcome.
///
/// # Errors
/// The outcome.
///
/// # Panics
/// When there is none within [`PATIENCE`](super::PATIENCE).
pub async fn request(broker: &Arc<dyn Broker>, id: Option<&RequestId>, ask: Ask) -> Result<(), Error> {
    let (outcome, mut outcomes) = outcomes();
    let asker = id.cloned().map(Asker::new);
    broker.request(Request { namespace: Namespace::root(), asker, ask }, outcome());
    settled(&mut outcomes).await
}

fn node_id(name: &str) -> NodeId {
    NodeId::parse(name).expect("a valid id")
}

/// The requests that a node was told.
fn asked(node: &Node) -> Vec<Request> {
    let requests = node.recorder.events().into_iter().filter_map(|event| match event {
        Event::Request(request) => Some(request),
        _ => None,
    });
    requests.collect()
}

/// The answers that a node was told.
fn answered(node: &Node) -> Vec<(RequestId, Option<NodeId>, Answer)> {
    let answers = node.recorder.events().into_iter().filter_map(|event| match event {
        Event::Answered(id, from, answer) => Some((id, from, answer)),
        _ => None,
    });
    answers.collect()
}

/// Waits for the next request, and gives its asker.
async fn next_asker(node: &Node) -> Asker {
    let told = |events: &[Event]| events.iter().any(|event| matches!(event, Event::Request(_)));
    node.recorder.until("a request", told).await;
    let request = asked(node).pop().expect("there is one");
    request.asker.expect("it wants an answer")
}

fn socket(node: &str) -> RemoteSocket {
    RemoteSocket {
        id: format!("socket-of-{node}").into(),
        rooms: vec![Room::from("r"), Room::from("7")],
        user: Some("ann".into()),
        device: None,
        node: Some(node_id(node)),
        connected_at_ms: Some(1_700_000_000_123),
    }
}

fn selection(rooms: &[&str], except: &[&str]) -> Selection {
    let names = |names: &[&str]| names.iter().map(|name| Room::from(*name)).collect();
    Selection { rooms: names(rooms), except: names(except) }
}

/// A request reaches whoever listens, the own node too; every listener's answer reaches whoever asked.
pub async fn every_listener_is_asked_and_every_answer_comes(cluster: &impl Cluster) {
    let nodes = [cluster.node("a").await, cluster.node("b").await, cluster.node("c").await];
    let [a, b, c] = &nodes;
    assert_eq!(a.broker.listeners(Namespace::root()).await, Ok(0));
    subscribe(a, &[requests(), answers()]).await;
    subscribe(b, &[requests()]).await;
    // It neither listens nor asks here.
    let elsewhere = Namespace::from("/chat");
    subscribe(c, &[Topic::Requests(elsewhere.clone()), Topic::Answers(elsewhere.clone()), room("end")]).await;
    for node in &nodes {
        assert_eq!(node.broker.listeners(Namespace::root()).await, Ok(2));
        assert_eq!(node.broker.listeners(elsewhere.clone()).await, Ok(1));
    }

    let id = RequestId::random();
    let ask = Ask::Fetch { selection: selection(&["r", "7"], &["x"]) };
    request(&a.broker, Some(&id), ask.clone()).await.expect("the broker is up");
    for (node, name) in [(a, "a"), (b, "b")] {
        let asker = next_asker(node).await;
        assert_eq!((&asker.id, &asker.node, asker.only_owner), (&id, &Some(node_id("a")), false));
        let told = asked(node).pop().expect("it was told").ask;
        assert_eq!(told, ask);
        node.broker.answer(&asker, &Namespace::root(), Answer::Sockets(vec![socket(name)]));
    }
    for name in ["a", "b"] {
        let answer = Answer::Sockets(vec![socket(name)]);
        a.recorder.until_event(Event::Answered(id.clone(), Some(node_id(name)), answer)).await;
    }
    publish(&a.broker, to(&["end"], 1)).await.expect("the broker is up");
    c.recorder.until_publication(&to(&["end"], 1)).await;
    assert_eq!((answered(a).len(), asked(a).len(), asked(b).len()), (2, 1, 1));
    assert_eq!((answered(b), answered(c), asked(c)), (vec![], vec![], vec![]));

    b.broker.unsubscribe(vec![requests()]).await.expect("the broker is up");
    assert_eq!(c.broker.listeners(Namespace::root()).await, Ok(1));
}

/// Everything that can be asked and answered arrives as it was sent.
pub async fn every_word_arrives(cluster: &impl Cluster) {
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    subscribe(&a, &[answers()]).await;
    subscribe(&b, &[requests()]).await;
    let rooms = || selection(&["r", "s"], &[]).rooms;
    let asks = [
        Ask::Ids { rooms: rooms() },
        Ask::Rooms,
        Ask::Join { selection: selection(&["r"], &["x"]), rooms: rooms() },
        Ask::Leave { selection: selection(&[], &[]), rooms: rooms() },
        Ask::Disconnect { selection: selection(&["r"], &[]), close: true },
        Ask::Fetch { selection: selection(&[], &["x"]) },
        Ask::ServerSideEmit { event: "reload".into() },
        Ask::Broadcast { publication: to(&["r"], 1), timeout: Some(Duration::from_millis(1500)) },
    ];
    let answers = [
        Answer::Ids(vec!["one".into()]),
        Answer::Rooms(vec![Room::from("r")]),
        Answer::Done { matched: 2 },
        Answer::Done { matched: 0 },
        Answer::Done { matched: 1 },
        Answer::Sockets(vec![]),
        Answer::Emitted,
        Answer::Clients(3),
        Answer::Acknowledged(to(&[], 1).data),
    ];
    for ask in &asks {
        // Half of them want no answer.
        request(&a.broker, None, ask.clone()).await.expect("the broker is up");
        request(&a.broker, Some(&RequestId::random()), ask.clone()).await.expect("the broker is up");
    }
    let count = 2 * asks.len();
    let is_request = |event: &&Event| matches!(event, Event::Request(_));
    b.recorder.until("all requests", |events| events.iter().filter(is_request).count() == count).await;
    let told = asked(&b);
    for (ask, told) in asks.iter().zip(told.chunks(2)) {
        let [unasked, wanted] = told else { panic!("two of each") };
        assert_eq!((&unasked.ask, &unasked.asker), (ask, &None));
        assert_eq!(&wanted.ask, ask);
        assert!(wanted.asker.is_some());
    }
    let asker = next_asker(&b).await;
    for answer in &answers {
        b.broker.answer(&asker, &Namespace::root(), answer.clone());
    }
    let is_answer = |event: &&Event| matches!(event, Event::Answered(..));
    a.recorder.until("all answers", |events| events.iter().filter(is_answer).count() == answers.len()).await;
    let told: Vec<_> = answered(&a).into_iter().map(|(_, _, answer)| answer).collect();
    assert_eq!(told, answers);
}

/// What one node publishes and asks arrives in that order.
pub async fn requests_and_publications_keep_one_order(cluster: &impl Cluster) {
    const COUNT: u64 = 500;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    subscribe(&b, &[room("x"), requests(), Topic::Namespace(Namespace::root())]).await;
    let join = |number: u64| Ask::Join {
        selection: Selection::default(),
        rooms: Rooms::from_iter([Room::from(number.to_string())]),
    };
    let (done, mut outcomes) = outcomes();
    for number in 0..COUNT {
        match number % 3 {
            0 => a.broker.publish(to(&["x"], number), done()),
            1 => a.broker.publish(to(&[], number), done()),
            _ => {
                let ask = join(number);
                a.broker.request(Request { namespace: Namespace::root(), asker: None, ask }, done());
            }
        }
    }
    for _ in 0..COUNT {
        settled(&mut outcomes).await.expect("the broker is up");
    }
    let told = |event: &Event| matches!(event, Event::Publication(_) | Event::Request(_));
    b.recorder
        .until("everything", |events| events.iter().filter(|event| told(event)).count() == COUNT as usize)
        .await;
    let expected = (0..COUNT).map(|number| match number % 3 {
        0 => Event::Publication(to(&["x"], number)),
        1 => Event::Publication(to(&[], number)),
        _ => Event::Request(Request { namespace: Namespace::root(), asker: None, ask: join(number) }),
    });
    assert!(b.recorder.events().into_iter().filter(told).eq(expected), "out of order, missing, or twice");
}

/// Whoever takes the first answer for the only one hears nothing from a node that has nothing to tell.
pub async fn the_owner_alone_answers_who_wants_one_answer(cluster: &impl Cluster) {
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    subscribe(&a, &[answers()]).await;
    subscribe(&b, &[requests()]).await;
    let id = RequestId::random();
    let ask = Ask::Leave { selection: selection(&["one-socket"], &[]), rooms: selection(&["r"], &[]).rooms };
    request(&a.broker, Some(&id), ask).await.expect("the broker is up");
    let older = Asker { only_owner: true, ..next_asker(&b).await };
    for matched in [0, 1] {
        b.broker.answer(&older, &Namespace::root(), Answer::Done { matched });
    }
    let last = Event::Answered(id.clone(), Some(node_id("b")), Answer::Done { matched: 1 });
    a.recorder.until_event(last).await;
    assert_eq!(answered(&a).len(), 1);
}

/// A closed broker neither asks nor counts, and an answer that cannot be sent is counted.
pub async fn a_closed_broker_asks_nothing(cluster: &impl Cluster) {
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    subscribe(&a, &[requests(), answers()]).await;
    a.broker.close().await;
    assert_eq!(request(&a.broker, None, Ask::Rooms).await, Err(Error::Closed));
    assert!(a.broker.listeners(Namespace::root()).await.is_err());
    assert_eq!(b.broker.listeners(Namespace::root()).await, Ok(0));
    // Nobody is there to be told.
    a.broker.answer(&Asker::new(RequestId::random()), &Namespace::root(), Answer::Emitted);
    a.broker.request(Request { namespace: Namespace::root(), asker: None, ask: Ask::Rooms }, Done::nobody());
}
