//! What the client does over WebSocket when the server does this or that, right or wrong.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by panicking and explains itself")]

mod peer;

use std::time::Duration;

use serde_json::json;
use tidegate_client::raw::{self, Message};
use tidegate_client::{Client, Error, Options, Reason, Reconnect, Signal, Transports, Value};
use tidegate_protocol::value;
use tidegate_protocol::websocket::{Opcode, frame};
use tokio::time::timeout;

use crate::peer::{LIMIT, Listener, OPEN, Peer};

fn options(listener: &Listener) -> Options {
    Options::new(listener.url()).transports(Transports::WebSocket)
}

fn reconnecting(listener: &Listener) -> Options {
    let reconnect = Reconnect { delay: Duration::from_millis(1), ..Reconnect::default() };
    options(listener).reconnect(reconnect)
}

async fn joined(listener: &Listener, options: Options) -> (Client, Peer, String) {
    let (client, (peer, connect)) =
        tokio::join!(Client::connect(options, "/"), listener.accept_joined(OPEN, "id-1"));
    (client.unwrap(), peer, connect)
}

async fn signal(client: &Client) -> Signal {
    timeout(LIMIT, client.socket().next_signal())
        .await
        .expect("nothing happens")
        .expect("the socket has ended")
}

async fn ended(client: &Client) -> Reason {
    timeout(LIMIT, client.socket().ended()).await.expect("the socket does not end")
}

#[tokio::test]
async fn an_answer_to_another_key_is_refused() {
    let listener = Listener::bind().await;
    let (client, ()) = tokio::join!(Client::connect(options(&listener), "/"), async {
        let mut peer = listener.accept().await;
        peer.request().await;
        peer.answer_upgrade("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=").await;
        peer.send_text(OPEN).await;
    });
    assert!(matches!(client, Err(Error::Protocol(what)) if what.contains("accept")));
}

#[tokio::test]
async fn a_refused_handshake_says_why() {
    let listener = Listener::bind().await;
    let (client, ()) = tokio::join!(Client::connect(reconnecting(&listener), "/"), async {
        let mut peer = listener.accept().await;
        let request = peer.request().await;
        assert!(request.head.starts_with("GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n"));
        peer.answer("503 Service Unavailable", "draining").await;
    });
    assert!(matches!(client, Err(Error::Refused { status: 503, body }) if body == "draining"));
}

