//! Any polling body: no panic, bounded output, and what decodes encodes to what decodes the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_protocol::engineio::{Packet, payload};

fuzz_target!(|input: &str| {
    let pieces: Vec<_> = payload::decode(input).collect();
    assert!(!pieces.is_empty() && pieces.len() <= input.len() + 1);
    if let Some(error) = pieces.iter().position(Result::is_err) {
        assert_eq!(error, pieces.len() - 1, "nothing is read behind an error");
    }

    let pieces: Vec<_> = pieces.into_iter().filter_map(Result::ok).collect();
    let mut body = Vec::new();
    for piece in &pieces {
        match piece {
            payload::Piece::Binary(data) => payload::push_binary(&mut body, data),
            payload::Piece::Packet(packet) => {
                let data = match packet {
                    Packet::Open(data) | Packet::Ping(data) | Packet::Pong(data) | Packet::Text(data) => data,
                    Packet::Close | Packet::Upgrade | Packet::Noop => "",
                };
                let text = format!("{}{data}", char::from(packet.packet_type().digit()));
                payload::push_text(&mut body, &text);
            }
        }
    }
    if !pieces.is_empty() {
        let body = std::str::from_utf8(&body).expect("text and base64");
        let again: Vec<_> = payload::decode(body).collect::<Result<_, _>>().expect("our own payload");
        assert_eq!(again, pieces);
    }
});
