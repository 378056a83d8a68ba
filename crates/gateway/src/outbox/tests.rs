//! The outbox on real sockets.

use std::time::Duration;

use bytes::BytesMut;
use tidegate_protocol::socketio::{Encoded, Head};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;

use super::*;
use crate::tls::testing::{VERSIONS, secure_pair};

const BYTES_MAX: usize = 64 * 1024;

fn text(text: &str, volatile: bool) -> Message {
    let head = Head::Text(Bytes::copy_from_slice(text.as_bytes()));
    Message::packet(Encoded { head, attachments: Vec::new() }, volatile)
}

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new("test", "test", "n").unwrap())
}

/// An outbox on a socket, and the peer.
async fn pair(metrics: &Arc<Metrics>) -> (Arc<Outbox>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let terms = Terms::new(BYTES_MAX, Arc::clone(metrics), Reactor::running());
    (Outbox::websocket(Socket::new(stream), Binary::Frames, terms), peer)
}

/// The same over TLS, on a socket of which the kernel holds little.
async fn narrow_secure_pair(metrics: &Arc<Metrics>) -> (Arc<Outbox>, TlsStream<TcpStream>) {
    let (socket, peer) = secure_pair(VERSIONS[0]).await;
    let terms = Terms::new(BYTES_MAX, Arc::clone(metrics), Reactor::running());
    (Outbox::websocket(socket, Binary::Frames, terms), peer)
}

/// Pushes until the socket takes no more.
fn fill(outbox: &Outbox) -> usize {
    let chunk = text(&"x".repeat(8 * 1024), false);
    let mut pushed = 0;
    while !outbox.state.lock().blocked {
        assert_eq!(outbox.push(&chunk), Pushed::Taken);
        pushed += 1;
    }
    pushed
}

async fn read_all(peer: &mut (impl AsyncRead + Unpin), out: &mut BytesMut) {
    while let Ok(Ok(1..)) = tokio::time::timeout(Duration::from_millis(200), peer.read_buf(out)).await {}
}

async fn flush_when_writable(outbox: &Outbox) {
    let drained = poll_fn_drained(outbox);
    tokio::time::timeout(Duration::from_secs(5), drained).await.unwrap();
}

fn poll_fn_drained(outbox: &Outbox) -> impl Future<Output = ()> + '_ {
    std::future::poll_fn(move |context| {
        outbox.register(context);
        outbox.poll_flush(context);
        if outbox.is_drained() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
}

#[tokio::test]
async fn what_the_socket_takes_never_waits() {
    let (outbox, mut peer) = pair(&metrics()).await;
    assert_eq!(outbox.push(&text("2[\"a\"]", false)), Pushed::Taken);
    assert!(outbox.is_drained());
    let mut frame = [0; 9];
    peer.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame, b"\x81\x0742[\"a\"]");
}

#[tokio::test]
async fn what_waits_leaves_in_order_and_whole() {
    let metrics = metrics();
    leaves_in_order_and_whole(pair(&metrics).await).await;
    leaves_in_order_and_whole(narrow_secure_pair(&metrics).await).await;
    assert!(metrics.text().unwrap().contains("tidegate_outbox_bytes 0"));
}

async fn leaves_in_order_and_whole((outbox, mut peer): (Arc<Outbox>, impl AsyncRead + Unpin)) {
    let mut expected = BytesMut::new();
    let chunk = text(&"x".repeat(8 * 1024), false);
    for _ in 0..fill(&outbox) {
        expected.extend_from_slice(chunk.websocket());
    }
    for number in 0..100 {
        let message = text(&format!("2[\"n\",{number}]"), false);
        assert_eq!(outbox.push(&message), Pushed::Taken);
        expected.extend_from_slice(message.websocket());
    }
    let mut received = BytesMut::new();
    let reading = async {
        while received.len() < expected.len() {
            assert!(peer.read_buf(&mut received).await.unwrap() > 0);
        }
    };
    tokio::join!(reading, flush_when_writable(&outbox));
    assert!(received == expected, "{} bytes of {}", received.len(), expected.len());
    let state = outbox.state.lock();
    let Transport::WebSocket { queue, .. } = &state.transport else { panic!("a WebSocket") };
    assert!(queue.is_none(), "a connection that has caught up owns no queue");
}

