//! A connection, its peers by hand.

#![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

use std::net::{IpAddr, Ipv4Addr};

use tidegate_core::memory::Exchange;
use tidegate_protocol::plain::Format;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::*;
use crate::engines::{Input, Payload};
use crate::letterbox::Letterbox;
use crate::outbox::{Binary, Poll as Polled};
use crate::rig::Rig;
use crate::socket::Socket;

fn connection(node: &Arc<Inner>, outbox: &Arc<Outbox>, link: Link, speech: Speech) -> Connection {
    let admitted = node.admit(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
    Connection::new(Arc::clone(node), Arc::clone(outbox), EngineId::random(), link, speech, admitted)
}

/// A polling client of the node, by hand.
struct Peer {
    outbox: Arc<Outbox>,
    input: Arc<Letterbox>,
}

impl Peer {
    fn of(rig: &Rig) -> Self {
        let node = rig.inner();
        let outbox = Arc::new(Outbox::polling(Arc::clone(&node.terms)));
        let (input, inputs) = Letterbox::new();
        let (link, speech) = (Link::polling(inputs), Speech::socket_io(node));
        let connection = connection(node, &outbox, link, speech);
        node.spawn(Arc::clone(&outbox), connection.run());
        Self { outbox, input }
    }

    async fn post(&self, body: &str) {
        let (accepted, taken) = oneshot::channel();
        let payload = Payload { body: body.to_owned(), accepted };
        assert!(self.input.send(Input::Payload(Box::new(payload))).await.is_ok(), "the connection has ended");
        taken.await.unwrap();
    }

    async fn get(&self) -> String {
        let payload = match self.outbox.poll() {
            Polled::Ready(payload) => payload,
            Polled::Pending(payload) => payload.await.unwrap(),
            Polled::Overlap | Polled::Gone => panic!("the connection has ended"),
        };
        String::from_utf8(payload.to_vec()).unwrap()
    }
}

#[tokio::test]
async fn a_tick_more_is_no_deadline_more() {
    let rig = Rig::start(&Exchange::new(), "a").await;
    let peer = Peer::of(&rig);
    for _ in 0..10 {
        peer.outbox.wake_tick();
        // It has looked at its deadlines once it has read.
        peer.post("3").await;
    }
    assert_eq!(rig.inner().timer.armed(), 1);
    rig.node.drain().await;
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_at_once_is_not_hung_up_on() {
    let rig = Rig::start(&Exchange::new(), "a").await;
    let peer = Peer::of(&rig);
    peer.post(r#"40{"user":"ann"}"#).await;
    assert!(peer.get().await.starts_with("40"));
    let [session] = &*rig.inner().hub.sessions() else { panic!("one session") };
    let slow = rig.registry.claims.write().await;
    rig.inner().end(session, Evicted { reason: EvictReason::Kicked, by: None }, None);
    assert!(peer.get().await.starts_with(r#"42["evicted""#));
    assert_eq!(peer.get().await, "41");
    peer.post(r#"40{"user":"ann"}"#).await;
    tokio::time::sleep(Duration::from_millis(3 * HANG_UP_MS)).await;
    drop(slow);
    assert!(peer.get().await.starts_with("40"));
    // Who does not come back is.
    let [session] = &*rig.inner().hub.sessions() else { panic!("one session") };
    rig.inner().end(session, Evicted { reason: EvictReason::Kicked, by: None }, None);
    assert!(peer.get().await.starts_with(r#"42["evicted""#));
    assert_eq!(peer.get().await, "41");
    assert_eq!(peer.get().await, "1");
}

/// What a client of `speech` is sent last when its session is evicted and its connection closed for `reason` before the
/// connection's task gets to run.
async fn evicted_and_closed(rig: &Rig, speech: Speech, hello: &str, reason: DisconnectReason) -> Vec<u8> {
    let node = rig.inner();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let socket = Socket::new(listener.accept().await.unwrap().0);
    let outbox = Outbox::websocket(socket, Binary::Frames, Arc::clone(&node.terms));
    let link = Link::websocket(Vec::new(), 1 << 20);
    let connection = connection(node, &outbox, link, speech);
    node.spawn(Arc::clone(&outbox), connection.run());
    let hello = websocket::frame_masked(Opcode::Text, hello.as_bytes(), [1, 2, 3, 4]);
    client.write_all(&hello).await.unwrap();
    assert!(client.read(&mut [0; 4_096]).await.unwrap() > 0, "it is connected");
    let [session] = &*node.hub.sessions() else { panic!("there is one session") };
    node.end(session, Evicted { reason: EvictReason::Replaced, by: None }, None);
    outbox.close(reason);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    rest
}

/// Either would send it back to take the place again.
const COME_BACK: [DisconnectReason; 2] =
    [DisconnectReason::ServerShuttingDown, DisconnectReason::ForcedClose];

#[tokio::test]
async fn whoever_is_evicted_hears_it_also_when_its_connection_ends_for_another_reason() {
    let rig = Rig::start(&Exchange::new(), "a").await;
    for reason in COME_BACK {
        let speech = Speech::Plain(Plain::new(Format::Json));
        let hello = r#"{"op":"connect","auth":{"user":"ann"}}"#;
        let last = evicted_and_closed(&rig, speech, hello, reason).await;
        let told = br#"{"op":"evicted","reason":"replaced"}"#;
        let mut expected = websocket::frame(Opcode::Text, told).to_vec();
        expected.extend_from_slice(&websocket::close(Some(4409), "replaced"));
        assert_eq!(last, expected, "{reason}");

        let hello = r#"40{"user":"ann"}"#;
        let last = evicted_and_closed(&rig, Speech::socket_io(rig.inner()), hello, reason).await;
        let told = br#"42["evicted",{"reason":"replaced"}]"#;
        let mut expected = websocket::frame(Opcode::Text, told).to_vec();
        expected.extend_from_slice(&websocket::frame(Opcode::Text, b"41"));
        expected.extend_from_slice(&websocket::close(None, ""));
        assert_eq!(last, expected, "{reason}");
    }
    rig.node.drain().await;
}

#[tokio::test]
async fn a_token_that_expires_while_the_connection_ends_is_seen_to_on_the_way_out() {
    let rig = Rig::start(&Exchange::new(), "a").await;
    let node = rig.inner();
    let session = rig.seat_until("ann", Some(1)).await;
    let outbox = Arc::clone(&session.outbox);
    let (link, speech) = (Link::polling(Letterbox::new().1), Speech::socket_io(node));
    let mut connection = connection(node, &outbox, link, speech);
    connection.sessions.push(Arc::clone(&session));
    outbox.close(DisconnectReason::ServerShuttingDown);
    assert!(matches!(connection.expire(0), Ok(None)));
    assert!(session.is_over());
    assert_eq!(connection.sessions.len(), 1, "its farewell is still owed");
    connection.sessions.clear();
    rig.node.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_second_connect_is_not_too_many_where_a_burst_is_one() {
    let mut options = crate::rig::options("a");
    options.limits.events_burst = 1;
    options.limits.events_per_second_max = 10;
    let rig = Rig::start_with(&Exchange::new(), options).await;
    let peer = Peer::of(&rig);
    peer.post("40").await;
    peer.get().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    peer.post("40/other,").await;
    assert!(!peer.get().await.contains("rate_limited"));
    peer.post("40/other,").await;
    assert!(peer.get().await.contains("rate_limited"), "a third one at once is");
    rig.node.drain().await;
}

/// What outlives a connection, such as an answer that Redis owes, must not keep its file open.
#[tokio::test(start_paused = true)]
async fn a_socket_is_closed_with_its_connection_whoever_holds_the_outbox() {
    let rig = Rig::start(&Exchange::new(), "a").await;
    let node = rig.inner();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let socket = Socket::new(listener.accept().await.unwrap().0);
    let outbox = Outbox::websocket(socket, Binary::Frames, Arc::clone(&node.terms));
    let connection = connection(node, &outbox, Link::websocket(Vec::new(), 1000), Speech::socket_io(node));
    outbox.close(DisconnectReason::ServerShuttingDown);
    // The peer does not hang up in time.
    connection.run().await;
    let mut writes = 0;
    while peer.write_all(b"x").await.is_ok() {
        writes += 1;
        assert!(writes < 1_000, "it is not cut off");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(Arc::strong_count(&outbox), 1);
    rig.node.drain().await;
}
