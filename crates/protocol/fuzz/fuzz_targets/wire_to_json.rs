//! Whatever comes over Redis is printed as JSON that reads back and relayed as text that is UTF-8, or refused.
#![no_main]

mod strings;

use libfuzzer_sys::fuzz_target;
use serde::Deserialize as _;
use tidegate_protocol::value::{Binary, json_to_wire, wire_to_client, wire_to_json};

fuzz_target!(|wire: &[u8]| {
    let (mut json, mut attachments) = (Vec::new(), Vec::new());
    let printed = wire_to_json(wire, &mut json, &mut attachments);
    let mut client = Vec::new();
    if wire_to_client(wire, &mut client).is_ok() {
        strings::assert_utf8(&client);
    }
    if printed.is_err() {
        return;
    }
    assert_eq!(Binary::of(wire).map(|binary| binary.count), Ok(attachments.len()));
    // A placeholder nests one level deeper than the bytes it stands for, past where serde_json stops by default.
    let mut judge = serde_json::Deserializer::from_slice(&json);
    judge.disable_recursion_limit();
    let _ = serde_json::Value::deserialize(&mut judge).expect("what was printed is json");
    judge.end().expect("nothing follows it");
    let mut back = Vec::new();
    if json_to_wire(&json, &attachments, &mut back).is_ok() {
        let (mut second, mut seconds) = (Vec::new(), Vec::new());
        wire_to_json(&back, &mut second, &mut seconds).expect("what was transcoded is wire form");
        assert_eq!(attachments, seconds);
    }
});
