//! What a stock server does, we do. `stock.json` was recorded from `engine.io` 6.6.12 and `engine.io-parser` 5.2.3
//! on Node 20; every entry in it is either met or named here as a deliberate difference.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::{Value, json};
use tidegate_protocol::engineio::payload::{self, Piece};
use tidegate_protocol::engineio::{Admission, Packet, PacketType, Probe, ProbeStep, Query, Refusal, admit};

/// Node skips what is not base64; we take it for the garbage it is and close, as after any other bad packet.
const REFUSED_HERE: [&str; 4] = ["b-_8=", "bAQ ==", "bA", "b!!"];

fn stock(section: &str) -> Vec<Value> {
    let stock: Value = serde_json::from_str(include_str!("stock.json")).unwrap();
    let entries = stock[section].as_array().unwrap().clone();
    assert!(!entries.is_empty());
    entries
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

const NAMES: [(PacketType, &str); 7] = [
    (PacketType::Open, "open"),
    (PacketType::Close, "close"),
    (PacketType::Ping, "ping"),
    (PacketType::Pong, "pong"),
    (PacketType::Message, "message"),
    (PacketType::Upgrade, "upgrade"),
    (PacketType::Noop, "noop"),
];

/// A decoded piece in the form of the recording.
fn record(piece: &Piece<'_>) -> Value {
    match piece {
        Piece::Binary(data) => json!({ "type": "message", "binary": hex(data) }),
        Piece::Packet(packet) => {
            let (_, name) =
                NAMES.iter().find(|(packet_type, _)| *packet_type == packet.packet_type()).unwrap();
            match packet {
                Packet::Open(data) | Packet::Ping(data) | Packet::Pong(data) | Packet::Text(data)
                    if !data.is_empty() =>
                {
                    json!({ "type": name, "data": data })
                }
                _ => json!({ "type": name }),
            }
        }
    }
}

fn expect(decoded: &Result<Piece<'_>, impl std::fmt::Debug>, recorded: &Value) {
    let mut recorded = recorded.clone();
    let fields = recorded.as_object_mut().unwrap();
    fields.remove("text");
    match decoded {
        Err(_) => assert_eq!(recorded["type"], "error", "{recorded}"),
        Ok(piece) => {
            // Data of these is of no use to anyone, and dropped.
            if ["close", "upgrade", "noop"].contains(&fields["type"].as_str().unwrap()) {
                fields.remove("data");
            }
            assert_eq!(record(piece), recorded);
        }
    }
}

#[test]
fn packets_decode_alike() {
    for entry in stock("packets") {
        let text = entry["text"].as_str().unwrap();
        if REFUSED_HERE.contains(&text) {
            assert!(payload::piece(text).is_err(), "{text}");
        } else {
            expect(&payload::piece(text), &entry);
        }
    }
}

#[test]
fn payloads_decode_alike() {
    for entry in stock("payloads") {
        let decoded: Vec<_> = payload::decode(entry["body"].as_str().unwrap()).collect();
        let recorded = entry["packets"].as_array().unwrap();
        assert_eq!(decoded.len(), recorded.len(), "{entry}");
        for (decoded, recorded) in decoded.iter().zip(recorded) {
            expect(decoded, recorded);
        }
    }
}

#[test]
fn payloads_encode_alike() {
    for entry in stock("encoded") {
        let mut body = Vec::new();
        for packet in entry["packets"].as_array().unwrap() {
            if let Some(binary) = packet["binary"].as_str() {
                payload::push_binary(&mut body, &unhex(binary));
            } else {
                let (packet_type, _) = NAMES.iter().find(|(_, name)| packet["type"] == *name).unwrap();
                let data = packet["data"].as_str().unwrap_or_default();
                payload::push_text(&mut body, &format!("{}{data}", char::from(packet_type.digit())));
            }
        }
        assert_eq!(String::from_utf8(body).unwrap(), entry["body"].as_str().unwrap());
    }
}

#[test]
fn requests_are_admitted_and_refused_alike() {
    for entry in stock("requests") {
        let query = Query::parse(entry["query"].as_str().unwrap());
        let outcome = match admit(&query, entry["method"] == "GET", (true, true)) {
            // There was no session when this was recorded.
            Ok(Admission::Session { .. }) => Err(Refusal::SessionUnknown),
            Ok(Admission::Handshake(transport)) => Ok(transport),
            Err(refusal) => Err(refusal),
        };
        match outcome {
            Ok(_) => {
                assert_eq!(entry["status"], 200, "{entry}");
                assert_eq!(entry["b64"], query.b64, "{entry}");
            }
            Err(refusal) => {
                assert_eq!(entry["status"], refusal.http_status(), "{entry}");
                assert_eq!(entry["body"], refusal.json(), "{entry}");
            }
        }
    }
}

#[test]
fn probes_step_alike() {
    for entry in stock("probes") {
        let mut probe = Probe::new();
        let mut replies = Vec::new();
        let (mut closed, mut upgraded) = (false, false);
        for frame in entry["frames"].as_array().unwrap() {
            let step = match frame["text"].as_str() {
                Some(text) => probe.on_text(text),
                None => probe.on_binary(),
            };
            match step {
                ProbeStep::Reply(reply) => replies.push(reply),
                ProbeStep::Done => upgraded = true,
                ProbeStep::Refuse => closed = true,
            }
        }
        let ours =
            json!({ "frames": entry["frames"], "replies": replies, "closed": closed, "upgraded": upgraded });
        assert_eq!(ours, entry);
    }
}
