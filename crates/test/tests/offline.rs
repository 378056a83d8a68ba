//! Durable messages: sent, kept, delivered and acknowledged through whole nodes; in memory and over a real Redis.

#![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

use std::time::Duration;

use serde_json::json;
use tidegate_client::inbox::{Arrival, Delivery, Inbox, Settle};
use tidegate_client::{Client, Parser, Reason, Transports, Value};
use tidegate_core::Namespace;
use tidegate_core::offline::Quotas;
use tidegate_core::registry::Place;
use tidegate_gateway::namespaces::{NamespaceRule, Namespaces};
use tidegate_gateway::{OfflineOptions, Options};
use tidegate_test::cluster::{
    Backend, Cluster, PATIENCE, Server, ask, ask_ok, ask_refused, eventually, lasting_port, listen_again,
    options, within,
};
use tidegate_test::lying::Lies;

tidegate_test::on_both! {
    a_backlog_comes_first_and_in_order,
    a_heartbeat_follows_the_settling,
    a_refusal_says_which_limit,
    a_second_online_begins_anew,
    every_acknowledgement_counts_and_rounds_are_bounded,
    every_device_gets_it_and_the_first_settles_it,
    every_kind_of_client_gets_every_kind_of_data,
    the_inbox_follows_the_winner,
    what_is_written_is_settled,
    who_may_not_is_told_so,
}

fn small(name: &str) -> Options {
    let quotas = Quotas { messages_max: 5, bytes_max: 4_096, sender_per_minute_max: 8, ..Quotas::default() };
    let offline = OfflineOptions { message_bytes_max: 1_000, window: 4, quotas };
    Options { offline, ..options(name) }
}

/// Two nodes with a small window and no limit that a test could reach unwillingly.
async fn pair(backend: Backend) -> (Cluster, Server, Server) {
    let cluster = Cluster::new(backend);
    let quotas = Quotas { sender_per_minute_max: 0, ..Quotas::default() };
    let offline = OfflineOptions { message_bytes_max: 65_536, window: 4, quotas };
    let a = cluster.add(Options { offline: offline.clone(), ..options("a") }).await;
    let b = cluster.add(Options { offline, ..options("b") }).await;
    (cluster, a, b)
}

async fn login_with(options: tidegate_client::Options, user: &str, device: &str) -> Client {
    let auth = Value::from(json!({ "user": user, "device": device }));
    Client::connect(options.auth(auth), "/").await.unwrap_or_else(|fault| panic!("{user}: {fault}"))
}

async fn login(server: &Server, user: &str) -> Client {
    login_with(server.client().transports(Transports::WebSocket), user, "phone").await
}

async fn send(from: &Client, to: &str, data: impl Into<Value>) -> (String, String) {
    let data: Value = data.into();
    let mut argument = Value::from(json!({ "to": to, "data": null }));
    let Value::Object(fields) = &mut argument else { panic!("an object") };
    *fields.iter_mut().find(|(name, _)| *name == "data").unwrap().1 = data;
    let answer = ask_ok(from.socket(), "send", argument).await;
    (answer["id"].as_str().unwrap().to_owned(), answer["status"].as_str().unwrap().to_owned())
}

async fn open(client: &Client) -> Inbox<'_> {
    Inbox::open(client.socket(), Settle::Each, PATIENCE).await.unwrap()
}

async fn message(inbox: &mut Inbox<'_>) -> Delivery {
    match within("a message", inbox.next()).await.unwrap() {
        Arrival::Message(message) => message,
        other => panic!("no message but {other:?}"),
    }
}

async fn caught_up(inbox: &mut Inbox<'_>) -> u64 {
    match within("the end of the backlog", inbox.next()).await.unwrap() {
        Arrival::CaughtUp { count } => count,
        other => panic!("not the end of the backlog but {other:?}"),
    }
}

async fn waiting(server: &Server, user: &str) -> u64 {
    let place = Place { namespace: Namespace::root(), user: user.into() };
    server.node.waiting(place).await.unwrap().0
}

