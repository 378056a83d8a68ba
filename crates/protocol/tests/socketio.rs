//! Socket.IO packets: what stock peers send is read, what no peer may send closes the connection, and what is encoded
//! decodes to the same packet.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod vectors;

use bytes::Bytes;
use proptest::prelude::*;
use tidegate_msgpack::write;
use tidegate_protocol::socketio::{
    ATTACHMENTS_MAX, Decoder, Encoded, Head, ID_MAX, Packet, Parser, RESERVED_EVENTS, Violation, encode,
};
use tidegate_protocol::value::{self, json_to_wire};
use vectors::{hex, unhex};

const BYTES_MAX: usize = 1_000_000;

fn server() -> Decoder {
    Decoder::server(BYTES_MAX)
}

fn wire(json: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    json_to_wire(json.as_bytes(), &[], &mut wire).unwrap();
    wire
}

fn event(namespace: &str, id: Option<u64>, json: &str) -> Packet {
    Packet::Event { namespace: namespace.to_owned(), id, data: wire(json) }
}

fn connect(namespace: &str, json: Option<&str>) -> Packet {
    Packet::Connect { namespace: namespace.to_owned(), auth: json.map(wire) }
}

fn encoded(parser: Parser, packet: &Packet) -> Result<Encoded, value::Error> {
    match packet {
        Packet::Connect { namespace, auth } => encode::connect(parser, namespace, auth.as_deref()),
        Packet::Disconnect { namespace } => Ok(encode::disconnect(parser, namespace)),
        Packet::Event { namespace, id, data } => encode::event(parser, namespace, *id, data),
        Packet::Ack { namespace, id, data } => encode::ack(parser, namespace, *id, data),
        Packet::ConnectError { namespace, data } => encode::connect_error(parser, namespace, data),
    }
}

