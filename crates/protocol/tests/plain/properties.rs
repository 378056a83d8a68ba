//! Properties over arbitrary messages.

use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};
use tidegate_protocol::plain::encode;
use tidegate_protocol::plain::{Format, Incoming, decode};

use crate::{json_of, of_json, of_msgpack, payload, text, wire};

fn values() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<i32>().prop_map(|value| Json::from(f64::from(value) + 0.5)),
        ".{0,20}".prop_map(Json::from),
        "(AQID|AQ==|x)".prop_map(|text| json!({ "$binary": text, "more": 1 })),
    ];
    leaf.prop_recursive(4, 24, 18, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..18).prop_map(Json::from),
            prop::collection::btree_map("[a-z$]{0,8}", inner, 0..18)
                .prop_map(|entries| Json::Object(entries.into_iter().collect())),
        ]
    })
}

fn messages() -> impl Strategy<Value = Map<String, Json>> {
    let id = prop_oneof![
        Just(None),
        any::<i64>().prop_map(|id| Some(Json::from(id))),
        ".{0,4}".prop_map(|id| Some(Json::from(id))),
    ];
    let fields = prop::collection::btree_map("(room|data|to|event|args|[a-z]{1,6})", values(), 0..18);
    ("(send|publish|[a-z]{1,8})", id, fields).prop_map(|(op, id, fields)| {
        let mut message: Map<String, Json> = fields.into_iter().collect();
        message.insert("op".to_owned(), json!(op));
        message.remove("id");
        if let Some(id) = id {
            message.insert("id".to_owned(), id);
        }
        message
    })
}

proptest! {
    #[test]
    fn both_formats_say_the_same(message in messages()) {
        let message = Json::Object(message);
        let json = of_json(&message.to_string()).unwrap();
        let packed = of_msgpack(&wire(&message)).unwrap();
        prop_assert_eq!(&json, &packed);

        let mut expected = message.as_object().unwrap().clone();
        prop_assert_eq!(json!(json.op), expected["op"].clone());
        prop_assert_eq!(json.id.as_ref().map(|id| text(id.wire())), expected.get("id").cloned());
        if json.op == "send" && !expected.get("id").is_some_and(Json::is_string) {
            expected.remove("id");
        }
        prop_assert_eq!(text(&json.fields), Json::Object(expected));
    }

    #[test]
    fn an_event_says_in_both_formats_what_was_published(name in "[a-z]{1,9}", arguments in prop::collection::vec(values(), 0..20)) {
        let mut data = vec![json!(name)];
        data.extend(arguments.iter().cloned());
        let data = wire(&Json::from(data));
        let expected = json!({ "op": "event", "event": name, "args": arguments });
        prop_assert_eq!(json_of(&encode::event(Format::Json, &data, false, None).unwrap()), expected.clone());
        let frame = encode::event(Format::MessagePack, &data, false, None).unwrap();
        let (is_text, payload) = payload(&frame);
        prop_assert!(!is_text);
        prop_assert_eq!(text(payload), expected);
    }

    #[test]
    fn arbitrary_messages_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}\",:opid0-9a-z$.\\\\]{0,60}") {
        let _ = of_msgpack(&bytes);
        let _ = of_json(&text);
        let _ = of_json(&String::from_utf8_lossy(&bytes));
        let _ = decode(Format::MessagePack, Incoming::Binary(text.as_bytes()), 4);
        for format in Format::ALL {
            let _ = encode::event(format, &bytes, true, None);
        }
    }
}
