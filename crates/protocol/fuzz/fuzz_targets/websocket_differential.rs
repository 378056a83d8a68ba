//! Any bytes from a client, read by us and by fastwebsockets.
//!
//! It is laxer than we are: it takes unmasked frames, long control frames, lengths that are not in their shortest
//! form and fragmented messages of any size. So what we take, it takes, and in the same order; it may go on where we
//! refuse. In one thing it is quicker: it refuses invalid UTF-8 in a fragment at once, we at the end of the message.
#![no_main]

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use fastwebsockets::{FragmentCollector, OpCode, WebSocket, WebSocketError};
use libfuzzer_sys::fuzz_target;
use tidegate_protocol::websocket::{Decoder, Incoming, Input, Role, Violation};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const MESSAGE_BYTES_MAX: usize = 1 << 16;

/// Opcode digit and payload; of a close only the code.
type Message = (u8, Vec<u8>);

fuzz_target!(|input: &[u8]| {
    let (ours, violation) = ours(input);
    let (theirs, error) = theirs(input);
    let common = ours.len().min(theirs.len());
    assert_eq!(ours[..common], theirs[..common]);
    let was_quicker = matches!(error, Some(WebSocketError::InvalidUTF8));
    if was_quicker {
        let text_behind = ours[common..].iter().any(|(opcode, _)| *opcode == 1);
        assert!(!text_behind, "we took text that is not utf-8");
    } else if violation.is_some() {
        assert!(ours.len() <= theirs.len(), "they refused what we took: {error:?}");
    } else {
        assert_eq!(ours.len(), theirs.len(), "they saw {error:?}");
    }
});

fn ours(bytes: &[u8]) -> (Vec<Message>, Option<Violation>) {
    let mut decoder = Decoder::new(Role::Server, MESSAGE_BYTES_MAX);
    let mut bytes = bytes.to_vec();
    let mut input = Input::new(&mut bytes);
    let mut messages = Vec::new();
    loop {
        messages.push(match decoder.next(&mut input) {
            Ok(Some(Incoming::Text(text))) => (1, text.as_bytes().to_vec()),
            Ok(Some(Incoming::Binary(data))) => (2, data.to_vec()),
            Ok(Some(Incoming::Ping(data))) => (9, data.to_vec()),
            Ok(Some(Incoming::Pong(data))) => (10, data.to_vec()),
            // Registered with IANA, but not known to fastwebsockets.
            Ok(Some(Incoming::Close(Some(1014)))) => return (messages, Some(Violation::CloseCode)),
            Ok(Some(Incoming::Close(code))) => {
                messages.push((8, code.map_or(Vec::new(), |code| code.to_be_bytes().to_vec())));
                return (messages, None);
            }
            Ok(None) => return (messages, None),
            Err(violation) => return (messages, Some(violation)),
        });
    }
}

fn theirs(bytes: &[u8]) -> (Vec<Message>, Option<WebSocketError>) {
    let mut socket = WebSocket::after_handshake(Memory(bytes), fastwebsockets::Role::Server);
    socket.set_auto_pong(false);
    // Its limit is the first size refused, ours the last taken.
    socket.set_max_message_size(MESSAGE_BYTES_MAX + 1);
    let mut socket = FragmentCollector::new(socket);
    let mut messages = Vec::new();
    loop {
        let Poll::Ready(read) = pin!(socket.read_frame()).poll(&mut Context::from_waker(Waker::noop()))
        else {
            unreachable!("memory is always ready")
        };
        match read {
            Ok(frame) if frame.opcode == OpCode::Close => {
                messages.push((8, frame.payload.iter().copied().take(2).collect()));
                return (messages, None);
            }
            Ok(frame) => messages.push((frame.opcode as u8, frame.payload.to_vec())),
            Err(error) => return (messages, Some(error)),
        }
    }
}

/// A connection whose peer has said everything at once and hears nothing.
struct Memory<'a>(&'a [u8]);

impl AsyncRead for Memory<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let (now, later) = self.0.split_at(out.remaining().min(self.0.len()));
        out.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Memory<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
