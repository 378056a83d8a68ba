//! The socket under a WebSocket: written by whoever has something for its client, read by its connection alone.
//!
//! The system calls are made past the runtime's own reading and writing. A write that is taken, which is what nearly all
//! are, then touches nothing of the runtime's; and both halves live in one place beside what else a write touches,
//! where two owned halves would be an allocation more for every connection.

use std::future::poll_fn;
use std::io::{self, IoSlice, Read as _};
use std::net::Shutdown;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A connected TCP socket.
#[derive(Debug)]
pub(crate) struct Socket(TcpStream);

impl Socket {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self(stream)
    }

    /// Writes what the socket takes now.
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing; [`Socket::poll_write_ready`] then says when it will.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.blocking(|socket| socket.send(bytes))
    }

    /// The same with several pieces.
    pub(crate) fn write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.blocking(|socket| socket.send_vectored(pieces))
    }

    fn blocking(&self, write: impl Fn(&SockRef<'_>) -> io::Result<usize>) -> io::Result<usize> {
        let socket = SockRef::from(&self.0);
        match write(&socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Once more, so that the runtime learns that it must wait. It takes down when it last heard from the
                // socket before the call, and so misses nothing that happens meanwhile.
                self.0.try_io(Interest::WRITABLE, || write(&socket))
            }
            written => written,
        }
    }

    /// Whether the socket may take something again. For the connection's own task only, since the runtime keeps one waker
    /// for each direction. An error shows in the write that follows.
    pub(crate) fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        self.0.poll_write_ready(context).map(|_| ())
    }

    /// Reads what has arrived, at most a buffer full; nothing is the end. For the connection's own task only.
    pub(crate) fn poll_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            let mut read = 0;
            let outcome = self.0.try_io(Interest::READABLE, || {
                read = (&*SockRef::from(&self.0)).read(buffer)?;
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
        Ok(())
    }

    /// Says to the peer that nothing more comes.
    pub(crate) fn finish(&self) {
        // Of a peer that has gone, that is all the same.
        let _ = SockRef::from(&self.0).shutdown(Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Socket::new(listener.accept().await.unwrap().0), peer)
    }

    #[tokio::test]
    async fn everything_arrives_whatever_the_size_of_the_buffer() {
        let (socket, mut peer) = pair().await;
        let sent: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let expected = sent.clone();
        let writing = async move {
            for piece in sent.chunks(7_777) {
                peer.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let reading = async {
            let (mut read, mut size) = (Vec::new(), 1);
            loop {
                // Full buffers, and ones that are larger than what has come.
                size = size % 9_000 + 997;
                let mut buffer = vec![0; size];
                match socket.read(&mut buffer).await.unwrap() {
                    0 => return read,
                    count => read.extend_from_slice(&buffer[..count]),
                }
            }
        };
        let both = tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(writing, reading).1 });
        assert_eq!(both.await.unwrap(), expected);
    }

    #[tokio::test]
    async fn a_writer_waits_for_a_peer_that_reads_late() {
        let (socket, mut peer) = pair().await;
        let bytes = vec![7; 16 << 20];
        let writing = socket.write_all(&bytes);
        let reading = async {
            let mut read = Vec::new();
            tokio::task::yield_now().await;
            peer.read_to_end(&mut read).await.unwrap();
            read.len()
        };
        let writing = async {
            writing.await.unwrap();
            socket.finish();
        };
        let both = tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(writing, reading).1 });
        assert_eq!(both.await.unwrap(), 16 << 20);
    }
}
