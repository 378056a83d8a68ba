//! A client port over TLS: every transport and both protocols, beside a node without it; and who is turned away.

#![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

use serde_json::json;
use tidegate_client::{Client, Error, Options, Parser, Reason, Signal, Transports, Value, plain, poll, raw};
use tidegate_test::cluster::{
    Backend, Cluster, Server, ask_ok, ask_refused, credentials, next, next_signal, options, within,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const REFUSED: &str = "tidegate_handshakes_refused_total{reason=\"tls\"}";

/// A node over TLS.
async fn secure(cluster: &Cluster, name: &str) -> Server {
    let mut options = options(name);
    options.server.tls = Some(credentials());
    cluster.add(options).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_client_shares_a_room_with_one_that_does_without() {
    let cluster = Cluster::new(Backend::Memory);
    let (a, b) = (secure(&cluster, "a").await, cluster.add(options("b")).await);
    let mut clients = Vec::new();
    for parser in [Parser::Text, Parser::MessagePack] {
        for transports in [Transports::Default, Transports::Polling, Transports::WebSocket] {
            clients.push(a.connect(parser, transports).await);
        }
    }
    clients.push(b.websocket().await);
    for client in &clients {
        ask_ok(client.socket(), "join", "r").await;
    }
    // Within a record, in several, and more than the kernel holds.
    for (number, size) in [0, 1, 16_000, 17_000, 300_000, 5].into_iter().enumerate() {
        let bytes = Value::bytes(vec![7; size]);
        let data = Value::from(json!({ "number": number, "text": "x".repeat(size) }));
        let message = |data: Value| {
            let fields = [("room", "r".into()), ("data", data), ("echo", json!(true).into())];
            Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
        };
        for client in &clients {
            ask_ok(client.socket(), "publish", message(data.clone())).await;
            for member in &clients {
                assert!(next(member.socket()).await.args[0] == data, "{size} bytes of text");
            }
        }
        ask_ok(clients[0].socket(), "publish", message(bytes.clone())).await;
        for member in &clients {
            assert!(next(member.socket()).await.args[0] == bytes, "{size} bytes");
        }
    }
    assert_eq!(ask_refused(clients[0].socket(), "join", 7).await, "bad_request");
    for client in clients {
        within("a close", client.close()).await;
    }
    a.until_metric("tidegate_sessions{namespace=\"/\"}", 0).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_connections_go_over_tls_too() {
    let cluster = Cluster::new(Backend::Memory);
    let a = secure(&cluster, "a").await;
    let server = raw::Server::new(&a.client()).unwrap();
    let raw = within("a connection", raw::Connection::connect(&server, "/", None)).await.unwrap();
    let polling = within("a session", poll::Connection::connect(&server, "/", None)).await.unwrap();
    let server = plain::Server::new(&a.client(), plain::Format::Json).unwrap();
    let mut plain = within("a client", plain::Connection::connect(&server, None)).await.unwrap();
    a.until_metric("tidegate_sessions{namespace=\"/\"}", 3).await;
    within("a close", raw.close()).await.unwrap();
    a.until_metric("tidegate_sessions{namespace=\"/\"}", 2).await;
    // A node that drains has its last word with everybody.
    let (staying, reason, ()) = tokio::join!(
        within("the end of a session", polling.stay()),
        within("the end of a client", async {
            loop {
                if let Err(reason) = plain.read(|_| ()).await {
                    break reason;
                }
            }
        }),
        a.node.drain(),
    );
    assert_eq!((staying, reason), (Reason::TransportClose, Reason::TransportClose));
    assert_eq!(plain.close_code(), Some(1012));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_drained_comes_back() {
    let cluster = Cluster::new(Backend::Memory);
    let a = secure(&cluster, "a").await;
    let client = a.connect(Parser::Text, Transports::WebSocket).await;
    let (signal, ()) = tokio::join!(next_signal(client.socket()), a.node.drain());
    assert!(matches!(signal, Signal::Disconnected(Reason::TransportClose)), "{signal:?}");
    within("a close", client.close()).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_does_not_speak_it_is_turned_away_and_counted() {
    let cluster = Cluster::new(Backend::Memory);
    let a = secure(&cluster, "a").await;
    let mut clear = TcpStream::connect(a.address).await.unwrap();
    clear.write_all(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut told = Vec::new();
    // An alert, and perhaps a reset behind it.
    let _ = within("the end", clear.read_to_end(&mut told)).await;
    assert_eq!(told.first(), Some(&0x15));
    a.until_metric(REFUSED, 1).await;

    let url = format!("https://{}", a.address);
    let distrustful = Client::connect(Options::new(&url), "/").await;
    assert!(matches!(distrustful, Err(Error::Tls(_))), "{:?}", distrustful.err());
    let stranger = include_str!("../../gateway/src/auth/fixtures/rsa.public.pem");
    let without = Client::connect(Options::new(&url).authorities(stranger), "/").await;
    assert!(matches!(without, Err(Error::Tls(_))), "{:?}", without.err());
    // An authority that did not sign it.
    let other =
        Client::connect(Options::new(&url).authorities(include_str!("../certificates/server.pem")), "/");
    assert!(matches!(other.await, Err(Error::Io(_))));
    a.until_metric(REFUSED, 2).await;
    let careless = Client::connect(Options::new(&url).danger_accept_any_certificate(), "/").await.unwrap();
    within("a close", careless.close()).await;
    cluster.shutdown().await;
}
