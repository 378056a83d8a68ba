//! One user, several sessions: who stays, who goes, and what they are told; in memory and over a real Redis.

#![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tidegate_client::{Client, Error, Parser, Reason, Signal, Transports, Value};
use tidegate_core::registry::{OnDuplicate, Policy};
use tidegate_gateway::Options;
use tidegate_gateway::namespaces::{NamespaceRule, Namespaces};
use tidegate_test::cluster::{
    Backend, Cluster, PATIENCE, Server, ask, ask_ok, eventually, next, next_signal, options, within,
};

tidegate_test::on_both! {
    a_full_place_refuses_the_newcomer,
    a_newcomer_displaces_the_same_device_only,
    a_session_ends_in_its_namespace_only,
    many_racing_logins_leave_one,
    presence_is_told_once_per_user,
    the_oldest_go_when_there_are_too_many,
    the_stale_one_is_silent,
    who_has_no_user_is_never_displaced,
}

const SESSIONS: &str = "tidegate_sessions{namespace=\"/\"}";

fn with(name: &str, policy: Policy, on_duplicate: OnDuplicate) -> Options {
    let rules = ["/", "/other"].map(|pattern| NamespaceRule {
        policy,
        on_duplicate,
        presence: true,
        ..NamespaceRule::new(pattern)
    });
    Options { namespaces: Namespaces::new(rules.into(), true), ..options(name) }
}

async fn pair(backend: Backend, policy: Policy, on_duplicate: OnDuplicate) -> (Cluster, Server, Server) {
    let cluster = Cluster::new(backend);
    let a = cluster.add(with("a", policy, on_duplicate)).await;
    let b = cluster.add(with("b", policy, on_duplicate)).await;
    (cluster, a, b)
}

async fn attempt(server: &Server, user: &str, device: &str) -> Result<Client, Error> {
    let auth = Value::from(json!({ "user": user, "device": device }));
    Client::connect(server.client().auth(auth), "/").await
}

async fn login(server: &Server, user: &str, device: &str) -> Client {
    attempt(server, user, device).await.unwrap_or_else(|fault| panic!("{user} is not let in: {fault}"))
}

/// Waits until a client has been told that it was evicted; returns what it was told.
async fn evicted(client: &Client) -> Value {
    let told = loop {
        let event = next(client.socket()).await;
        if event.name == "evicted" {
            break event.args[0].clone();
        }
    };
    assert_eq!(within("the end", client.socket().ended()).await, Reason::IoServerDisconnect);
    told
}

async fn alive(client: &Client) {
    ask_ok(client.socket(), "heartbeat", json!({})).await;
}

async fn a_newcomer_displaces_the_same_device_only(backend: Backend) {
    let (cluster, a, b) = pair(backend, Policy::PerDevice, OnDuplicate::Replace).await;
    let (phone, laptop) = (login(&a, "ann", "phone").await, login(&a, "ann", "laptop").await);
    for (server, name) in [(&b, "b"), (&a, "a")] {
        let newcomer = login(server, "ann", "phone").await;
        let first = newcomer.socket().id().unwrap();
        let told = evicted(&phone).await;
        assert_eq!(told["reason"], "replaced");
        assert_eq!((told["by"]["device"].as_str(), told["by"]["node"].as_str()), (Some("phone"), Some(name)));
        assert!(told["by"]["ts"].as_u64().unwrap() > 1_700_000_000_000);
        alive(&newcomer).await;
        alive(&laptop).await;
        // The next round displaces this one's device again, from its own node's point of view or another's.
        let again = login(&a, "ann", "phone").await;
        assert_eq!(evicted(&newcomer).await["by"]["node"], "a");
        assert_ne!(again.socket().id().unwrap(), first);
        again.close().await;
        if name == "b" {
            let phone = login(&a, "ann", "phone").await;
            phone.close().await;
            break;
        }
    }
    a.until_metric(SESSIONS, 1).await;
    b.until_metric(SESSIONS, 0).await;
    assert_eq!(
        a.metric("tidegate_takeovers_total{outcome=\"fenced\"}"),
        0,
        "nobody had to wait for the fence"
    );
    cluster.shutdown().await;
}

