//! The socket under a client's connection: a TCP stream, over TLS or not. While the client speaks HTTP it is hyper's, and the
//! runtime waits for it; under a WebSocket it is written by whoever has something for its client, read by its connection
//! alone, and the [`reactor`](crate::reactor) waits for it.
//!
//! A write that is taken, which is what nearly all are, touches nothing but the socket, which lives beside what else a write
//! touches. Where the socket takes no more, or nothing has arrived, whoever is to wait is told to: the runtime, or the
//! outbox's [`Readiness`].
//!
//! Over TLS (`session`) whoever writes encrypts, too, under a lock of the socket's. What the kernel does not take of a record
//! stays in the session, and until it has left the socket is *clogged*: it takes nothing more, and somebody must wait for it
//! to become writable and then [flush](Socket::flush) it. Without TLS all of that costs the look at one pointer.

mod session;
mod stream;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::io::{self, IoSlice, Read as _};
use std::net::{self, Shutdown};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use rustls::ServerConfig;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::task::coop;

use crate::outbox::Outbox;
use crate::reactor::{Reactor, Readiness};

use session::Session;
pub(crate) use session::UNSENT_BYTES_MAX;

/// A connected TCP socket.
#[derive(Debug)]
pub(crate) struct Socket {
    tcp: Tcp,
    tls: Option<Box<Tls>>,
}

/// Who waits for it.
#[derive(Debug)]
enum Tcp {
    /// The runtime. Boxed, since few sockets are for long, and it is three times the size.
    Runtime(Box<TcpStream>),
    /// The reactor, which has a place for it and notes in the outbox what it is ready for. The outbox is the one that the
    /// socket is in.
    Watched { tcp: net::TcpStream, place: u32, outbox: Weak<Outbox> },
}

/// What TLS keeps of a connection: about 3.5 KB, most of it keys and counters of rustls's.
struct Tls {
    session: Mutex<Session>,
    /// What [`Session::is_clogged`] said last, for who only wants to know.
    clogged: AtomicBool,
}

/// Nothing of a session: it holds keys.
impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Has the session do something, and notes how that leaves it.
    fn with<T>(&self, act: impl FnOnce(&mut Session) -> T) -> T {
        let mut session = self.session.lock();
        let done = act(&mut session);
        self.clogged.store(session.is_clogged(), Ordering::Release);
        done
    }
}

impl Socket {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self { tcp: Tcp::Runtime(Box::new(tcp)), tls: None }
    }

    /// Lets the reactor wait for it from now on, for `outbox`, in which it is to be.
    ///
    /// # Errors
    /// When the kernel does not watch it.
    pub(crate) fn watched(self, reactor: &Reactor, outbox: Weak<Outbox>) -> io::Result<Self> {
        let Tcp::Runtime(tcp) = self.tcp else { return Ok(self) };
        let tcp = tcp.into_std()?;
        let place = reactor.watch(&tcp, Weak::clone(&outbox))?;
        Ok(Self { tcp: Tcp::Watched { tcp, place, outbox }, ..self })
    }

    /// Where the reactor has it.
    pub(crate) fn place(&self) -> Option<u32> {
        match self.tcp {
            Tcp::Runtime(_) => None,
            Tcp::Watched { place, .. } => Some(place),
        }
    }

    /// Shakes hands with a client over TLS. The caller limits the time.
    ///
    /// # Errors
    /// When the peer does not speak TLS as `config` has it, or goes away. It has been told what rustls has to tell it, as
    /// far as it takes that.
    pub(crate) async fn secure(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let session = Session::new(config).map_err(io::Error::other)?;
        let tls = Box::new(Tls { session: Mutex::new(session), clogged: AtomicBool::new(false) });
        let socket = Self { tls: Some(tls), ..Self::new(tcp) };
        while socket.tls.as_ref().is_some_and(|tls| tls.session.lock().is_handshaking()) {
            poll_fn(|context| socket.poll_arrival(context, &mut [])).await?;
            poll_fn(|context| socket.poll_unclog(context)).await?;
            if socket.tls.as_ref().is_some_and(|tls| tls.session.lock().has_ended()) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(socket)
    }

    /// Writes what the socket takes now. Over TLS that may stop at the end of a record, with the socket clogged.
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing; [`Socket::poll_write_ready`] then says when it will.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.tls {
            None => self.tcp.send(bytes),
            Some(_) => self.write_vectored(&[IoSlice::new(bytes)]),
        }
    }

    /// The same with several pieces.
    pub(crate) fn write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.tls {
            None => self.tcp.write(|socket| socket.send_vectored(pieces)),
            Some(tls) => tls.with(|session| session.write(pieces, |bytes| self.tcp.send(bytes))),
        }
    }

    /// Whether something of what was written has not left yet.
    pub(crate) fn is_clogged(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.clogged.load(Ordering::Acquire))
    }

    /// Lets leave what clogs the socket.
    ///
    /// # Errors
    /// `WouldBlock` when some of it stays.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let Some(tls) = &self.tls else { return Ok(()) };
        tls.with(|session| session.flush(|bytes| self.tcp.send(bytes)))
    }

    /// Whether the socket may take something again. For the connection's own task only, which has
    /// [registered](Outbox::register) with the outbox; the runtime keeps one waker for each direction. An error shows in the
    /// write that follows.
    pub(crate) fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        match &self.tcp {
            Tcp::Runtime(tcp) => tcp.poll_write_ready(context).map(|_| ()),
            Tcp::Watched { outbox, .. } => match outbox.upgrade() {
                Some(outbox) if !outbox.readiness().has(Readiness::WRITE) => Poll::Pending,
                _ => Poll::Ready(()),
            },
        }
    }

    /// Lets leave what clogs the socket, however long that takes.
    fn poll_unclog(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.is_clogged() {
            match self.flush() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.poll_write_ready(context));
                }
                flushed => return Poll::Ready(flushed),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what has arrived, at most a buffer full; nothing is the end. For the connection's own task only, as above.
    pub(crate) fn poll_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if let Some(tls) = &self.tls {
            let room = buffer.len();
            let put = |plain: &[u8]| buffer[..plain.len()].copy_from_slice(plain);
            let read = tls.session.lock().take(room, put);
            if read > 0 {
                return Poll::Ready(Ok(read));
            }
        }
        loop {
            // What arrives over TLS may be less than a record, or nothing for us.
            if let Some(read) = ready!(self.poll_arrival(context, buffer))? {
                return Poll::Ready(Ok(read));
            }
        }
    }

    /// Waits for one arrival and reads it; over TLS what it holds for us may be nothing yet. What the buffer has no room for
    /// is taken by [`Session::take`].
    fn poll_arrival(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<Option<usize>>> {
        let Some(tls) = &self.tls else { return self.tcp.poll_receive(context, buffer).map_ok(Some) };
        tls.with(|session| {
            session.poll_read(
                buffer,
                |arriving| self.tcp.poll_receive(context, arriving),
                |leaving| self.tcp.send(leaving),
            )
        })
    }

    /// Reads what has arrived, at most a buffer full; nothing is the end.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|context| self.poll_read(context, buffer)).await
    }

    /// Writes everything, or fails.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll_fn(|context| self.poll_write_ready(context)).await;
                }
                Err(error) => return Err(error),
            }
        }
        poll_fn(|context| self.poll_unclog(context)).await
    }

    /// Says to the peer that nothing more comes. What it still sends is of interest only as far as it ends: over TLS,
    /// reads now tell how much came and not what.
    pub(crate) fn finish(&self) {
        if let Some(tls) = &self.tls {
            tls.with(|session| session.finish(|bytes| self.tcp.send(bytes)));
        }
        // Of a peer that has gone, that is all the same.
        let _ = self.tcp.socket().shutdown(Shutdown::Write);
    }
}