#[tokio::test]
async fn a_volatile_message_does_not_wait_for_a_blocked_socket() {
    let metrics = metrics();
    let (outbox, _peer) = pair(&metrics).await;
    fill(&outbox);
    assert_eq!(outbox.push(&text("2[\"v\"]", true)), Pushed::Dropped);
    assert_eq!(outbox.push(&text("2[\"d\"]", false)), Pushed::Taken);
    assert!(metrics.text().unwrap().contains("tidegate_dropped_total{reason=\"volatile\"} 1"));
}

#[tokio::test]
async fn a_full_outbox_drops_volatile_messages_and_then_the_connection() {
    let metrics = metrics();
    let outbox = Outbox::polling(Terms::new(1_600, Arc::clone(&metrics), Reactor::resting()));
    assert_eq!(outbox.push(&text(&"v".repeat(600), true)), Pushed::Taken);
    assert_eq!(outbox.push(&text(&"d".repeat(600), false)), Pushed::Taken);
    assert!(metrics.text().unwrap().contains("tidegate_dropped_total{reason=\"volatile\"} 1"));
    // Another volatile one is not worth the connection, a durable one is.
    assert_eq!(outbox.push(&text(&"v".repeat(600), true)), Pushed::Dropped);
    assert_eq!(outbox.closed(), None);
    assert_eq!(outbox.push(&text(&"d".repeat(600), false)), Pushed::Closed);
    assert_eq!(outbox.closed(), Some(DisconnectReason::SlowConsumer));
    assert!(outbox.is_drained());
    assert!(metrics.text().unwrap().contains("tidegate_outbox_bytes 0"));
}

#[tokio::test]
async fn a_batch_beyond_the_bound_does_not_close_a_receiver_that_keeps_up() {
    let (outbox, mut peer) = pair(&metrics()).await;
    let chunk = text(&"z".repeat(20 * 1024), false);
    let reading = async {
        let mut received = BytesMut::new();
        while received.len() < 40 * chunk.websocket().len() {
            assert!(peer.read_buf(&mut received).await.unwrap() > 0);
        }
    };
    let appending = async {
        for _ in 0..40 {
            outbox.append(&chunk);
            assert_eq!(outbox.closed(), None);
            if outbox.state.lock().blocked {
                flush_when_writable(&outbox).await;
            }
        }
        outbox.flush();
        flush_when_writable(&outbox).await;
    };
    tokio::join!(reading, appending);
}

#[tokio::test]
async fn one_message_beyond_the_bound_is_not_its_receivers_fault() {
    let metrics = metrics();
    let outbox = Outbox::polling(Terms::new(1_000, Arc::clone(&metrics), Reactor::resting()));
    assert_eq!(outbox.push(&text(&"d".repeat(2_000), false)), Pushed::Taken, "an empty outbox takes it");
    assert_eq!(outbox.push(&text(&"d".repeat(2_000), false)), Pushed::Dropped);
    assert_eq!(outbox.closed(), None);
    assert!(metrics.text().unwrap().contains("tidegate_dropped_total{reason=\"too_large\"} 1"));
}

#[tokio::test]
async fn corked_messages_leave_together() {
    let (outbox, mut peer) = pair(&metrics()).await;
    outbox.cork();
    outbox.push(&text("2[1]", false));
    outbox.push(&text("2[2]", false));
    assert!(!outbox.is_drained());
    outbox.flush();
    assert!(outbox.is_drained());
    outbox.push(&text("2[3]", false));
    assert!(outbox.is_drained(), "a flush takes the cork out");
    let mut received = [0; 21];
    peer.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"\x81\x0542[1]\x81\x0542[2]\x81\x0542[3]");
}

