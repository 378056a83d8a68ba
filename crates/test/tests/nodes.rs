//! Whole nodes, by what their clients see: joined in memory, and over a real Redis.

#![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tidegate_client::raw::{self, Message};
use tidegate_client::{Client, Error, Event, Parser, Reason, Reconnect, Signal, Transports, Value};
use tidegate_gateway::{DrainOptions, Options};
use tidegate_test::cluster::{
    Backend, Cluster, Server, ask_ok, connect, eventually, lasting_port, listen_again, next, next_signal,
    options, within,
};
use tidegate_test::wire::{Polling, Wire};
use tokio::task::JoinSet;

tidegate_test::on_both! {
    a_client_is_in_two_namespaces_at_once,
    a_client_that_dies_leaves_nothing_behind,
    a_drain_is_paced_and_refuses_newcomers,
    a_join_that_is_acknowledged_holds_everywhere,
    a_volatile_message_reaches_whoever_keeps_up,
    after_a_drain_clients_come_back_to_the_same_name,
    leaving_ends_delivery,
    messages_of_one_publisher_arrive_once_and_in_order,
    messages_of_several_publishers_keep_each_ones_order,
    namespaces_are_apart,
    the_sender_hears_itself_only_when_it_asks_to,
    values_cross_parsers_and_nodes,
    what_follows_a_join_waits_for_it,
}

const KINDS: [(Parser, Transports); 6] = [
    (Parser::Text, Transports::WebSocket),
    (Parser::MessagePack, Transports::WebSocket),
    (Parser::Text, Transports::Polling),
    (Parser::MessagePack, Transports::Polling),
    (Parser::Text, Transports::Default),
    (Parser::MessagePack, Transports::Default),
];

/// A member of room `r` for each kind of client.
async fn members(server: &Server, kinds: &[(Parser, Transports)]) -> Vec<Client> {
    let mut members = Vec::new();
    for (parser, transports) in kinds {
        let client = server.connect(*parser, *transports).await;
        ask_ok(client.socket(), "join", "r").await;
        members.push(client);
    }
    members
}

/// What the event is called and its first argument.
fn said(event: &Event) -> (&str, &Value) {
    (&event.name, &event.args[0])
}

async fn messages_of_one_publisher_arrive_once_and_in_order(backend: Backend) {
    const COUNT: i64 = 2_000;
    let (cluster, a, b) = Cluster::pair(backend).await;
    let mut receivers = members(&b, &KINDS).await;
    receivers.extend(members(&a, &KINDS[..3]).await);
    for parser in [Parser::Text, Parser::MessagePack] {
        let options = a.client().parser(parser).transports(Transports::WebSocket);
        let publisher = connect(options.auth(json!({ "user": "ann" })), "/").await;
        let publishing = async {
            for number in 0..COUNT {
                let message = json!({ "room": "r", "event": "n", "data": number });
                publisher.socket().emit("publish", &[message.into()]).await.unwrap();
            }
            ask_ok(publisher.socket(), "publish", json!({ "room": "r", "event": "end", "data": 0 })).await;
        };
        let receiving = join_all(receivers.iter().map(|receiver| async {
            let mut ids = HashSet::new();
            for number in 0..COUNT {
                let event = next(receiver.socket()).await;
                assert_eq!(said(&event), ("n", &Value::Int(number)));
                let meta = &event.args[1];
                assert_eq!(
                    (&meta["room"], &meta["from"], &meta["node"]),
                    (&"r".into(), &"ann".into(), &"a".into())
                );
                assert!(ids.insert(meta["id"].as_str().unwrap().to_owned()), "{meta:?} came twice");
            }
            assert_eq!(next(receiver.socket()).await.name, "end");
        }));
        tokio::join!(publishing, receiving);
        publisher.close().await;
    }
    cluster.shutdown().await;
}

