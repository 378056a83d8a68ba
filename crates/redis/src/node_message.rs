//! What nodes say on their own channels.
//!
//! A message is a MessagePack map `{ v, kind }`. A node drops and counts what it does not know, so that nodes of
//! two versions can share a cluster while it is being upgraded.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use tidegate_core::offline::{Arrival, Serial};
use tidegate_core::registry::{By, EvictReason, Evicted, Eviction};
use tidegate_core::{ClaimId, Namespace, NodeId, SessionId};

use crate::inbox;
use crate::packed;

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
    /// A session of the node lost its place, published by the script that took it away; see `lua/place.lua`.
    Evict(#[serde(borrow)] Evict<'a>),
    /// A message was stored for sessions of the node that are ready, published by `lua/send.lua`.
    Arrived(#[serde(borrow)] Arrived<'a>),
    /// A session that the node waited for is silent.
    Evicted {
        /// What the node calls its wait.
        #[serde(borrow)]
        claim: Cow<'a, str>,
        /// The session.
        #[serde(borrow)]
        session: Cow<'a, str>,
    },
}

/// An [`Eviction`] as scripts write it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Evict<'a> {
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    session: Cow<'a, str>,
    #[serde(borrow)]
    claim: Raw<'a>,
    #[serde(borrow)]
    reason: Cow<'a, str>,
    #[serde(borrow, default)]
    by: Option<Winner<'a>>,
    #[serde(borrow)]
    confirm_node: Cow<'a, str>,
    #[serde(borrow)]
    confirm_claim: Raw<'a>,
}

/// An [`Arrival`] as scripts write it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Arrived<'a> {
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    sessions: Vec<Cow<'a, str>>,
    #[serde(borrow)]
    before: Cow<'a, str>,
    #[serde(borrow)]
    serial: Cow<'a, str>,
    /// See `inbox.rs`.
    #[serde(borrow, default)]
    message: Option<Raw<'a>>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Winner<'a> {
    #[serde(borrow)]
    device: Cow<'a, str>,
    #[serde(borrow)]
    node: Cow<'a, str>,
    ts: u64,
}

/// Bytes, in whichever of MessagePack's forms: Lua has one kind of string, and writes all of them as text.
#[derive(Debug, PartialEq, Eq)]
struct Raw<'a>(Cow<'a, [u8]>);

impl Serialize for Raw<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> serde::de::Visitor<'de> for Either {
            type Value = Raw<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes or text")
            }

            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Raw<'de>, E> {
                Ok(Raw(bytes.into()))
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Raw<'de>, E> {
                Ok(Raw(text.as_bytes().into()))
            }
        }

        deserializer.deserialize_bytes(Either)
    }
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
    /// That `session` is silent, to the node that waits for it under the name `claim`.
    pub(crate) fn evicted(claim: &'a ClaimId, session: &'a SessionId) -> Self {
        Self::Evicted { claim: claim.as_str().into(), session: session.as_str().into() }
    }

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

impl Evict<'_> {
    /// What it says, if every word of it has a meaning here.
    pub(crate) fn eviction(&self) -> Result<Eviction, Unknown> {
        let read = || {
            let by = match &self.by {
                None => None,
                Some(winner) => Some(By {
                    device: (&*winner.device).into(),
                    node: NodeId::parse(&winner.node).ok()?,
                    ts: winner.ts,
                }),
            };
            Some(Eviction {
                namespace: Namespace::from(&*self.namespace),
                session: SessionId::parse(&self.session)?,
                claim: packed::unpack_claim(&self.claim.0)?,
                evicted: Evicted { reason: EvictReason::parse(&self.reason)?, by },
                confirm: (
                    NodeId::parse(&self.confirm_node).ok()?,
                    packed::unpack_claim(&self.confirm_claim.0)?,
                ),
            })
        };
        read().ok_or(Unknown)
    }
}

