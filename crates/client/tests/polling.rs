//! What the client does over HTTP long-polling.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by panicking and explains itself")]
#![allow(dead_code, reason = "the peer serves another suite too")]

mod peer;

use tidegate_client::{Client, Error, Options, Reason, Transports, Value};
use tidegate_protocol::engineio::Transport;
use tokio::time::timeout;

use crate::peer::{LIMIT, Listener, OPEN, Peer, Request};

/// Plays the handshake: the poll that opens, the post of CONNECT on a second connection, the poll that answers it.
/// Gives the connections for polls and for posts.
async fn joined(listener: &Listener, open: &str) -> (Client, Peer, Peer) {
    let options = Options::new(listener.url()).transports(Transports::Polling);
    let (client, (poll, post)) = tokio::join!(Client::connect(options, "/"), async {
        let mut poll = listener.accept().await;
        let request = poll.request().await;
        assert!(request.head.starts_with("GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\n"));
        poll.answer("200 OK", open).await;
        let request = poll.request().await;
        assert!(request.head.starts_with("GET /socket.io/?EIO=4&transport=polling&sid=s HTTP/1.1\r\n"));
        let mut post = listener.accept().await;
        let request = post.request().await;
        assert!(request.head.starts_with("POST /socket.io/?EIO=4&transport=polling&sid=s HTTP/1.1\r\n"));
        assert_eq!(request.body, "40");
        post.answer("200 OK", "ok").await;
        poll.answer("200 OK", "40{\"sid\":\"id\"}").await;
        (poll, post)
    });
    (client.unwrap(), poll, post)
}

