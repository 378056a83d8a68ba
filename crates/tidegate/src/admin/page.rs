//! Which part of a long list is asked for: `?limit=` and `?after=`.

use tidegate_core::registry::Page;

use super::problem::Problem;

/// Most entries of one answer.
pub(super) const LIMIT_MAX: usize = 1000;

/// Entries of an answer when nobody says how many.
pub(super) const LIMIT_DEFAULT: usize = 100;

/// Longest cursor that can be one of ours: a few names and numbers.
const AFTER_BYTES_MAX: usize = 16 * 1024;

/// The page that the texts of a query ask for.
pub(super) fn page(limit: Option<&str>, after: Option<String>) -> Result<Page, Problem> {
    let limit = match limit {
        None => LIMIT_DEFAULT,
        Some(text) => number(text).filter(|limit| (1..=LIMIT_MAX).contains(limit)).ok_or_else(|| {
            Problem::bad_request(format!("limit: must be a whole number from 1 to {LIMIT_MAX}"))
        })?,
    };
    if after.as_ref().is_some_and(|after| after.is_empty() || after.len() > AFTER_BYTES_MAX) {
        return Err(Problem::bad_request("after: must be what `next` of another page said"));
    }
    Ok(Page { after, limit })
}

/// A number without a sign, which Rust would take.
fn number(text: &str) -> Option<usize> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn limits() {
        assert_eq!(page(None, None).unwrap(), Page { after: None, limit: 100 });
        for (text, limit) in [("1", 1), ("007", 7), ("1000", 1000)] {
            assert_eq!(page(Some(text), None).unwrap().limit, limit);
        }
        for text in ["", "0", "1001", "+5", "-1", "1.0", "99999999999999999999999"] {
            assert!(page(Some(text), None).is_err(), "{text}");
        }
    }

    #[test]
    fn cursors() {
        assert_eq!(page(None, Some("7:x".into())).unwrap().after.unwrap(), "7:x");
        assert!(page(None, Some(String::new())).is_err());
        assert!(page(None, Some("x".repeat(AFTER_BYTES_MAX + 1))).is_err());
    }
}
