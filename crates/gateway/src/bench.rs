//! What the micro-benchmarks measure of the hub and the outbox; they are run by `crates/test/benches/micro`.
//!
//! Neither is public, and neither becomes so for this: the acts that are measured are put together in here, and a meter
//! is told to perform them. Hence a feature, which nothing that is shipped switches on, and not a bench target of this
//! crate, which would see only what users see.

use std::io::{self, ErrorKind, Read as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use bytes::Bytes;
use tidegate_protocol::socketio::{Encoded, Head};
use tokio::runtime;

use crate::hub;
use crate::message::Message;
use crate::metrics::Metrics;
use crate::outbox::{Binary, Outbox, Pushed, Terms};
use crate::reactor::Reactor;
use crate::socket::Socket;

/// What performs acts, and finds out what they cost.
pub trait Meter {
    /// Performs `act` in rounds of `times`, with `prepare` before each. What `prepare` does is not measured.
    fn measure(&mut self, name: &str, times: u32, prepare: &mut dyn FnMut(), act: &mut dyn FnMut());
}

/// Measures everything there is in here.
pub fn run(meter: &mut dyn Meter) {
    let metrics = Arc::new(Metrics::new("bench", "bench", "n").expect("no two families share a name"));
    hub::bench::run(meter, &metrics);
    outbox(meter, &metrics);
}

/// More than ever waits in here.
pub(crate) const OUTBOX_BYTES_MAX: usize = 16 << 20;

/// Acts in a round. What they send fits the socket's buffers, so that it never blocks.
const TIMES: u32 = 64;

fn outbox(meter: &mut dyn Meter, metrics: &Arc<Metrics>) {
    let runtime = runtime::Builder::new_current_thread().enable_io().build().expect("the system has epoll");
    let _guard = runtime.enter();
    let (outbox, mut peer) = connect(metrics).expect("loopback has a free port");
    let head = Head::Text(Bytes::from(format!("2[\"message\",\"{}\"]", "x".repeat(82))));
    let message = Message::packet(Encoded { head, attachments: Vec::new() }, false);
    assert_eq!(message.websocket().len(), 100);
    let mut prepare = || {
        outbox.flush();
        peer.take_all();
        assert!(outbox.is_drained(), "the socket takes no more");
    };
    meter.measure("outbox: push of 100 B (one send)", TIMES, &mut prepare, &mut || {
        assert_eq!(outbox.push(&message), Pushed::Taken);
    });
    meter.measure("outbox: append of 100 B, nothing written", TIMES, &mut prepare, &mut || {
        outbox.append(&message);
    });
    for count in [1, 8] {
        let name = format!("outbox: append of {count} x 100 B, and flush (one send)");
        meter.measure(&name, TIMES, &mut prepare, &mut || {
            for _ in 0..count {
                outbox.append(&message);
            }
            outbox.flush();
        });
    }
}

/// The outbox of a client on a WebSocket, and the client. It must be called in a runtime, which is not needed further.
fn connect(metrics: &Arc<Metrics>) -> io::Result<(Arc<Outbox>, Peer)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let peer = TcpStream::connect(listener.local_addr()?)?;
    peer.set_nonblocking(true)?;
    let (stream, _) = listener.accept()?;
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let socket = Socket::new(tokio::net::TcpStream::from_std(stream)?);
    let outbox = Outbox::websocket(
        socket,
        Binary::Frames,
        Terms::new(OUTBOX_BYTES_MAX, Arc::clone(metrics), Reactor::resting()),
    );
    Ok((outbox, Peer { stream: peer, buffer: vec![0; 1 << 20] }))
}

struct Peer {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Peer {
    fn take_all(&mut self) {
        loop {
            match self.stream.read(&mut self.buffer) {
                Ok(1..) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                other => panic!("the connection has ended: {other:?}"),
            }
        }
    }
}