#[tokio::test]
async fn packets_share_bodies_up_to_the_limit() {
    let listener = Listener::bind().await;
    // Two of the packets below with their separator, and not a byte more.
    let open = OPEN.replace("1000000", "25");
    let (client, _poll, mut post) = joined(&listener, &open).await;
    client.socket().emit("first", &[]).await.unwrap();
    assert_eq!(post.request().await.body, r#"42["first"]"#);
    // While that one is under way, others gather.
    for _ in 0..3 {
        client.socket().emit("three", &[]).await.unwrap();
    }
    client.socket().emit("much too long for this", &[]).await.unwrap();
    let args = [Value::bytes(vec![0])];
    let unanswered = client.socket().emit_with_ack("bytes", &args, LIMIT);
    let bodies = async {
        let mut bodies = Vec::new();
        while bodies.len() < 5 {
            post.answer("200 OK", "ok").await;
            bodies.push(post.request().await.body);
        }
        bodies
    };
    tokio::select! {
        answer = unanswered => panic!("{answer:?}"),
        bodies = bodies => assert_eq!(bodies, [
            "42[\"three\"]\x1e42[\"three\"]",
            "42[\"three\"]",
            "42[\"much too long for this\"]",
            "451-0[\"bytes\",{\"_placeholder\":true,\"num\":0}]",
            "bAA==",
        ]),
    }
}

#[tokio::test]
async fn a_body_may_hold_several_packets() {
    let listener = Listener::bind().await;
    let (client, mut poll, _post) = joined(&listener, OPEN).await;
    poll.request().await;
    let body = "42[\"a\"]\x1e451-[\"b\",{\"_placeholder\":true,\"num\":0}]\x1ebAQI=\x1e6\x1e42[\"c\"]";
    poll.answer("200 OK", body).await;
    let mut names = Vec::new();
    while names.len() < 3 {
        let event = timeout(LIMIT, client.socket().next_event()).await.unwrap().unwrap();
        if event.name == "b" {
            assert_eq!(event.args, [Value::bytes(vec![1, 2])]);
        }
        names.push(event.name);
    }
    assert_eq!(names, ["a", "b", "c"]);
}

#[tokio::test]
async fn a_refused_poll_is_a_transport_error() {
    let listener = Listener::bind().await;
    let (client, mut poll, _post) = joined(&listener, OPEN).await;
    poll.request().await;
    poll.answer("400 Bad Request", r#"{"code":1,"message":"Session ID unknown"}"#).await;
    assert_eq!(timeout(LIMIT, client.socket().ended()).await.unwrap(), Reason::TransportError);
}

#[tokio::test]
async fn a_close_packet_closes() {
    let listener = Listener::bind().await;
    let (client, mut poll, _post) = joined(&listener, OPEN).await;
    poll.request().await;
    poll.answer("200 OK", "6\x1e1").await;
    assert_eq!(timeout(LIMIT, client.socket().ended()).await.unwrap(), Reason::TransportClose);
}

#[tokio::test]
async fn closing_posts_the_goodbye() {
    let listener = Listener::bind().await;
    let (client, _poll, mut post) = joined(&listener, OPEN).await;
    tokio::join!(client.close(), async {
        assert_eq!(post.request().await.body, "41\x1e1");
        post.answer("200 OK", "ok").await;
    });
}

#[tokio::test]
async fn a_handshake_without_an_open_packet_is_refused() {
    let listener = Listener::bind().await;
    let options = Options::new(listener.url());
    let (client, ()) = tokio::join!(Client::connect(options, "/"), async {
        let mut poll = listener.accept().await;
        poll.request().await;
        poll.answer("200 OK", "6").await;
    });
    assert!(matches!(client, Err(Error::Protocol(_))));
}

/// A client that polls, has joined and wants to upgrade; its three connections, for polls, posts and the WebSocket,
/// and the request made on the last.
async fn upgrading(listener: &Listener) -> (Client, Peer, Peer, Peer, Request) {
    let open = OPEN.replace("[]", r#"["websocket"]"#);
    let (client, (poll, post, websocket, request)) =
        tokio::join!(Client::connect(Options::new(listener.url()), "/"), async {
            let mut poll = listener.accept().await;
            poll.request().await;
            poll.answer("200 OK", &open).await;
            poll.request().await;
            // These two come in any order.
            let (mut one, mut other) = (listener.accept().await, listener.accept().await);
            let (mut first, mut second) = (one.request().await, other.request().await);
            if first.head.starts_with("GET") {
                (one, other, first, second) = (other, one, second, first);
            }
            assert_eq!((&first.head[..4], &*first.body), ("POST", "40"));
            one.answer("200 OK", "ok").await;
            poll.answer("200 OK", r#"40{"sid":"id"}"#).await;
            poll.request().await;
            assert!(second.head.starts_with("GET /socket.io/?EIO=4&transport=websocket&sid=s HTTP/1.1"));
            (poll, one, other, second)
        });
    (client.unwrap(), poll, post, websocket, request)
}

#[tokio::test]
async fn an_upgrade_loses_nothing_on_either_side_of_it() {
    let listener = Listener::bind().await;
    let (client, mut poll, _post, mut websocket, request) = upgrading(&listener).await;
    websocket.accept_upgrade(&request).await;
    assert_eq!(websocket.text().await.unwrap(), "2probe");
    assert_eq!(client.transport(), Transport::Polling);
    websocket.send_text("3probe").await;
    // The poll under way still brings something, and polling stops with it.
    poll.answer("200 OK", "42[\"before\"]\x1e6").await;
    assert_eq!(websocket.text().await.unwrap(), "5");
    websocket.send_text("42[\"after\"]").await;
    timeout(LIMIT, client.transport_is(Transport::WebSocket)).await.unwrap().unwrap();
    for name in ["before", "after"] {
        assert_eq!(timeout(LIMIT, client.socket().next_event()).await.unwrap().unwrap().name, name);
    }
    client.socket().emit("hello", &[]).await.unwrap();
    assert_eq!(websocket.text().await.unwrap(), "42[\"hello\"]");
}

#[tokio::test]
async fn a_refused_upgrade_leaves_polling_as_it_was() {
    let listener = Listener::bind().await;
    let (client, mut poll, mut post, mut websocket, _) = upgrading(&listener).await;
    websocket.answer("400 Bad Request", "").await;
    drop(websocket);
    poll.answer("200 OK", "2").await;
    poll.request().await;
    assert_eq!(post.request().await.body, "3");
    post.answer("200 OK", "ok").await;
    assert_eq!(client.transport(), Transport::Polling);
}

#[tokio::test]
async fn a_probe_answered_with_something_else_is_no_upgrade() {
    let listener = Listener::bind().await;
    let (client, _poll, mut post, mut websocket, request) = upgrading(&listener).await;
    websocket.accept_upgrade(&request).await;
    assert_eq!(websocket.text().await.unwrap(), "2probe");
    websocket.send_text("3").await;
    assert_eq!(websocket.text().await, None);
    client.socket().emit("still here", &[]).await.unwrap();
    assert_eq!(post.request().await.body, "42[\"still here\"]");
}