async fn messages_of_several_publishers_keep_each_ones_order(backend: Backend) {
    const COUNT: i64 = 400;
    let (cluster, a, b) = Cluster::pair(backend).await;
    // Publishers are members, too, and hear themselves and each other.
    let mut clients = members(&a, &KINDS[..3]).await;
    clients.extend(members(&b, &KINDS[..3]).await);
    let publishers = [0_usize, 2, 4];
    let publishing = join_all(publishers.iter().map(|publisher| {
        let socket = clients[*publisher].socket();
        async move {
            for number in 0..COUNT {
                let data = json!({ "from": publisher, "number": number });
                let message = json!({ "room": "r", "data": data, "echo": true });
                socket.emit("publish", &[message.into()]).await.unwrap();
            }
        }
    }));
    let receiving = join_all(clients.iter().map(|client| async {
        let mut expected: BTreeMap<i64, i64> = publishers.iter().map(|from| (*from as i64, 0)).collect();
        for _ in 0..COUNT * publishers.len() as i64 {
            let event = next(client.socket()).await;
            let data = &event.args[0];
            let expected = expected.get_mut(&data["from"].as_i64().unwrap()).unwrap();
            assert_eq!(data["number"], Value::Int(*expected), "of publisher {:?}", data["from"]);
            *expected += 1;
        }
    }));
    tokio::join!(publishing, receiving);
    // Nothing came twice: the next thing that comes is this.
    ask_ok(clients[0].socket(), "publish", json!({ "room": "r", "event": "end", "echo": true })).await;
    for client in &clients {
        assert_eq!(next(client.socket()).await.name, "end");
    }
    cluster.shutdown().await;
}

async fn a_join_that_is_acknowledged_holds_everywhere(backend: Backend) {
    let (cluster, a, b) = Cluster::pair(backend).await;
    let publisher = a.websocket().await;
    let members =
        [b.websocket().await, b.connect(Parser::MessagePack, Transports::Polling).await, a.websocket().await];
    for round in 0..200 {
        // Fresh for every round and member: each join is the first of its node.
        let member = &members[round % members.len()];
        let room = format!("room {round}");
        ask_ok(member.socket(), "join", room.as_str()).await;
        let message = json!({ "room": room, "data": round });
        publisher.socket().emit("publish", &[message.into()]).await.unwrap();
        let event = next(member.socket()).await;
        assert_eq!(said(&event), ("message", &Value::from(json!(round))));
        assert_eq!(event.args[1]["room"], room.as_str());
    }
    cluster.shutdown().await;
}

async fn leaving_ends_delivery(backend: Backend) {
    let (cluster, a, b) = Cluster::pair(backend).await;
    let (publisher, member, other) = (a.websocket().await, b.websocket().await, b.websocket().await);
    for client in [&member, &other] {
        ask_ok(client.socket(), "join", "r").await;
        ask_ok(client.socket(), "join", json!({ "room": "end" })).await;
    }
    for round in 0..20 {
        ask_ok(member.socket(), "leave", "r").await;
        for room in ["r", "end"] {
            ask_ok(publisher.socket(), "publish", json!({ "room": room, "data": round })).await;
        }
        assert_eq!(next(member.socket()).await.args[1]["room"], "end", "it has left r");
        assert_eq!(next(other.socket()).await.args[1]["room"], "r");
        assert_eq!(next(other.socket()).await.args[1]["room"], "end");
        // Who comes back is a member again, whether the node has unsubscribed meanwhile or not.
        ask_ok(member.socket(), "join", "r").await;
        ask_ok(publisher.socket(), "publish", json!({ "room": "r", "data": round })).await;
        for client in [&member, &other] {
            assert_eq!(next(client.socket()).await.args[1]["room"], "r");
        }
    }
    // To leave where one never was is no error, and takes nothing from those who are there.
    ask_ok(publisher.socket(), "leave", "r").await;
    ask_ok(publisher.socket(), "publish", json!({ "room": "r", "data": "still" })).await;
    assert_eq!(next(member.socket()).await.args[0], "still");
    cluster.shutdown().await;
}

