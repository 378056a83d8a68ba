//! The socket as hyper wants it, for as long as its client speaks HTTP. Plain ones are read and written as the runtime does it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Socket, Tcp};

/// A WebSocket's is hyper's no more.
fn left() -> io::Error {
    io::Error::other("the socket has left the runtime")
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(tls) = &this.tls else {
            let Tcp::Runtime(tcp) = &mut this.tcp else { return Poll::Ready(Err(left())) };
            return Pin::new(&mut **tcp).poll_read(context, buffer);
        };
        loop {
            // By way of the session, since the buffer is hyper's and not initialized: writing zeros to all of it would make
            // all of it resident, for as long as a client polls.
            let room = buffer.remaining();
            let read = tls.session.lock().take(room, |plain| buffer.put_slice(plain));
            if read > 0 || tls.session.lock().has_ended() {
                return Poll::Ready(Ok(()));
            }
            ready!(this.poll_arrival(context, &mut []))?;
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.tls.is_none() {
            let Tcp::Runtime(tcp) = &mut this.tcp else { return Poll::Ready(Err(left())) };
            return Pin::new(&mut **tcp).poll_write_vectored(context, pieces);
        }
        loop {
            match this.write_vectored(pieces) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(this.poll_write_ready(context));
                }
                written => return Poll::Ready(written),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_unclog(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_unclog(context))?;
        self.finish();
        Poll::Ready(Ok(()))
    }
}
