//! What a node refuses, drops and closes, and that it counts it: end to end, and without harm to anybody else.

#![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

use std::time::{Duration, Instant, SystemTime};

use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use tidegate_client::raw::{self, Message};
use tidegate_client::{Client, Error, Reason, Signal, Transports, Value};
use tidegate_gateway::Options;
use tidegate_gateway::auth::{Authenticator, Grants, Key, Verifier, VerifierOptions};
use tidegate_gateway::tls::Credentials;
use tidegate_test::cluster::{
    Backend, Cluster, Server, ask, ask_ok, ask_refused, connect, credentials, eventually, next, next_signal,
    options, retried, within,
};
use tidegate_test::wire::{Frame, Polling, Wire};

const WEBSOCKETS: &str = "tidegate_connections{transport=\"websocket\"}";
const POLLINGS: &str = "tidegate_connections{transport=\"polling\"}";
const SLOW_CONSUMERS: &str = "tidegate_disconnects_total{reason=\"slow consumer\"}";
const VOLATILE_DROPPED: &str = "tidegate_dropped_total{reason=\"volatile\"}";
const OUTBOX_BYTES: &str = "tidegate_outbox_bytes";

/// More rounds than the buffers of the system between two sockets can take.
const ROUNDS_MAX: i64 = 2_000;

async fn only(options: Options) -> (Cluster, Server) {
    let cluster = Cluster::new(Backend::Memory);
    let server = cluster.add(options).await;
    (cluster, server)
}

