//! What the ends of connections are called: the close codes of the plain protocol, which say whether to come back.

use std::borrow::Cow;

use tidegate_core::registry::EvictReason;
use tidegate_core::{DisconnectReason, ErrorCode};

use crate::reply::Refusal;

/// A close frame's code, and its text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Close {
    pub(crate) code: u16,
    pub(crate) text: Cow<'static, str>,
}

impl Close {
    /// A code of the WebSocket's own.
    pub(crate) const fn bare(code: u16) -> Self {
        Self { code, text: Cow::Borrowed("") }
    }

    const fn new(code: u16, text: &'static str) -> Self {
        Self { code, text: Cow::Borrowed(text) }
    }

    /// A client that did not say who it is.
    pub(super) const UNINTRODUCED: Self = Self::new(4408, "no connect in time");

    /// A client that is refused what there is no connection without.
    pub(super) fn refused(refusal: &Refusal) -> Self {
        let code = match refusal.code {
            ErrorCode::Unauthorized | ErrorCode::TokenExpired => 4401,
            ErrorCode::Forbidden => 4403,
            ErrorCode::DuplicateSession => 4409,
            ErrorCode::RateLimited => 4429,
            ErrorCode::Unavailable | ErrorCode::Draining => 4503,
            _ => 4400,
        };
        Self { code, text: format!("{}: {}", refusal.code, refusal.message).into() }
    }

    /// A session that was ended by the node.
    pub(super) const fn evicted(reason: EvictReason) -> Self {
        let code = match reason {
            EvictReason::Replaced => 4409,
            EvictReason::Kicked => 4410,
            EvictReason::Expired => 4401,
        };
        Self::new(code, reason.as_str())
    }

    /// What every other reason is called. None where there is nobody to tell.
    pub(super) const fn of(reason: DisconnectReason) -> Option<Self> {
        Some(match reason {
            DisconnectReason::ClientNamespaceDisconnect => Self::bare(1000),
            DisconnectReason::ServerShuttingDown => Self::new(1012, "draining"),
            DisconnectReason::PingTimeout => Self::new(4408, "no heartbeat"),
            DisconnectReason::SlowConsumer => Self::new(4413, "slow consumer"),
            DisconnectReason::ForcedClose
            | DisconnectReason::ServerNamespaceDisconnect
            | DisconnectReason::ParseError => Self::new(4503, "unavailable"),
            DisconnectReason::TransportClose | DisconnectReason::TransportError => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of the protocol's page.
    const PAGE: &str = include_str!("../../../docs/plain-protocol.md");

    #[test]
    fn the_page_has_every_code_and_says_who_comes_back() {
        let refused = |code| Close::refused(&Refusal::new(code, "m")).code;
        let ended = |reason| Close::of(reason).unwrap().code;
        let stay = [
            ended(DisconnectReason::ClientNamespaceDisconnect),
            refused(ErrorCode::BadRequest),
            refused(ErrorCode::NotFound),
            refused(ErrorCode::Unauthorized),
            refused(ErrorCode::TokenExpired),
            refused(ErrorCode::Forbidden),
            refused(ErrorCode::DuplicateSession),
            ended(DisconnectReason::PingTimeout),
            Close::UNINTRODUCED.code,
            Close::evicted(EvictReason::Replaced).code,
            Close::evicted(EvictReason::Kicked).code,
            Close::evicted(EvictReason::Expired).code,
        ];
        let come_back = [
            ended(DisconnectReason::ServerShuttingDown),
            ended(DisconnectReason::SlowConsumer),
            ended(DisconnectReason::ForcedClose),
            refused(ErrorCode::RateLimited),
            refused(ErrorCode::Unavailable),
        ];
        let row = |code: u16| PAGE.lines().find(|line| line.starts_with(&format!("| {code} |"))).unwrap();
        for code in stay {
            assert!(row(code).contains("| no"), "{}", row(code));
        }
        for code in come_back {
            assert!(row(code).contains("| yes, with backoff"), "{}", row(code));
        }
    }
}
