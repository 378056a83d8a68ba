//! The plain protocol: what its messages mean, and what makes them none.

#![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

mod properties;

use serde_json::{Value as Json, json};
use tidegate_msgpack::write;
use tidegate_protocol::plain::encode::{self, Receipt};
use tidegate_protocol::plain::{Format, Incoming, Request, Violation, decode};
use tidegate_protocol::value::{self, json_to_wire, wire_to_plain_json};

/// Longest id that the tests allow, in bytes.
const ID_BYTES_MAX: usize = 16;

fn of_json(text: &str) -> Result<Request, Violation> {
    decode(Format::Json, Incoming::Text(text), ID_BYTES_MAX)
}

fn of_msgpack(bytes: &[u8]) -> Result<Request, Violation> {
    decode(Format::MessagePack, Incoming::Binary(bytes), ID_BYTES_MAX)
}

fn wire(json: &Json) -> Vec<u8> {
    let mut wire = Vec::new();
    json_to_wire(json.to_string().as_bytes(), &[], &mut wire).unwrap();
    wire
}

fn text(wire: &[u8]) -> Json {
    let mut out = Vec::new();
    wire_to_plain_json(wire, &mut out).unwrap();
    serde_json::from_slice(&out).unwrap()
}

/// The payload of a whole frame, and whether it is a text frame.
fn payload(frame: &[u8]) -> (bool, &[u8]) {
    let header = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    (frame[0] == 0x81, &frame[header..])
}

fn json_of(frame: &[u8]) -> Json {
    let (is_text, payload) = payload(frame);
    assert!(is_text);
    serde_json::from_slice(payload).unwrap()
}

