//! The codes of refusals: the same words in acknowledgements, CONNECT_ERROR, HTTP problems and metrics.

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal;)*) => {
        /// Why something was refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
        }

        impl ErrorCode {
            /// Every code, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The word that peers see.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// The HTTP status of a problem document with this code.
            #[must_use]
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$name => $status),* }
            }
        }
    };
}

codes! {
    /// The argument has the wrong shape; the message names the field and the limit.
    BadRequest = "bad_request", 400;
    /// No identity, or one that cannot be verified.
    Unauthorized = "unauthorized", 401;
    /// The token was valid once.
    TokenExpired = "token_expired", 401;
    /// The identity is known and its grants do not cover this.
    Forbidden = "forbidden", 403;
    /// The policy keeps the older session.
    DuplicateSession = "duplicate_session", 409;
    /// No such thing.
    NotFound = "not_found", 404;
    /// Larger than a limit; the message names it.
    TooLarge = "too_large", 413;
    /// More than a limit per time.
    RateLimited = "rate_limited", 429;
    /// The recipient's inbox is full.
    OfflineFull = "offline_full", 507;
    /// No operation and no backend takes this event.
    NoHandler = "no_handler", 404;
    /// Switched off in this namespace.
    NotEnabled = "not_enabled", 404;
    /// The backend failed or did not answer in time.
    HandlerFailed = "handler_failed", 502;
    /// The cluster cannot say; the outcome of what was asked is unknown.
    Unavailable = "unavailable", 503;
    /// This node is going away.
    Draining = "draining", 503;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