impl Tcp {
    fn socket(&self) -> SockRef<'_> {
        match self {
            Self::Runtime(tcp) => SockRef::from(&**tcp),
            Self::Watched { tcp, .. } => SockRef::from(tcp),
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.write(|socket| socket.send(bytes))
    }

    fn write(&self, write: impl Fn(&SockRef<'_>) -> io::Result<usize>) -> io::Result<usize> {
        let socket = self.socket();
        let written = write(&socket);
        if !matches!(&written, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            return written;
        }
        match self {
            // Once more, so that the runtime learns that it must wait. It takes down when it last heard from the
            // socket before the call, and so misses nothing that happens meanwhile.
            Self::Runtime(tcp) => tcp.try_io(tokio::io::Interest::WRITABLE, || write(&socket)),
            Self::Watched { tcp, place, outbox } => {
                let Some(outbox) = outbox.upgrade() else { return written };
                let readiness = outbox.readiness();
                readiness.take(Readiness::WRITE);
                if readiness.note(Readiness::ASKED) != 0 {
                    // What was taken since is noted there and then.
                    outbox.watch_writes(tcp, *place)?;
                    return written;
                }
                // Once more, since what was taken before the note was taken back is noted no more.
                let written = write(&socket);
                if !matches!(&written, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                    readiness.note(Readiness::WRITE);
                }
                written
            }
        }
    }

    fn poll_receive(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Runtime(tcp) => poll_runtime(tcp, context, buffer),
            // Of an outbox that is gone, nobody reads.
            Self::Watched { tcp, outbox, .. } => match outbox.upgrade() {
                Some(outbox) => poll_watched(tcp, outbox.readiness(), context, buffer),
                None => Poll::Ready(Ok(0)),
            },
        }
    }
}

/// Whoever is to be woken has registered with the outbox before.
fn poll_watched(
    mut tcp: &net::TcpStream,
    readiness: &Readiness,
    context: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    loop {
        // As the runtime's own sockets do: a peer that sends without end is read from for one task's turn at a time. Before
        // the notes are taken, which are there for the next turn, then.
        let turn = ready!(coop::poll_proceed(context));
        let noted = readiness.take(Readiness::READ | Readiness::END);
        if noted == 0 {
            return Poll::Pending;
        }
        turn.made_progress();
        let read = tcp.read(buffer);
        match &read {
            // What was told was read before, or meant for who had the place before.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // There was less than there is room for, so nothing is left but an end; the next arrival is noted again.
            Ok(count) if *count > 0 && *count < buffer.len() => {
                readiness.note(noted & Readiness::END);
                return Poll::Ready(read);
            }
            // More, or an end that stays.
            _ => {
                readiness.note(noted | Readiness::READ);
                if !matches!(&read, Err(error) if error.kind() == io::ErrorKind::Interrupted) {
                    return Poll::Ready(read);
                }
            }
        }
    }
}

fn poll_runtime(tcp: &TcpStream, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
    loop {
        ready!(tcp.poll_read_ready(context))?;
        let mut read = 0;
        let outcome = tcp.try_io(tokio::io::Interest::READABLE, || {
            read = (&*SockRef::from(tcp)).read(buffer)?;
            // There was less than there is room for, so nothing is left. Said this way the runtime waits for the next
            // arrival, and the read that would find nothing is saved.
            if read > 0 && read < buffer.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match outcome {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
            Err(_) if read == 0 => {}
            _ => return Poll::Ready(Ok(read)),
        }
    }
}
