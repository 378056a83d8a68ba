//! One message to the MessagePack parser: no panic, and what is decoded encodes to what decodes to the same packet.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_protocol::socketio::{Decoder, Encoded, Head, Packet, Parser, encode};

fuzz_target!(|bytes: &[u8]| {
    for server in [true, false] {
        let decoder = || if server { Decoder::server(1 << 24) } else { Decoder::client(Parser::MessagePack, 1 << 24) };
        let Ok(Some(packet)) = decoder().binary(bytes) else { continue };
        let encoded = match &packet {
            Packet::Connect { namespace, auth } => {
                encode::connect(Parser::MessagePack, namespace, auth.as_deref())
            }
            Packet::Disconnect { namespace } => Ok(encode::disconnect(Parser::MessagePack, namespace)),
            Packet::Event { namespace, id, data } => encode::event(Parser::MessagePack, namespace, *id, data),
            Packet::Ack { namespace, id, data } => encode::ack(Parser::MessagePack, namespace, *id, data),
            Packet::ConnectError { namespace, data } => {
                encode::connect_error(Parser::MessagePack, namespace, data)
            }
        };
        let Encoded { head: Head::Binary(head), attachments } = encoded.expect("a decoded packet is wire form") else {
            panic!("a messagepack packet is binary")
        };
        assert!(attachments.is_empty());
        assert_eq!(decoder().binary(&head), Ok(Some(packet)));
    }
});
