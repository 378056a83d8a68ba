//! What a node does while its broker cannot be believed, and how it recovers.

#![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tidegate_client::{Client, Error, Parser, Reason, Socket, Transports, Value};
use tidegate_core::broker::PulseError;
use tidegate_gateway::{DrainOptions, Options, StartError};
use tidegate_test::cluster::{
    Backend, Cluster, PATIENCE, Server, any_port, ask_ok, ask_refused, eventually, next, options, retried,
    within,
};
use tidegate_test::lying::{Lies, Subscribing};
use tidegate_test::wire::{Frame, Polling, Wire};

async fn lying(options: Options) -> (Cluster, Server, Arc<Lies>) {
    let (cluster, lies) = (Cluster::new(Backend::Memory), Lies::new());
    let server = cluster.add_lying(options, &lies, PATIENCE).await.unwrap();
    (cluster, server, lies)
}

/// Checks that nobody gets in, over either transport.
async fn assert_closed_to_newcomers(server: &Server) {
    for transports in [Transports::WebSocket, Transports::Polling] {
        let refused = Client::connect(server.client().transports(transports), "/").await.unwrap_err();
        let Error::Refused { status: 503, body } = &refused else { panic!("{refused}") };
        assert!(body.contains(r#""code":"unavailable""#), "{body}");
    }
}

fn reasons(server: &Server) -> String {
    server.node.readiness().err().unwrap_or_default().join("; ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_subscription_broke_takes_nobody_in_until_it_hears_itself_again() {
    let (cluster, a, lies) = lying(options("a")).await;
    let client = a.websocket().await;
    ask_ok(client.socket(), "join", "r").await;
    let mut opened = Wire::open(&a).await;
    let polling = Polling::open(&a).await;

    lies.swallow_pulses(true);
    lies.lost();
    assert_eq!(reasons(&a), "the broker subscription is not whole");
    assert_closed_to_newcomers(&a).await;
    // A CONNECT_ERROR would keep its client away for good; a closed transport does not.
    opened.send("40").await;
    assert_eq!(opened.next().await, Frame::Close(None));
    assert_eq!(opened.next().await, Frame::End);
    assert_eq!(polling.post("40").await.0, 200);
    assert_eq!(polling.get().await, (200, "6\u{1e}1".to_owned()));
    let refused = client.namespace("/chat", None).await.unwrap_err();
    assert!(matches!(refused, Error::Disconnected(Reason::TransportClose)), "{refused}");
    assert_eq!(within("the end", client.socket().ended()).await, Reason::TransportClose);

    lies.whole(2);
    assert!(reasons(&a).starts_with("no pulse has come back"), "{}", reasons(&a));
    assert_closed_to_newcomers(&a).await;
    lies.swallow_pulses(false);
    eventually("an echo", || a.node.readiness().is_ok()).await;
    let client = a.connect(tidegate_client::Parser::Text, Transports::Default).await;
    ask_ok(client.socket(), "join", "r").await;
    ask_ok(client.socket(), "publish", json!({ "room": "r", "data": "hello", "echo": true })).await;
    assert_eq!(next(client.socket()).await.args[0], "hello");
    assert!(a.metric("tidegate_handshakes_refused_total{reason=\"deaf\"}") >= 4);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_hears_no_pulse_is_deaf_once_the_fence_is_over() {
    let mut fenced = options("a");
    fenced.pulse.interval = Duration::from_millis(20);
    fenced.pulse.fence_after = Duration::from_millis(500);
    let (cluster, a, lies) = lying(fenced).await;
    for _ in 0..2 {
        lies.swallow_pulses(true);
        eventually("the fence", || reasons(&a).starts_with("no pulse has come back")).await;
        assert_closed_to_newcomers(&a).await;
        lies.swallow_pulses(false);
        retried("to be let in", || Client::connect(a.client(), "/")).await.close().await;
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deaf_node_keeps_whom_it_has() {
    let mut brisk = options("a");
    brisk.engine.ping_interval = Duration::from_millis(500);
    brisk.engine.ping_timeout = Duration::from_millis(500);
    brisk.pulse.hold = Duration::from_millis(700);
    let (cluster, a, lies) = lying(brisk).await;
    let mut wire = Wire::connect(&a).await;
    wire.send(r#"429["join","r"]"#).await;
    assert_eq!(wire.text().await, r#"439[{"ok":true}]"#);
    lies.swallow_pulses(true);
    lies.lost();
    for _ in 0..3 {
        assert_eq!(wire.next().await, Frame::Text("2".to_owned()));
        wire.send("3").await;
    }
    // Held for as long as anything may be by now, whatever is asked for is refused: nobody can say whether this
    // session still has its place.
    for asked in [r#"["join","r"]"#, r#"["join","late"]"#, r#"["publish",{"room":"r","data":1,"echo":true}]"#]
    {
        wire.send(&format!("420{asked}")).await;
        let refused = wire.text().await;
        assert!(refused.starts_with(r#"430[{"ok":false,"error":{"code":"unavailable""#), "{refused}");
    }
    assert_eq!(a.metric("tidegate_rooms{namespace=\"/\"}"), 1);
    assert!(a.node.readiness().is_err(), "all the while");
    assert_eq!(a.metric("tidegate_sessions{namespace=\"/\"}"), 1);
    drop(wire);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_arrives_at_a_deaf_node_is_held_in_order() {
    let (cluster, a, lies) = lying(options("a")).await;
    let b = cluster.add(options("b")).await;
    let (client, other) = (a.websocket().await, b.websocket().await);
    for socket in [client.socket(), other.socket()] {
        ask_ok(socket, "join", "r").await;
    }
    lies.swallow_pulses(true);
    lies.lost();
    let message = |data: &str| json!({ "room": "r", "data": data, "echo": true });
    ask_ok(other.socket(), "publish", message("one")).await;
    ask_ok(other.socket(), "publish", message("two")).await;
    let held = async {
        ask_ok(client.socket(), "publish", message("three")).await;
        ask_ok(client.socket(), "publish", message("four")).await;
    };
    let hear = async {
        for data in ["one", "two"] {
            assert_eq!(next(other.socket()).await.args[0], data);
        }
        // Neither what the client asks for nor what is said to it has moved.
        assert!(a.node.readiness().is_err());
        assert_eq!(a.metric("tidegate_deliveries_total{namespace=\"/\"}"), 0);
        assert_eq!(a.metric("tidegate_operations_total{code=\"ok\",operation=\"publish\"}"), 0);
        lies.whole(2);
        lies.swallow_pulses(false);
    };
    tokio::join!(held, hear);
    for data in ["one", "two", "three", "four"] {
        assert_eq!(next(client.socket()).await.args[0], data);
    }
    for data in ["three", "four"] {
        assert_eq!(next(other.socket()).await.args[0], data);
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_would_miss_something_is_sent_elsewhere() {
    let mut brief = options("a");
    brief.pulse.hold = Duration::from_millis(200);
    let (cluster, a, lies) = lying(brief).await;
    let b = cluster.add(options("b")).await;
    let (member, stranger, other) = (a.websocket().await, a.websocket().await, b.websocket().await);
    let named = login(&a, "ann").await;
    for client in [&member, &named] {
        ask_ok(client.socket(), "join", "r").await;
    }
    lies.swallow_pulses(true);
    lies.lost();
    ask_ok(other.socket(), "publish", json!({ "room": "r", "data": "missed" })).await;
    // By its transport, so that it comes back; whoever is not concerned stays.
    assert_eq!(within("the end", member.socket().ended()).await, Reason::TransportClose);
    assert_eq!(a.metric("tidegate_dropped_total{reason=\"deaf\"}"), 1);
    // Who may have lost its place to another is sent away only after that has been looked up.
    assert_eq!(a.metric("tidegate_sessions{namespace=\"/\"}"), 2);
    lies.whole(2);
    lies.swallow_pulses(false);
    assert_eq!(within("the end", named.socket().ended()).await, Reason::TransportClose);
    eventually("an audit", || a.node.readiness().is_ok()).await;
    ask_ok(stranger.socket(), "heartbeat", json!({})).await;
    cluster.shutdown().await;
}

fn user(name: &str) -> Value {
    Value::from(json!({ "user": name, "device": "phone" }))
}

async fn login(server: &Server, name: &str) -> Client {
    retried("to be let in", || Client::connect(server.client().auth(user(name)), "/")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_displaced_unheard_is_found_before_it_does_anything() {
    let mut fenced = options("a");
    fenced.pulse.interval = Duration::from_millis(20);
    fenced.pulse.fence_after = Duration::from_millis(300);
    fenced.pulse.hold = Duration::from_secs(20);
    let (cluster, a, lies) = lying(fenced).await;
    let b = cluster.add(options("b")).await;
    for stays in [true, false] {
        let (old, bystander) = (login(&a, "ann").await, login(&a, "bob").await);
        ask_ok(old.socket(), "join", "r").await;
        ask_ok(bystander.socket(), "join", "r").await;
        lies.swallow_pulses(true);
        lies.drop_evictions(true);
        eventually("the fence", || reasons(&a).starts_with("no pulse has come back")).await;
        let new = login(&b, "ann").await;
        ask_ok(new.socket(), "join", "r").await;
        let stale = json!({ "room": "r", "data": "stale" });
        old.socket().emit("publish", &[stale.into()]).await.unwrap();
        ask_ok(new.socket(), "publish", json!({ "room": "r", "data": "fresh" })).await;
        // Displaced is displaced, also when nobody is left to see it.
        let new = if stays {
            Some(new)
        } else {
            new.close().await;
            b.until_metric("tidegate_sessions{namespace=\"/\"}", 0).await;
            None
        };
        lies.swallow_pulses(false);

        let told = next(old.socket()).await;
        assert_eq!(told.name, "evicted", "and not what the newcomer said");
        assert_eq!(told.args[0]["reason"], "replaced");
        assert_eq!(told.args[0]["by"]["node"], "b");
        assert_eq!(told.args[0]["by"]["device"], "phone");
        assert_eq!(within("the end", old.socket().ended()).await, Reason::IoServerDisconnect);
        assert_eq!(next(bystander.socket()).await.args[0], "fresh", "nothing of the stale one");
        ask_ok(bystander.socket(), "heartbeat", json!({})).await;
        if let Some(new) = new {
            ask_ok(new.socket(), "heartbeat", json!({})).await;
            new.close().await;
        }
        bystander.close().await;
        lies.drop_evictions(false);
        a.until_metric("tidegate_sessions{namespace=\"/\"}", 0).await;
    }
    assert_eq!(lies.evictions_dropped(), 2);
    assert_eq!(a.metric("tidegate_evictions_total{reason=\"replaced\"}"), 2);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_echo_of_an_older_subscription_proves_nothing() {
    let (cluster, a, lies) = lying(options("a")).await;
    assert!(a.node.readiness().is_ok());
    lies.swallow_pulses(true);
    let old = lies.swallowed().await;
    lies.lost();
    // Not whole: not even a pulse of right now.
    lies.echo(old, 1);
    let broken = lies.swallowed().await;
    lies.echo(broken, 1);
    assert_eq!(reasons(&a), "the broker subscription is not whole");
    let broken = lies.swallowed().await;
    lies.whole(2);
    for (number, generation) in [(old, 1), (old, 2), (broken, 1), (broken, 2)] {
        lies.echo(number, generation);
        assert!(reasons(&a).starts_with("no pulse"), "{number} {generation}: {}", reasons(&a));
    }
    let new = lies.swallowed().await;
    lies.echo(new, 1);
    assert!(reasons(&a).starts_with("no pulse"), "sent under 2 and heard on 1");
    let new = lies.swallowed().await;
    lies.echo(new + 1_000, 2);
    assert!(reasons(&a).starts_with("no pulse"), "never sent");
    lies.echo(new, 2);
    eventually("the audit", || a.node.readiness().is_ok()).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_cannot_be_confirmed_is_refused_and_undone() {
    let mut limited = options("a");
    limited.limits.rooms_per_session_max = 1;
    let (cluster, a, lies) = lying(limited).await;
    let (client, other) = (a.websocket().await, a.websocket().await);
    ask_ok(other.socket(), "join", "other").await;
    let rooms = "tidegate_rooms{namespace=\"/\"}";

    lies.subscribing(Subscribing::Held);
    let joins = async {
        let (one, two) = tokio::join!(
            ask_refused(client.socket(), "join", "r"),
            ask_refused(client.socket(), "join", "r")
        );
        assert_eq!((one.as_str(), two.as_str()), ("unavailable", "unavailable"));
    };
    let refuse = async {
        lies.until_held().await;
        lies.subscribing(Subscribing::Refused);
    };
    tokio::join!(joins, refuse);
    assert_eq!(a.metric(rooms), 1);
    assert_eq!(ask_refused(client.socket(), "join", "elsewhere").await, "unavailable");
    // What holds already is not asked for again.
    ask_ok(other.socket(), "join", "other").await;
    ask_ok(other.socket(), "publish", json!({ "room": "r", "data": "missed" })).await;
    ask_ok(other.socket(), "publish", json!({ "room": "other", "data": "kept", "echo": true })).await;
    assert_eq!(next(other.socket()).await.args[0], "kept");

    // There is room for one: nothing of what was refused is left.
    lies.subscribing(Subscribing::Honest);
    ask_ok(client.socket(), "join", "r").await;
    assert_eq!(a.metric(rooms), 2);
    ask_ok(other.socket(), "publish", json!({ "room": "elsewhere", "data": "missed" })).await;
    ask_ok(other.socket(), "publish", json!({ "room": "r", "data": "heard" })).await;
    assert_eq!(next(client.socket()).await.args[0], "heard");
    assert_eq!(a.metric("tidegate_operations_total{code=\"unavailable\",operation=\"join\"}"), 3);
    client.close().await;
    other.close().await;
    a.until_metric(rooms, 0).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_leaves_before_its_join_is_answered_is_gone() {
    let (cluster, a, lies) = lying(options("a")).await;
    let (client, other) = (a.websocket().await, a.websocket().await);
    for (room, outcome) in [("r", Subscribing::Refused), ("s", Subscribing::Honest)] {
        lies.subscribing(Subscribing::Held);
        let leaving = a.websocket();
        tokio::pin!(leaving);
        // Even CONNECT waits, since it subscribes.
        tokio::select! {
            _ = &mut leaving => panic!("nothing is confirmed"),
            () = lies.until_held() => {}
        }
        lies.subscribing(Subscribing::Honest);
        let leaving = leaving.await;
        lies.subscribing(Subscribing::Held);
        leaving.socket().emit("join", &[room.into()]).await.unwrap();
        lies.until_held().await;
        leaving.abort().await;
        a.until_metric("tidegate_sessions{namespace=\"/\"}", 2).await;
        lies.subscribing(outcome);
        a.until_metric("tidegate_rooms{namespace=\"/\"}", 0).await;
        lies.subscribing(Subscribing::Honest);
        retried("the room", async || {
            match client.socket().emit_with_ack("join", &[room.into()], PATIENCE).await.unwrap()[0]["ok"] {
                Value::Bool(true) => Ok(()),
                ref other => Err(format!("{other:?}")),
            }
        })
        .await;
        ask_ok(other.socket(), "publish", json!({ "room": room, "data": "heard" })).await;
        assert_eq!(next(client.socket()).await.args[0], "heard");
        assert_eq!(a.metric("tidegate_rooms{namespace=\"/\"}"), 1);
        ask_ok(client.socket(), "leave", room).await;
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_join_waits_for_as_long_as_the_broker_takes() {
    let (cluster, a, lies) = lying(options("a")).await;
    let listener = a.websocket().await;
    ask_ok(listener.socket(), "join", "all").await;
    // Not the same rooms again: a node keeps those for a moment.
    for (outcome, rooms) in [(Subscribing::Honest, ["r", "s"]), (Subscribing::Refused, ["t", "u"])] {
        let mut wire = Wire::connect(&a).await;
        lies.subscribing(Subscribing::Held);
        wire.send_all(&[
            &format!(r#"420["join","{}"]"#, rooms[0]),
            &format!(r#"421["join","{}"]"#, rooms[1]),
            &format!(r#"422["publish",{{"room":"{}","data":"first","echo":true}}]"#, rooms[0]),
            r#"423["publish",{"room":"all","data":"second"}]"#,
        ])
        .await;
        lies.until_held().await;
        // Whoever waits for nothing is not held up by those who do.
        let other = listener.socket();
        ask_ok(other, "publish", json!({ "room": "all", "data": "meanwhile", "echo": true })).await;
        assert_eq!(next(other).await.args[0], "meanwhile", "nothing has overtaken the join");
        lies.subscribing(outcome);
        assert_eq!(next(other).await.args[0], "second");
        let mut texts = Vec::new();
        while !texts.iter().any(|text: &String| text.starts_with("433[")) {
            texts.push(wire.text().await);
        }
        let position = |start: &str| texts.iter().position(|text| text.starts_with(start));
        let joined = if outcome == Subscribing::Honest { r#"430[{"ok":true"# } else { r#"430[{"ok":false"# };
        assert!(position(joined).unwrap() < position(r#"432[{"ok":true"#).unwrap(), "{texts:#?}");
        if outcome == Subscribing::Honest {
            // The join of the second room may be in a batch of its own.
            if position(r#"42["message","first""#).is_none() {
                texts.push(wire.text().await);
            }
            let position = |start: &str| texts.iter().position(|text| text.starts_with(start));
            assert!(position("430[").unwrap() < position(r#"42["message","first""#).unwrap(), "{texts:#?}");
        }
        lies.subscribing(Subscribing::Honest);
        wire.send("41").await;
        a.until_metric("tidegate_sessions{namespace=\"/\"}", 1).await;
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_cannot_be_subscribed_is_none() {
    let (cluster, a, lies) = lying(options("a")).await;
    lies.subscribing(Subscribing::Refused);
    let mut wire = Wire::open(&a).await;
    wire.send("40").await;
    assert_eq!(wire.next().await, Frame::Close(None), "no CONNECT_ERROR, which would be final");
    assert_eq!(a.metric("tidegate_sessions{namespace=\"/\"}"), 0);

    // A break that comes while CONNECT waits for its subscription counts as well.
    lies.subscribing(Subscribing::Held);
    let mut wire = Wire::open(&a).await;
    wire.send("40").await;
    lies.until_held().await;
    lies.swallow_pulses(true);
    lies.lost();
    lies.subscribing(Subscribing::Honest);
    assert_eq!(wire.next().await, Frame::Close(None));
    assert_eq!(a.metric("tidegate_sessions{namespace=\"/\"}"), 0);

    lies.whole(2);
    lies.swallow_pulses(false);
    eventually("an echo", || a.node.readiness().is_ok()).await;
    let client = a.websocket().await;
    ask_ok(client.socket(), "broadcast", json!({ "data": "hello", "echo": true })).await;
    assert_eq!(next(client.socket()).await.args[0], "hello");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_that_the_broker_refuses_is_unavailable() {
    let (cluster, a, lies) = lying(options("a")).await;
    let client = a.websocket().await;
    ask_ok(client.socket(), "join", "r").await;
    lies.refuse_publications(true);
    let message = json!({ "room": "r", "data": "lost", "echo": true });
    assert_eq!(ask_refused(client.socket(), "publish", message.clone()).await, "unavailable");
    assert_eq!(ask_refused(client.socket(), "broadcast", message.clone()).await, "unavailable");
    client.socket().emit("publish", &[message.into()]).await.unwrap();
    a.until_metric("tidegate_operations_total{code=\"unavailable\",operation=\"publish\"}", 2).await;
    assert_eq!(a.metric("tidegate_operations_total{code=\"unavailable\",operation=\"broadcast\"}"), 1);
    lies.refuse_publications(false);
    ask_ok(client.socket(), "publish", json!({ "room": "r", "data": "heard", "echo": true })).await;
    assert_eq!(next(client.socket()).await.args[0], "heard");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_for_what_clients_have_begun() {
    let (cluster, lies) = (Cluster::new(Backend::Memory), Lies::new());
    let a = cluster.add_lying(options("a"), &lies, PATIENCE).await.unwrap();
    let (patient, idle) = (a.websocket().await, a.websocket().await);
    let polling = a.connect(Parser::Text, Transports::Polling).await;
    ask_ok(idle.socket(), "join", "r").await;
    lies.keep_answers(true);
    let publish = async |socket: &Socket| {
        ask_ok(socket, "publish", json!({ "room": "r", "data": "last" })).await;
        assert_eq!(within("the end", socket.ended()).await, Reason::TransportClose);
    };
    let drain = async {
        lies.until_kept(2).await;
        let others = async {
            // Who has nothing under way is let go, and hears what the others have published.
            assert_eq!(next(idle.socket()).await.args[0], "last");
            assert_eq!(next(idle.socket()).await.args[0], "last");
            assert_eq!(within("the end", idle.socket().ended()).await, Reason::TransportClose);
            assert_eq!(a.metric("tidegate_connections{transport=\"polling\"}"), 1);
            lies.keep_answers(false);
        };
        tokio::join!(within("the drain", a.node.drain()), others);
    };
    tokio::join!(publish(patient.socket()), publish(polling.socket()), drain);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_for_joins() {
    let (cluster, lies) = (Cluster::new(Backend::Memory), Lies::new());
    let a = cluster.add_lying(options("a"), &lies, PATIENCE).await.unwrap();
    let client = a.websocket().await;
    lies.subscribing(Subscribing::Held);
    let join = async {
        ask_ok(client.socket(), "join", "r").await;
        assert_eq!(within("the end", client.socket().ended()).await, Reason::TransportClose);
    };
    let drain = async {
        lies.until_held().await;
        let others = async {
            eventually("the node to drain", || a.node.readiness().is_err()).await;
            lies.subscribing(Subscribing::Honest);
        };
        tokio::join!(within("the drain", a.node.drain()), others);
    };
    tokio::join!(join, drain);
    cluster.shutdown().await;
}

/// An answer that does not come must not hold the node up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_for_no_answer_longer_than_it_may_take() {
    let (cluster, lies) = (Cluster::new(Backend::Memory), Lies::new());
    let drain = DrainOptions { timeout: Duration::from_secs(1), connections_per_second: 0 };
    let a = cluster.add_lying(Options { drain, ..options("a") }, &lies, PATIENCE).await.unwrap();
    let client = a.websocket().await;
    lies.keep_answers(true);
    let message = [json!({ "room": "r", "data": 1 }).into()];
    let publish = client.socket().emit_with_ack("publish", &message, PATIENCE);
    let drain = async {
        lies.until_kept(1).await;
        within("the drain", a.node.drain()).await;
    };
    let (answer, ()) = tokio::join!(publish, drain);
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(within("the end", client.socket().ended()).await, Reason::TransportClose);
    // It was closed, and not only left behind.
    assert_eq!(a.metric("tidegate_disconnects_total{reason=\"server shutting down\"}"), 1);
    cluster.shutdown().await;
}

fn conflict() -> PulseError {
    PulseError::Conflict { incarnation: "other".to_owned(), lease_left: Duration::from_secs(10) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_taken_ends_the_node() {
    let (cluster, lies) = (Cluster::new(Backend::Memory), Lies::new());
    lies.fail_pulses(Some(conflict()));
    let refused = cluster.add_lying(options("a"), &lies, PATIENCE).await.err().unwrap();
    assert!(matches!(&refused, StartError::Pulse(fault) if *fault == conflict()), "{refused}");

    lies.fail_pulses(None);
    let a = cluster.add_lying(options("a"), &lies, PATIENCE).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(1), a.node.fatal()).await;
    assert!(early.is_err(), "{early:?}");
    // A broker that is away is no conflict.
    lies.fail_pulses(Some(PulseError::Unavailable));
    let failed = "tidegate_lease_renewals_total{result=\"failed\"}";
    eventually("a pulse to fail", || a.metric(failed) > 0).await;
    lies.fail_pulses(Some(conflict()));
    assert_eq!(within("the end", a.node.fatal()).await, conflict());
    assert_eq!(within("the same again", a.node.fatal()).await, conflict());
    assert_eq!(a.metric("tidegate_lease_renewals_total{result=\"conflict\"}"), 1);
    cluster.shutdown().await;
}

async fn of_two_nodes_with_one_name_the_second_does_not_start(backend: Backend) {
    let cluster = Cluster::new(backend);
    let a = cluster.add(options("same")).await;
    let refused = cluster.try_add(options("same"), any_port().await).await.err().unwrap();
    assert!(matches!(&refused, StartError::Pulse(PulseError::Conflict { .. })), "{refused}");
    // The first goes on, and its name is free when it has gone.
    let client = a.websocket().await;
    ask_ok(client.socket(), "heartbeat", json!({})).await;
    within("the drain", a.node.drain()).await;
    let again = cluster.add(options("same")).await;
    again.websocket().await.close().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_has_one_holder_in_memory() {
    of_two_nodes_with_one_name_the_second_does_not_start(Backend::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_has_one_holder_on_redis() {
    of_two_nodes_with_one_name_the_second_does_not_start(Backend::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_never_hears_itself_does_not_start() {
    let (cluster, lies) = (Cluster::new(Backend::Memory), Lies::new());
    lies.swallow_pulses(true);
    let limit = Duration::from_millis(200);
    let refused = cluster.add_lying(options("a"), &lies, limit).await.err().unwrap();
    assert!(matches!(refused, StartError::Silent(after) if after == limit), "{refused}");
    // Nothing is left of it, its lease included.
    lies.swallow_pulses(false);
    cluster.add_lying(options("a"), &lies, PATIENCE).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_ends_when_the_broker_goes_away_after_a_predecessors_lease_was_seen() {
    let (cluster, lies) = (Cluster::new(Backend::Memory), Lies::new());
    let left = Duration::from_millis(100);
    lies.fail_pulses(Some(PulseError::Conflict { incarnation: "dead".to_owned(), lease_left: left }));
    let mut slow = options("a");
    // One conflict, and from the second beat on nothing answers.
    slow.pulse.interval = Duration::from_millis(500);
    let limit = Duration::from_secs(1);
    let away = async {
        lies.pulse_failed().await;
        lies.fail_pulses(Some(PulseError::Unavailable));
    };
    let start = tokio::time::timeout(PATIENCE, cluster.add_lying(slow, &lies, limit));
    let (started, ()) = tokio::join!(start, away);
    let refused = started.expect("start() gives up once the lease it waits for has ended").err().unwrap();
    assert!(matches!(refused, StartError::Silent(_)), "{refused}");
    within("the shutdown", cluster.shutdown()).await;
}