#[tokio::test]
async fn a_slow_consumer_is_closed_at_its_bound() {
    closed_at_its_bound(pair(&metrics()).await).await;
    closed_at_its_bound(narrow_secure_pair(&metrics()).await).await;
}

async fn closed_at_its_bound((outbox, mut peer): (Arc<Outbox>, impl AsyncRead + Unpin)) {
    fill(&outbox);
    let chunk = text(&"y".repeat(8 * 1024), false);
    let mut waiting = 0;
    while outbox.push(&chunk) == Pushed::Taken {
        waiting += 1;
        assert!(waiting <= BYTES_MAX / (8 * 1024), "more than the bound waits");
    }
    assert_eq!(outbox.closed(), Some(DisconnectReason::SlowConsumer));
    read_all(&mut peer, &mut BytesMut::new()).await;
}

#[tokio::test]
async fn an_upgrade_carries_over_what_waits() {
    let metrics = metrics();
    let polling = Arc::new(Outbox::polling(Terms::new(BYTES_MAX, Arc::clone(&metrics), Reactor::running())));
    polling.push(&text("2[\"first\"]", false));
    polling.push(&text("2[\"second\"]", false));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let socket = Socket::new(listener.accept().await.unwrap().0);
    polling.upgrade(socket, Binary::Frames, &Message::engine("6"));
    polling.push(&text("2[\"third\"]", false));
    let mut received = vec![0; 2 + 11 + 2 + 12 + 2 + 11];
    peer.read_exact(&mut received).await.unwrap();
    assert_eq!(received, b"\x81\x0b42[\"first\"]\x81\x0c42[\"second\"]\x81\x0b42[\"third\"]");
    assert!(metrics.text().unwrap().contains("tidegate_outbox_bytes 0"));
}

#[tokio::test]
async fn a_poll_takes_everything_that_waits_and_a_second_one_overlaps() {
    let outbox = Outbox::polling(Terms::new(BYTES_MAX, metrics(), Reactor::resting()));
    outbox.push(&text("2[1]", false));
    outbox.push(&text("2[2]", false));
    let Poll::Ready(payload) = outbox.poll() else { panic!("something waits") };
    assert_eq!(payload, "42[1]\u{1e}42[2]");
    let Poll::Pending(pending) = outbox.poll() else { panic!("nothing waits") };
    assert!(matches!(outbox.poll(), Poll::Overlap));
    outbox.push(&text("2[3]", false));
    assert_eq!(pending.await.unwrap(), "42[3]");
}

#[tokio::test]
async fn a_batch_is_appended_and_flushed_once() {
    let (outbox, mut peer) = pair(&metrics()).await;
    assert!(outbox.append(&text("2[1]", false)), "the first of a batch asks for a flush");
    assert!(!outbox.append(&text("2[2]", false)), "the second need not");
    assert!(!outbox.is_drained());
    outbox.flush();
    assert!(outbox.is_drained());
    let mut received = [0; 14];
    peer.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"\x81\x0542[1]\x81\x0542[2]");
}

#[tokio::test]
async fn a_poll_that_went_away_takes_nothing_along() {
    let outbox = Outbox::polling(Terms::new(BYTES_MAX, metrics(), Reactor::resting()));
    let Poll::Pending(gone) = outbox.poll() else { panic!("nothing waits") };
    drop(gone);
    assert!(outbox.append(&text("2[1]", false)));
    outbox.append(&text("2[2]", false));
    outbox.flush();
    let Poll::Ready(payload) = outbox.poll() else { panic!("it still waits") };
    assert_eq!(payload, "42[1]\u{1e}42[2]");
    assert!(outbox.is_drained());
}

