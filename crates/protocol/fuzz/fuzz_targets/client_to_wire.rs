//! Whatever a MessagePack client sends becomes wire form or an error, and wire form goes out to every receiver.
#![no_main]

mod strings;

use libfuzzer_sys::fuzz_target;
use tidegate_protocol::value::{Binary, client_to_wire, wire_to_client, wire_to_json};

fuzz_target!(|bytes: &[u8]| {
    let mut wire = Vec::new();
    if client_to_wire(bytes, &mut wire).is_err() {
        return;
    }
    assert_eq!(tidegate_msgpack::check(&wire), Ok(()));
    strings::assert_utf8(&wire);
    let mut client = Vec::new();
    wire_to_client(&wire, &mut client).expect("wire form has a client form");
    strings::assert_utf8(&client);
    let mut again = Vec::new();
    client_to_wire(&client, &mut again).expect("a client form can be read");
    assert_eq!(wire, again);
    let (mut json, mut attachments) = (Vec::new(), Vec::new());
    wire_to_json(&wire, &mut json, &mut attachments).expect("wire form has a json form");
    assert_eq!(Binary::of(&wire).map(|binary| binary.count), Ok(attachments.len()));
});
