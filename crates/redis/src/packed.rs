//! Ids in as few bytes as they have: what is kept for every session is kept small, so that a session with a short
//! device on a node with a short name stays within the 64 bytes up to which Redis keeps a hash in its compact form.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tidegate_core::{ClaimId, Incarnation};

/// The random bytes behind a claim id or an incarnation.
const RAW_BYTES: usize = 12;

/// The twelve bytes that a claim's id spells.
pub(crate) fn pack_claim(claim: &ClaimId) -> [u8; RAW_BYTES] {
    let mut raw = [0; RAW_BYTES];
    URL_SAFE_NO_PAD
        .decode_slice(claim.as_str(), &mut raw)
        .expect("a claim id is sixteen characters of base64url, which spell any twelve bytes");
    raw
}

/// The claim that `raw` stands for, if it is twelve bytes.
pub(crate) fn unpack_claim(raw: &[u8]) -> Option<ClaimId> {
    if raw.len() != RAW_BYTES {
        return None;
    }
    ClaimId::parse(&URL_SAFE_NO_PAD.encode(raw))
}

/// Twelve bytes for an incarnation of the usual shape; any other as its text, behind a zero byte where that would
/// be twelve bytes or more.
pub(crate) fn pack_incarnation(incarnation: &Incarnation) -> Vec<u8> {
    let text = incarnation.as_str();
    match URL_SAFE_NO_PAD.decode(text) {
        Ok(raw) if raw.len() == RAW_BYTES => raw,
        _ if text.len() < RAW_BYTES => text.as_bytes().to_vec(),
        _ => [b"\0", text.as_bytes()].concat(),
    }
}

/// Reads what [`pack_incarnation`] wrote.
pub(crate) fn unpack_incarnation(packed: &[u8]) -> Option<Incarnation> {
    let text = match packed.len() {
        RAW_BYTES => return Some(Incarnation::from(URL_SAFE_NO_PAD.encode(packed).as_str())),
        0..RAW_BYTES => packed,
        _ => packed.strip_prefix(b"\0")?,
    };
    std::str::from_utf8(text).ok().map(Incarnation::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn claims_are_read_again(text in "[A-Za-z0-9_-]{16}") {
            let claim = ClaimId::parse(&text);
            prop_assert_eq!(claim.and_then(|claim| unpack_claim(&pack_claim(&claim))), claim);
        }

        #[test]
        fn incarnations_are_read_again(text in "[A-Za-z0-9_-]{16}|.{0,20}|\0.{9,14}") {
            let incarnation = Incarnation::from(text.as_str());
            prop_assert_eq!(unpack_incarnation(&pack_incarnation(&incarnation)), Some(incarnation));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..30)) {
            let _ = (unpack_claim(&bytes), unpack_incarnation(&bytes));
        }
    }

    #[test]
    fn usual_ids_take_twelve_bytes() {
        assert_eq!(pack_incarnation(&Incarnation::random()).len(), 12);
        assert_eq!(pack_claim(&ClaimId::random()).len(), 12);
    }
}