async fn namespaces_are_apart(backend: Backend) {
    let (cluster, a, b) = Cluster::pair(backend).await;
    let mut clients = Vec::new();
    for (server, namespace) in [(&a, "/"), (&a, "/chat"), (&b, "/"), (&b, "/chat"), (&b, "/chat/eu")] {
        let client = connect(server.client().transports(Transports::WebSocket), namespace).await;
        ask_ok(client.socket(), "join", "r").await;
        clients.push(client);
    }
    for sender in [0, 1] {
        let socket = clients[sender].socket();
        let from = socket.namespace();
        let publication = json!({ "room": "r", "event": "publish to", "data": from, "echo": true });
        ask_ok(socket, "publish", publication).await;
        ask_ok(socket, "broadcast", json!({ "event": "broadcast to", "data": from, "echo": true })).await;
    }
    // Each client hears exactly what was said in its namespace, once, and then its own last word.
    for client in &clients {
        let socket = client.socket();
        let namespace = socket.namespace();
        if namespace != "/chat/eu" {
            for name in ["publish to", "broadcast to"] {
                let event = next(socket).await;
                assert_eq!(said(&event), (name, &namespace.into()), "in {namespace}");
            }
        }
        ask_ok(socket, "join", "own").await;
        ask_ok(socket, "publish", json!({ "room": "own", "event": "end", "echo": true })).await;
        assert_eq!(next(socket).await.name, "end", "in {namespace}");
        ask_ok(socket, "leave", "own").await;
    }
    cluster.shutdown().await;
}

async fn the_sender_hears_itself_only_when_it_asks_to(backend: Backend) {
    let (cluster, a, b) = Cluster::pair(backend).await;
    let (sender, near, far) = (a.websocket().await, a.websocket().await, b.websocket().await);
    for client in [&sender, &near, &far] {
        ask_ok(client.socket(), "join", "r").await;
    }
    for event in ["publish", "broadcast"] {
        for echo in [false, true] {
            let answer =
                ask_ok(sender.socket(), event, json!({ "room": "r", "data": echo, "echo": echo })).await;
            for client in [&near, &far] {
                let heard = next(client.socket()).await;
                assert_eq!(said(&heard), ("message", &Value::Bool(echo)));
                assert_eq!(heard.args[1]["id"], answer["id"]);
                let room = if event == "publish" { "r".into() } else { Value::Null };
                assert_eq!(heard.args[1]["room"], room, "{event}");
            }
        }
        assert_eq!(next(sender.socket()).await.args[0], Value::Bool(true), "the one it asked for");
    }
    // A room need not be one's own to be published to, and the sender's own client elsewhere is not the sender.
    ask_ok(far.socket(), "leave", "r").await;
    ask_ok(far.socket(), "publish", json!({ "room": "r", "data": "from outside", "echo": true })).await;
    for client in [&sender, &near] {
        assert_eq!(next(client.socket()).await.args[0], "from outside");
    }
    ask_ok(far.socket(), "broadcast", json!({ "event": "end", "echo": true })).await;
    for client in [&sender, &near, &far] {
        assert_eq!(next(client.socket()).await.name, "end");
    }
    cluster.shutdown().await;
}

async fn a_volatile_message_reaches_whoever_keeps_up(backend: Backend) {
    let (cluster, a, b) = Cluster::pair(backend).await;
    let mut receivers = members(&b, &KINDS).await;
    receivers.extend(members(&a, &KINDS).await);
    let publisher = a.websocket().await;
    for number in 0..20 {
        let message = json!({ "room": "r", "data": number, "volatile": true });
        ask_ok(publisher.socket(), "publish", message).await;
        // One at a time: nobody has a reason to be behind.
        for receiver in &receivers {
            assert_eq!(next(receiver.socket()).await.args[0], Value::Int(number));
        }
    }
    for server in [&a, &b] {
        assert_eq!(server.metric("tidegate_dropped_total{reason=\"volatile\"}"), 0);
    }
    cluster.shutdown().await;
}

