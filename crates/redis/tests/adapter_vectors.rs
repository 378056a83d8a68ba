//! What a cluster of stock Node servers published is read, and written again to the byte.

#![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

use serde::Deserialize;
use tidegate_core::Room;
use tidegate_redis::adapter::Envelope;

#[derive(Deserialize)]
struct Vectors {
    broadcasts: Vec<Broadcast>,
}

#[derive(Deserialize)]
struct Broadcast {
    name: String,
    channel: String,
    payload_hex: String,
    decoded: (String, serde_json::Value, serde_json::Value),
}

fn vectors() -> Vec<Broadcast> {
    let text = include_str!("vectors/redis-adapter.json");
    serde_json::from_str::<Vectors>(text).unwrap().broadcasts
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn names(value: &serde_json::Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
}

#[test]
fn stock_broadcasts_are_read_as_what_they_say() {
    let vectors = vectors();
    assert!(vectors.len() >= 20, "the vectors are gone");
    for vector in &vectors {
        let payload = bytes(&vector.payload_hex);
        let envelope = Envelope::decode(&payload).unwrap_or_else(|error| panic!("{}: {error}", vector.name));
        let (uid, packet, opts) = &vector.decoded;
        assert_eq!(&envelope.uid[1..], uid.as_bytes(), "{}", vector.name);
        assert_eq!(envelope.namespace, packet["nsp"], "{}", vector.name);
        let rooms: Vec<_> = envelope.rooms.iter().map(Room::as_str).collect();
        assert_eq!(rooms, names(&opts["rooms"]), "{}", vector.name);
        let except: Vec<_> = envelope.except.iter().map(Room::as_str).collect();
        assert_eq!(except, names(&opts["except"]), "{}", vector.name);
        assert_eq!(envelope.flags.volatile, opts["flags"]["volatile"] == true, "{}", vector.name);
        let suffix = match rooms.as_slice() {
            [room] => format!("{room}#"),
            _ => String::new(),
        };
        assert_eq!(vector.channel, format!("socket.io#{}#{suffix}", envelope.namespace), "{}", vector.name);
    }
}

#[test]
fn stock_broadcasts_are_written_to_the_byte() {
    for vector in vectors() {
        let payload = bytes(&vector.payload_hex);
        let envelope = Envelope::decode(&payload).unwrap_or_else(|error| panic!("{}: {error}", vector.name));
        assert_eq!(envelope.encode(), payload, "{}", vector.name);
    }
}