async fn the_stale_one_is_silent(backend: Backend) {
    let (cluster, a, b) = pair(backend, Policy::PerDevice, OnDuplicate::Replace).await;
    for parser in [Parser::Text, Parser::MessagePack] {
        for transports in [Transports::WebSocket, Transports::Polling] {
            let auth = Value::from(json!({ "user": "ann" }));
            let client = a.client().parser(parser).transports(transports).auth(auth);
            let old = Client::connect(client, "/").await.unwrap();
            let listener = login(&b, "bob", "x").await;
            ask_ok(old.socket(), "join", "r").await;
            ask_ok(listener.socket(), "join", "r").await;
            let new = login(&b, "ann", "default").await;
            // Whatever the old one says from now on concerns nobody.
            let stale = json!({ "room": "r", "data": "stale" });
            let _ = old.socket().emit("publish", &[stale.into()]).await;
            ask_ok(new.socket(), "publish", json!({ "room": "r", "data": "fresh" })).await;
            loop {
                let event = next(listener.socket()).await;
                if event.name == "message" {
                    assert_eq!(event.args[0], "fresh");
                    break;
                }
            }
            let mut heard = Vec::new();
            loop {
                match next_signal(old.socket()).await {
                    Signal::Event(event) => heard.push(event.name),
                    Signal::Disconnected(reason) => {
                        assert_eq!(reason, Reason::IoServerDisconnect);
                        break;
                    }
                    other => panic!("{other:?}"),
                }
            }
            heard.retain(|name| !name.starts_with("presence_"));
            assert_eq!(heard, ["evicted"]);
            new.close().await;
            listener.close().await;
            b.until_metric(SESSIONS, 0).await;
        }
    }
    cluster.shutdown().await;
}

async fn the_oldest_go_when_there_are_too_many(backend: Backend) {
    let (cluster, a, b) = pair(backend, Policy::Max(2), OnDuplicate::Replace).await;
    let mut clients = Vec::new();
    for (index, server) in [&a, &b, &a, &b, &a].into_iter().enumerate() {
        clients.push(login(server, "ann", &format!("device {index}")).await);
        if index >= 2 {
            let told = evicted(&clients[index - 2]).await;
            assert_eq!(told["by"]["device"], format!("device {index}").as_str());
        }
    }
    alive(&clients[3]).await;
    alive(&clients[4]).await;
    let other = login(&a, "bob", "x").await;
    alive(&other).await;
    cluster.shutdown().await;
}

async fn a_full_place_refuses_the_newcomer(backend: Backend) {
    let (cluster, a, b) = pair(backend, Policy::Max(1), OnDuplicate::Reject).await;
    let first = login(&a, "ann", "phone").await;
    for server in [&a, &b] {
        let refused = attempt(server, "ann", "laptop").await.unwrap_err();
        let Error::ConnectError { data, .. } = &refused else { panic!("{refused}") };
        assert_eq!(data["code"], "duplicate_session");
    }
    alive(&first).await;
    assert_eq!(b.metric("tidegate_operations_total{code=\"duplicate_session\",operation=\"connect\"}"), 1);
    // It has left nothing behind, and the place is free when its holder goes.
    first.close().await;
    a.until_metric(SESSIONS, 0).await;
    let second = tidegate_test::cluster::retried("the place", || attempt(&b, "ann", "laptop")).await;
    alive(&second).await;
    cluster.shutdown().await;
}

async fn who_has_no_user_is_never_displaced(backend: Backend) {
    let (cluster, a, b) = pair(backend, Policy::Max(1), OnDuplicate::Replace).await;
    let (one, two) = (a.websocket().await, b.websocket().await);
    alive(&one).await;
    alive(&two).await;
    cluster.shutdown().await;
}

async fn a_session_ends_in_its_namespace_only(backend: Backend) {
    let (cluster, a, b) = pair(backend, Policy::PerDevice, OnDuplicate::Replace).await;
    let old = login(&a, "ann", "x").await;
    let other =
        old.namespace("/other", Some(Value::from(json!({ "user": "ann", "device": "x" })))).await.unwrap();
    let new = login(&b, "ann", "x").await;
    assert_eq!(evicted(&old).await["reason"], "replaced");
    ask_ok(&other, "heartbeat", json!({})).await;
    assert_eq!(
        a.metric("tidegate_connections{transport=\"websocket\"}")
            + a.metric("tidegate_connections{transport=\"polling\"}"),
        1
    );
    alive(&new).await;
    cluster.shutdown().await;
}