async fn until_waiting(server: &Server, user: &str, count: u64) {
    let look = async {
        while waiting(server, user).await != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(format!("{count} messages to wait for {user}"), look).await;
}

async fn a_backlog_comes_first_and_in_order(backend: Backend) {
    let (cluster, a, b) = pair(backend).await;
    let ann = login(&a, "ann").await;
    let mut ids = Vec::new();
    for number in 0..10 {
        let (id, status) = send(&ann, "bob", number).await;
        assert_eq!(status, "stored");
        ids.push(id);
    }
    let bob = login(&b, "bob").await;
    let mut inbox = open(&bob).await;
    // More than the window comes only for acknowledgements, and what is sent meanwhile comes behind.
    for number in 10..14 {
        let (id, status) = send(&ann, "bob", number).await;
        assert_eq!(status, "live");
        ids.push(id);
    }
    for (number, id) in (0..).zip(&ids[..10]) {
        let message = message(&mut inbox).await;
        assert_eq!((&message.id, message.waited, &*message.event), (id, true, "message"));
        assert_eq!((&message.from, &message.data), (&"ann".into(), &Value::Int(number)));
        let ms: i64 = message.id.split_once('-').unwrap().0.parse().unwrap();
        assert_eq!(message.sent_at_ms, ms);
        message.acknowledge().await.unwrap();
    }
    assert_eq!(caught_up(&mut inbox).await, 10);
    for (number, id) in (10..).zip(&ids[10..]) {
        let message = message(&mut inbox).await;
        assert_eq!((&message.id, message.waited, &message.data), (id, false, &Value::Int(number)));
        message.acknowledge().await.unwrap();
    }
    until_waiting(&a, "bob", 0).await;
    // From now on as it comes.
    let (id, status) = send(&ann, "bob", 14).await;
    let last = message(&mut inbox).await;
    assert_eq!((status.as_str(), &last.id, last.waited), ("live", &id, false));
    last.acknowledge().await.unwrap();
    until_waiting(&a, "bob", 0).await;
    assert_eq!(a.metric("tidegate_offline_stored_total"), 15);
    assert_eq!(b.metric("tidegate_offline_delivered_total"), 15);
    assert_eq!(b.metric("tidegate_offline_acknowledged_total"), 15);
    cluster.shutdown().await;
}

async fn a_second_online_begins_anew(backend: Backend) {
    let (cluster, a, _) = pair(backend).await;
    let (ann, bob) = (login(&a, "ann").await, login(&a, "bob").await);
    for number in 0..6 {
        send(&ann, "bob", number).await;
    }
    let mut inbox = open(&bob).await;
    let first = message(&mut inbox).await;
    let (second, _third) = (message(&mut inbox).await, message(&mut inbox).await);
    second.acknowledge().await.unwrap();
    // What was acknowledged before is settled, the rest comes again: from the first on, whatever else is under way.
    let mut inbox = open(&bob).await;
    let again = loop {
        let next = message(&mut inbox).await;
        if next.id == first.id {
            break next;
        }
    };
    let mut data = vec![again.data.clone()];
    again.acknowledge().await.unwrap();
    for _ in 0..4 {
        let message = message(&mut inbox).await;
        data.push(message.data.clone());
        message.acknowledge().await.unwrap();
    }
    assert_eq!(data, [0, 2, 3, 4, 5].map(Value::Int));
    assert_eq!(caught_up(&mut inbox).await, 5);
    until_waiting(&a, "bob", 0).await;
    cluster.shutdown().await;
}

async fn every_device_gets_it_and_the_first_settles_it(backend: Backend) {
    let (cluster, a, b) = pair(backend).await;
    let ann = login(&a, "ann").await;
    send(&ann, "bob", "one").await;
    let phone = login(&a, "bob").await;
    let desk = login_with(b.client(), "bob", "desk").await;
    let (mut on_phone, mut on_desk) = (open(&phone).await, open(&desk).await);
    let (one, same) = (message(&mut on_phone).await, message(&mut on_desk).await);
    assert_eq!(one.id, same.id);
    assert_eq!((caught_up(&mut on_phone).await, caught_up(&mut on_desk).await), (1, 1));
    send(&ann, "bob", "two").await;
    let (two, same_two) = (message(&mut on_phone).await, message(&mut on_desk).await);
    assert_eq!((&two.id, two.waited), (&same_two.id, false));
    one.acknowledge().await.unwrap();
    same_two.acknowledge().await.unwrap();
    until_waiting(&b, "bob", 0).await;
    // Late, and no harm.
    same.acknowledge().await.unwrap();
    two.acknowledge().await.unwrap();
    for client in [&phone, &desk] {
        ask_ok(client.socket(), "heartbeat", json!({})).await;
    }
    send(&ann, "bob", "three").await;
    assert_eq!(message(&mut on_phone).await.data, "three");
    assert_eq!(message(&mut on_desk).await.data, "three");
    cluster.shutdown().await;
}

async fn the_inbox_follows_the_winner(backend: Backend) {
    let (cluster, a, b) = pair(backend).await;
    let ann = login(&a, "ann").await;
    let old = login(&a, "bob").await;
    let mut inbox = open(&old).await;
    assert_eq!(caught_up(&mut inbox).await, 0);
    send(&ann, "bob", "one").await;
    let stale = message(&mut inbox).await;
    let young = login(&b, "bob").await;
    // Too late: nothing that the loser says counts any more.
    stale.acknowledge().await.unwrap();
    let told = match within("the eviction", inbox.next()).await.unwrap() {
        Arrival::Event(event) => event,
        other => panic!("{other:?}"),
    };
    assert_eq!((told.name.as_str(), &told.args[0]["reason"]), ("evicted", &Value::from("replaced")));
    assert_eq!(within("the end", old.socket().ended()).await, Reason::IoServerDisconnect);
    assert_eq!(send(&ann, "bob", "two").await.1, "stored");
    let mut inbox = open(&young).await;
    for expected in ["one", "two"] {
        let message = message(&mut inbox).await;
        assert_eq!((&message.data, message.waited), (&Value::from(expected), true));
        message.acknowledge().await.unwrap();
    }
    assert_eq!(caught_up(&mut inbox).await, 2);
    until_waiting(&a, "bob", 0).await;
    cluster.shutdown().await;
}

async fn every_acknowledgement_counts_and_rounds_are_bounded(backend: Backend) {
    let (cluster, a, b) = pair(backend).await;
    let (ann, bob) = (login(&a, "ann").await, login(&b, "bob").await);
    send(&ann, "bob", 0).await;
    let mut inbox = open(&bob).await;
    let first = message(&mut inbox).await;
    // It comes again each time, until that is too often.
    let mut rounds = 1;
    let refusal = loop {
        let answer = ask(bob.socket(), "online", json!({})).await;
        if answer["ok"] != Value::Bool(true) {
            break answer;
        }
        rounds += 1;
        assert!(rounds < 1_000, "nobody stops it");
    };
    assert_eq!(refusal["error"]["code"], "rate_limited");
    assert!(rounds >= 16, "after {rounds}");
    first.acknowledge().await.unwrap();
    ask_ok(bob.socket(), "heartbeat", json!({})).await;
    assert_eq!(waiting(&a, "bob").await, 0);
    cluster.shutdown().await;
}

async fn a_heartbeat_follows_the_settling(backend: Backend) {
    let (cluster, a, b) = pair(backend).await;
    let (ann, bob) = (login(&a, "ann").await, login(&b, "bob").await);
    let mut inbox = open(&bob).await;
    assert_eq!(caught_up(&mut inbox).await, 0);
    for round in 0..20 {
        send(&ann, "bob", round).await;
        message(&mut inbox).await.acknowledge().await.unwrap();
        ask_ok(bob.socket(), "heartbeat", json!({})).await;
        assert_eq!(waiting(&a, "bob").await, 0, "round {round}");
    }
    cluster.shutdown().await;
}

async fn what_is_written_is_settled(backend: Backend) {
    let (cluster, a, b) = pair(backend).await;
    let ann = login(&a, "ann").await;
    for transports in [Transports::WebSocket, Transports::Polling] {
        for number in 0..9 {
            send(&ann, "bob", number).await;
        }
        let bob = login_with(b.client().transports(transports), "bob", "phone").await;
        let mut inbox = Inbox::open(bob.socket(), Settle::Written, PATIENCE).await.unwrap();
        for number in 0..9 {
            let message = message(&mut inbox).await;
            assert_eq!((&message.data, message.ack.is_none()), (&Value::Int(number), true));
        }
        assert_eq!(caught_up(&mut inbox).await, 9);
        until_waiting(&a, "bob", 0).await;
        send(&ann, "bob", "live").await;
        assert_eq!(message(&mut inbox).await.data, "live");
        until_waiting(&a, "bob", 0).await;
        bob.close().await;
    }
    cluster.shutdown().await;
}

async fn every_kind_of_client_gets_every_kind_of_data(backend: Backend) {
    let (cluster, a, b) = pair(backend).await;
    let from = login(&a, "ann").await;
    let packed = login_with(a.client().parser(Parser::MessagePack), "eve", "phone").await;
    let binary = Value::bytes(vec![1, 2, 3]);
    let data = [
        Value::Null,
        json!({ "deep": [{ "er": "日本語🚪" }], "n": 1.5, "big": 9_007_199_254_740_993_i64 }).into(),
        Value::Array(vec![binary.clone(), "x".into(), binary.clone()]),
        Value::from("x".repeat(60_000)),
    ];
    for (index, (parser, transports)) in [
        (Parser::Text, Transports::WebSocket),
        (Parser::Text, Transports::Polling),
        (Parser::MessagePack, Transports::WebSocket),
        (Parser::MessagePack, Transports::Polling),
    ]
    .into_iter()
    .enumerate()
    {
        let user = format!("bob{index}");
        for (sender, value) in
            [&from, &packed].into_iter().flat_map(|sender| data.iter().map(move |v| (sender, v)))
        {
            send(sender, &user, value.clone()).await;
        }
        let bob = login_with(b.client().parser(parser).transports(transports), &user, "phone").await;
        let mut inbox = open(&bob).await;
        for round in ["waited", "live"] {
            if round == "live" {
                assert_eq!(caught_up(&mut inbox).await, 8);
            }
            for (sender, name) in [(&from, "ann"), (&packed, "eve")] {
                for value in &data {
                    if round == "live" {
                        send(sender, &user, value.clone()).await;
                    }
                    let message = message(&mut inbox).await;
                    assert_eq!((&message.data, &message.from), (value, &Value::from(name)), "{round}");
                    assert_eq!(message.waited, round == "waited");
                    message.acknowledge().await.unwrap();
                }
            }
        }
    }
    cluster.shutdown().await;
}

async fn a_refusal_says_which_limit(backend: Backend) {
    let cluster = Cluster::new(backend);
    let a = cluster.add(small("a")).await;
    let ann = login(&a, "ann").await;
    let refusal = async |argument: serde_json::Value| {
        let answer = ask(ann.socket(), "send", argument).await;
        assert_eq!(answer["ok"], Value::Bool(false), "{answer:?}");
        let text = |field: &str| answer["error"][field].as_str().unwrap().to_owned();
        (text("code"), text("message"))
    };
    for (argument, code, limit) in [
        (json!({ "data": 1 }), "bad_request", "to is missing"),
        (json!({ "to": "" }), "bad_request", "to must not be empty"),
        (json!({ "to": "x".repeat(257) }), "bad_request", "limits.name_bytes_max"),
        (json!({ "to": "bob", "id": 7 }), "bad_request", "id must be a string"),
        (json!({ "to": "bob", "event": "evicted" }), "bad_request", "\"evicted\" is reserved"),
        (json!({ "to": "bob", "event": "connect" }), "bad_request", "reserved"),
        (json!("bob"), "bad_request", "{ to, data }"),
        (json!({ "to": "bob", "data": "x".repeat(1_000) }), "too_large", "offline.message_bytes_max"),
    ] {
        let (told, message) = refusal(argument).await;
        assert!(told == code && message.contains(limit), "{told}: {message}");
    }
    for number in 0..5 {
        send(&ann, "bob", number).await;
    }
    let (code, why) = refusal(json!({ "to": "bob", "data": 5 })).await;
    assert!(code == "offline_full" && why.contains("5 messages (offline.messages_max)"), "{why}");
    for _ in 0..2 {
        send(&ann, "carl", "x").await;
    }
    let (code, why) = refusal(json!({ "to": "dan" })).await;
    let limit = "8 messages a minute (offline.sender_per_minute_max); again in";
    assert!(code == "rate_limited" && why.contains(limit), "{why}");
    assert_eq!(a.metric("tidegate_offline_rejected_total{code=\"too_large\"}"), 1);
    assert_eq!(a.metric("tidegate_offline_rejected_total{code=\"offline_full\"}"), 1);
    assert_eq!(a.metric("tidegate_offline_rejected_total{code=\"rate_limited\"}"), 1);
    assert_eq!(a.metric("tidegate_offline_limit{limit=\"messages_max\"}"), 5);
    // All that was promised is delivered.
    let bob = login(&a, "bob").await;
    let mut inbox = open(&bob).await;
    for number in 0..5 {
        let message = message(&mut inbox).await;
        assert_eq!(message.data, Value::Int(number));
        message.acknowledge().await.unwrap();
    }
    assert_eq!(caught_up(&mut inbox).await, 5);
    cluster.shutdown().await;
}

async fn who_may_not_is_told_so(backend: Backend) {
    let cluster = Cluster::new(backend);
    let off = NamespaceRule { offline: false, ..NamespaceRule::new("/off") };
    let namespaces = Namespaces::new(vec![NamespaceRule::new("/"), off], true);
    let a = cluster.add(Options { namespaces, ..options("a") }).await;
    let nobody = a.websocket().await;
    assert_eq!(ask_refused(nobody.socket(), "send", json!({ "to": "bob" })).await, "unauthorized");
    assert_eq!(ask_refused(nobody.socket(), "online", json!({})).await, "unauthorized");
    let ann = login(&a, "ann").await;
    let quiet = ann.namespace("/off", Some(json!({ "user": "ann" }).into())).await.unwrap();
    assert_eq!(ask_refused(&quiet, "send", json!({ "to": "bob" })).await, "not_enabled");
    assert_eq!(ask_refused(&quiet, "online", json!({})).await, "not_enabled");
    assert_eq!(ask_refused(ann.socket(), "online", json!({ "ack": "some" })).await, "bad_request");
    assert_eq!(ask_refused(ann.socket(), "online", json!([1])).await, "bad_request");
    for argument in [json!({}), json!({ "ack": "each" }), json!({ "ack": "none" }), json!(null)] {
        ask_ok(ann.socket(), "online", argument).await;
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_was_not_told_it_reads() {
    let (cluster, lies) = (Cluster::new(Backend::Memory), Lies::new());
    let a = cluster.add_lying(options("a"), &lies, PATIENCE).await.unwrap();
    let (ann, bob) = (login(&a, "ann").await, login(&a, "bob").await);
    let mut inbox = open(&bob).await;
    assert_eq!(caught_up(&mut inbox).await, 0);
    lies.drop_arrivals(true);
    assert_eq!(send(&ann, "bob", 0).await.1, "live");
    assert_eq!(send(&ann, "bob", 1).await.1, "live");
    assert_eq!(lies.arrivals_dropped(), 2);
    lies.drop_arrivals(false);
    // The next one tells of the gap.
    send(&ann, "bob", 2).await;
    for number in 0..3 {
        let message = message(&mut inbox).await;
        assert_eq!((&message.data, message.waited), (&Value::Int(number), false));
        message.acknowledge().await.unwrap();
    }
    // And so does having been deaf.
    lies.drop_arrivals(true);
    send(&ann, "bob", 3).await;
    lies.lost();
    lies.whole(2);
    eventually("the node to hear again", || a.node.readiness().is_ok()).await;
    assert_eq!(message(&mut inbox).await.data, Value::Int(3));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deaf_node_delivers_nothing_and_settles_what_it_hears() {
    let (cluster, lies) = (Cluster::new(Backend::Memory), Lies::new());
    let a = cluster.add_lying(options("a"), &lies, PATIENCE).await.unwrap();
    let b = cluster.add(options("b")).await;
    let (ann, bob) = (login(&b, "ann").await, login(&a, "bob").await);
    let mut inbox = open(&bob).await;
    assert_eq!(caught_up(&mut inbox).await, 0);
    send(&ann, "bob", 0).await;
    let first = message(&mut inbox).await;
    lies.lost();
    send(&ann, "bob", 1).await;
    first.acknowledge().await.unwrap();
    // What is compared with the claim needs no pulse.
    until_waiting(&b, "bob", 1).await;
    assert_eq!(a.metric("tidegate_offline_delivered_total"), 1);
    lies.whole(2);
    assert_eq!(message(&mut inbox).await.data, Value::Int(1));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_comes_back_gets_what_it_missed() {
    let (cluster, a, _) = pair(Backend::Redis).await;
    let b = cluster.add_at(options("d"), lasting_port().await).await;
    let ann = login(&a, "ann").await;
    let reconnect = tidegate_client::Reconnect {
        delay: Duration::from_millis(10),
        delay_max: Duration::from_millis(50),
        attempts_max: Some(500),
        ..Default::default()
    };
    let address = b.address;
    let bob = login_with(b.client().reconnect(reconnect), "bob", "phone").await;
    let mut inbox = open(&bob).await;
    assert_eq!(caught_up(&mut inbox).await, 0);
    send(&ann, "bob", "live").await;
    message(&mut inbox).await.acknowledge().await.unwrap();
    send(&ann, "bob", "unacknowledged").await;
    assert_eq!(message(&mut inbox).await.data, "unacknowledged");
    // Its node goes, and another comes at the same address.
    b.node.drain().await;
    eventually("the session to have ended", || a.node.readiness().is_ok()).await;
    send(&ann, "bob", "missed").await;
    let listener = listen_again(address).await;
    cluster.add_at(options("c"), listener).await;
    for expected in ["unacknowledged", "missed"] {
        let message = message(&mut inbox).await;
        assert_eq!((&message.data, message.waited), (&Value::from(expected), true));
        message.acknowledge().await.unwrap();
    }
    assert_eq!(caught_up(&mut inbox).await, 2);
    ask_ok(bob.socket(), "heartbeat", json!({})).await;
    assert_eq!(waiting(&a, "bob").await, 0);
    cluster.shutdown().await;
}
