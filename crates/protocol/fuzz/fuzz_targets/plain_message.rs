//! One message of the plain protocol in either format: no panic, a request is whole, and what it holds can be told to
//! clients of both formats.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_msgpack::write;
use tidegate_protocol::plain::{Format, Incoming, decode, encode};

/// The payload of a server's frame.
fn payload(frame: &[u8]) -> &[u8] {
    match frame[1] {
        126 => &frame[4..],
        127 => &frame[10..],
        _ => &frame[2..],
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut requests = Vec::new();
    requests.extend(decode(Format::MessagePack, Incoming::Binary(bytes), 32));
    if let Ok(text) = std::str::from_utf8(bytes) {
        requests.extend(decode(Format::Json, Incoming::Text(text), 32));
    }
    for request in requests {
        tidegate_msgpack::check(&request.fields).expect("the fields are one value");
        let mut data = Vec::new();
        write::array(&mut data, 2);
        write::str(&mut data, "e");
        data.extend_from_slice(&request.fields);
        let json = encode::event(Format::Json, &data, true, None).expect("what was read can be told");
        let packed = encode::event(Format::MessagePack, &data, true, None).expect("what was read can be told");
        // What the server says is a message like any other.
        let json = std::str::from_utf8(payload(&json)).expect("JSON is text");
        let again = [
            decode(Format::Json, Incoming::Text(json), 32),
            decode(Format::MessagePack, Incoming::Binary(payload(&packed)), 32),
        ];
        for again in again {
            // One level deeper than what came in, and so perhaps too deep to be sent.
            if let Ok(again) = again {
                assert_eq!((again.op.as_str(), again.id), ("event", None));
            }
        }
    }
    for format in Format::ALL {
        let _ = encode::event(format, bytes, true, None);
        let _ = encode::message(format, bytes);
    }
});
