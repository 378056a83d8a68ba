//! What a place's hash holds for a session: a row while it lives there, a mark once it has lost the place.
//!
//! Both are MessagePack arrays, written by the scripts alone (`lua/place.lua`) and read here. Lua writes bytes as
//! text, and whole numbers in their shortest form. Further elements are left alone: a newer version may add some.
//!
//! | | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 |
//! |---|---|---|---|---|---|---|---|---|---|---|---|
//! | row | 0 polling, 1 websocket; 4 more once it is ready for durable messages | claim | epoch | device | node | incarnation | `fence_after` in ms | last sign of life, in ms after the epoch | vouched for, in Unix ms; may be missing, or 0 | the session that its client had before; may be missing | |
//! | mark | 2 | claim | epoch | node | `fence_after` in ms | reason: 0 replaced, 1 kicked | when, in Unix ms | the winner's claim | its device | its node | its epoch |
//!
//! A mark ends after the time when nobody came in its place. It stays until its node has released the session, or a day. Claims and incarnations are packed (`packed.rs`).
//!
//! A row is *vouched for* by its node when that comes back after having been taken for dead: whoever took over from
//! it before that moment leaves the row alone.

use std::time::Duration;

use tidegate_core::registry::{Displaced, EvictReason, Row, Transport};
use tidegate_core::{NodeId, SessionId};
use tidegate_msgpack::{Reader, Token};

use crate::packed;

/// What a row that is ready for durable messages has more in its first element.
const READY: u8 = 4;

/// The first element of a row that is not ready. A mark has 2 there.
pub(crate) const fn kind(transport: Transport) -> u8 {
    match transport {
        Transport::Polling => 0,
        Transport::WebSocket => 1,
    }
}

/// The first element of a row.
pub(crate) const fn kind_of(transport: Transport, ready: bool) -> u8 {
    kind(transport) + if ready { READY } else { 0 }
}

/// What a mark calls a reason.
pub(crate) fn reason(number: u64) -> Option<EvictReason> {
    match number {
        0 => Some(EvictReason::Replaced),
        1 => Some(EvictReason::Kicked),
        _ => None,
    }
}

/// The live session that `session`, a field, and `value` describe. None for a mark, and for what is not understood.
pub(crate) fn row(session: &[u8], value: &[u8]) -> Option<Row> {
    let session = SessionId::parse(std::str::from_utf8(session).ok()?)?;
    let mut reader = Reader::new(value);
    if reader.array().ok()? < 8 {
        return None;
    }
    let transport = match reader.uint().ok()? {
        0 | 4 => Transport::Polling,
        1 | 5 => Transport::WebSocket,
        _ => return None,
    };
    let claim = packed::unpack_claim(bytes(&mut reader)?)?;
    let epoch = reader.uint().ok()?;
    let device = text(&mut reader)?.into();
    let node = NodeId::parse(text(&mut reader)?).ok()?;
    let incarnation = packed::unpack_incarnation(bytes(&mut reader)?)?;
    let _fence_after_ms = reader.uint().ok()?;
    let seen_at_ms = epoch.saturating_add(reader.uint().ok()?);
    Some(Row { session, claim, epoch, device, node, incarnation, transport, seen_at_ms })
}

/// A session, its node and its fence, as a script tells who was displaced.
pub(crate) fn displaced(session: &str, node: &str, fence_after_ms: u64) -> Option<Displaced> {
    Some(Displaced {
        session: SessionId::parse(session)?,
        node: NodeId::parse(node).ok()?,
        fence_after: Duration::from_millis(fence_after_ms),
    })
}

fn bytes<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    match reader.token().ok()? {
        Token::Str(bytes) | Token::Bin(bytes) => Some(bytes),
        _ => None,
    }
}

fn text<'a>(reader: &mut Reader<'a>) -> Option<&'a str> {
    std::str::from_utf8(bytes(reader)?).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

    use proptest::prelude::*;
    use tidegate_core::{ClaimId, Incarnation};
    use tidegate_msgpack::write;

    use super::*;

    /// As `lua/claim.lua` writes it; `vouched` comes to it by `lua/check.lua`.
    fn encode(row: &Row, ready: bool, fence_after_ms: u64, vouched: Option<u64>) -> Vec<u8> {
        let mut out = Vec::new();
        write::array(&mut out, if vouched.is_some() { 9 } else { 8 });
        write::uint(&mut out, u64::from(kind_of(row.transport, ready)));
        write::str_bytes(&mut out, &packed::pack_claim(&row.claim));
        write::uint(&mut out, row.epoch);
        write::str(&mut out, &row.device);
        write::str(&mut out, row.node.as_str());
        write::str_bytes(&mut out, &packed::pack_incarnation(&row.incarnation));
        write::uint(&mut out, fence_after_ms);
        write::uint(&mut out, row.seen_at_ms - row.epoch);
        if let Some(vouched) = vouched {
            write::uint(&mut out, vouched);
        }
        out
    }

    prop_compose! {
        fn live()(
            session in "[A-Za-z0-9_-]{20}",
            claim in "[A-Za-z0-9_-]{16}",
            epoch in 0..1_u64 << 52,
            device in ".{0,40}",
            node in "[a-z0-9_.-]{1,64}",
            incarnation in "[A-Za-z0-9_-]{16}|.{0,20}",
            websocket: bool,
            seen in 0..1_u64 << 52,
        ) -> Row {
            Row {
                session: SessionId::parse(&session).unwrap(),
                claim: ClaimId::parse(&claim).unwrap(),
                epoch,
                device: device.into(),
                node: NodeId::parse(&node).unwrap(),
                incarnation: Incarnation::from(incarnation.as_str()),
                transport: if websocket { Transport::WebSocket } else { Transport::Polling },
                seen_at_ms: epoch + seen,
            }
        }
    }

    proptest! {
        #[test]
        fn rows_are_read_again(live in live(), ready: bool, fence_after_ms: u64, vouched: Option<u64>) {
            let value = encode(&live, ready, fence_after_ms, vouched);
            prop_assert_eq!(row(live.session.as_str().as_bytes(), &value), Some(live));
        }

        #[test]
        fn any_bytes_are_survived(session: Vec<u8>, value in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = row(&session, &value);
        }

        #[test]
        fn any_damage_is_survived(live in live(), at: prop::sample::Index, byte: u8) {
            let mut value = encode(&live, false, 1000, None);
            let at = at.index(value.len());
            value[at] = byte;
            let _ = row(live.session.as_str().as_bytes(), &value);
        }
    }

    /// Redis keeps a hash in its compact form while no value in it is longer than 64 bytes.
    #[test]
    fn a_usual_row_stays_within_what_redis_keeps_compact() {
        let connected = Row {
            session: SessionId::random(),
            claim: ClaimId::random(),
            epoch: 1_790_000_000_123,
            device: "default".into(),
            node: NodeId::parse("tidegate-0").unwrap(),
            incarnation: Incarnation::random(),
            transport: Transport::WebSocket,
            seen_at_ms: 1_790_000_000_123,
        };
        assert_eq!(encode(&connected, true, 1000, None).len(), 60);
        let a_day_later = Row { seen_at_ms: connected.epoch + 24 * 60 * 60 * 1000, ..connected };
        assert_eq!(encode(&a_day_later, true, 1000, None).len(), 64);
    }

    #[test]
    fn marks_are_no_rows() {
        let mark = b"\x97\x02\xacAAAAAAAAAAAA\x07\xa1a\xcd\x03\xe8\x01\x09";
        assert_eq!(row(b"sssssssssssssssssss1", mark), None);
    }
}
