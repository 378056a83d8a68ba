//! Properties of the transcoders over arbitrary values and arbitrary text, with serde_json as the second opinion.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value as Json;
use tidegate_msgpack::{Reader, Token, check, write};
use tidegate_protocol::value::{Binary, Error, client_to_wire, json_to_wire, wire_to_client, wire_to_json};

fn from_json(json: &[u8]) -> Result<Vec<u8>, Error> {
    let mut wire = Vec::new();
    json_to_wire(json, &[], &mut wire).map(|()| wire)
}

fn to_json(wire: &[u8]) -> Result<(String, Vec<Bytes>), Error> {
    let (mut json, mut attachments) = (Vec::new(), Vec::new());
    wire_to_json(wire, &mut json, &mut attachments)?;
    Ok((String::from_utf8(json).unwrap(), attachments))
}

/// Whether two JSON values are the same to JavaScript, which has doubles only.
fn same(left: &Json, right: &Json) -> bool {
    match (left, right) {
        (Json::Number(left), Json::Number(right)) => left == right || left.as_f64() == right.as_f64(),
        (Json::Array(left), Json::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
        }
        (Json::Object(left), Json::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(key, left)| right.get(key).is_some_and(|right| same(left, right)))
        }
        _ => left == right,
    }
}

/// Reads text with both parsers and holds them to the same answer, except where JavaScript differs from serde_json
/// (numbers too large for a double, lone surrogates) and beyond our depth.
fn compare_with_serde_json(text: &str) -> Result<(), TestCaseError> {
    let ours = from_json(text.as_bytes());
    let theirs = serde_json::from_str::<Json>(text);
    match (&ours, &theirs) {
        (Ok(wire), Ok(value)) => {
            prop_assert_eq!(check(wire), Ok(()));
            let (printed, attachments) = to_json(wire).unwrap();
            prop_assert!(attachments.is_empty());
            let back: Json = serde_json::from_str(&printed).unwrap();
            prop_assert!(same(value, &back), "{} became {}", value, back);
        }
        (Err(_), Err(_)) | (Err(Error::TooDeep), Ok(_)) => {}
        (Ok(_), Err(error)) => {
            let error = error.to_string();
            let javascript = ["number out of range", "surrogate", "unexpected end of hex escape"];
            prop_assert!(javascript.iter().any(|reason| error.contains(reason)), "{text:?}: {error}");
        }
        (Err(error), Ok(_)) => prop_assert!(false, "{text:?}: {error}"),
    }
    Ok(())
}

fn json_values() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        (-200_i32..70_000).prop_map(Json::from),
        // Halves survive serde_json's own reading of floats, which is not exact by default.
        any::<i32>().prop_map(|value| Json::from(f64::from(value) + 0.5)),
        any::<String>().prop_map(Json::from),
        "[a-z\"\\\\\n\u{0}-\u{1f}é😀]{0,40}".prop_map(Json::from),
    ];
    leaf.prop_recursive(5, 48, 20, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..20).prop_map(Json::from),
            prop::collection::btree_map(".{0,12}", inner, 0..20)
                .prop_map(|entries| Json::Object(entries.into_iter().collect())),
        ]
    })
}

/// A value as a client's MessagePack can hold it.
#[derive(Debug, Clone)]
enum Value {
    Json(Json),
    Undefined,
    Date(i64),
    Bin(Vec<u8>),
    Buffer(Vec<u8>),
    Float(f64),
    Unknown(i8, Vec<u8>),
    Array(Vec<Value>),
    Map(Vec<(String, Value)>),
}

impl Value {
    fn append(&self, out: &mut Vec<u8>) {
        match self {
            Value::Json(json) => json_to_wire(json.to_string().as_bytes(), &[], out).unwrap(),
            Value::Undefined => write::ext(out, 0, &[0]),
            Value::Date(ms) => write::ext(out, 0, &ms.to_be_bytes()),
            Value::Bin(data) => write::bin(out, data),
            Value::Buffer(data) => {
                out.extend_from_slice(&[0xc8]);
                out.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
                out.push(0);
                out.extend_from_slice(data);
            }
            Value::Float(value) => write::f64(out, *value),
            Value::Unknown(kind, data) => write::ext(out, *kind, data),
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

    /// The same in wire form, built without the transcoder. `None` for what has no wire form.
    fn append_wire(&self, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Value::Undefined => return None,
            Value::Date(ms) => write::timestamp_ms(out, *ms),
            Value::Buffer(data) => write::bin(out, data),
            Value::Unknown(kind, data) => {
                write::array(out, 2);
                write::int(out, i64::from(*kind));
                write::bin(out, data);
            }
            Value::Array(items) => {
                write::array(out, u32::try_from(items.len()).unwrap());
                for item in items {
                    if item.append_wire(out).is_none() {
                        write::nil(out);
                    }
                }
            }
            Value::Map(entries) => {
                let entries = entries.iter().filter(|(_, value)| !matches!(value, Value::Undefined));
                write::map(out, u32::try_from(entries.clone().count()).unwrap());
                for (key, value) in entries {
                    write::str(out, key);
                    value.append_wire(out);
                }
            }
            other => other.append(out),
        }
        Some(())
    }
}

fn client_values() -> impl Strategy<Value = Value> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..300);
    let leaf = prop_oneof![
        json_values().prop_map(Value::Json),
        Just(Value::Undefined),
        any::<i64>().prop_map(Value::Date),
        (-9_000_000_000_000_000_i64..9_000_000_000_000_000).prop_map(Value::Date),
        bytes().prop_map(Value::Bin),
        bytes().prop_map(Value::Buffer),
        any::<f64>().prop_map(Value::Float),
        (any::<i8>().prop_filter("type 0 means something", |kind| *kind != 0), bytes())
            .prop_map(|(kind, data)| Value::Unknown(kind, data)),
    ];
    leaf.prop_recursive(4, 32, 20, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..20).prop_map(Value::Array),
            prop::collection::vec((".{0,6}", inner), 0..20).prop_map(Value::Map),
        ]
    })
}

