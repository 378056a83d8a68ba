//! Properties of both parsers over arbitrary packets and arbitrary messages.

use bytes::Bytes;
use proptest::prelude::*;
use tidegate_msgpack::write;
use tidegate_protocol::socketio::{Decoder, Encoded, Head, ID_MAX, Packet, Parser};
use tidegate_protocol::value;

use crate::{decoded, encoded};

/// A value that both parsers carry without loss.
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