#[tokio::test]
async fn headers_and_auth_are_sent() {
    let listener = Listener::bind().await;
    let options = options(&listener).header("X-Test", "yes").auth(json!({ "token": "t" }));
    let (client, _peer) = tokio::join!(Client::connect(options, "/a"), async {
        let mut peer = listener.accept().await;
        let request = peer.request().await;
        assert_eq!(request.header("x-test").as_deref(), Some("yes"));
        peer.accept_upgrade(&request).await;
        peer.send_text(OPEN).await;
        assert_eq!(peer.text().await.unwrap(), r#"40/a,{"token":"t"}"#);
        peer.send_text(r#"40/a,{"sid":"one"}"#).await;
        peer
    });
    assert_eq!(client.unwrap().socket().id().unwrap(), "one");
}

#[tokio::test]
async fn a_refused_namespace_says_why_and_the_transport_is_closed() {
    let listener = Listener::bind().await;
    let (client, ()) = tokio::join!(Client::connect(reconnecting(&listener), "/"), async {
        let mut peer = listener.accept_websocket(OPEN).await;
        peer.text().await.unwrap();
        peer.send_text(r#"44{"message":"no","data":{"code":"forbidden"}}"#).await;
        assert_eq!(peer.text().await, None);
    });
    let Err(Error::ConnectError { message, data }) = client else { panic!("{client:?}") };
    assert_eq!((message.as_str(), &data["code"]), ("no", &Value::from("forbidden")));
}

#[tokio::test]
async fn pings_are_answered_and_their_absence_is_noticed() {
    let listener = Listener::bind().await;
    let open = OPEN.replace("60000", "100");
    let (client, (mut peer, _)) =
        tokio::join!(Client::connect(options(&listener), "/"), listener.accept_joined(&open, "id"));
    let client = client.unwrap();
    for _ in 0..3 {
        peer.send_text("2").await;
        assert_eq!(peer.text().await.unwrap(), "3");
    }
    assert_eq!(ended(&client).await, Reason::PingTimeout);
    assert_eq!(peer.text().await, None);
}

#[tokio::test]
async fn events_and_acknowledgements_go_both_ways() {
    let listener = Listener::bind().await;
    let (client, mut peer, _) = joined(&listener, options(&listener)).await;
    let args = [Value::bytes(vec![1, 2]), "x".into()];
    let ask = client.socket().emit_with_ack("ask", &args, LIMIT);
    let (answer, ()) = tokio::join!(ask, async {
        assert_eq!(peer.text().await.unwrap(), r#"451-0["ask",{"_placeholder":true,"num":0},"x"]"#);
        assert_eq!(peer.text().await.unwrap(), "[1, 2]");
        peer.send_text(r#"430[{"ok":true}]"#).await;
    });
    assert_eq!(answer.unwrap(), [json!({ "ok": true })]);

    peer.send_text(r#"427["tell",1,[2]]"#).await;
    let event = client.socket().next_event().await.unwrap();
    assert_eq!((event.name.as_str(), &event.args[..]), ("tell", &[Value::Int(1), json!([2]).into()][..]));
    event.ack.unwrap().send(&["got it".into()]).await.unwrap();
    assert_eq!(peer.text().await.unwrap(), r#"437["got it"]"#);
}

#[tokio::test]
async fn a_kicked_client_leaves_and_does_not_come_back() {
    let listener = Listener::bind().await;
    let (client, mut peer, _) = joined(&listener, reconnecting(&listener)).await;
    peer.send_text(r#"42["last"]"#).await;
    peer.send_text("41").await;
    assert!(matches!(signal(&client).await, Signal::Event(event) if event.name == "last"));
    assert!(matches!(signal(&client).await, Signal::Disconnected(Reason::IoServerDisconnect)));
    assert!(client.socket().next_signal().await.is_none());
    assert_eq!(ended(&client).await, Reason::IoServerDisconnect);
    assert!(matches!(
        client.socket().emit("x", &[]).await,
        Err(Error::Disconnected(Reason::IoServerDisconnect))
    ));
    assert_eq!(peer.text().await, None);
}

#[tokio::test]
async fn a_dropped_client_comes_back_with_its_auth() {
    let listener = Listener::bind().await;
    let options = reconnecting(&listener).auth(json!({ "user": "u" }));
    let (client, mut peer, first) = joined(&listener, options).await;
    assert_eq!(first, r#"40{"user":"u"}"#);
    let lost = client.socket().emit_with_ack("lost", &[], LIMIT);
    let (lost, (_peer, second)) = tokio::join!(lost, async {
        peer.text().await.unwrap();
        drop(peer);
        listener.accept_joined(OPEN, "id-2").await
    });
    assert!(matches!(lost, Err(Error::Disconnected(reason)) if reason.reconnects()), "{lost:?}");
    assert_eq!(second, first);
    assert!(matches!(signal(&client).await, Signal::Disconnected(reason) if reason.reconnects()));
    assert!(matches!(signal(&client).await, Signal::Connected { id } if id == "id-2"));
    assert_eq!(client.socket().id().unwrap(), "id-2");
}

#[tokio::test]
async fn a_client_refused_on_its_way_back_gives_up() {
    let listener = Listener::bind().await;
    let (client, peer, _) = joined(&listener, reconnecting(&listener)).await;
    drop(peer);
    let mut peer = listener.accept_websocket(OPEN).await;
    peer.text().await.unwrap();
    peer.send_text(r#"44{"message":"duplicate_session"}"#).await;
    assert!(matches!(signal(&client).await, Signal::Disconnected(_)));
    assert!(
        matches!(signal(&client).await, Signal::Refused { message, .. } if message == "duplicate_session")
    );
    assert_eq!(ended(&client).await, Reason::ConnectError);
}

#[tokio::test]
async fn attempts_to_come_back_are_counted() {
    let listener = Listener::bind().await;
    let mut options = reconnecting(&listener);
    options.reconnect.as_mut().unwrap().attempts_max = Some(2);
    let (client, peer, _) = joined(&listener, options).await;
    drop(peer);
    for _ in 0..2 {
        let mut peer = listener.accept().await;
        peer.request().await;
        peer.answer("503 Service Unavailable", "").await;
    }
    assert_eq!(ended(&client).await, Reason::TransportClose);
}

#[tokio::test]
async fn what_cannot_be_read_ends_the_transport() {
    for nonsense in ["9", "", "4", "4abc", r#"42["connect"]"#, "5", r#"0{"sid":"again"}"#] {
        let listener = Listener::bind().await;
        let (client, mut peer, _) = joined(&listener, options(&listener)).await;
        peer.send_text(nonsense).await;
        assert_eq!(ended(&client).await, Reason::ParseError, "{nonsense:?}");
    }
    let listener = Listener::bind().await;
    let (client, mut peer, _) = joined(&listener, options(&listener)).await;
    peer.send(&[0xff, 0xff, 0xff]).await;
    assert_eq!(ended(&client).await, Reason::TransportError);
}

#[tokio::test]
async fn events_nobody_takes_end_the_client() {
    let listener = Listener::bind().await;
    let options = Options { events_max: 3, ..options(&listener) };
    let (client, mut peer, _) = joined(&listener, options).await;
    for _ in 0..4 {
        peer.send_text(r#"42["e"]"#).await;
    }
    assert_eq!(ended(&client).await, Reason::EventsUnread);
    for _ in 0..3 {
        assert!(matches!(signal(&client).await, Signal::Event(_)));
    }
    assert!(matches!(signal(&client).await, Signal::Disconnected(Reason::EventsUnread)));
}

#[tokio::test]
async fn closing_sends_what_was_emitted_and_says_goodbye() {
    let listener = Listener::bind().await;
    let (client, mut peer, _) = joined(&listener, options(&listener)).await;
    client.socket().emit("last", &[]).await.unwrap();
    tokio::join!(client.close(), async {
        assert_eq!(peer.text().await.unwrap(), r#"42["last"]"#);
        assert_eq!(peer.text().await.unwrap(), "41");
        assert_eq!(peer.text().await, None);
        drop(peer);
    });
}

#[tokio::test]
async fn what_fits_in_no_packet_is_refused_and_harms_nothing() {
    let listener = Listener::bind().await;
    let (client, mut peer, _) = joined(&listener, options(&listener)).await;
    let socket = client.socket();
    let crowded = vec![Value::bytes(vec![1]); 11];
    let deep = [(0..200).fold(Value::Null, |inner, _| Value::Array(vec![inner]))];

    peer.send_text(r#"427["tell"]"#).await;
    let ack = socket.next_event().await.unwrap().ack.unwrap();
    for (result, error) in [
        (socket.emit("e", &crowded).await, value::Error::Attachments),
        (socket.emit("e", &deep).await, value::Error::TooDeep),
        (socket.emit_with_ack("e", &crowded, LIMIT).await.map(drop), value::Error::Attachments),
        (socket.emit_with_ack("e", &deep, LIMIT).await.map(drop), value::Error::TooDeep),
        (ack.send(&crowded).await, value::Error::Attachments),
        (client.namespace("/n", Some(Value::bytes(vec![1]))).await.map(drop), value::Error::Attachments),
    ] {
        assert!(matches!(result, Err(Error::Unsendable(why)) if why == error), "{result:?}");
    }

    socket.emit("next", &[]).await.unwrap();
    assert_eq!(peer.text().await.unwrap(), r#"42["next"]"#);
}

#[tokio::test]
async fn credentials_that_fit_in_no_packet_are_refused_without_a_connection() {
    let binary = Value::bytes(vec![1]);
    // Nobody listens there, which would be another error.
    let options = Options::new("http://127.0.0.1:1").auth(binary.clone());
    let refused = Client::connect(options.clone(), "/").await;
    assert!(matches!(refused, Err(Error::Unsendable(_))), "{refused:?}");

    let server = raw::Server::new(&options).unwrap();
    let refused = raw::Connection::connect(&server, "/", Some(&binary)).await.map(drop);
    assert!(matches!(refused, Err(Error::Unsendable(_))), "{refused:?}");
}

#[tokio::test]
async fn aborting_says_nothing() {
    let listener = Listener::bind().await;
    let (client, mut peer, _) = joined(&listener, options(&listener)).await;
    client.abort().await;
    assert_eq!(peer.text().await, None);
}

#[tokio::test]
async fn a_raw_connection_keeps_what_came_with_the_answer() {
    let listener = Listener::bind().await;
    let server = raw::Server::new(&Options::new(listener.url())).unwrap();
    let (connection, mut peer) = tokio::join!(raw::Connection::connect(&server, "/x", None), async {
        let mut peer = listener.accept_websocket(OPEN).await;
        assert_eq!(peer.text().await.unwrap(), "40/x,");
        let packets = [r#"40/x,{"sid":"s"}"#, r#"42/x,["early"]"#, "2"];
        let frames: Vec<u8> =
            packets.iter().flat_map(|packet| frame(Opcode::Text, packet.as_bytes())).collect();
        peer.send(&frames).await;
        peer
    });
    let mut connection = connection.unwrap();
    let mut packets = Vec::new();
    let take = |message: Message<'_>| match message {
        Message::Text(packet) => packets.push(packet.to_owned()),
        Message::Binary(_) => panic!("nothing binary was sent"),
    };
    connection.read(take).await.unwrap();
    assert_eq!(packets, [r#"2/x,["early"]"#]);

    connection.emit("/x", "hello", &[], Some(4));
    connection.flush().await.unwrap();
    assert_eq!(peer.text().await.unwrap(), "3");
    assert_eq!(peer.text().await.unwrap(), r#"42/x,4["hello"]"#);
    drop(peer);
    let end = loop {
        if let Err(reason) = timeout(LIMIT, connection.read(|_| ())).await.unwrap() {
            break reason;
        }
    };
    assert!(end.reconnects());
}
