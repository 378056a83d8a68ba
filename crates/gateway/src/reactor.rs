//! Wakes connections whose sockets have something for them, as the runtime would, for less memory.
//!
//! What the runtime keeps of a socket is 256 bytes, a fifth of an idle connection: a waker for each direction and for
//! whoever else might wait. Here one task waits for all WebSockets together, in an epoll of their own that the runtime
//! sees as one descriptor, and what is kept of each is the place of its outbox, which has a waker already. That costs one
//! system call more for each batch of arrivals.
//!
//! Readiness is edge-triggered: it is noted in the outbox's [`Readiness`], and whoever is about to read takes the note back
//! first, after it has registered to be woken. What arrives in between is noted again, so that nothing is missed. A socket
//! counts as writable until it was not, and only then anybody waits to hear that it is again.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use parking_lot::Mutex;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

use crate::outbox::Outbox;

/// How long to wait before what failed is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Arrivals taken from the kernel at a time.
const EVENTS_MAX: usize = 1_024;

/// What a socket is ready for, as far as anybody was told.
#[derive(Debug)]
pub(crate) struct Readiness(AtomicU8);

impl Readiness {
    /// Something has arrived.
    pub(crate) const READ: u8 = 1;
    /// Something can be written, or an error told.
    pub(crate) const WRITE: u8 = 2;
    /// Nothing more will arrive. Nobody is told twice, so that whoever takes it, and has not read to the end, puts it back.
    pub(crate) const END: u8 = 4;
    /// It was asked to have writes noted; nobody needs to ask twice.
    pub(crate) const ASKED: u8 = 8;

    pub(crate) const fn new() -> Self {
        Self(AtomicU8::new(Self::WRITE))
    }

    /// Returns what of it was not noted before.
    pub(crate) fn note(&self, ready: u8) -> u8 {
        ready & !self.0.fetch_or(ready, Ordering::AcqRel)
    }

    pub(crate) fn has(&self, ready: u8) -> bool {
        self.0.load(Ordering::Acquire) & ready != 0
    }

    /// Takes notes back. Returns which of them were there.
    pub(crate) fn take(&self, ready: u8) -> u8 {
        // Most looks find nothing, and a write is what makes other cores read again.
        if self.has(ready) { self.0.fetch_and(!ready, Ordering::AcqRel) & ready } else { 0 }
    }
}

/// Where sockets are watched.
#[derive(Debug)]
pub(crate) struct Reactor {
    registry: Registry,
    places: Mutex<Places>,
}

/// The outboxes of watched sockets, by what the kernel calls them. As many as there were ever connections at once.
#[derive(Debug, Default)]
struct Places {
    outboxes: Vec<Option<Weak<Outbox>>>,
    free: Vec<u32>,
}

impl Places {
    fn take(&mut self, outbox: Weak<Outbox>) -> io::Result<u32> {
        if let Some(place) = self.free.pop() {
            self.outboxes[place as usize] = Some(outbox);
            return Ok(place);
        }
        let place = u32::try_from(self.outboxes.len()).map_err(io::Error::other)?;
        self.outboxes.push(Some(outbox));
        Ok(place)
    }

    fn leave(&mut self, place: u32) {
        if self.outboxes[place as usize].take().is_some() {
            self.free.push(place);
        }
    }
}

