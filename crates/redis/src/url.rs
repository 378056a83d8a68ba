//! The URL of Redis: which can be used, and how much of one may be shown.

use redis::{ConnectionInfo, IntoConnectionInfo as _};

use crate::sentinel::{self, Sentinels};

/// What a URL looks like, for messages.
const FORM: &str = "redis://[[user]:password@]host[:port][/db]";

/// What follows an address in a URL that asks the library to believe any certificate. It is not taken.
const INSECURE: char = '#';

/// What the URL of a master looks like that sentinels know.
const SENTINEL_FORM: &str = "redis+sentinel://[[user]:password@]host[:port],host[:port]/master-name[/db]";

/// Where Redis is. A user and a password are the server's; sentinels are asked without.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// How to connect; with sentinels, its address stands for whatever they say.
    pub(crate) info: ConnectionInfo,
    pub(crate) sentinels: Option<Sentinels>,
}

/// Whether [`RedisBroker::connect`](crate::RedisBroker::connect) can do anything with `url`, wherever it leads.
///
/// # Errors
/// What would be right, without repeating any part of `url` that may be secret.
pub fn check_url(url: &str) -> Result<(), String> {
    parse(url).map(drop)
}

pub(crate) fn parse(url: &str) -> Result<Target, String> {
    match url.split_once("://") {
        Some(("redis", rest)) if !rest.is_empty() => {
            Ok(Target { info: connection_info(url)?, sentinels: None })
        }
        Some(("rediss", rest)) if !rest.is_empty() => {
            if rest.contains(INSECURE) {
                return Err(format!(
                    "must not hold a {INSECURE}: certificates are always looked at; %23 stands for one"
                ));
            }
            Ok(Target { info: connection_info(url)?, sentinels: None })
        }
        Some(("redis+sentinel", rest)) if !rest.is_empty() => parse_sentinel(rest),
        Some((scheme @ ("redis+cluster" | "rediss+cluster" | "rediss+sentinel"), _)) => {
            Err(format!("{scheme}:// is not supported by this version; {FORM} is"))
        }
        _ => Err(format!("must be a URL such as {FORM}")),
    }
}

fn parse_sentinel(rest: &str) -> Result<Target, String> {
    let wrong = |what: &str| format!("{what}; {SENTINEL_FORM} is the form");
    let (credentials, rest) = rest.rsplit_once('@').map_or(("", rest), |(before, rest)| (before, rest));
    let mut parts = rest.split('/');
    let addresses = parts.next().unwrap_or_default();
    let master = parts.next().filter(|name| !name.is_empty()).ok_or_else(|| wrong("names no master"))?;
    let database = parts.next().unwrap_or_default();
    if parts.next().is_some() {
        return Err(wrong("has too many parts"));
    }
    let addresses: Option<Vec<_>> = addresses.split(',').map(address).collect();
    let addresses = addresses.ok_or_else(|| wrong("names a sentinel that is no host[:port]"))?;
    let at = if credentials.is_empty() { "" } else { "@" };
    // The host is a stand-in; what is around it is the server's.
    let info = connection_info(&format!("redis://{credentials}{at}sentinel/{database}"))?;
    Ok(Target { info, sentinels: Some(Sentinels { addresses, master: master.to_owned() }) })
}

/// `host[:port]`, an IPv6 host in brackets.
fn address(text: &str) -> Option<(String, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok().filter(|port| *port > 0)?),
        _ => (text, sentinel::PORT_DEFAULT),
    };
    let host = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

fn connection_info(url: &str) -> Result<ConnectionInfo, String> {
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
fn has_port_that_is_none(hosts: &str) -> bool {
    let authority = hosts.split('/').next().unwrap_or_default();
    authority.split(',').any(|host| {
        // The colons of an IPv6 address stand in brackets.
        let behind = host.rsplit_once(']').map_or(host, |(_, behind)| behind);
        behind
            .split_once(':')
            .is_some_and(|(_, port)| port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentinels_are_read_from_the_url() {
        let target = parse("redis+sentinel://ann:p%3Fw@a,b:7,[::1],[fe80::2]:9/main/3").expect("a good url");
        let addresses = [("a", 26_379), ("b", 7), ("::1", 26_379), ("fe80::2", 9)];
        let addresses = addresses.map(|(host, port)| (host.to_owned(), port)).into();
        assert_eq!(target.sentinels, Some(Sentinels { addresses, master: "main".to_owned() }));
        let settings = target.info.redis_settings();
        assert_eq!((settings.username(), settings.password(), settings.db()), (Some("ann"), Some("p?w"), 3));
    }

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
            ("redis+sentinel://:secret@a:1,b:2/main/0", "redis+sentinel://:***@a:1,b:2/main/0"),
            ("redis+sentinel://a,b/main", "redis+sentinel://a,b/main"),
            ("redis+sentinel://a,:secret/main", "redis+sentinel://***"),
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
        for good in [
            "redis://h",
            "redis://h:1/2",
            "redis://u:p@[::1]",
            "redis://:p%3Fw@h/0",
            "rediss://u:p@h:1/2",
            "redis+sentinel://a/main",
            "redis+sentinel://u:p@a:1,[::1],b/main/2",
        ] {
            assert_eq!(check_url(good), Ok(()), "{good}");
        }
        let cases = [
            ("", "must be a URL such as redis://"),
            ("h:6379", "must be a URL such as redis://"),
            ("redis://", "must be a URL such as redis://"),
            ("http://h", "must be a URL such as redis://"),
            ("valkey://h", "must be a URL such as redis://"),
            ("redis+cluster://a,b", "redis+cluster:// is not supported by this version"),
            ("redis+sentinel://a,b", "names no master"),
            ("redis+sentinel://a,b/", "names no master"),
            ("redis+sentinel://a,,b/m", "no host[:port]"),
            ("redis+sentinel://a:0/m", "no host[:port]"),
            ("redis+sentinel://::1/m", "no host[:port]"),
            ("redis+sentinel://a/m/0/1", "too many parts"),
            ("redis+sentinel://:secret@a/m/db", "Invalid database number"),
            ("rediss+sentinel://a,b/m", "rediss+sentinel:// is not supported by this version"),
            ("rediss://", "must be a URL such as redis://"),
            ("rediss://h/#insecure", "certificates are always looked at"),
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