proptest! {
    #[test]
    fn json_through_wire_form_is_the_same_json(value in json_values(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let wire = from_json(text.as_bytes()).unwrap();
        prop_assert_eq!(check(&wire), Ok(()));
        let (printed, attachments) = to_json(&wire).unwrap();
        prop_assert!(attachments.is_empty());
        prop_assert_eq!(serde_json::from_str::<Json>(&printed).unwrap(), value);
        // Printed text is a fixed point, to the byte.
        prop_assert_eq!(from_json(printed.as_bytes()).unwrap(), wire);
    }

    #[test]
    fn broken_json_is_refused_as_by_serde_json(
        value in json_values(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), "[\\[\\]{}\",:\\\\/0-9eE+.u tfn\u{0}-\u{20}\u{7f}-\u{100}-]{0,2}", 0..3_usize), 1..4),
    ) {
        let mut text: Vec<char> = value.to_string().chars().collect();
        for (at, insert, remove) in edits {
            let at = at.index(text.len() + 1);
            let end = (at + remove).min(text.len());
            text.splice(at..end, insert.chars());
        }
        compare_with_serde_json(&text.into_iter().collect::<String>())?;
    }

    #[test]
    fn text_like_json_is_read_as_by_serde_json(text in "[\\[\\]{}\",:\\\\0-9eE+.u truefalsn\n-]{0,30}") {
        compare_with_serde_json(&text)?;
    }

    #[test]
    fn numbers_are_the_nearest_double(text in "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?") {
        let wire = from_json(text.as_bytes()).unwrap();
        let value: f64 = text.parse().unwrap();
        let printed = to_json(&wire).unwrap().0;
        if value.is_finite() {
            prop_assert_eq!(printed.parse::<f64>().unwrap(), value);
        } else {
            prop_assert_eq!(printed, "null");
        }
    }

    #[test]
    fn a_client_value_becomes_its_wire_form_and_goes_back(value in client_values()) {
        let mut client = Vec::new();
        value.append(&mut client);
        let mut expected = Vec::new();
        if value.append_wire(&mut expected).is_none() {
            write::nil(&mut expected);
        }
        let mut wire = Vec::new();
        client_to_wire(&client, &mut wire).unwrap();
        prop_assert_eq!(&wire, &expected);

        let mut back = Vec::new();
        wire_to_client(&wire, &mut back).unwrap();
        let mut again = Vec::new();
        client_to_wire(&back, &mut again).unwrap();
        prop_assert_eq!(&again, &wire);

        let (printed, attachments) = to_json(&wire).unwrap();
        prop_assert_eq!(Binary::of(&wire).map(|binary| binary.count), Ok(attachments.len()));
        prop_assert!(serde_json::from_str::<Json>(&printed).is_ok());
        // Attachments find their places again.
        let mut through_text = Vec::new();
        json_to_wire(printed.as_bytes(), &attachments, &mut through_text).unwrap();
        prop_assert_eq!(to_json(&through_text).unwrap(), (printed, attachments));
    }

    #[test]
    fn strings_of_any_bytes_leave_as_the_text_json_has_for_them(
        strings in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
        has_extension: bool,
    ) {
        let mut sent = Vec::new();
        write::array(&mut sent, 1 + u32::from(has_extension));
        write::map(&mut sent, u32::try_from(strings.len()).unwrap());
        for text in &strings {
            write::str_bytes(&mut sent, text);
            write::str_bytes(&mut sent, text);
        }
        if has_extension {
            // An array buffer sends the value down the slow path.
            write::ext(&mut sent, 0, &[1, 2, 3]);
        }
        let mut wire = Vec::new();
        client_to_wire(&sent, &mut wire).unwrap();
        prop_assert_eq!(to_json(&wire).unwrap(), to_json(&sent).unwrap());
        let mut client = Vec::new();
        wire_to_client(&sent, &mut client).unwrap();
        prop_assert_eq!(to_json(&client).unwrap(), to_json(&sent).unwrap());
        for written in [wire, client] {
            let mut reader = Reader::new(&written);
            while !reader.is_empty() {
                if let Token::Str(text) = reader.token().unwrap() {
                    prop_assert!(std::str::from_utf8(text).is_ok(), "{:02x?}", text);
                }
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let whole = check(&bytes);
        let _ = from_json(&bytes);
        let _ = client_to_wire(&bytes, &mut Vec::new());
        let _ = wire_to_json(&bytes, &mut Vec::new(), &mut Vec::new());
        let relayed = wire_to_client(&bytes, &mut Vec::new());
        prop_assert_eq!(relayed.is_ok(), whole.is_ok());
    }
}
