//! Any bytes, read whole and in pieces, by a server and by a client: no panic, and the same outcome however they are
//! cut.
//!
//! The first byte chooses the role and how many of the next bytes are the lengths of the pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_protocol::websocket::{Decoder, Incoming, Input, Role, Violation};

const MESSAGE_BYTES_MAX: usize = 1000;

fuzz_target!(|input: &[u8]| {
    let Some((&first, rest)) = input.split_first() else { return };
    let role = if first & 1 == 0 { Role::Server } else { Role::Client };
    let (cuts, bytes) = rest.split_at(usize::from(first >> 1).min(rest.len()));
    assert_eq!(read(role, bytes, &[]), read(role, bytes, cuts));
});

/// Messages in a form that can be compared: opcode digit and payload.
type Outcome = (Vec<(u8, Vec<u8>)>, Option<Violation>);

fn read(role: Role, bytes: &[u8], cuts: &[u8]) -> Outcome {
    let mut decoder = Decoder::new(role, MESSAGE_BYTES_MAX);
    let mut messages = Vec::new();
    let mut cuts = cuts.iter();
    let mut bytes = bytes.to_vec();
    let mut rest = &mut bytes[..];
    while !rest.is_empty() {
        let cut = cuts.next().map_or(rest.len(), |cut| usize::from(*cut).min(rest.len()));
        let (piece, behind) = rest.split_at_mut(cut);
        rest = behind;
        let mut input = Input::new(piece);
        loop {
            let message = match decoder.next(&mut input) {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(violation) => return (messages, Some(violation)),
            };
            messages.push(match message {
                Incoming::Text(text) => (1, text.as_bytes().to_vec()),
                Incoming::Binary(data) => (2, data.to_vec()),
                Incoming::Close(code) => (8, code.map_or(Vec::new(), |code| code.to_be_bytes().to_vec())),
                Incoming::Ping(data) => (9, data.to_vec()),
                Incoming::Pong(data) => (10, data.to_vec()),
            });
            let (kind, payload) = messages.last().expect("pushed just now");
            assert!(payload.len() <= if *kind < 8 { MESSAGE_BYTES_MAX } else { 125 });
            if *kind == 8 {
                return (messages, None);
            }
        }
        assert!(input.is_empty());
    }
    (messages, None)
}