async fn many_racing_logins_leave_one(backend: Backend) {
    const LOGINS: usize = 100;
    let (cluster, a, b) = pair(backend, Policy::PerDevice, OnDuplicate::Replace).await;
    let logins = (0..LOGINS).map(|index| login(if index % 2 == 0 { &a } else { &b }, "ann", "x"));
    let clients = within("every login", join_all(logins)).await;
    eventually("one to be left", || a.metric(SESSIONS) + b.metric(SESSIONS) == 1).await;
    let mut left = 0;
    for client in &clients {
        let end = tokio::time::timeout(Duration::from_millis(1), client.socket().ended()).await;
        match end {
            Ok(reason) => assert_eq!(reason, Reason::IoServerDisconnect),
            Err(_) => match client.socket().emit_with_ack("heartbeat", &[], PATIENCE).await {
                Ok(answer) => {
                    assert_eq!(answer[0]["ok"], Value::Bool(true));
                    left += 1;
                }
                Err(fault) => {
                    assert!(matches!(fault, Error::Disconnected(Reason::IoServerDisconnect)), "{fault}");
                }
            },
        }
    }
    assert_eq!(left, 1);
    let gone = a.metric("tidegate_evictions_total{reason=\"replaced\"}")
        + b.metric("tidegate_evictions_total{reason=\"replaced\"}");
    assert_eq!(gone, 99);
    cluster.shutdown().await;
}

async fn presence_is_told_once_per_user(backend: Backend) {
    let (cluster, a, b) = pair(backend, Policy::PerDevice, OnDuplicate::Replace).await;
    let watcher = login(&a, "watcher", "x").await;
    ask_ok(watcher.socket(), "join", "r").await;
    let (phone, laptop) = (login(&a, "ann", "phone").await, login(&b, "ann", "laptop").await);
    for client in [&phone, &laptop, &phone] {
        ask_ok(client.socket(), "join", "r").await;
    }
    let anonymous = b.websocket().await;
    ask_ok(anonymous.socket(), "join", "r").await;
    let event = next(watcher.socket()).await;
    assert_eq!((event.name.as_str(), &event.args[0]["user"]), ("presence_join", &Value::from("ann")));
    assert_eq!(event.args[0]["room"], "r");
    assert!(event.args[0]["ts"].as_u64().unwrap() > 1_700_000_000_000);

    for server in [&a, &b] {
        let asker = login(server, "asker", "x").await;
        let here = ask_ok(asker.socket(), "presence", json!({ "room": "r" })).await;
        let users = here["users"].as_array().unwrap();
        assert_eq!(users.len(), 2, "{here:?}");
        assert_eq!(users[0]["user"], "ann");
        let mut devices: Vec<_> =
            users[0]["devices"].as_array().unwrap().iter().map(|device| device.as_str().unwrap()).collect();
        devices.sort_unstable();
        assert_eq!(devices, ["laptop", "phone"]);
        let here = ask_ok(asker.socket(), "presence", json!({ "users": ["ann", "nobody", "asker"] })).await;
        let users = here["users"].as_array().unwrap();
        assert_eq!(
            users.iter().map(|user| user["user"].as_str().unwrap()).collect::<Vec<_>>(),
            ["ann", "asker"]
        );
        asker.close().await;
    }
    let refused = ask(watcher.socket(), "presence", json!({})).await;
    assert_eq!(refused["error"]["code"], "bad_request");

    ask_ok(phone.socket(), "leave", "r").await;
    laptop.abort().await;
    let event = next(watcher.socket()).await;
    assert_eq!((event.name.as_str(), &event.args[0]["user"]), ("presence_leave", &Value::from("ann")));
    ask_ok(phone.socket(), "join", "r").await;
    let event = next(watcher.socket()).await;
    assert_eq!(event.name, "presence_join", "nothing came twice");
    cluster.shutdown().await;
}