fn decoded(decoder: &mut Decoder, encoded: &Encoded) -> Result<Option<Packet>, Violation> {
    let mut packet = match &encoded.head {
        Head::Text(text) => decoder.text(std::str::from_utf8(text).unwrap())?,
        Head::Binary(bytes) => decoder.binary(bytes)?,
    };
    for attachment in &encoded.attachments {
        assert_eq!(packet, None);
        assert!(decoder.is_assembling());
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

#[test]
fn text_packets_of_clients_are_read() {
    for (text, packet) in [
        ("0", connect("/", None)),
        ("0{\"token\":\"abc\"}", connect("/", Some("{\"token\":\"abc\"}"))),
        ("0/chat,{}", connect("/chat", Some("{}"))),
        ("0/chat", connect("/chat", None)),
        ("0/nope?x=1,", connect("/nope?x=1", None)),
        ("1", Packet::Disconnect { namespace: "/".to_owned() }),
        ("1/chat,", Packet::Disconnect { namespace: "/chat".to_owned() }),
        ("2[\"e\"]", event("/", None, "[\"e\"]")),
        ("20[\"e\",\"x\"]", event("/", Some(0), "[\"e\",\"x\"]")),
        ("2/chat,12[\"e\",{\"a\":[1]}]", event("/chat", Some(12), "[\"e\",{\"a\":[1]}]")),
        ("2[7,1]", event("/", None, "[7,1]")),
        ("2[-1.5]", event("/", None, "[-1.5]")),
        ("2[\"Connect\"]", event("/", None, "[\"Connect\"]")),
        (
            "2[\"e\",{\"_placeholder\":true,\"num\":0}]",
            event("/", None, "[\"e\",{\"_placeholder\":true,\"num\":0}]"),
        ),
        ("33[]", Packet::Ack { namespace: "/".to_owned(), id: 3, data: vec![0x90] }),
        ("33", Packet::Ack { namespace: "/".to_owned(), id: 3, data: vec![0x90] }),
        ("3/a,3[1]", Packet::Ack { namespace: "/a".to_owned(), id: 3, data: vec![0x91, 1] }),
        ("29007199254740991[\"e\"]", event("/", Some(ID_MAX), "[\"e\"]")),
    ] {
        assert_eq!(server().text(text), Ok(Some(packet)), "{text}");
    }
}

#[test]
fn packets_that_ask_for_nothing_are_passed_over() {
    for text in ["2", "25", "2/chat,", "3[]", "3"] {
        assert_eq!(server().text(text), Ok(None), "{text}");
    }
}

#[test]
fn an_event_of_sixteen_items_is_read() {
    let items = format!("[\"e\"{}]", ",0".repeat(15));
    assert_eq!(server().text(&format!("2{items}")), Ok(Some(event("/", None, &items))));
    let reserved = format!("2[\"disconnect\"{}]", ",0".repeat(15));
    assert_eq!(server().text(&reserved), Err(Violation::ReservedEvent));
}

#[test]
fn what_no_client_may_send_closes_the_connection() {
    let placeholder = "{\"_placeholder\":true,\"num\":0}";
    for (text, violation) in [
        ("", Violation::Type),
        ("7", Violation::Type),
        ("x[\"e\"]", Violation::Type),
        ("0[1]", Violation::Payload),
        ("0null", Violation::Payload),
        ("0\"x\"", Violation::Payload),
        ("1{}", Violation::Payload),
        ("1null", Violation::Payload),
        ("2[]", Violation::Payload),
        ("2{}", Violation::Payload),
        ("2\"e\"", Violation::Payload),
        ("2[null]", Violation::Payload),
        ("2[true]", Violation::Payload),
        ("2[[\"e\"]]", Violation::Payload),
        ("2[{}]", Violation::Payload),
        ("2[1e999]", Violation::Payload),
        ("30{}", Violation::Payload),
        ("30null", Violation::Payload),
        ("2abc[\"e\"]", Violation::Value(value::Error::Json { at: 0 })),
        ("2[\"e\"", Violation::Value(value::Error::Json { at: 4 })),
        ("2[\"e\"]x", Violation::Value(value::Error::Json { at: 5 })),
        ("29007199254740992[\"e\"]", Violation::Id),
        ("4{\"message\":\"x\"}", Violation::Direction),
        ("4", Violation::Direction),
        ("50-[\"e\"]", Violation::Attachments),
        ("511-[\"e\"]", Violation::Attachments),
        ("5[\"e\"]", Violation::Attachments),
        ("51-", Violation::Payload),
        ("61-4", Violation::Payload),
        ("51-[]", Violation::Payload),
        (&format!("51-[{placeholder}]"), Violation::Payload),
        ("51-[\"connect\"]", Violation::ReservedEvent),
        ("51-[\"e\",{\"_placeholder\":true,\"num\":1}]", Violation::Value(value::Error::Placeholder)),
        (&format!("52-[\"e\",{placeholder},{placeholder}]"), Violation::Value(value::Error::Placeholder)),
        ("61-0{}", Violation::Payload),
    ] {
        assert_eq!(server().text(text), Err(violation), "{text}");
    }
    for name in RESERVED_EVENTS {
        assert_eq!(server().text(&format!("2[\"{name}\"]")), Err(Violation::ReservedEvent), "{name}");
    }
    // The name is compared after its escapes are read.
    assert_eq!(server().text("2[\"\\u0063onnect\"]"), Err(Violation::ReservedEvent));
}

#[test]
fn attachments_take_the_places_of_their_numbers() {
    let mut decoder = server();
    let text = "52-/a,7[\"e\",{\"_placeholder\":true,\"num\":1},{\"x\":{\"num\":0,\"_placeholder\":true}}]";
    assert_eq!(decoder.text(text), Ok(None));
    assert!(decoder.is_assembling());
    assert_eq!(decoder.binary(&[1]), Ok(None));
    let data = unhex(&"93a165c4020202".to_owned().into());
    let data = [&data[..], &unhex(&"81a178c40101".into())].concat();
    let packet = Packet::Event { namespace: "/a".to_owned(), id: Some(7), data };
    assert_eq!(decoder.binary(&[2, 2]), Ok(Some(packet)));
    assert!(!decoder.is_assembling());
    assert_eq!(decoder.binary(&[3]), Err(Violation::BinaryUnasked));
}

#[test]
fn an_acknowledgement_may_have_attachments() {
    let mut decoder = server();
    assert_eq!(decoder.text("61-12[\"ok\",{\"_placeholder\":true,\"num\":0}]"), Ok(None));
    let data = unhex(&"92a26f6bc40101".into());
    let packet = Packet::Ack { namespace: "/".to_owned(), id: 12, data };
    assert_eq!(decoder.binary(&[1]), Ok(Some(packet)));
    // Without an id it acknowledges nothing, but its attachments are still taken.
    assert_eq!(decoder.text("61-[{\"_placeholder\":true,\"num\":0}]"), Ok(None));
    assert_eq!(decoder.binary(&[1]), Ok(None));
    assert!(!decoder.is_assembling());
}

#[test]
fn text_between_attachments_closes_the_connection() {
    let mut decoder = server();
    decoder.text("52-[\"e\",{\"_placeholder\":true,\"num\":1}]").unwrap();
    decoder.binary(&[1]).unwrap();
    assert_eq!(decoder.text("2[\"e\"]"), Err(Violation::TextWhileAssembling));
}

#[test]
fn a_packet_is_bounded_with_its_attachments() {
    let text = "52-[\"e\",{\"_placeholder\":true,\"num\":0},{\"_placeholder\":true,\"num\":1}]";
    let mut decoder = Decoder::server(text.len() + 10);
    for _ in 0..2 {
        assert_eq!(decoder.text(text), Ok(None));
        assert_eq!(decoder.binary(&[0; 6]), Ok(None));
        assert!(decoder.binary(&[0; 4]).unwrap().is_some());
    }
    let too_large = Err(Violation::TooLarge { bytes_max: u32::try_from(text.len()).unwrap() + 10 });
    assert_eq!(decoder.text(text), Ok(None));
    assert_eq!(decoder.binary(&[0; 6]), Ok(None));
    assert_eq!(decoder.binary(&[0; 5]), too_large);

    assert!(Decoder::server(5).text("2[12]").is_ok());
    assert_eq!(Decoder::server(5).text("2[123]"), Err(Violation::TooLarge { bytes_max: 5 }));
    assert_eq!(Decoder::server(5).binary(&[0; 6]), Err(Violation::TooLarge { bytes_max: 5 }));
}

#[test]
fn servers_send_what_clients_may_not() {
    let mut client = Decoder::client(Parser::Text, BYTES_MAX);
    let refusal = |namespace: &str, json: &str| {
        Ok(Some(Packet::ConnectError { namespace: namespace.to_owned(), data: wire(json) }))
    };
    assert_eq!(client.text("4{\"message\":\"no\"}"), refusal("/", "{\"message\":\"no\"}"));
    assert_eq!(client.text("4/a,\"no\""), refusal("/a", "\"no\""));
    assert_eq!(client.text("4[1]"), Err(Violation::Payload));
    assert_eq!(client.text("4"), Err(Violation::Payload));
}

#[test]
fn captured_text_frames_decode_and_encode_to_the_byte() {
    let vectors = vectors::client_wire();
    let mut client = Decoder::client(Parser::Text, BYTES_MAX);
    let mut server = server();
    let mut sent: Vec<String> = Vec::new();
    let mut packets = 0;
    for frame in vectors["text"].as_array().unwrap() {
        let decoder = if frame["from"] == "client" { &mut server } else { &mut client };
        let data = frame["data"].as_str().unwrap();
        let packet = if frame["binary"] == true {
            decoder.binary(&unhex(&frame["data"])).unwrap()
        } else {
            decoder.text(data).unwrap()
        };
        sent.push(data.to_owned());
        let Some(packet) = packet else { continue };
        packets += 1;
        let encoded = encoded(Parser::Text, &packet).unwrap();
        let Head::Text(text) = &encoded.head else { panic!("{packet:?}") };
        let mut ours = vec![String::from_utf8(text.to_vec()).unwrap()];
        ours.extend(encoded.attachments.iter().map(|attachment| hex(attachment)));
        assert_eq!(ours, std::mem::take(&mut sent));
    }
    assert_eq!(packets, 15);
}

#[test]
fn captured_messagepack_frames_decode_and_encode() {
    let vectors = vectors::client_wire();
    let frames = vectors["messagepack"].as_array().unwrap();
    let read = |index: usize| {
        let frame = &frames[index];
        let mut decoder = match frame["from"].as_str().unwrap() {
            "client" => server(),
            _ => Decoder::client(Parser::MessagePack, BYTES_MAX),
        };
        decoder.binary(&unhex(&frame["data"])).unwrap().unwrap()
    };
    let all_types = |name: &str| {
        // The name, 1, undefined, null, Date(1700000000123), bytes 01 02, an array buffer of 03, 1.5, -1.
        let rest = "01c0c0d7ff1d5353006553f100c4020102c40103cb3ff8000000000000ff";
        let mut data = vec![0x99];
        write::str(&mut data, name);
        data.extend(unhex(&rest.into()));
        Packet::Event { namespace: "/".to_owned(), id: None, data }
    };
    assert_eq!(read(0), connect("/", Some("{\"token\":\"abc\"}")));
    assert_eq!(read(1), connect("/", None));
    assert_eq!(read(2), connect("/", Some("{\"sid\":\"eP_bgkAKbc_duL0SAAAI\"}")));
    assert_eq!(read(3), all_types("e"));
    assert_eq!(read(4), all_types("back"));
    assert_eq!(read(5), event("/", Some(0), "[\"e\",\"x\"]"));
    assert_eq!(read(6), Packet::Ack { namespace: "/".to_owned(), id: 0, data: wire("[\"ok\"]") });
    assert_eq!(read(7), Packet::Disconnect { namespace: "/".to_owned() });
    assert_eq!(read(8), event("/", Some(1), "[\"echo\",\"a\",1,{\"k\":[true,null]}]"));
    assert_eq!(
        read(9),
        Packet::ConnectError {
            namespace: "/nope".to_owned(),
            data: wire("{\"message\":\"Invalid namespace\"}")
        }
    );
    // Ours to send, and with the keys in this order: CONNECT from a client, ACK, DISCONNECT.
    for index in [0, 1, 6, 7] {
        let encoded = encoded(Parser::MessagePack, &read(index)).unwrap();
        let Head::Binary(bytes) = &encoded.head else { panic!("frame {index}") };
        assert_eq!(hex(bytes), frames[index]["data"], "frame {index}");
    }
}

/// A packet of the MessagePack parser with these values, each given in hex.
fn messagepack(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write::map(&mut bytes, u32::try_from(entries.len()).unwrap());
    for (key, value) in entries {
        write::str(&mut bytes, key);
        bytes.extend(unhex(&(*value).into()));
    }
    bytes
}

#[test]
fn what_no_messagepack_client_may_send_closes_the_connection() {
    use tidegate_msgpack::Error as Malformed;
    let slash = ("nsp", "a12f");
    let event = ("data", "91a165");
    for (entries, violation) in [
        (&[slash, event][..], Violation::Type),
        (&[("type", "05"), slash, event], Violation::Type),
        (&[("type", "ff"), slash, event], Violation::Type),
        (&[("type", "a132"), slash, event], Violation::Type),
        (&[("type", "02"), event], Violation::Namespace),
        (&[("type", "02"), ("nsp", "c0"), event], Violation::Namespace),
        (&[("type", "02"), ("nsp", "a3eda080"), event], Violation::Namespace),
        (&[("type", "02"), slash, event, ("id", "ff")], Violation::Id),
        (&[("type", "02"), slash, event, ("id", "c0")], Violation::Id),
        (&[("type", "02"), slash, event, ("id", "a130")], Violation::Id),
        (&[("type", "02"), slash, event, ("id", "cf0020000000000000")], Violation::Id),
        (&[("type", "00"), slash, ("data", "c0")], Violation::Payload),
        (&[("type", "00"), slash, ("data", "90")], Violation::Payload),
        (&[("type", "01"), slash, ("data", "80")], Violation::Payload),
        (&[("type", "01"), slash, ("data", "c0")], Violation::Payload),
        (&[("type", "02"), slash], Violation::Payload),
        (&[("type", "02"), slash, ("data", "d40000")], Violation::Payload),
        (&[("type", "02"), slash, ("data", "80")], Violation::Payload),
        (&[("type", "02"), slash, ("data", "90")], Violation::Payload),
        (&[("type", "02"), slash, ("data", "91c0")], Violation::Payload),
        (&[("type", "02"), slash, ("data", "91d40000")], Violation::Payload),
        (&[("type", "02"), slash, ("data", "91cb7ff8000000000000")], Violation::Payload),
        (&[("type", "02"), slash, ("data", "91caff800000")], Violation::Payload),
        (&[("type", "02"), slash, ("data", "91a7636f6e6e656374")], Violation::ReservedEvent),
        (&[("type", "03"), slash, ("id", "01")], Violation::Payload),
        (&[("type", "03"), slash, ("id", "01"), ("data", "a0")], Violation::Payload),
        (&[("type", "04"), slash, ("data", "80")], Violation::Direction),
        (&[("type", "02"), slash, ("data", "9281c00101")], Violation::Value(value::Error::Key)),
    ] {
        assert_eq!(server().binary(&messagepack(entries)), Err(violation), "{entries:?}");
    }
    let mut trailing = messagepack(&[("type", "01"), slash]);
    trailing.push(0);
    for (bytes, error) in [
        (&[][..], Malformed::Truncated),
        (&[0x90], Malformed::Type { expected: "a map" }),
        (&[0x81, 0x01, 0x01], Malformed::Type { expected: "a string" }),
        (&[0x81, 0xa1, b'x'], Malformed::Truncated),
        (&[0xc1], Malformed::Reserved),
        (&trailing[..], Malformed::Trailing),
    ] {
        assert_eq!(server().binary(bytes), Err(Violation::MessagePack(error)), "{bytes:02x?}");
    }
}

#[test]
fn messagepack_packets_may_hold_more_and_in_any_order() {
    let slash = ("nsp", "a12f");
    let bytes = messagepack(&[("id", "cc07"), ("x", "9101"), slash, ("data", "91a165"), ("type", "cd0002")]);
    assert_eq!(server().binary(&bytes), Ok(Some(event("/", Some(7), "[\"e\"]"))));
    let bytes = messagepack(&[("type", "02"), slash, ("data", "91a165"), ("id", "d40000")]);
    assert_eq!(server().binary(&bytes), Ok(Some(event("/", None, "[\"e\"]"))));
    let bytes = messagepack(&[("type", "03"), slash, ("data", "90")]);
    assert_eq!(server().binary(&bytes), Ok(None));
    let bytes = messagepack(&[("type", "01"), ("nsp", "a3666f6f"), ("data", "d40000")]);
    assert_eq!(server().binary(&bytes), Ok(Some(Packet::Disconnect { namespace: "foo".to_owned() })));
}

#[test]
fn text_carries_ten_attachments_and_no_more() {
    let data = |count: u32| {
        let mut data = Vec::new();
        write::array(&mut data, count + 1);
        write::str(&mut data, "e");
        (0..count).for_each(|_| write::bin(&mut data, &[1]));
        data
    };
    let most = data(u32::try_from(ATTACHMENTS_MAX).unwrap());
    let encoded = encode::event(Parser::Text, "/a", Some(1), &most).unwrap();
    let Head::Text(text) = &encoded.head else { panic!("{encoded:?}") };
    assert!(text.starts_with(b"510-/a,1[\"e\",{\"_placeholder\":true,\"num\":0},"));
    assert_eq!(encoded.attachments.len(), ATTACHMENTS_MAX);
    let more = data(u32::try_from(ATTACHMENTS_MAX).unwrap() + 1);
    assert_eq!(encode::event(Parser::Text, "/", None, &more), Err(value::Error::Attachments));
    assert_eq!(encode::ack(Parser::Text, "/", 0, &more), Err(value::Error::Attachments));
    assert!(encode::event(Parser::MessagePack, "/", None, &more).is_ok());
    // These types have no binary form.
    let auth = unhex(&"81a161c40101".into());
    assert_eq!(encode::connect(Parser::Text, "/", Some(&auth)), Err(value::Error::Attachments));
    assert_eq!(encode::connect_error(Parser::Text, "/", &auth), Err(value::Error::Attachments));
}

#[test]
fn data_that_is_not_wire_form_is_not_sent() {
    for parser in [Parser::Text, Parser::MessagePack] {
        for data in [&[][..], &[0x92, 0x01], &[0x90, 0x00], &[0xc1]] {
            assert!(encode::event(parser, "/", None, data).is_err(), "{data:02x?}");
            assert!(encode::ack(parser, "/", 0, data).is_err(), "{data:02x?}");
            assert!(encode::connect(parser, "/", Some(data)).is_err(), "{data:02x?}");
            assert!(encode::connect_error(parser, "/", data).is_err(), "{data:02x?}");
        }
    }
}

/// Appends an arbitrary value that both parsers carry without loss, and counts its binary values.
#[derive(Debug, Clone)]
enum Value {
    Nil,
    Bool(bool),
    Int(i64),
    Half(i32),
    Str(String),
    Bin(Vec<u8>),
    Array(Vec<Value>),
    Map(Vec<(String, Value)>),
}

impl Value {
    fn append(&self, out: &mut Vec<u8>) {
        match self {
            Value::Nil => write::nil(out),
            Value::Bool(value) => write::bool(out, *value),
            Value::Int(value) => write::int(out, *value),
            Value::Half(value) => write::f64(out, f64::from(*value) + 0.5),
            Value::Str(value) => write::str(out, value),
            Value::Bin(value) => write::bin(out, value),
            Value::Array(items) => {
                write::array(out, u32::try_from(items.len()).unwrap());
                items.iter().for_each(|item| item.append(out));
            }
            Value::Map(entries) => {
                write::map(out, u32::try_from(entries.len()).unwrap());
                for (key, value) in entries {
                    write::str(out, key);
                    value.append(out);
                }
            }
        }
    }
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<i32>().prop_map(Value::Half),
        ".{0,40}".prop_map(Value::Str),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(Value::Bin),
    ];
    leaf.prop_recursive(4, 24, 20, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..20).prop_map(Value::Array),
            prop::collection::vec((".{0,10}", inner), 0..20).prop_map(Value::Map),
        ]
    })
}

