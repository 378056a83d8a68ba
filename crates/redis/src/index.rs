//! What an incarnation may hold, written down before it does, so that whoever takes over from it knows where to look.
//!
//! The members of both sets are MessagePack arrays: `[claim, session, namespace, user]`, the claim as twelve bytes, and
//! `[namespace, room, user, device, session]`. The same thing is always written as the same bytes, since that is how
//! it is found again to be removed.

use tidegate_core::registry::{Gone, Place, Stay};
use tidegate_core::{Namespace, NodeId, Room, SessionId};
use tidegate_msgpack::{Reader, Token, write};

use crate::packed;

/// The member for a session.
pub(crate) fn held(gone: &Gone) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    write::array(&mut out, 4);
    write::bin(&mut out, &packed::pack_claim(&gone.claim));
    write::str(&mut out, gone.session.as_str());
    write::str(&mut out, gone.place.namespace.as_str());
    write::str(&mut out, &gone.place.user);
    out
}

/// The session that a member stands for.
pub(crate) fn read_held(member: &[u8]) -> Option<Gone> {
    let mut reader = Reader::new(member);
    if reader.array().ok()? != 4 {
        return None;
    }
    let Token::Bin(claim) = reader.token().ok()? else { return None };
    let claim = packed::unpack_claim(claim)?;
    let session = SessionId::parse(reader.str().ok()?)?;
    let namespace = Namespace::from(reader.str().ok()?);
    let user = reader.str().ok()?.into();
    Some(Gone { place: Place { namespace, user }, session, claim })
}

/// The member for a stay of a session of the node whose index it is.
pub(crate) fn stay(stay: &Stay) -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    write::array(&mut out, 5);
    write::str(&mut out, stay.namespace.as_str());
    write::str(&mut out, stay.room.as_str());
    write::str(&mut out, &stay.user);
    write::str(&mut out, &stay.device);
    write::str(&mut out, stay.session.as_str());
    out
}

/// The stay that a member of the index of `node` stands for.
pub(crate) fn read_stay(member: &[u8], node: &NodeId) -> Option<Stay> {
    let mut reader = Reader::new(member);
    if reader.array().ok()? != 5 {
        return None;
    }
    Some(Stay {
        namespace: Namespace::from(reader.str().ok()?),
        room: Room::from(reader.str().ok()?),
        user: reader.str().ok()?.into(),
        device: reader.str().ok()?.into(),
        session: SessionId::parse(reader.str().ok()?)?,
        node: node.clone(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

    use proptest::prelude::*;
    use tidegate_core::ClaimId;

    use super::*;

    proptest! {
        #[test]
        fn sessions_are_read_again(
            namespace in ".{0,20}",
            user in ".{0,40}",
            session in "[A-Za-z0-9_-]{20}",
            claim in "[A-Za-z0-9_-]{16}",
        ) {
            let gone = Gone {
                place: Place { namespace: namespace.into(), user: user.into() },
                session: SessionId::parse(&session).unwrap(),
                claim: ClaimId::parse(&claim).unwrap(),
            };
            prop_assert_eq!(read_held(&held(&gone)), Some(gone));
        }

        #[test]
        fn stays_are_read_again(
            namespace in ".{0,20}",
            room in ".{0,40}",
            user in ".{0,40}",
            device in ".{0,20}",
            session in "[A-Za-z0-9_-]{20}",
        ) {
            let node = NodeId::parse("a").unwrap();
            let session = SessionId::parse(&session).unwrap();
            let stays = Stay {
                namespace: namespace.into(),
                room: room.into(),
                user: user.into(),
                device: device.into(),
                session,
                node: node.clone(),
            };
            prop_assert_eq!(read_stay(&stay(&stays), &node), Some(stays));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = (read_held(&bytes), read_stay(&bytes, &NodeId::parse("a").unwrap()));
        }
    }
}