impl Arrived<'_> {
    /// What it says, if every word of it has a meaning here. A message that cannot be read is left to be read from the
    /// inbox, where that is noticed.
    pub(crate) fn arrival(&self) -> Result<Arrival, Unknown> {
        let serial = Serial::parse(&self.serial).ok_or(Unknown)?;
        let sessions: Option<Vec<_>> =
            self.sessions.iter().map(|session| SessionId::parse(session)).collect();
        Ok(Arrival {
            namespace: Namespace::from(&*self.namespace),
            sessions: sessions.ok_or(Unknown)?,
            before: Serial::parse(&self.before).ok_or(Unknown)?,
            serial,
            message: self.message.as_ref().and_then(|raw| inbox::decode(serial, raw.0.to_vec())),
        })
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
    fn the_form_of_a_confirmation_is_fixed() {
        let claim = ClaimId::parse("AAECAwQFBgcICQoL").unwrap();
        let session = SessionId::parse("sssssssssssssssssss1").unwrap();
        let bytes = NodeMessage::evicted(&claim, &session).encode();
        let expected =
            b"\x82\xa1v\x01\xa4kind\x81\xa7Evicted\x82\xa5claim\xb0AAECAwQFBgcICQoL\xa7session\xb4sssssssssssssssssss1";
        assert_eq!(bytes, expected);
    }

    /// As a script on a real server published it; the order of its keys is Lua's own.
    const REPLACED: &[u8] = b"\x82\xa4kind\x81\xa5Evict\x87\
        \xa2by\x83\xa6device\xa5phone\xa2ts\xcf\x00\x00\x01\xa2\x03\xb3\x09\x0a\xa4node\xa6node-b\
        \xadconfirm_claim\xac\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8\xf7\xf6\xf5\xf4\xacconfirm_node\xa6node-b\
        \xa7session\xb4sssssssssssssssssss1\xa5claim\xac\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\
        \xa9namespace\xa5/chat\xa6reason\xa8replaced\xa1v\x01";
    const KICKED: &[u8] = b"\x82\xa4kind\x81\xa5Evict\x86\
        \xadconfirm_claim\xac\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8\xf7\xf6\xf5\xf4\xacconfirm_node\xa6node-b\
        \xa7session\xb4sssssssssssssssssss1\xa5claim\xac\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\
        \xa9namespace\xa5/chat\xa6reason\xa6kicked\xa1v\x01";

    #[test]
    fn what_scripts_publish_is_read() {
        let cases = [
            (
                REPLACED,
                EvictReason::Replaced,
                Some(By {
                    device: "phone".into(),
                    node: NodeId::parse("node-b").unwrap(),
                    ts: 1_795_358_394_634,
                }),
            ),
            (KICKED, EvictReason::Kicked, None),
        ];
        for (bytes, reason, by) in cases {
            let NodeMessage::Evict(evict) = NodeMessage::decode(bytes).unwrap() else {
                panic!("another kind")
            };
            let expected = Eviction {
                namespace: Namespace::from("/chat"),
                session: SessionId::parse("sssssssssssssssssss1").unwrap(),
                claim: ClaimId::parse("AAECAwQFBgcICQoL").unwrap(),
                evicted: Evicted { reason, by },
                confirm: (NodeId::parse("node-b").unwrap(), ClaimId::parse("__79_Pv6-fj39vX0").unwrap()),
            };
            assert_eq!(evict.eviction(), Ok(expected));
        }
    }

    #[test]
    fn an_eviction_with_a_word_that_is_not_known_is_unknown() {
        let good = || Evict {
            namespace: "/".into(),
            session: "sssssssssssssssssss1".into(),
            claim: Raw(vec![1; 12].into()),
            reason: "kicked".into(),
            by: None,
            confirm_node: "a".into(),
            confirm_claim: Raw(vec![2; 12].into()),
        };
        assert!(good().eviction().is_ok());
        let spoilt: [fn(&mut Evict<'_>); 5] = [
            |evict| evict.session = "short".into(),
            |evict| evict.claim = Raw(vec![1; 11].into()),
            |evict| evict.reason = "bored".into(),
            |evict| evict.confirm_node = "".into(),
            |evict| evict.by = Some(Winner { device: "d".into(), node: "{".into(), ts: 1 }),
        ];
        for spoil in spoilt {
            let mut evict = good();
            spoil(&mut evict);
            assert_eq!(evict.eviction(), Err(Unknown), "{evict:?}");
        }
    }

    /// As `lua/send.lua` publishes it, in one order of keys that Lua may choose.
    #[test]
    fn an_arrival_is_read() {
        let bytes = b"\x82\xa4kind\x81\xa7Arrived\x85\xa9namespace\xa1/\xa6serial\xa4\x31\x37-0\
            \xa8sessions\x91\xb4sssssssssssssssssss1\xa6before\xa4\x31\x36-2\xa7message\xa6\x94\xc0\xa1e\xa1n\xa1v\x01";
        let damaged = NodeMessage::decode(bytes).unwrap();
        let NodeMessage::Arrived(arrived) = damaged else { panic!("another kind") };
        let arrival = arrived.arrival().unwrap();
        assert_eq!(arrival.sessions, [SessionId::parse("sssssssssssssssssss1").unwrap()]);
        let serial = |ms, number| Serial { ms, number };
        assert_eq!((arrival.before, arrival.serial), (serial(16, 2), serial(17, 0)));
        // Its data is missing: it is read from the inbox.
        assert_eq!(arrival.message, None);
        for (before, after) in [(&b"\x31\x37-0"[..], &b"\x31\x37+0"[..]), (b"ssss1", b"ss ss")] {
            let at = bytes.windows(before.len()).position(|window| window == before).unwrap();
            let mut spoilt = bytes.to_vec();
            spoilt[at..at + before.len()].copy_from_slice(after);
            let NodeMessage::Arrived(arrived) = NodeMessage::decode(&spoilt).unwrap() else {
                panic!("another kind")
            };
            assert_eq!(arrived.arrival(), Err(Unknown));
        }
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

    prop_compose! {
        fn winner()(device in ".{0,20}", node in "[a-z]{1,8}", ts: u64) -> Winner<'static> {
            Winner { device: device.into(), node: node.into(), ts }
        }
    }

    prop_compose! {
        fn evict()(
            namespace in "/.{0,20}",
            session in "[A-Za-z0-9_-]{20}",
            claim: [u8; 12],
            reason in prop::sample::select(EvictReason::ALL),
            by in prop::option::of(winner()),
            confirm_node in "[a-z]{1,8}",
            confirm_claim: [u8; 12],
        ) -> Evict<'static> {
            Evict {
                namespace: namespace.into(),
                session: session.into(),
                claim: Raw(claim.to_vec().into()),
                reason: reason.as_str().into(),
                by,
                confirm_node: confirm_node.into(),
                confirm_claim: Raw(confirm_claim.to_vec().into()),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(incarnation in ".{0,40}", number in any::<u64>()) {
            let bytes = NodeMessage::Pulse { incarnation: incarnation.as_str().into(), number }.encode();
            let read = NodeMessage::decode(&bytes).unwrap();
            prop_assert_eq!(read, NodeMessage::Pulse { incarnation: incarnation.into(), number });
        }

        #[test]
        fn evictions_are_read(one in evict()) {
            let expected = one.eviction();
            prop_assert!(expected.is_ok());
            let bytes = NodeMessage::Evict(one).encode();
            let NodeMessage::Evict(read) = NodeMessage::decode(&bytes).unwrap() else { panic!("another kind") };
            prop_assert_eq!(read.eviction(), expected);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = NodeMessage::decode(&bytes);
        }
    }
}