#[test]
fn the_fields_are_an_operations_argument() {
    let request = of_json(r#"{"op":"publish","room":"r","id":1,"data":{"id":2,"op":3}}"#).unwrap();
    assert_eq!(request.op, "publish");
    assert_eq!(request.id.as_ref().unwrap().wire(), [1]);
    assert_eq!(
        text(&request.fields),
        json!({ "op": "publish", "room": "r", "id": 1, "data": { "id": 2, "op": 3 } })
    );
    assert_eq!(request.field("room"), Some(&b"\xa1r"[..]));
    assert_eq!(request.field("data").map(text), Some(json!({ "id": 2, "op": 3 })));
    assert_eq!(request.field("nothing"), None);
}

#[test]
fn an_id_is_a_string_or_a_number_or_missing() {
    for (id, wire) in [("\"a\"", &b"\xa1a"[..]), ("7", &[7]), ("-1", &[0xff]), ("\"\"", &[0xa0])] {
        let request = of_json(&format!(r#"{{"op":"join","id":{id}}}"#)).unwrap();
        assert_eq!(request.id.unwrap().wire(), wire, "{id}");
    }
    assert!(of_json(r#"{"op":"join","id":1.5}"#).unwrap().id.is_some());
    assert_eq!(of_json(r#"{"op":"join","id":null}"#).unwrap().id, None);
    assert_eq!(of_json(r#"{"op":"join"}"#).unwrap().id, None);
    for id in ["true", "[]", "{}", "1e999"] {
        assert_eq!(of_json(&format!(r#"{{"op":"join","id":{id}}}"#)), Err(Violation::Id), "{id}");
    }
    let long = "x".repeat(ID_BYTES_MAX + 1);
    let too_long = Violation::IdTooLong { bytes: ID_BYTES_MAX + 1, bytes_max: ID_BYTES_MAX };
    assert_eq!(of_json(&format!(r#"{{"op":"join","id":"{long}"}}"#)), Err(too_long));
}

#[test]
fn only_a_strings_id_makes_a_send_the_same_again() {
    let id = |message| of_json(message).unwrap().field("id").map(text);
    assert_eq!(id(r#"{"op":"send","to":"b","id":"k"}"#), Some(json!("k")));
    assert_eq!(id(r#"{"op":"send","to":"b","id":9}"#), None);
    assert_eq!(id(r#"{"op":"send","to":"b","id":null}"#), None);
    // The last one counts, also of these.
    assert_eq!(id(r#"{"id":"a","op":"send","id":"b"}"#), Some(json!("b")));
    assert_eq!(id(r#"{"id":"a","op":"send","id":1}"#), None);
    let request = of_json(r#"{"id":1,"op":"send","to":"b","data":[1]}"#).unwrap();
    assert_eq!(request.id.unwrap().wire(), [1]);
    assert_eq!(text(&request.fields), json!({ "op": "send", "to": "b", "data": [1] }));
}

#[test]
fn what_is_no_message_is_refused_and_named() {
    for text in ["", "{", "nonsense", "{\"op\":\"join\"} ", "{\"op\":\"join\"}{}"] {
        let expected = text.ends_with(' ');
        assert_eq!(of_json(text).is_ok(), expected, "{text:?}");
    }
    for text in ["[]", "1", "null", "\"join\"", "true"] {
        assert_eq!(of_json(text), Err(Violation::Object), "{text}");
    }
    for text in ["{}", r#"{"op":1}"#, r#"{"op":null}"#, r#"{"op":["join"]}"#] {
        assert_eq!(of_json(text), Err(Violation::Op), "{text}");
    }
    let long = "x".repeat(ID_BYTES_MAX + 1);
    let too_long = Violation::OpTooLong { bytes: ID_BYTES_MAX + 1, bytes_max: ID_BYTES_MAX };
    assert_eq!(of_json(&format!(r#"{{"op":"{long}"}}"#)), Err(too_long));
    assert_eq!(of_msgpack(&[0x90]), Err(Violation::Object));
    assert!(matches!(of_msgpack(&[0x81]), Err(Violation::Value(value::Error::MessagePack(_)))));
    assert_eq!(decode(Format::Json, Incoming::Binary(&[0x80]), 9), Err(Violation::BinaryUnasked));
    assert_eq!(decode(Format::MessagePack, Incoming::Text("{}"), 9), Err(Violation::TextUnasked));
}

#[test]
fn bytes_are_base64_in_json_and_bin_in_messagepack() {
    let request = of_json(r#"{"op":"publish","data":[{"$binary":"AQID"},{"$binary":"AQI"},{"$binary":""}]}"#);
    let data = b"\x93\xc4\x03\x01\x02\x03\xc4\x02\x01\x02\xc4\x00";
    assert_eq!(request.unwrap().field("data"), Some(&data[..]));

    let frame = encode::event(Format::Json, b"\x92\xa1e\xc4\x03\x01\x02\x03", false, None).unwrap();
    assert_eq!(json_of(&frame), json!({ "op": "event", "event": "e", "args": [{ "$binary": "AQID" }] }));

    // Objects that only look like it are objects.
    for object in
        [json!({ "$binary": 1 }), json!({ "$binary": "AQID", "x": 1 }), json!({ "x": 1, "$binary": "A" })]
    {
        let request = of_json(&json!({ "op": "publish", "data": object }).to_string()).unwrap();
        assert_eq!(text(request.field("data").unwrap()), object);
    }
    let broken = of_json(r#"{"op":"publish","data":{"$binary":"not base64"}}"#);
    assert_eq!(broken, Err(Violation::Value(value::Error::Base64)));
}

#[test]
fn meta_is_told_apart_where_the_gateway_wrote_it_and_nowhere_else() {
    let meta = json!({ "id": "i", "room": "r", "from": null, "node": "n", "ts": 5 });
    let mut data = b"\x93\xa1e\x01".to_vec();
    write_meta(&mut data);
    let told = |data: &[u8], has_meta| json_of(&encode::event(Format::Json, data, has_meta, None).unwrap());
    assert_eq!(told(&data, true), json!({ "op": "event", "event": "e", "args": [1], "meta": meta }));
    assert_eq!(told(&data, false), json!({ "op": "event", "event": "e", "args": [1, meta] }));
    let durable = encode::event(Format::Json, &data, true, Some(Receipt::Durable("1-0"))).unwrap();
    assert_eq!((&json_of(&durable)["message"], &json_of(&durable)["meta"]), (&json!("1-0"), &meta));
    // What has no second argument, or a third, has none.
    for arguments in [json!(["e"]), json!(["e", 1]), json!([7, 1, null, 3])] {
        let told = told(&wire(&arguments), true);
        assert_eq!(told["args"], json!(arguments.as_array().unwrap()[1..]));
        assert_eq!((&told["event"], told.get("meta")), (&arguments[0], None));
    }
}

fn write_meta(out: &mut Vec<u8>) {
    let meta = json!({ "id": "i", "room": "r", "from": null, "node": "n", "ts": 5 });
    out.extend_from_slice(&wire(&meta));
}

#[test]
fn a_broadcast_to_be_acknowledged_has_a_number() {
    let frame = encode::event(Format::Json, b"\x91\xa1e", false, Some(Receipt::Broadcast(17))).unwrap();
    assert_eq!(json_of(&frame), json!({ "op": "event", "event": "e", "args": [], "message": 17 }));
}

#[test]
fn messagepack_is_the_standards() {
    // Undefined, a date and bytes as Socket.IO's parsers write them; a timestamp; an extension of the application's.
    let mut data = vec![0x97, 0xa1, b'e', 0xd4, 0, 0];
    write::ext(&mut data, 0, &1_000_i64.to_be_bytes());
    data.extend_from_slice(&[0xc7, 2, 0, 8, 9]);
    write::timestamp_ms(&mut data, 1_000);
    write::ext(&mut data, 5, &[1, 2]);
    data.extend_from_slice(b"\xa2\xff!");
    let frame = encode::event(Format::MessagePack, &data, false, None).unwrap();
    let (is_text, payload) = payload(&frame);
    assert!(!is_text);

    let mut expected = b"\x83\xa2op\xa5event\xa5event\xa1e\xa4args\x96\xc0".to_vec();
    write::timestamp_ms(&mut expected, 1_000);
    write::bin(&mut expected, &[8, 9]);
    write::timestamp_ms(&mut expected, 1_000);
    write::ext(&mut expected, 5, &[1, 2]);
    write::str(&mut expected, "\u{fffd}!");
    assert_eq!(payload, expected);
}

#[test]
fn a_messagepack_client_may_send_dates_and_its_own_extensions() {
    let mut message = b"\x82\xa2op\xa7publish\xa4data\x95".to_vec();
    write::timestamp_ms(&mut message, 1_500);
    write::ext(&mut message, 5, &[1]);
    // A timestamp that no reader knows, undefined, and a string that is no UTF-8.
    write::ext(&mut message, -1, &[1]);
    message.extend_from_slice(&[0xd4, 0, 0]);
    message.extend_from_slice(b"\xa1\xff");
    let mut expected = vec![0x95];
    write::timestamp_ms(&mut expected, 1_500);
    write::ext(&mut expected, 5, &[1]);
    expected.extend_from_slice(&[0x92, 0xff, 0xc4, 1, 1, 0xc0]);
    write::str(&mut expected, "\u{fffd}");
    assert_eq!(of_msgpack(&message).unwrap().field("data"), Some(&expected[..]));
}