fn items(first: Option<&str>, values: &[Value]) -> Vec<u8> {
    let mut data = Vec::new();
    write::array(&mut data, u32::try_from(values.len() + usize::from(first.is_some())).unwrap());
    if let Some(first) = first {
        write::str(&mut data, first);
    }
    values.iter().for_each(|value| value.append(&mut data));
    data
}

fn packets() -> impl Strategy<Value = Packet> {
    let namespaces = || "/|/[a-zé?=&-]{0,12}".prop_map(String::from);
    let many = || prop::collection::vec(values(), 0..20);
    let entries = || prop::collection::vec(("[a-z]{0,8}", values()), 0..20);
    prop_oneof![
        (namespaces(), prop::option::of(entries())).prop_map(|(namespace, auth)| {
            let auth = auth.map(|entries| {
                let mut wire = Vec::new();
                Value::Map(entries).append(&mut wire);
                wire
            });
            Packet::Connect { namespace, auth }
        }),
        namespaces().prop_map(|namespace| Packet::Disconnect { namespace }),
        (namespaces(), prop::option::of(0..=ID_MAX), "[A-Z].{0,20}", many()).prop_map(
            |(namespace, id, name, values)| Packet::Event {
                namespace,
                id,
                data: items(Some(&name), &values)
            }
        ),
        (namespaces(), 0..=ID_MAX, many()).prop_map(|(namespace, id, values)| Packet::Ack {
            namespace,
            id,
            data: items(None, &values)
        }),
        (namespaces(), entries()).prop_map(|(namespace, entries)| {
            let mut data = Vec::new();
            Value::Map(entries).append(&mut data);
            Packet::ConnectError { namespace, data }
        }),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_the_same_packet(packet in packets()) {
        for parser in [Parser::Text, Parser::MessagePack] {
            match encoded(parser, &packet) {
                Ok(encoded) => {
                    let packet = Some(packet.clone());
                    let mut client = Decoder::client(parser, usize::MAX);
                    prop_assert_eq!(decoded(&mut client, &encoded), Ok(packet.clone()));
                    if !matches!(packet, Some(Packet::ConnectError { .. })) {
                        let mut server = Decoder::server(usize::MAX);
                        prop_assert_eq!(decoded(&mut server, &encoded), Ok(packet));
                        prop_assert_eq!(server.parser(), Some(parser));
                    }
                }
                Err(error) => {
                    prop_assert_eq!((parser, error), (Parser::Text, value::Error::Attachments));
                }
            }
        }
    }

    #[test]
    fn arbitrary_messages_never_panic(
        messages in prop::collection::vec(
            prop_oneof![
                "[0-9]{0,3}-?(/[a-z]{0,3},)?[0-9]{0,2}[\\[\\]{}\",:_a-z0-9]{0,20}".prop_map(Ok),
                "[0-6].{0,20}".prop_map(Ok),
                Just(Ok("51-[\"e\",{\"_placeholder\":true,\"num\":0}]".to_owned())),
                prop::collection::vec(any::<u8>(), 0..40).prop_map(Err),
            ],
            0..6,
        )
    ) {
        let mut decoder = Decoder::server(1000);
        for message in messages {
            let decoded = match message {
                Ok(text) => decoder.text(&text),
                Err(bytes) => decoder.binary(&bytes),
            };
            if decoded.is_err() {
                break;
            }
        }
    }

    #[test]
    fn a_broken_packet_is_read_or_refused_but_never_panics(packet in packets(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for parser in [Parser::Text, Parser::MessagePack] {
            let Ok(Encoded { head, attachments }) = encoded(parser, &packet) else { continue };
            let (Head::Text(bytes) | Head::Binary(bytes)) = &head;
            let mut bytes = bytes.to_vec();
            let index = at.index(bytes.len());
            bytes[index] = byte;
            let bytes = Bytes::from(bytes);
            let head = match head {
                Head::Text(_) if std::str::from_utf8(&bytes).is_err() => continue,
                Head::Text(_) => Head::Text(bytes),
                Head::Binary(_) => Head::Binary(bytes),
            };
            let mut decoder = Decoder::client(parser, usize::MAX);
            let mut messages = Encoded { head, attachments: Vec::new() };
            let mut read = decoded(&mut decoder, &messages);
            messages.attachments = attachments;
            for attachment in &messages.attachments {
                if !matches!(read, Ok(None)) {
                    break;
                }
                read = decoder.binary(attachment);
            }
        }
    }
}
