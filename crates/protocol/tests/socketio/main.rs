//! Socket.IO packets: what stock peers send is read, what no peer may send closes the connection, and what is encoded
//! decodes to the same packet.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod captured;
mod encode;
mod messagepack;
mod properties;
mod text;
#[path = "../vectors/mod.rs"]
mod vectors;

use tidegate_protocol::socketio::{Decoder, Encoded, Head, Packet, Parser, Violation, encode as writer};
use tidegate_protocol::value::{self, json_to_wire};
use vectors::unhex;

pub(crate) const BYTES_MAX: usize = 1_000_000;

pub(crate) fn server() -> Decoder {
    Decoder::server(BYTES_MAX)
}

pub(crate) fn wire(json: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    json_to_wire(json.as_bytes(), &[], &mut wire).unwrap();
    wire
}

pub(crate) fn event(namespace: &str, id: Option<u64>, json: &str) -> Packet {
    Packet::Event { namespace: namespace.to_owned(), id, data: wire(json) }
}

pub(crate) fn connect(namespace: &str, json: Option<&str>) -> Packet {
    Packet::Connect { namespace: namespace.to_owned(), auth: json.map(wire) }
}

pub(crate) fn encoded(parser: Parser, packet: &Packet) -> Result<Encoded, value::Error> {
    match packet {
        Packet::Connect { namespace, auth } => writer::connect(parser, namespace, auth.as_deref()),
        Packet::Disconnect { namespace } => Ok(writer::disconnect(parser, namespace)),
        Packet::Event { namespace, id, data } => writer::event(parser, namespace, *id, data),
        Packet::Ack { namespace, id, data } => writer::ack(parser, namespace, *id, data),
        Packet::ConnectError { namespace, data } => writer::connect_error(parser, namespace, data),
    }
}

pub(crate) fn decoded(decoder: &mut Decoder, encoded: &Encoded) -> Result<Option<Packet>, Violation> {
    let mut packet = match &encoded.head {
        Head::Text(text) => decoder.text(std::str::from_utf8(text).unwrap())?,
        Head::Binary(bytes) => decoder.binary(bytes)?,
    };
    for attachment in &encoded.attachments {
        assert_eq!(packet, None);
        packet = decoder.binary(attachment)?;
    }
    Ok(packet)
}

#[test]
fn an_idle_decoder_is_small() {
    assert!(size_of::<Decoder>() <= 16);
}

#[test]
fn the_parser_is_that_of_the_first_message() {
    let mut text = server();
    assert_eq!(text.parser(), None);
    text.text("0").unwrap();
    assert_eq!(text.parser(), Some(Parser::Text));
    assert_eq!(text.binary(&[0x80]), Err(Violation::BinaryUnasked));

    let mut messagepack = server();
    messagepack.binary(&unhex(&"82a47479706501a36e7370a12f".into())).unwrap();
    assert_eq!(messagepack.parser(), Some(Parser::MessagePack));
    assert_eq!(messagepack.text("0"), Err(Violation::TextUnasked));

    assert_eq!(Decoder::client(Parser::MessagePack, 10).text("0"), Err(Violation::TextUnasked));
    assert_eq!(Decoder::client(Parser::Text, 10).binary(&[0x80]), Err(Violation::BinaryUnasked));
}
