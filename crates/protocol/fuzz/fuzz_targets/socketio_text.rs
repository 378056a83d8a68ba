//! A sequence of messages to the default parser: no panic, and what is decoded encodes to what decodes the same.
//!
//! The input is split at 0xff; a piece that is UTF-8 is a text message, any other a binary one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_protocol::socketio::{Decoder, Encoded, Head, Packet, Parser, encode};

fuzz_target!(|input: &[u8]| {
    let mut decoder = Decoder::server(1 << 16);
    for piece in input.split(|byte| *byte == 0xff) {
        let decoded = match std::str::from_utf8(piece) {
            Ok(text) => decoder.text(text),
            Err(_) => decoder.binary(piece),
        };
        match decoded {
            Ok(Some(packet)) => round_trip(&packet),
            Ok(None) => {}
            Err(_) => return,
        }
    }
});

fn round_trip(packet: &Packet) {
    let encoded = match packet {
        Packet::Connect { namespace, auth } => encode::connect(Parser::Text, namespace, auth.as_deref()),
        Packet::Disconnect { namespace } => Ok(encode::disconnect(Parser::Text, namespace)),
        Packet::Event { namespace, id, data } => encode::event(Parser::Text, namespace, *id, data),
        Packet::Ack { namespace, id, data } => encode::ack(Parser::Text, namespace, *id, data),
        Packet::ConnectError { .. } => panic!("a client cannot refuse"),
    };
    // A MessagePack client can name namespaces and bytes that text cannot carry.
    let Ok(Encoded { head: Head::Text(text), attachments }) = encoded else { return };
    if !packet.namespace().starts_with('/') || packet.namespace().contains(',') {
        return;
    }
    let mut decoder = Decoder::server(1 << 24);
    let text = std::str::from_utf8(&text).expect("text is utf-8");
    let mut decoded = decoder.text(text).expect("our own packet");
    for attachment in &attachments {
        decoded = decoder.binary(attachment).expect("our own attachment");
    }
    let decoded = decoded.expect("a packet");
    assert_eq!(decoded.namespace(), packet.namespace());
    assert_eq!(std::mem::discriminant(&decoded), std::mem::discriminant(packet));
}