impl Reactor {
    /// A reactor, and what it waits with.
    ///
    /// # Errors
    /// When the system is out of descriptors.
    pub(crate) fn new() -> io::Result<(Arc<Self>, Poll)> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        Ok((Arc::new(Self { registry, places: Mutex::default() }), poll))
    }

    /// Watches a socket for what arrives, and has it noted in `outbox`. Returns its place here, which must be
    /// [left](Reactor::leave) when the socket is closed.
    ///
    /// # Errors
    /// When the kernel has no room to watch it.
    pub(crate) fn watch(&self, socket: &TcpStream, outbox: Weak<Outbox>) -> io::Result<u32> {
        let place = self.places.lock().take(outbox)?;
        // What has arrived already is told, too. Whether it can be written is of interest only once it could not.
        let watched =
            self.registry.register(&mut SourceFd(&socket.as_raw_fd()), token(place), Interest::READABLE);
        if watched.is_err() {
            self.leave(place);
        }
        watched.map(|()| place)
    }

    /// Has it noted, too, when a socket that took no more takes something again; that may be now.
    ///
    /// # Errors
    /// When the kernel has no room for that.
    pub(crate) fn watch_writes(&self, socket: &TcpStream, place: u32) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        self.registry.reregister(&mut SourceFd(&socket.as_raw_fd()), token(place), both)
    }

    /// Forgets a socket. The kernel does when it is closed; what it has told until then reaches whoever has the place
    /// next, who finds that there is nothing to read.
    pub(crate) fn leave(&self, place: u32) {
        self.places.lock().leave(place);
    }

    /// The outboxes of all watched sockets, to close them.
    pub(crate) fn outboxes(&self) -> Vec<Arc<Outbox>> {
        let places = self.places.lock();
        let mut outboxes = Vec::with_capacity(places.outboxes.len() - places.free.len());
        outboxes.extend(places.outboxes.iter().flatten().filter_map(Weak::upgrade));
        outboxes
    }

    /// Wakes connections until `stopped`. Without it no connection is read from, so it ends only with the node: what fails,
    /// which would be for want of memory or a defect, is tried again.
    pub(crate) async fn run(self: Arc<Self>, mut waiting: Waiting, stopped: CancellationToken) {
        let waking = async {
            loop {
                if let Err(error) = self.wake_all(&mut waiting.0).await {
                    tracing::error!(%error, "failed to wait for sockets");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        };
        tokio::select! {
            () = stopped.cancelled() => {}
            () = waking => {}
        }
    }

    async fn wake_all(&self, poll: &mut AsyncFd<Poll>) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut woken = Vec::new();
        loop {
            // Waiting alone costs nothing of a task's turn, however much there is to wake.
            tokio::task::consume_budget().await;
            let mut ready = poll.readable_mut().await?;
            loop {
                match ready.get_inner_mut().poll(&mut events, Some(Duration::ZERO)) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    polled => polled?,
                }
                {
                    let places = self.places.lock();
                    for event in &events {
                        let outbox = places.outboxes.get(event.token().0).and_then(Option::as_ref);
                        let Some(outbox) = outbox.and_then(Weak::upgrade) else { continue };
                        let mut noted = 0;
                        if event.is_readable() {
                            noted |= Readiness::READ;
                        }
                        if event.is_read_closed() || event.is_error() {
                            noted |= Readiness::END;
                        }
                        if event.is_writable() || event.is_write_closed() || event.is_error() {
                            noted |= Readiness::WRITE;
                        }
                        woken.push((outbox, noted));
                    }
                }
                let taken = events.iter().count();
                for (outbox, noted) in woken.drain(..) {
                    outbox.wake_ready(noted);
                }
                if taken < EVENTS_MAX {
                    break;
                }
                // Those who were woken have their turn first.
                tokio::task::yield_now().await;
            }
            // What came since the last look was told again.
            ready.clear_ready();
        }
    }
}

#[cfg(any(test, feature = "bench"))]
impl Reactor {
    /// One that wakes nobody.
    pub(crate) fn resting() -> Arc<Self> {
        Self::new().expect("there is a descriptor left").0
    }
}

fn token(place: u32) -> Token {
    Token(place as usize)
}

/// What waits for the sockets of a [`Reactor`].
#[derive(Debug)]
pub(crate) struct Waiting(AsyncFd<Poll>);

impl Waiting {
    /// In a runtime, which waits for all of them as for one.
    ///
    /// # Errors
    /// When the kernel has no room for that.
    pub(crate) fn new(poll: Poll) -> io::Result<Self> {
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for sources that lend a descriptor which they do not keep; this one does"
        )]
        AsyncFd::new(poll).map(Self)
    }
}

#[cfg(test)]
impl Reactor {
    /// One that runs as long as the test.
    pub(crate) fn running() -> Arc<Self> {
        let (reactor, poll) = Self::new().expect("there is a descriptor left");
        let waiting = Waiting::new(poll).expect("there is room to watch it");
        let run = Arc::clone(&reactor).run(waiting, CancellationToken::new());
        #[expect(clippy::disallowed_methods, reason = "it ends with the runtime of its test")]
        tokio::spawn(run);
        reactor
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Context, Poll, Wake, Waker};

    use bytes::Bytes;
    use tidegate_core::DisconnectReason;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::message::Message;
    use crate::metrics::Metrics;
    use crate::outbox::{Binary, Terms};
    use crate::socket::Socket;

    async fn pair() -> (Socket, net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap().into_std().unwrap();
        peer.set_nonblocking(false).unwrap();
        (Socket::new(listener.accept().await.unwrap().0), peer)
    }

    fn terms(reactor: &Arc<Reactor>) -> Arc<Terms> {
        Terms::new(1 << 20, Arc::new(Metrics::new("test", "test", "n").unwrap()), Arc::clone(reactor))
    }