/// A message that the socket took, and whose ciphertext is still there.
#[tokio::test]
async fn what_is_only_encrypted_has_not_left() {
    let (outbox, mut peer) = narrow_secure_pair(&metrics()).await;
    let message = text(&"x".repeat(2_000), false);
    let (mut expected, before) = (BytesMut::new(), outbox.taken());
    while !outbox.state.lock().is_clogged() {
        assert_eq!(outbox.push(&message), Pushed::Taken);
        expected.extend_from_slice(message.websocket());
    }
    {
        let state = outbox.state.lock();
        assert_eq!(state.bytes, 0, "nothing waits in the outbox itself");
        assert!(state.blocked, "the connection's task looks after the socket");
    }
    assert!(!outbox.is_drained() && !outbox.has_written(before));
    assert_eq!(outbox.push(&text("2[\"v\"]", true)), Pushed::Dropped, "as with any blocked socket");
    outbox.watch();
    assert!(!outbox.take_news());
    let mut received = vec![0; expected.len()];
    let reading = async { peer.read_exact(&mut received).await.unwrap() };
    tokio::join!(reading, flush_when_writable(&outbox));
    assert!(received == expected);
    assert!(outbox.take_news() && outbox.has_written(before));
    assert!(!outbox.state.lock().blocked);
}

#[tokio::test]
async fn the_last_message_and_all_before_it_arrive_before_the_end() {
    let (outbox, mut peer) = narrow_secure_pair(&metrics()).await;
    let chunk = text(&"x".repeat(8 * 1024), false);
    let mut expected = BytesMut::new();
    for _ in 0..fill(&outbox) {
        expected.extend_from_slice(chunk.websocket());
    }
    let message = text("2[\"n\"]", false);
    assert_eq!(outbox.push(&message), Pushed::Taken);
    expected.extend_from_slice(message.websocket());
    outbox.close(DisconnectReason::ServerShuttingDown);
    let last = Bytes::from_static(b"\x88\x02\x03\xe8");
    expected.extend_from_slice(&last);
    let idle = Message::engine("6");
    // As a rule it is not, but the kernel may have moved on since it took no more.
    let _ = outbox.push_last(last, &idle, &idle);
    let ending = async {
        flush_when_writable(&outbox).await;
        outbox.abandon();
    };
    let mut received = Vec::new();
    // Which fails unless a goodbye was said.
    let reading = async { peer.read_to_end(&mut received).await.unwrap() };
    tokio::join!(reading, ending);
    assert!(received == expected, "{} bytes of {}", received.len(), expected.len());
}

#[tokio::test]
async fn a_watcher_hears_of_what_a_read_let_leave() {
    let (outbox, mut peer) = narrow_secure_pair(&metrics()).await;
    let message = text(&"x".repeat(2_000), false);
    let mut total = 0;
    while !outbox.state.lock().is_clogged() {
        assert_eq!(outbox.push(&message), Pushed::Taken);
        total += message.websocket().len();
    }
    let mark = outbox.taken();
    let look = || {
        std::future::poll_fn(|context| {
            outbox.poll_flush(context);
            std::task::Poll::Ready(())
        })
    };
    look().await;
    outbox.watch();
    assert!(!outbox.take_news(), "nothing has left");
    peer.write_all(b"hello").await.unwrap();
    peer.flush().await.unwrap();
    let (mut received, mut got) = (vec![0; total], 0);
    while got < total {
        match tokio::time::timeout(Duration::from_millis(100), peer.read(&mut received[got..])).await {
            Ok(Ok(read @ 1..)) => got += read,
            _ => break,
        }
    }
    // The connection's task hears of what arrived first, and its read writes what was left.
    let mut buffer = [0; 64];
    assert_eq!(std::future::poll_fn(|context| outbox.poll_read(context, &mut buffer)).await.unwrap(), 5);
    look().await;
    assert!(outbox.is_drained() && outbox.has_written(mark));
    assert!(outbox.take_news(), "the courier is never told");
}
