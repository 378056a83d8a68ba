//! What nodes say on their own channels.
//!
//! A message is a MessagePack map `{ v, kind }`. A node drops and counts what it does not know, so that nodes of
//! two versions can share a cluster while it is being upgraded.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// The version that is written, and the only one that is read.
const VERSION: u8 = 1;

/// What is said.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NodeMessage<'a> {
    /// A beat of the node's own pulse, published by `lua/pulse.lua`.
    Pulse {
        /// Whose pulse it is: a second process with the same node id hears the same channel.
        #[serde(borrow)]
        incarnation: Cow<'a, str>,
        /// Which beat.
        number: u64,
    },
}

#[derive(Serialize, Deserialize)]
struct Versioned<'a> {
    v: u8,
    #[serde(borrow)]
    kind: NodeMessage<'a>,
}

/// The message is of a version or a kind that this node does not know, or none at all.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown node message")]
pub(crate) struct Unknown;

impl<'a> NodeMessage<'a> {
    pub(crate) fn encode(self) -> Vec<u8> {
        rmp_serde::to_vec_named(&Versioned { v: VERSION, kind: self })
            .expect("a map of strings and integers, written to memory, cannot fail")
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, Unknown> {
        match rmp_serde::from_slice::<Versioned<'a>>(bytes) {
            Ok(message) if message.v == VERSION => Ok(message.kind),
            _ => Err(Unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_form_of_a_pulse_is_fixed() {
        let pulse = NodeMessage::Pulse { incarnation: "abc".into(), number: 7 };
        let bytes = pulse.encode();
        assert_eq!(bytes, b"\x82\xa1v\x01\xa4kind\x81\xa5Pulse\x82\xabincarnation\xa3abc\xa6number\x07");
    }

    #[test]
    fn what_another_version_says_is_unknown() {
        let newer_version = b"\x82\xa1v\x02\xa4kind\x81\xa5Pulse\x82\xabincarnation\xa3abc\xa6number\x07";
        let newer_kind = b"\x82\xa1v\x01\xa4kind\x81\xa5Dance\x80";
        assert_eq!(NodeMessage::decode(newer_version), Err(Unknown));
        assert_eq!(NodeMessage::decode(newer_kind), Err(Unknown));
        assert_eq!(NodeMessage::decode(b""), Err(Unknown));
    }

    #[test]
    fn new_fields_are_ignored() {
        let newer =
            b"\x83\xa1v\x01\xa3new\x90\xa4kind\x81\xa5Pulse\x83\xa1x\xc0\xabincarnation\xa3abc\xa6number\x07";
        let pulse = NodeMessage::Pulse { incarnation: "abc".into(), number: 7 };
        assert_eq!(NodeMessage::decode(newer), Ok(pulse));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(incarnation in ".{0,40}", number in any::<u64>()) {
            let bytes = NodeMessage::Pulse { incarnation: incarnation.as_str().into(), number }.encode();
            let read = NodeMessage::decode(&bytes).unwrap();
            prop_assert_eq!(read, NodeMessage::Pulse { incarnation: incarnation.into(), number });
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = NodeMessage::decode(&bytes);
        }
    }
}