    /// Reads until the outbox has nothing, as a connection does.
    async fn read(outbox: &Outbox, room: usize) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; room];
        let count = std::future::poll_fn(|context| outbox.poll_read(context, &mut buffer));
        let count = tokio::time::timeout(Duration::from_secs(20), count).await.unwrap()?;
        buffer.truncate(count);
        Ok(buffer)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn everything_is_read_whatever_was_there_before_and_to_the_end() {
        let terms = terms(&Reactor::running());
        for rounds in 0..200 {
            let (socket, mut peer) = pair().await;
            if rounds % 2 == 0 {
                peer.write_all(b"early").unwrap();
            }
            let outbox = Outbox::websocket(socket, Binary::Frames, Arc::clone(&terms));
            if rounds % 2 == 1 {
                peer.write_all(b"early").unwrap();
            }
            // A full buffer: there may be more, and nothing tells again.
            assert_eq!(read(&outbox, 2).await.unwrap(), b"ea");
            assert_eq!(read(&outbox, 3).await.unwrap(), b"rly");
            peer.write_all(b"late").unwrap();
            drop(peer);
            assert_eq!(read(&outbox, 9).await.unwrap(), b"late");
            assert_eq!(read(&outbox, 9).await.unwrap(), b"");
            assert_eq!(read(&outbox, 9).await.unwrap(), b"", "the end stays the end");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn places_are_given_back_and_whoever_has_one_next_is_not_disturbed() {
        let reactor = Reactor::running();
        let terms = terms(&reactor);
        for _ in 0..20 {
            let mut pairs = Vec::new();
            for _ in 0..5 {
                let (socket, peer) = pair().await;
                pairs.push((Outbox::websocket(socket, Binary::Frames, Arc::clone(&terms)), peer));
            }
            for (number, (outbox, peer)) in pairs.iter_mut().enumerate() {
                peer.write_all(&[number as u8]).unwrap();
                assert_eq!(read(outbox, 9).await.unwrap(), [number as u8]);
            }
            // One as a connection ends, the others as if it had never begun.
            pairs[0].0.let_go();
        }
        // The reactor itself may hold one a moment longer, while it wakes its connection.
        let places = || {
            let places = reactor.places.lock();
            (places.outboxes.len(), places.free.len())
        };
        while places().0 != places().1 {
            tokio::task::yield_now().await;
        }
        assert!(places().0 <= 10, "of a hundred, five at a time");
    }

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn nobody_is_woken_for_nothing() {
        let terms = terms(&Reactor::running());
        let (socket, mut peer) = pair().await;
        let outbox = Outbox::websocket(socket, Binary::Frames, terms);
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        let mut buffer = [0; 64];
        let mut poll = |outbox: &Outbox| outbox.poll_read(&mut context, &mut buffer);
        assert!(poll(&outbox).is_pending());
        // It can be written, which nobody waits for.
        outbox.push(&Message::frame(Bytes::from_static(b"out"), false));
        peer.write_all(b"in").unwrap();
        while count.0.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(matches!(poll(&outbox), Poll::Ready(Ok(2))));
        assert!(poll(&outbox).is_pending());
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_peer_that_sends_without_end_is_read_from_in_turns() {
        let (socket, mut peer) = pair().await;
        let outbox = Outbox::websocket(socket, Binary::Frames, terms(&Reactor::running()));
        peer.write_all(&[0; 10_000]).unwrap();
        let (mut turns, mut most, mut bytes) = (0, 0, 0);
        while bytes < 10_000 {
            let read = std::future::poll_fn(|context| {
                let mut read = 0;
                // One byte at a time, as a connection may find nothing in what it reads, however much that is.
                while let Poll::Ready(count) = outbox.poll_read(context, &mut [0]) {
                    read += count.unwrap();
                }
                if read > 0 { Poll::Ready(read) } else { Poll::Pending }
            });
            let read = read.await;
            (turns, most, bytes) = (turns + 1, most.max(read), bytes + read);
            tokio::task::yield_now().await;
        }
        assert!(turns >= 50 && most <= 200, "{turns} turns of at most {most}");
    }

    #[test]
    fn notes_are_taken_once_and_told_once() {
        let readiness = Readiness::new();
        assert!(readiness.has(Readiness::WRITE) && !readiness.has(Readiness::READ | Readiness::END));
        assert_eq!(readiness.note(Readiness::READ | Readiness::WRITE), Readiness::READ);
        assert_eq!(readiness.note(Readiness::READ | Readiness::END), Readiness::END);
        assert_eq!(readiness.take(Readiness::READ | Readiness::END), Readiness::READ | Readiness::END);
        assert_eq!(readiness.take(Readiness::READ | Readiness::END), 0);
        assert!(readiness.has(Readiness::WRITE));
    }

    #[tokio::test]
    async fn a_socket_that_cannot_be_watched_ends_its_connection() {
        let reactor = Reactor::running();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = listener.accept().await.unwrap().0.into_std().unwrap();
        // The kernel watches nothing twice.
        reactor.watch(&stream, Weak::new()).unwrap();
        let socket = Socket::new(TcpStream::from_std(stream).unwrap());
        let outbox = Outbox::websocket(socket, Binary::Frames, terms(&reactor));
        assert_eq!(outbox.closed(), Some(DisconnectReason::TransportError));
        assert_eq!(reactor.places.lock().free.len(), 1);
        assert_eq!(read(&outbox, 1).await.unwrap(), b"");
    }
}
