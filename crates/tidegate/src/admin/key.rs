//! Bearer keys (RFC 6750, section 2.1).

use std::fmt;
use std::hint::black_box;

use axum::http::{HeaderMap, header};

/// The keys that open the API.
pub(super) struct Keys(Vec<Box<[u8]>>);

impl Keys {
    /// Keys as configured. An empty one, which the configuration does not let through, opens nothing.
    pub(super) fn new(keys: &[String]) -> Self {
        Self(keys.iter().filter(|key| !key.is_empty()).map(|key| key.as_bytes().into()).collect())
    }

    /// Whether the request carries one of them.
    pub(super) fn open(&self, headers: &HeaderMap) -> bool {
        bearer(headers).is_some_and(|given| self.hold(given.as_bytes()))
    }

    /// Every key is compared, and each in a time that depends on nothing but the length of what was given, so that
    /// the time of an answer says neither how much of a key was right nor which.
    fn hold(&self, given: &[u8]) -> bool {
        self.0.iter().fold(false, |held, key| held | black_box(same(key, given)))
    }
}

/// The key itself is never shown.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keys").field(&self.0.len()).finish()
    }
}

fn same(key: &[u8], given: &[u8]) -> bool {
    let mut difference = key.len() ^ given.len();
    // A key that is shorter is gone through again from its beginning; the lengths differ then anyway.
    for (byte, other) in given.iter().zip(key.iter().cycle()) {
        difference |= black_box(usize::from(byte ^ other));
    }
    difference == 0
}

/// The token behind the word `Bearer`, which may be written in any case.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    // Whoever sends two does not know what is checked.
    let (Some(value), None) = (given.next(), given.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    const FIRST: &str = "0123456789abcdef";
    const SECOND: &str = "fedcba98765432100";

    fn opened(keys: &[&str], given: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in given {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        Keys::new(&keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>()).open(&headers)
    }

    #[test]
    fn any_of_the_keys_opens() {
        for given in [&*format!("Bearer {FIRST}"), &format!("bearer {SECOND}"), &format!("BEARER   {FIRST} ")]
        {
            assert!(opened(&[FIRST, SECOND], &[given]), "{given}");
        }
    }

    #[test]
    fn nothing_else_does() {
        let doubled = format!("Bearer {FIRST}{FIRST}");
        for given in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdeF",
            "Bearer 0123456789abcdef0",
            &doubled,
            "Basic 0123456789abcdef",
            FIRST,
        ] {
            assert!(!opened(&[FIRST, SECOND], &[given]), "{given}");
        }
        let right = format!("Bearer {FIRST}");
        assert!(!opened(&[FIRST], &[]));
        assert!(!opened(&[FIRST], &[&right, &right]));
        assert!(!opened(&[], &[&right]));
        assert!(!opened(&[""], &["Bearer "]));
        assert!(!format!("{:?}", Keys::new(&[FIRST.to_owned()])).contains("0123"));
    }
}