async fn a_slow_consumer_is_closed_and_nobody_else_notices(backend: Backend, tls: Option<Credentials>) {
    let cluster = Cluster::new(backend);
    let a = cluster.add(options("a")).await;
    let mut limited = options("b");
    limited.server.tls = tls;
    limited.limits.outbox_bytes_max = 256 * 1024;
    let b = cluster.add(limited).await;

    let publisher = a.websocket().await;
    let reader = b.websocket().await;
    ask_ok(reader.socket(), "join", "r").await;
    let server = raw::Server::new(&b.client()).unwrap();
    let mut sleeper = within("a connection", raw::Connection::connect(&server, "/", None)).await.unwrap();
    sleeper.emit("/", "join", &["r".into()], Some(0));
    let mut joined = false;
    while !joined {
        let read = sleeper.read(|message| joined = message == Message::Text(r#"30[{"ok":true}]"#));
        within("the join", read).await.unwrap();
    }

    // From here on it reads nothing more.
    let publish = async |event: &str, number: i64, padding: usize| {
        let data = json!({ "number": number, "padding": "x".repeat(padding) });
        let message = json!({ "room": "r", "event": event, "data": data, "volatile": event == "volatile" });
        ask_ok(publisher.socket(), "publish", message).await;
        // One at a time, so that the reader has no reason to fall behind.
        let heard = next(reader.socket()).await;
        assert_eq!((heard.name.as_str(), &heard.args[0]["number"]), (event, &Value::Int(number)));
    };
    let (mut said, mut volatile) = (0, 0);
    while b.metric(VOLATILE_DROPPED) < 5 {
        assert!(said + volatile < ROUNDS_MAX, "the sleeper's socket takes everything");
        // The system may take more after all, some time after it has refused to.
        if b.metric(OUTBOX_BYTES) < 100_000 {
            publish("message", said, 60_000).await;
            said += 1;
        } else {
            // Dropped there and then, and not once the outbox is full of them.
            assert!(volatile < 200, "volatile messages wait behind what the socket does not take");
            publish("volatile", volatile, 100).await;
            volatile += 1;
        }
    }
    assert_eq!(b.metric(SLOW_CONSUMERS), 0, "volatile messages go before the connection does");
    while b.metric(SLOW_CONSUMERS) == 0 {
        assert!(said < ROUNDS_MAX, "the outbox has no bound");
        publish("message", said, 60_000).await;
        said += 1;
    }
    b.until_metric(OUTBOX_BYTES, 0).await;
    b.until_metric("tidegate_sessions{namespace=\"/\"}", 1).await;
    b.until_metric(WEBSOCKETS, 1).await;
    assert_eq!((b.metric(SLOW_CONSUMERS), a.metric(SLOW_CONSUMERS)), (1, 0));
    for number in 0..5 {
        publish("after", number, 100).await;
    }

    // What had left before is what was said, in order and without a gap, and then the transport is gone.
    let mut heard = 0;
    let reason = loop {
        let read = sleeper.read(|message| {
            let Message::Text(text) = message else { panic!("{message:?}") };
            if text.starts_with(r#"2["volatile","#) {
                return;
            }
            let start = format!(r#"2["message",{{"number":{heard},"#);
            assert!(text.starts_with(&start), "{start} expected, {text:.60} found");
            heard += 1;
        });
        if let Err(reason) = within("the end", read).await {
            break reason;
        }
    };
    assert!(matches!(reason, Reason::TransportClose | Reason::TransportError), "{reason}");
    assert!((1..said).contains(&heard), "{heard} of {said}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_consumer_is_closed_in_memory() {
    a_slow_consumer_is_closed_and_nobody_else_notices(Backend::Memory, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_consumer_is_closed_on_redis() {
    a_slow_consumer_is_closed_and_nobody_else_notices(Backend::Redis, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_consumer_is_closed_over_tls() {
    a_slow_consumer_is_closed_and_nobody_else_notices(Backend::Memory, Some(credentials())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn for_a_client_that_does_not_poll_volatile_messages_make_room_first() {
    let mut limited = options("a");
    limited.limits.outbox_bytes_max = 64_000;
    let (cluster, a) = only(limited).await;
    let silent = Polling::connect(&a).await;
    assert_eq!(silent.post(r#"420["join","r"]"#).await.0, 200);
    assert_eq!(silent.get().await, (200, r#"430[{"ok":true}]"#.to_owned()));
    let publisher = a.websocket().await;
    let reader = a.websocket().await;
    ask_ok(reader.socket(), "join", "r").await;
    let publish = async |number: i64, volatile: bool| {
        let data = json!({ "number": number, "padding": "x".repeat(10_000) });
        ask_ok(publisher.socket(), "publish", json!({ "room": "r", "data": data, "volatile": volatile }))
            .await;
        assert_eq!(next(reader.socket()).await.args[0]["number"], Value::Int(number));
    };
    let waits = async |bytes: std::ops::Range<i64>| {
        eventually(format!("{bytes:?} to wait"), || bytes.contains(&a.metric(OUTBOX_BYTES))).await;
    };
    for (number, volatile) in [(0, true), (1, false), (2, true), (3, false), (4, true), (5, false)] {
        publish(number, volatile).await;
    }
    waits(60_000..64_000).await;
    assert_eq!(a.metric(VOLATILE_DROPPED), 0);
    publish(6, false).await;
    a.until_metric(VOLATILE_DROPPED, 3).await;
    for number in [7, 8] {
        publish(number, false).await;
    }
    waits(60_000..64_000).await;
    // No room, and nothing that may go for it but itself.
    publish(9, true).await;
    a.until_metric(VOLATILE_DROPPED, 4).await;
    let (status, payload) = silent.get().await;
    assert_eq!(status, 200);
    let numbers: Vec<_> = payload
        .split('\u{1e}')
        .map(|packet| packet.strip_prefix(r#"42["message",{"number":"#).unwrap().split(',').next().unwrap())
        .collect();
    assert_eq!(numbers, ["1", "3", "5", "6", "7", "8"]);
    assert_eq!((a.metric(OUTBOX_BYTES), a.metric(SLOW_CONSUMERS)), (0, 0));

    for number in 10..17 {
        publish(number, false).await;
    }
    a.until_metric(SLOW_CONSUMERS, 1).await;
    a.until_metric(OUTBOX_BYTES, 0).await;
    a.until_metric(POLLINGS, 0).await;
    assert_eq!(silent.get().await.0, 400, "the session is gone");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_in_so_many_rooms() {
    let mut limited = options("a");
    limited.limits.rooms_per_session_max = 3;
    let (cluster, a) = only(limited).await;
    let (client, other) = (a.websocket().await, a.websocket().await);
    for room in ["1", "2", "3"] {
        ask_ok(client.socket(), "join", room).await;
    }
    assert_eq!(ask_refused(client.socket(), "join", "4").await, "too_large");
    ask_ok(client.socket(), "join", "3").await;
    ask_ok(other.socket(), "join", "4").await;
    // What was refused left nothing behind.
    ask_ok(other.socket(), "publish", json!({ "room": "4", "data": "not here" })).await;
    ask_ok(client.socket(), "leave", "2").await;
    ask_ok(client.socket(), "join", "4").await;
    assert_eq!(ask_refused(client.socket(), "join", "2").await, "too_large");
    ask_ok(other.socket(), "publish", json!({ "room": "4", "data": "here" })).await;
    assert_eq!(next(client.socket()).await.args[0], "here");
    // Another namespace is another session.
    let chat = client.namespace("/chat", None).await.unwrap();
    ask_ok(&chat, "join", "4").await;
    assert_eq!(a.metric("tidegate_rooms{namespace=\"/\"}"), 3);
    assert_eq!(a.metric("tidegate_operations_total{code=\"too_large\",operation=\"join\"}"), 2);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_have_so_many_bytes() {
    let mut limited = options("a");
    limited.limits.name_bytes_max = 8;
    let (cluster, a) = only(limited).await;
    let client = a.websocket().await;
    ask_ok(client.socket(), "join", "größer").await;
    for bad in ["größerer", "", "ninebytes"] {
        assert_eq!(ask_refused(client.socket(), "join", bad).await, "bad_request", "{bad:?}");
        let publication = json!({ "room": "größer", "event": bad });
        assert_eq!(ask_refused(client.socket(), "publish", publication).await, "bad_request", "{bad:?}");
    }
    let refused = client.namespace("/ninebytes", None).await.unwrap_err();
    assert!(
        matches!(&refused, Error::ConnectError { message, .. } if message == "Invalid namespace"),
        "{refused}"
    );
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_beyond_the_rate_are_refused_and_heartbeats_are_not() {
    const BURST: i64 = 5;
    let mut limited = options("a");
    (limited.limits.events_per_second_max, limited.limits.events_burst) = (1, 5);
    let (cluster, a) = only(limited).await;
    let listener = a.websocket().await;
    ask_ok(listener.socket(), "join", "r").await;

    let mut wire = Wire::connect(&a).await;
    let (started, mut packets) = (Instant::now(), Vec::new());
    for number in 0..20 {
        packets.push(format!(r#"42{number}["publish",{{"room":"r","data":{number}}}]"#));
        packets.push(format!(r#"42{}["heartbeat"]"#, 100 + number));
    }
    // Without an acknowledgement nobody is answered, and what is dropped is counted.
    packets.extend((20..30).map(|number| format!(r#"42["publish",{{"room":"r","data":{number}}}]"#)));
    packets.push(r#"42200["heartbeat"]"#.to_owned());
    wire.send_all(&packets.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let (mut accepted, mut limited, mut beats) = (Vec::new(), 0, 0);
    while beats < 21 {
        let text = wire.text().await;
        let (id, answer) = text.strip_prefix("43").and_then(|text| text.split_once('[')).unwrap();
        let id: i64 = id.parse().unwrap();
        if id >= 100 {
            assert!(answer.contains(r#""ok":true"#), "{text}");
            beats += 1;
        } else if answer.contains(r#""ok":true"#) {
            accepted.push(id);
        } else {
            assert!(answer.contains(r#""code":"rate_limited""#), "{text}");
            limited += 1;
        }
    }
    let refilled = started.elapsed().as_secs() as i64 + 1;
    assert!(accepted.starts_with(&[0, 1, 2, 3, 4]), "{accepted:?}");
    assert!(accepted.len() as i64 <= BURST + refilled, "{accepted:?}");
    assert_eq!(accepted.len() as i64 + limited, 20);
    let dropped = a.metric("tidegate_dropped_total{reason=\"rate_limited\"}");
    assert!((10 - refilled..=10).contains(&dropped), "{dropped}");
    let refused = a.metric("tidegate_operations_total{code=\"rate_limited\",operation=\"publish\"}");
    assert_eq!(refused, limited + dropped);

    // It passes, it is no punishment, and one connection's rate is not another's.
    retried("the bucket to fill", async || {
        wire.send(r#"42300["publish",{"room":"r","data":"late"}]"#).await;
        let text = wire.text().await;
        if text.contains(r#""ok":true"#) { Ok(()) } else { Err(text) }
    })
    .await;
    let other = a.websocket().await;
    for _ in 0..BURST {
        ask_ok(other.socket(), "publish", json!({ "room": "r", "data": "other" })).await;
    }
    let mut heard = Vec::new();
    while heard.last() != Some(&Value::from("late")) {
        heard.push(next(listener.socket()).await.args[0].clone());
    }
    assert_eq!(heard.len() as i64, accepted.len() as i64 + (10 - dropped) + 1, "{heard:?}");
    drop(wire);
    cluster.shutdown().await;
}

/// Whether a client of this transport gets in.
async fn get_in(server: &Server, transports: Transports, address: &str) -> Result<Client, Error> {
    let options = server.client().transports(transports).header("x-forwarded-for", address);
    Client::connect(options, "/").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_have_a_limit_and_places_are_given_back() {
    let mut limited = options("a");
    limited.server.connections_max = 2;
    let (cluster, a) = only(limited).await;
    let mut refusals = 0;
    for transports in [Transports::WebSocket, Transports::Polling, Transports::Default] {
        let one = retried("the first place", || get_in(&a, transports, "1.1.1.1")).await;
        let two = retried("the second place", || get_in(&a, Transports::WebSocket, "2.2.2.2")).await;
        refusals = a.metric("tidegate_handshakes_refused_total{reason=\"connections_max\"}").max(refusals);
        for refused in [Transports::WebSocket, Transports::Polling] {
            let refused = get_in(&a, refused, "3.3.3.3").await.unwrap_err();
            let Error::Refused { status: 503, body } = &refused else { panic!("{refused}") };
            assert!(body.contains(r#""code":"unavailable""#), "{body}");
            refusals += 1;
        }
        assert_eq!(a.metric("tidegate_handshakes_refused_total{reason=\"connections_max\"}"), refusals);
        // Whoever is in is served, and a place is given back by a goodbye as by a death.
        ask_ok(one.socket(), "heartbeat", json!({})).await;
        one.close().await;
        let three = retried("a place after a goodbye", || get_in(&a, transports, "3.3.3.3")).await;
        two.abort().await;
        let four = retried("a place after a death", || get_in(&a, Transports::WebSocket, "4.4.4.4")).await;
        three.close().await;
        four.close().await;
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_has_so_many_connections() {
    let mut limited = options("a");
    limited.limits.connections_per_ip_max = 2;
    limited.server.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let (cluster, a) = only(limited).await;
    for transports in [Transports::WebSocket, Transports::Polling] {
        let one = get_in(&a, transports, "1.1.1.1").await.unwrap();
        let _two = retried("the second place", || get_in(&a, transports, "6.6.6.6, 1.1.1.1")).await;
        let refused = get_in(&a, transports, "1.1.1.1").await.unwrap_err();
        assert!(matches!(&refused, Error::Refused { status: 503, .. }), "{refused}");
        let _other = get_in(&a, transports, "6.6.6.6").await.unwrap();
        one.close().await;
        let again = retried("the place", || get_in(&a, transports, "1.1.1.1")).await;
        again.close().await;
        _two.close().await;
        _other.close().await;
        a.until_metric("tidegate_sessions{namespace=\"/\"}", 0).await;
        a.until_metric(WEBSOCKETS, 0).await;
        a.until_metric(POLLINGS, 0).await;
    }
    assert!(a.metric("tidegate_handshakes_refused_total{reason=\"connections_per_ip_max\"}") >= 2);
    cluster.shutdown().await;
}

/// A text packet of exactly `bytes` bytes, Engine.IO's type included: an event that is acknowledged.
fn heartbeat_of(bytes: usize) -> String {
    let (head, tail) = (r#"420["heartbeat",""#, r#""]"#);
    format!("{head}{}{tail}", "x".repeat(bytes - head.len() - tail.len()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_too_large_ends_its_connection_only() {
    const MAX: usize = 30_000;
    let mut limited = options("a");
    limited.engine.payload_bytes_max = MAX;
    let (cluster, a) = only(limited).await;
    let neighbour = a.websocket().await;

    let mut wire = Wire::connect(&a).await;
    wire.send(&heartbeat_of(MAX)).await;
    assert!(wire.text().await.starts_with(r#"430[{"ok":true"#));
    wire.send(&heartbeat_of(MAX + 1)).await;
    assert_eq!(wire.next().await, Frame::Close(Some(1009)));
    drop(wire);
    a.until_metric("tidegate_disconnects_total{reason=\"transport error\"}", 1).await;

    // On polling it is one request that is refused, as by stock servers.
    let polling = Polling::connect(&a).await;
    assert_eq!(polling.post(&heartbeat_of(MAX + 1)).await.0, 413);
    assert_eq!(polling.post(&heartbeat_of(MAX)).await, (200, "ok".to_owned()));
    assert!(polling.get().await.1.starts_with(r#"430[{"ok":true"#));
    polling.close().await;
    ask_ok(neighbour.socket(), "heartbeat", json!({})).await;
    cluster.shutdown().await;
}

const SECRET: &str = "a secret that is long enough for a test";

/// Options of a node that wants tokens.
fn with_tokens() -> Options {
    let key = Key::Secret(SECRET.to_owned());
    let default_grants = Grants::all();
    let verifier = VerifierOptions { key, issuer: None, audience: None, default_grants };
    Options { auth: Authenticator::Jwt(Box::new(Verifier::new(verifier).unwrap())), ..options("a") }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// A token of `user` that expires at `exp`, in Unix seconds.
fn token(user: &str, exp: u64) -> String {
    let claims = json!({ "sub": user, "exp": exp });
    jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_known_yet_may_say_little() {
    const MAX: usize = 16 * 1024;
    let (cluster, a) = only(with_tokens()).await;
    let token = token("ann", unix_s() + 600);
    let connect_of = |bytes: usize| {
        let (head, tail) = (format!(r#"40{{"token":"{token}","padding":""#), r#""}"#);
        format!("{head}{}{tail}", "x".repeat(bytes - head.len() - tail.len()))
    };

    let mut wire = Wire::open(&a).await;
    wire.send(&connect_of(MAX + 1)).await;
    assert_eq!(wire.next().await, Frame::Close(Some(1009)));
    drop(wire);

    let mut wire = Wire::open(&a).await;
    // The larger message is behind CONNECT in the same bytes, and waits for the answer like everything else.
    wire.send_all(&[&connect_of(MAX), &heartbeat_of(100_000)]).await;
    assert!(wire.text().await.starts_with("40{"));
    assert!(wire.text().await.starts_with(r#"430[{"ok":true"#));
    wire.send(&heartbeat_of(200_000)).await;
    assert!(wire.text().await.starts_with(r#"430[{"ok":true"#));

    // A refusal leaves the client where it was.
    let mut wire = Wire::open(&a).await;
    wire.send(r#"40{"token":"nonsense"}"#).await;
    let refused = wire.text().await;
    assert!(refused.starts_with("44{") && refused.contains(r#""code":"unauthorized""#), "{refused}");
    wire.send(&connect_of(MAX + 1)).await;
    assert_eq!(wire.next().await, Frame::Close(Some(1009)));

    let polling = Polling::open(&a).await;
    assert_eq!(polling.post(&connect_of(MAX + 1)).await.0, 413);
    assert_eq!(polling.post(&connect_of(MAX)).await.0, 200);
    assert!(polling.get().await.1.starts_with("40{"));
    assert_eq!(polling.post(&heartbeat_of(100_000)).await.0, 200);
    assert!(polling.get().await.1.starts_with(r#"430[{"ok":true"#));
    polling.close().await;
    drop(wire);

    // And a client that moves from one transport to the other meanwhile takes the right bound along.
    let client = connect(a.client().auth(json!({ "token": token })), "/").await;
    within("the upgrade", client.transport_is(tidegate_protocol::engineio::Transport::WebSocket))
        .await
        .unwrap();
    ask_ok(client.socket(), "heartbeat", "x".repeat(100_000)).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transport_that_says_nothing_is_closed() {
    let mut limited = options("a");
    limited.engine.connect_timeout = Duration::from_millis(200);
    let (cluster, a) = only(limited).await;
    let member = a.websocket().await;
    let mut wire = Wire::open(&a).await;
    let polling = Polling::open(&a).await;
    assert_eq!(wire.next().await, Frame::Close(None));
    assert_eq!(wire.next().await, Frame::End);
    // Alone for a poll that was pending, behind a noop for one that came later.
    let (status, payload) = polling.get().await;
    assert!(status == 200 && matches!(payload.as_str(), "1" | "6\u{1e}1"), "{status} {payload:?}");
    assert_eq!(polling.get().await.0, 400);
    a.until_metric("tidegate_disconnects_total{reason=\"forced close\"}", 2).await;
    a.until_metric(POLLINGS, 0).await;
    a.until_metric(WEBSOCKETS, 1).await;
    // Who has joined once may be without a namespace later.
    ask_ok(member.socket(), "heartbeat", json!({})).await;
    let mut idle = Wire::connect(&a).await;
    idle.send("41").await;
    a.until_metric("tidegate_disconnects_total{reason=\"client namespace disconnect\"}", 1).await;
    idle.send("40/chat,").await;
    assert!(idle.text().await.starts_with("40/chat,{"));
    drop(idle);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_owes_a_pong_is_closed_and_who_answers_is_not() {
    let mut limited = options("a");
    limited.engine.ping_interval = Duration::from_millis(500);
    limited.engine.ping_timeout = Duration::from_millis(500);
    let (cluster, a) = only(limited).await;
    let mut alive = Wire::connect(&a).await;
    let mut dead = Wire::connect(&a).await;
    let polling = Polling::connect(&a).await;
    let mut pings = 0;
    // For longer than the other two can live: until the node has missed both.
    while a.metric("tidegate_disconnects_total{reason=\"ping timeout\"}") < 2 {
        assert_eq!(alive.next().await, Frame::Text("2".to_owned()));
        alive.send("3").await;
        pings += 1;
    }
    assert!(pings >= 2, "{pings}");
    assert_eq!(dead.next().await, Frame::Text("2".to_owned()), "one ping, and no second before the pong");
    assert!(matches!(dead.next().await, Frame::Close(_) | Frame::End));
    a.until_metric(POLLINGS, 0).await;
    assert_eq!(polling.get().await.0, 400, "the session is gone");
    alive.send(r#"420["heartbeat"]"#).await;
    assert!(alive.text().await.starts_with(r#"430[{"ok":true"#));
    a.until_metric(WEBSOCKETS, 1).await;
    a.until_metric(POLLINGS, 0).await;
    drop(alive);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_follows_a_pong_however_long_the_timeout_is() {
    let mut brisk = options("a");
    brisk.engine.ping_interval = Duration::from_millis(100);
    brisk.engine.ping_timeout = Duration::from_secs(30);
    let (cluster, a) = only(brisk).await;
    let mut wire = Wire::connect(&a).await;
    for _ in 0..3 {
        // Were the next ping to wait for the last one's timeout, nobody here would wait that long.
        assert_eq!(wire.next().await, Frame::Text("2".to_owned()));
        wire.send("3").await;
    }
    drop(wire);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_with_its_token() {
    let (cluster, a) = only(with_tokens()).await;
    let client = || a.client().transports(Transports::WebSocket);
    let refused = Client::connect(client(), "/").await.unwrap_err();
    assert!(
        matches!(&refused, Error::ConnectError { data, .. } if data["code"] == "unauthorized"),
        "{refused}"
    );
    let old = client().auth(json!({ "token": token("ann", unix_s() - 60) }));
    let refused = Client::connect(old, "/").await.unwrap_err();
    assert!(
        matches!(&refused, Error::ConnectError { data, .. } if data["code"] == "token_expired"),
        "{refused}"
    );

    // Honoured for five seconds more, which leaves one or two.
    let short = |device: &str| json!({ "token": token("ann", unix_s() - 3), "device": device });
    let long = json!({ "token": token("bob", unix_s() + 600) });
    let mut ending = Vec::new();
    for (transports, device) in [(Transports::WebSocket, "one"), (Transports::Polling, "two")] {
        ending.push(connect(a.client().transports(transports).auth(short(device)), "/").await);
    }
    let staying = connect(a.client().auth(long.clone()), "/").await;
    // Two tokens on one transport: the namespace of the one ends, and the other goes on.
    let both = connect(a.client().transports(Transports::WebSocket).auth(short("three")), "/").await;
    for client in ending.iter().chain([&staying, &both]) {
        ask_ok(client.socket(), "join", "r").await;
    }
    for client in ending.iter().chain([&both]) {
        let event = next(client.socket()).await;
        assert_eq!(
            (event.name.as_str(), &event.args[0]),
            ("evicted", &json!({ "reason": "expired" }).into())
        );
        let signal = next_signal(client.socket()).await;
        assert!(matches!(signal, Signal::Disconnected(Reason::IoServerDisconnect)), "{signal:?}");
        assert_eq!(within("the end", client.socket().ended()).await, Reason::IoServerDisconnect);
    }
    assert_eq!(a.metric("tidegate_evictions_total{reason=\"expired\"}"), 3);
    assert_eq!(a.metric("tidegate_disconnects_total{reason=\"server namespace disconnect\"}"), 3);
    assert_eq!(a.metric("tidegate_sessions{namespace=\"/\"}"), 1);
    ask_ok(staying.socket(), "publish", json!({ "room": "r", "echo": true, "data": "still here" })).await;
    assert_eq!(next(staying.socket()).await.args[0], "still here");
    let answer = ask(staying.socket(), "heartbeat", json!({})).await;
    assert_eq!(answer["ok"], Value::Bool(true));
    // Their clients hang up by themselves.
    a.until_metric(WEBSOCKETS, 1).await;
    a.until_metric(POLLINGS, 0).await;
    cluster.shutdown().await;
}
