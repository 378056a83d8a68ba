//! The MessagePack parser: every rule.

use tidegate_msgpack::write;
use tidegate_protocol::socketio::{Packet, Violation};
use tidegate_protocol::value;

use crate::vectors::unhex;
use crate::{event, server};

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
