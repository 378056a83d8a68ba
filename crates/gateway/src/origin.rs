//! The Origin rule, which covers every request a browser can make: handshakes, polls, posts and WebSocket upgrades,
//! with and without a sid. A request without an `Origin` header does not come from a page, and passes.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Which pages may use the node.
#[derive(Clone, Debug)]
pub(crate) struct Origins {
    any: bool,
    /// The node's own pages can only have come over TLS.
    is_secure: bool,
    allowed: Vec<String>,
}

/// The rule's word on one request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No page is involved.
    NoOrigin,
    /// The page may; its browser is told so with these headers.
    Allowed(HeaderValue),
    /// The page may not.
    Refused,
    /// The header is not text.
    Invalid,
}

impl Verdict {
    /// The same without a hold on the buffer of the request that it was made of.
    pub(crate) fn detached(&self) -> Self {
        match self {
            Self::NoOrigin => Self::NoOrigin,
            // The copy of a valid value is valid.
            Self::Allowed(origin) => {
                HeaderValue::from_bytes(origin.as_bytes()).map_or(Self::Refused, Self::Allowed)
            }
            Self::Refused => Self::Refused,
            Self::Invalid => Self::Invalid,
        }
    }
}

impl Origins {
    /// `*` is every page, an empty list only pages of the host that the request asks for. `is_secure` says that the node
    /// speaks TLS itself.
    pub(crate) fn new(allowed: &[String], is_secure: bool) -> Self {
        Self {
            is_secure,
            any: allowed.iter().any(|origin| origin == "*"),
            allowed: allowed.iter().map(|origin| origin.trim_end_matches('/').to_ascii_lowercase()).collect(),
        }
    }

    pub(crate) fn judge(&self, headers: &HeaderMap) -> Verdict {
        let Some(value) = headers.get(header::ORIGIN) else { return Verdict::NoOrigin };
        let Ok(origin) = value.to_str() else { return Verdict::Invalid };
        let lower = origin.to_ascii_lowercase();
        let allowed = self.any || self.allowed.contains(&lower) || self.is_same_host(&lower, headers);
        if allowed { Verdict::Allowed(value.clone()) } else { Verdict::Refused }
    }

    /// Whether the page was served by the host that it now calls. Of a node without TLS the scheme is left out, since a
    /// proxy that ends TLS hides it. A node with TLS is known by `https` alone: a page that came in the clear could have been
    /// anybody's on the way.
    fn is_same_host(&self, origin: &str, headers: &HeaderMap) -> bool {
        let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return false };
        origin.split_once("://").is_some_and(|(scheme, authority)| {
            (scheme == "https" || !self.is_secure) && authority.eq_ignore_ascii_case(host)
        })
    }
}

/// What a browser must be told before it hands an answer to the page.
pub(crate) fn allow(headers: &mut HeaderMap, verdict: &Verdict) {
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    if let Verdict::Allowed(origin) = verdict {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

/// What a browser asks for before a request that is not a simple one.
pub(crate) fn allow_preflight(headers: &mut HeaderMap, requested: Option<&HeaderValue>) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET,POST"));
    if let Some(requested) = requested {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, requested.clone());
    }
    headers.insert(HeaderName::from_static("access-control-max-age"), HeaderValue::from_static("600"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(origin: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("chat.example:8080"));
        headers.insert(header::ORIGIN, HeaderValue::from_bytes(origin.as_bytes()).unwrap());
        headers
    }

    fn judge(allowed: &[&str], origin: &str) -> Verdict {
        let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        Origins::new(&allowed, false).judge(&headers(origin))
    }

    #[test]
    fn the_same_host_and_the_listed_ones_may() {
        assert!(matches!(judge(&[], "https://chat.example:8080"), Verdict::Allowed(_)));
        assert!(matches!(judge(&[], "http://chat.example:8080"), Verdict::Allowed(_)));
        let secure = |origin| Origins::new(&[], true).judge(&headers(origin));
        assert!(matches!(secure("https://chat.example:8080"), Verdict::Allowed(_)));
        assert_eq!(secure("http://chat.example:8080"), Verdict::Refused);
        assert_eq!(judge(&[], "https://chat.example"), Verdict::Refused);
        assert_eq!(judge(&[], "https://evil.example"), Verdict::Refused);
        assert_eq!(judge(&[], "null"), Verdict::Refused);
        assert!(matches!(judge(&["https://app.example/"], "https://App.example"), Verdict::Allowed(_)));
        assert_eq!(judge(&["https://app.example"], "https://app.example.evil"), Verdict::Refused);
        assert!(matches!(judge(&["*"], "https://evil.example"), Verdict::Allowed(_)));
        assert_eq!(judge(&["*"], "ä"), Verdict::Invalid);
        assert_eq!(Origins::new(&[], false).judge(&HeaderMap::new()), Verdict::NoOrigin);
    }
}
