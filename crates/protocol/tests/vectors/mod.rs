//! Test data that stock libraries wrote, and hex.
#![allow(dead_code, reason = "each suite includes this file and uses a part of it")]

use serde_json::Value as Json;

/// Event data in its three encodings; the file says which libraries wrote it.
pub(crate) fn crossings() -> Json {
    serde_json::from_str(include_str!("crossings.json")).unwrap()
}

/// Captured frames of connections; the file says between which libraries.
pub(crate) fn client_wire() -> Json {
    serde_json::from_str(include_str!("client_wire.json")).unwrap()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(hex: &Json) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}
