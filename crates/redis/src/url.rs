//! The URL of Redis: which can be used, and how much of one may be shown.

use redis::{ConnectionInfo, IntoConnectionInfo as _};

/// What a URL looks like, for messages.
const FORM: &str = "redis://[[user]:password@]host[:port][/db]";

/// Whether [`RedisBroker::connect`](crate::RedisBroker::connect) can do anything with `url`, wherever it leads.
///
/// # Errors
/// What would be right, without repeating any part of `url` that may be secret.
pub fn check_url(url: &str) -> Result<(), String> {
    parse(url).map(drop)
}

pub(crate) fn parse(url: &str) -> Result<ConnectionInfo, String> {
    match url.split_once("://") {
        Some(("redis", rest)) if !rest.is_empty() => {}
        Some((
            scheme @ ("rediss" | "redis+cluster" | "redis+sentinel" | "rediss+cluster" | "rediss+sentinel"),
            _,
        )) => return Err(format!("{scheme}:// is not supported by this version; {FORM} is")),
        _ => return Err(format!("must be a URL such as {FORM}")),
    }
    // The library's texts name what is wrong with a URL without repeating it. Most often that is a password with
    // a character that has a meaning in URLs.
    url.into_connection_info().map_err(|error| {
        let what = error.to_string();
        format!("cannot be used ({what}); {FORM} is the form, with %XX for / ? # @ : in a password")
    })
}

/// `url` without its password and without the values of its query, for logs and errors.
///
/// It hides more rather than less: a password may hold an unescaped `/`, `?` or `@`, and what stands where a user,
/// a port or a whole URL belongs may be a password, too.
#[must_use]
pub fn masked(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "***".to_owned() };
    let (user, host) = match rest.rsplit_once('@') {
        // A query that holds an @, or a password that looks like one.
        Some((before, _)) if before.split_once('?').is_some_and(|(_, query)| query.contains('=')) => {
            return format!("{scheme}://***");
        }
        Some((credentials, host)) => match credentials.split_once(':') {
            Some((user, _)) => (format!("{user}:***@"), host),
            None => ("***@".to_owned(), host),
        },
        None => (String::new(), rest),
    };
    let (host, query) = host.split_once('?').map_or((host, ""), |(host, _)| (host, "?***"));
    if has_port_that_is_none(host) {
        return format!("{scheme}://***");
    }
    format!("{scheme}://{user}{host}{query}")
}

/// Whether a colon is followed by anything but a port, as in `user:password` with the host forgotten.
fn has_port_that_is_none(host: &str) -> bool {
    let authority = host.split('/').next().unwrap_or_default();
    // The colons of an IPv6 address stand in brackets.
    let behind = authority.rsplit_once(']').map_or(authority, |(_, behind)| behind);
    behind
        .split_once(':')
        .is_some_and(|(_, port)| port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        let cases = [
            ("redis://h:6379/0", "redis://h:6379/0"),
            ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
            ("redis://:secret@h:1", "redis://:***@h:1"),
            ("redis://ann:secret@h:1", "redis://ann:***@h:1"),
            ("redis://secret@h", "redis://***@h"),
            ("redis://:sec?ret@h", "redis://:***@h"),
            ("redis://:sec#ret@h", "redis://:***@h"),
            ("redis://ann:sec/r@et@h/0", "redis://ann:***@h/0"),
            ("redis://:sec?r=et@h", "redis://***"),
            ("redis://ann:secret@h/0?protocol=resp3", "redis://ann:***@h/0?***"),
            ("redis://h?password=secret", "redis://h?***"),
            ("redis://h?password=sec@ret", "redis://***"),
            ("redis+unix:///run/redis.sock?pass=secret", "redis+unix:///run/redis.sock?***"),
            // The host was forgotten.
            ("redis://:secret", "redis://***"),
            ("redis://ann:secret/0", "redis://***"),
            ("secret", "***"),
        ];
        for (url, shown) in cases {
            assert_eq!(masked(url), shown, "{url}");
        }
    }

    #[test]
    fn urls_that_cannot_be_used_are_refused_with_the_reason() {
        for good in ["redis://h", "redis://h:1/2", "redis://u:p@[::1]", "redis://:p%3Fw@h/0"] {
            assert_eq!(check_url(good), Ok(()), "{good}");
        }
        let cases = [
            ("", "must be a URL such as redis://"),
            ("h:6379", "must be a URL such as redis://"),
            ("redis://", "must be a URL such as redis://"),
            ("http://h", "must be a URL such as redis://"),
            ("valkey://h", "must be a URL such as redis://"),
            ("redis+cluster://a,b", "redis+cluster:// is not supported by this version"),
            ("redis+sentinel://a,b/m", "redis+sentinel:// is not supported by this version"),
            ("rediss://h", "rediss:// is not supported by this version"),
            ("redis://:secret@h/db", "Invalid database number"),
            ("redis://h/99x", "Invalid database number"),
            ("redis://:sec?ret@h", "did not parse"),
            ("redis://:secret@", "did not parse"),
        ];
        for (url, reason) in cases {
            let error = check_url(url).expect_err(url);
            assert!(error.contains(reason), "{error}");
            assert!(!error.contains("sec"), "{error}");
        }
    }
}
