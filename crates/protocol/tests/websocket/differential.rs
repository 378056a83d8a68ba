//! What fastwebsockets reads from a valid stream, we read.

use fastwebsockets::{FragmentCollector, OpCode, WebSocket};
use proptest::prelude::*;
use tidegate_protocol::websocket::{Decoder, Role};
use tokio::io::AsyncWriteExt as _;

use crate::frames::{Message, read, stream};

/// Reads `bytes` the way `role` does until they end.
async fn oracle(role: Role, bytes: &[u8]) -> Vec<Message> {
    let (mut peer, socket) = tokio::io::duplex(bytes.len().max(1));
    peer.write_all(bytes).await.unwrap();
    peer.shutdown().await.unwrap();
    let role = match role {
        Role::Server => fastwebsockets::Role::Server,
        Role::Client => fastwebsockets::Role::Client,
    };
    let mut socket = WebSocket::after_handshake(socket, role);
    socket.set_auto_pong(false);
    let mut socket = FragmentCollector::new(socket);
    let mut messages = Vec::new();
    // The only error of a valid stream is its end.
    while let Ok(frame) = socket.read_frame().await {
        let payload = frame.payload.to_vec();
        messages.push(match frame.opcode {
            OpCode::Text => Message::Text(String::from_utf8(payload).unwrap()),
            OpCode::Binary => Message::Binary(payload),
            OpCode::Ping => Message::Ping(payload),
            OpCode::Pong => Message::Pong(payload),
            opcode => panic!("not in the stream: {opcode:?}"),
        });
    }
    messages
}

proptest! {
    #[test]
    fn we_agree_on_valid_streams((bytes, messages) in stream(Role::Server)) {
        agree(Role::Server, &bytes, &messages)?;
    }

    #[test]
    fn we_agree_on_what_a_server_sends((bytes, messages) in stream(Role::Client)) {
        agree(Role::Client, &bytes, &messages)?;
    }
}

fn agree(role: Role, bytes: &[u8], messages: &[Message]) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let theirs = runtime.block_on(oracle(role, bytes));
    let (ours, violation) = read(Decoder::new(role, 1 << 20), bytes, []);
    prop_assert_eq!(violation, None);
    prop_assert_eq!(&ours, &theirs);
    prop_assert_eq!(&ours, messages);
    Ok(())
}
