//! What every reader of MessagePack may rely on.

use tidegate_msgpack::{Reader, Token};

/// Panics unless every string of the value, keys included, is UTF-8: a browser's reader throws on any other.
pub(crate) fn assert_utf8(msgpack: &[u8]) {
    let mut reader = Reader::new(msgpack);
    while !reader.is_empty() {
        if let Token::Str(bytes) = reader.token().expect("what was written can be read") {
            assert!(std::str::from_utf8(bytes).is_ok(), "not utf-8: {bytes:02x?}");
        }
    }
}
