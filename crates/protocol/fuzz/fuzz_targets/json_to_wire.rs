//! JSON text is accepted, refused and understood as serde_json does it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_protocol::value::{self, json_to_wire, wire_to_json};

fuzz_target!(|json: &[u8]| {
    let mut wire = Vec::new();
    let ours = json_to_wire(json, &[], &mut wire);
    let theirs: Result<serde_json::Value, _> = serde_json::from_slice(json);
    match (&ours, &theirs) {
        (Ok(()), Ok(value)) => {
            assert_eq!(tidegate_msgpack::check(&wire), Ok(()));
            let (mut text, mut attachments) = (Vec::new(), Vec::new());
            wire_to_json(&wire, &mut text, &mut attachments).expect("what was transcoded is wire form");
            assert!(attachments.is_empty());
            let back: serde_json::Value = serde_json::from_slice(&text).expect("what was printed is json");
            assert!(same(value, &back), "{value} became {back}");
        }
        (Err(_), Err(_)) => {}
        (Err(value::Error::TooDeep), Ok(_)) => {}
        // The two differences that JavaScript asks for: 1e999 is infinite, and a lone surrogate is replaced.
        (Ok(()), Err(error)) if error.to_string().contains("number out of range") => {}
        (Ok(()), Err(error)) if error.to_string().contains("surrogate") => {}
        (Ok(()), Err(error)) if error.to_string().contains("unexpected end of hex escape") => {}
        _ => panic!("{ours:?} but {theirs:?}"),
    }
});

/// Numbers are equal when they are the same double, the rest when it is the same.
fn same(left: &serde_json::Value, right: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Number, Object};
    match (left, right) {
        (Number(left), Number(right)) => left == right || left.as_f64() == right.as_f64(),
        (Array(left), Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
        }
        (Object(left), Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(key, left)| right.get(key).is_some_and(|right| same(left, right)))
        }
        _ => left == right,
    }
}
