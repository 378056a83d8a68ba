//! Any text frame and any query: no panic; a packet keeps its data, the upgrade needs its exact words, and a session
//! id that needs no decoding is not changed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_protocol::engineio::{Admission, Opened, Packet, Probe, ProbeStep, Query, admit, decode_text};

fuzz_target!(|input: &str| {
    let decoded = decode_text(input);
    match decoded {
        Ok(packet) => {
            assert_eq!(packet.packet_type().digit(), input.as_bytes()[0]);
            if let Packet::Open(data) | Packet::Ping(data) | Packet::Pong(data) | Packet::Text(data) = packet
            {
                assert_eq!(data, &input[1..]);
            }
        }
        Err(_) => assert!(!input.starts_with(|first: char| ('0'..='6').contains(&first))),
    }

    let expected = match decoded {
        Ok(Packet::Ping("probe")) => ProbeStep::Reply("3probe"),
        Ok(Packet::Upgrade) => ProbeStep::Done,
        _ => ProbeStep::Refuse,
    };
    assert_eq!(Probe::new().on_text(input), expected);

    let _ = Opened::decode(input);

    let query = Query::parse(input);
    for is_get in [false, true] {
        if let Ok(Admission::Session { sid, .. }) = admit(&query, is_get, (true, true)) {
            assert!(!sid.is_empty());
        }
    }
    if !input.contains(['&', '%', '+']) {
        let query = format!("sid={input}");
        assert_eq!(Query::parse(&query).sid.as_deref(), Some(input).filter(|sid| !sid.is_empty()));
    }
});