async fn values_cross_parsers_and_nodes(backend: Backend) {
    let (cluster, a, b) = Cluster::pair(backend).await;
    let mut receivers = Vec::new();
    for server in [&a, &b] {
        for ((parser, _), client) in KINDS.iter().zip(members(server, &KINDS).await) {
            receivers.push((*parser, client));
        }
    }
    const MOMENT: i64 = 1_700_000_000_123;
    let object = |entries: Vec<(&str, Value)>| {
        Value::Object(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    };
    let data = |date: Value| {
        object(vec![
            ("bytes", Value::bytes(vec![0_u8, 1, 0xff])),
            ("date", date),
            ("list", Value::Array(vec![Value::bytes(vec![7_u8; 300]), Value::Null, Value::Float(0.5)])),
            ("text", "größer \u{1f30a} \"\\\u{1e}".into()),
            ("whole", Value::Int(-9_007_199_254_740_991)),
            ("placeholder", json!({ "_placeholder": false, "num": 0 }).into()),
        ])
    };
    let iso = || Value::from("2023-11-14T22:13:20.123Z");
    for sender_parser in [Parser::Text, Parser::MessagePack] {
        let sender = a.connect(sender_parser, Transports::WebSocket).await;
        let message = object(vec![("room", "r".into()), ("data", data(Value::Date(MOMENT)))]);
        ask_ok(sender.socket(), "publish", message).await;
        for (parser, receiver) in &receivers {
            let event = next(receiver.socket()).await;
            // JSON has no dates: whoever sends or receives it has a text instead.
            let is_date = sender_parser == Parser::MessagePack && *parser == Parser::MessagePack;
            let expected = data(if is_date { Value::Date(MOMENT) } else { iso() });
            assert_eq!(event.args[0], expected, "from {sender_parser:?} to {parser:?}");
        }
        sender.close().await;
    }
    cluster.shutdown().await;
}

async fn what_follows_a_join_waits_for_it(backend: Backend) {
    let (cluster, a, b) = Cluster::pair(backend).await;
    let listener = b.websocket().await;
    ask_ok(listener.socket(), "join", "all").await;
    let mut wire = Wire::connect(&a).await;
    for round in 0..50 {
        // In one go, and the room is fresh, so that nothing but waiting lets the client hear itself.
        let join = format!(r#"420["join","r{round}"]"#);
        let other = format!(r#"421["join","s{round}"]"#);
        let publish = format!(r#"422["publish",{{"room":"r{round}","data":{round},"echo":true}}]"#);
        let beat = r#"423["heartbeat"]"#;
        let after = format!(r#"424["publish",{{"room":"all","data":{round}}}]"#);
        wire.send_all(&[&join, &other, &publish, beat, &after]).await;
        let mut seen = Vec::new();
        while seen.len() < 6 {
            seen.push(wire.text().await);
        }
        let position = |start: &str| {
            let found = seen.iter().position(|text| text.starts_with(start));
            found.unwrap_or_else(|| panic!("no {start} in round {round}: {seen:#?}"))
        };
        for ack in 0..5 {
            assert!(seen[position(&format!("43{ack}["))].contains(r#""ok":true"#), "{seen:#?}");
        }
        let heard = position(r#"42["message","#);
        for join in ["430[", "431["] {
            assert!(position(join) < heard && position(join) < position("432["), "{seen:#?}");
        }
        assert_eq!(next(listener.socket()).await.args[0], Value::Int(round));
    }
    drop(wire);
    cluster.shutdown().await;
}

async fn a_client_is_in_two_namespaces_at_once(backend: Backend) {
    let (cluster, a, b) = Cluster::pair(backend).await;
    for (parser, transports) in KINDS {
        let client = a.connect(parser, transports).await;
        let root = client.socket();
        let chat = client.namespace("/chat", None).await.unwrap();
        assert_ne!(root.id().unwrap(), chat.id().unwrap(), "each session has an id of its own");
        let others = [connect(b.client(), "/").await, connect(b.client(), "/chat").await];
        for socket in [root, &chat] {
            ask_ok(socket, "join", "r").await;
        }
        for other in others.iter().rev() {
            let said = other.socket().namespace();
            ask_ok(other.socket(), "publish", json!({ "room": "r", "data": said })).await;
        }
        for socket in [root, &chat] {
            assert_eq!(next(socket).await.args[0], socket.namespace());
        }

        // Leaving one namespace leaves the other alone, and the rooms of the one with it.
        root.disconnect().await.unwrap();
        assert_eq!(root.ended().await, Reason::IoClientDisconnect);
        a.until_metric("tidegate_sessions{namespace=\"/\"}", 0).await;
        assert_eq!(a.metric("tidegate_rooms{namespace=\"/\"}"), 0);
        assert_eq!(a.metric("tidegate_rooms{namespace=\"*\"}"), 1);
        for other in &others {
            ask_ok(other.socket(), "publish", json!({ "room": "r", "data": "again" })).await;
        }
        assert_eq!(next(&chat).await.args[0], "again");
        let again = client.namespace("/", None).await.unwrap();
        ask_ok(&again, "join", "r").await;
        ask_ok(others[0].socket(), "publish", json!({ "room": "r", "data": "back" })).await;
        assert_eq!(next(&again).await.args[0], "back");
        client.close().await;
        a.until_metric("tidegate_sessions{namespace=\"*\"}", 0).await;
        for other in others {
            other.close().await;
        }
    }
    cluster.shutdown().await;
}

async fn after_a_drain_clients_come_back_to_the_same_name(backend: Backend) {
    let cluster = Cluster::new(backend);
    let listener = lasting_port().await;
    let address = listener.local_addr().unwrap();
    let a = cluster.add_at(options("a"), listener).await;
    let b = cluster.add(options("b")).await;
    let publisher = b.websocket().await;
    let reconnect = Reconnect {
        delay: Duration::from_millis(20),
        delay_max: Duration::from_millis(100),
        ..Reconnect::default()
    };
    let mut clients = Vec::new();
    for (parser, transports) in KINDS {
        let options = a.client().parser(parser).transports(transports).reconnect(reconnect.clone());
        let client = connect(options, "/").await;
        ask_ok(client.socket(), "join", "r").await;
        clients.push((client.socket().id().unwrap(), client));
    }
    within("the drain", a.node.drain()).await;
    // The lease was given back with the drain, or the name would be taken.
    let listener = listen_again(address).await;
    let again = cluster.add_at(options("a"), listener).await;
    for (before, client) in &clients {
        let signal = next_signal(client.socket()).await;
        assert!(matches!(signal, Signal::Disconnected(Reason::TransportClose)), "{signal:?}");
        let signal = next_signal(client.socket()).await;
        assert!(matches!(&signal, Signal::Connected { id } if id != before), "{signal:?}");
        ask_ok(client.socket(), "join", "r").await;
    }
    ask_ok(publisher.socket(), "publish", json!({ "room": "r", "data": "welcome" })).await;
    for (_, client) in &clients {
        assert_eq!(next(client.socket()).await.args[0], "welcome");
    }
    assert_eq!(again.metric("tidegate_sessions{namespace=\"/\"}"), KINDS.len() as i64);
    cluster.shutdown().await;
}

async fn a_drain_is_paced_and_refuses_newcomers(backend: Backend) {
    const CLIENTS: u32 = 200;
    const PER_SECOND: u32 = 200;
    let timeout = Duration::from_secs(10);
    let drain = DrainOptions { timeout, connections_per_second: PER_SECOND };
    let cluster = Cluster::new(backend);
    let a = cluster.add(Options { drain, ..options("a") }).await;
    let mut clients = JoinSet::new();
    let server = raw::Server::new(&a.client()).unwrap();
    for _ in 0..CLIENTS {
        let mut connection =
            within("a connection", raw::Connection::connect(&server, "/", None)).await.unwrap();
        clients.spawn(async move {
            loop {
                let mut disconnected = false;
                let read = connection.read(|message| {
                    disconnected |= matches!(message, Message::Text(text) if text.starts_with('1'));
                });
                let read = within("the end", read).await;
                assert!(!disconnected, "a client that is told DISCONNECT does not come back");
                if let Err(reason) = read {
                    return reason;
                }
            }
        });
    }
    let polling = Polling::connect(&a).await;
    assert_eq!(a.metric("tidegate_connections{transport=\"websocket\"}"), i64::from(CLIENTS));

    let (node, started) = (a.node.clone(), Instant::now());
    let mut draining = JoinSet::new();
    draining.spawn(async move { node.drain().await });
    eventually("the node to say that it drains", || {
        a.node.readiness().is_err_and(|reasons| reasons.contains(&"draining".to_owned()))
    })
    .await;
    for transports in [Transports::WebSocket, Transports::Polling] {
        let refused = Client::connect(a.client().transports(transports), "/").await.unwrap_err();
        assert!(matches!(&refused, Error::Refused { status: 503, .. }), "{refused}");
    }
    // A poll is answered with the close, not with a DISCONNECT.
    let (status, body) = polling.get().await;
    assert!(status == 200 && matches!(body.as_str(), "1" | "6\u{1e}1"), "{status} {body:?}");
    within("the drain", draining.join_next()).await.unwrap().unwrap();
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(1) * (CLIENTS - 10) / PER_SECOND, "not paced: {took:?}");
    assert!(took < timeout, "{took:?}");
    while let Some(reason) = clients.join_next().await {
        assert_eq!(reason.unwrap(), Reason::TransportClose);
    }
    let ended = a.metric("tidegate_disconnects_total{reason=\"server shutting down\"}");
    assert_eq!(ended, i64::from(CLIENTS) + 1);
    assert_nothing_left(&a).await;
    cluster.shutdown().await;
}

/// Waits until every gauge of connections and what they own is back at zero.
async fn assert_nothing_left(server: &Server) {
    for gauge in [
        "tidegate_connections{transport=\"websocket\"}",
        "tidegate_connections{transport=\"polling\"}",
        "tidegate_sessions{namespace=\"/\"}",
        "tidegate_sessions{namespace=\"*\"}",
        "tidegate_rooms{namespace=\"/\"}",
        "tidegate_rooms{namespace=\"*\"}",
        "tidegate_outbox_bytes",
    ] {
        server.until_metric(gauge, 0).await;
    }
}

async fn a_client_that_dies_leaves_nothing_behind(backend: Backend) {
    let cluster = Cluster::new(backend);
    let mut servers = Vec::new();
    for name in ["a", "b"] {
        let mut options = options(name);
        // A client that is killed between two polls is missed only when it owes a pong.
        options.engine.ping_interval = Duration::from_secs(1);
        options.engine.ping_timeout = Duration::from_secs(1);
        servers.push(cluster.add(options).await);
    }
    let mut clients = Vec::new();
    for server in &servers {
        // Twice, so that some of each kind are killed and some say goodbye.
        for client in members(server, &[KINDS, KINDS].concat()).await {
            let chat = client.namespace("/chat", None).await.unwrap();
            ask_ok(&chat, "join", format!("own {}", clients.len())).await;
            clients.push((client, chat));
        }
        assert_eq!(server.metric("tidegate_sessions{namespace=\"/\"}"), 2 * KINDS.len() as i64);
        assert_eq!(server.metric("tidegate_sessions{namespace=\"*\"}"), 2 * KINDS.len() as i64);
        assert_eq!(server.metric("tidegate_rooms{namespace=\"/\"}"), 1);
        assert_eq!(server.metric("tidegate_rooms{namespace=\"*\"}"), 2 * KINDS.len() as i64);
    }
    let silent = Polling::connect(&servers[1]).await;
    assert_eq!(silent.post(r#"42["join","r"]"#).await.0, 200);
    for (client, _) in &clients {
        ask_ok(client.socket(), "publish", json!({ "room": "r", "data": "x".repeat(1_000) })).await;
    }
    eventually("what nobody fetches to wait", || servers[1].metric("tidegate_outbox_bytes") > 1_000).await;
    for (index, (client, chat)) in clients.into_iter().enumerate() {
        match index % 5 {
            0 | 1 => client.close().await,
            2 | 3 => client.abort().await,
            _ => {
                chat.disconnect().await.unwrap();
                client.socket().disconnect().await.unwrap();
                within("the socket to end", client.socket().ended()).await;
                drop(client);
            }
        }
    }
    for server in &servers {
        assert_nothing_left(server).await;
    }
    cluster.shutdown().await;
}
