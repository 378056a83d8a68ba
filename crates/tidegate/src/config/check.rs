//! Checks of single texts. Each answers with what would be right.

use std::net::SocketAddr;

use tidegate_core::NodeId;
use tidegate_gateway::Network;
use tidegate_gateway::namespaces::Operation;
use tracing_subscriber::EnvFilter;

pub(super) fn any(_: &str) -> Result<(), String> {
    Ok(())
}

pub(super) fn address(text: &str) -> Result<(), String> {
    match text.parse::<SocketAddr>() {
        Ok(_) => Ok(()),
        Err(_) => Err("must be an IP address and a port, such as 0.0.0.0:8080 or [::1]:8080".to_owned()),
    }
}

pub(super) fn node_id(text: &str) -> Result<(), String> {
    NodeId::parse(text).map(drop).map_err(|fault| format!("cannot be a node's id: {fault}"))
}

pub(super) fn origin(text: &str) -> Result<(), String> {
    let wanted = || Err("must list origins such as https://app.example.com, or * for any".to_owned());
    if text == "*" {
        return Ok(());
    }
    match text.split_once("://") {
        Some((scheme, host)) if !scheme.is_empty() && !host.is_empty() => {
            if host.contains(['/', '?', '#', '*', ' ']) { wanted() } else { Ok(()) }
        }
        _ => wanted(),
    }
}

pub(super) fn network(text: &str) -> Result<(), String> {
    match text.parse::<Network>() {
        Ok(_) => Ok(()),
        Err(_) => Err("must list addresses or networks such as 10.0.0.0/8 or fd00::/8".to_owned()),
    }
}

pub(super) fn path(text: &str) -> Result<(), String> {
    let named = text.len() > 2 && text.starts_with('/') && text.ends_with('/');
    if named && !text.contains(['?', '#', ' ', '{', '}', '*']) && !text.contains("//") {
        Ok(())
    } else {
        Err("must be a path that begins and ends with a slash, such as /socket.io/".to_owned())
    }
}

pub(super) fn transport(text: &str) -> Result<(), String> {
    match text {
        "polling" | "websocket" => Ok(()),
        _ => Err("may list polling and websocket".to_owned()),
    }
}

pub(super) fn redis_url(text: &str) -> Result<(), String> {
    tidegate_redis::check_url(text)
}

/// What may stand at the front of a Redis key or channel: no whitespace, and no braces, which would choose a slot.
pub(super) fn prefix(text: &str) -> Result<(), String> {
    if text.len() <= 64 && text.chars().all(|c| c.is_ascii_graphic() && !"{}*?[]\\#".contains(c)) {
        Ok(())
    } else {
        Err("must be at most 64 printable ASCII characters without { } * ? [ ] \\ #".to_owned())
    }
}

/// Fewest characters of a key of the HTTP API. Sixteen random ones cannot be guessed through a port.
const API_KEY_BYTES_MIN: usize = 16;

/// Most characters of one: far below what a request's head may hold.
const API_KEY_BYTES_MAX: usize = 256;

/// A key has to fit into a header behind the word `Bearer`.
pub(super) fn api_key(text: &str) -> Result<(), String> {
    let fits = (API_KEY_BYTES_MIN..=API_KEY_BYTES_MAX).contains(&text.len());
    if fits && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(())
    } else {
        Err(format!(
            "must list keys of {API_KEY_BYTES_MIN} to {API_KEY_BYTES_MAX} printable ASCII characters without spaces"
        ))
    }
}

pub(super) fn pattern(text: &str) -> Result<(), String> {
    if text.is_empty() { Err("may not list an empty pattern".to_owned()) } else { Ok(()) }
}

pub(super) fn operation(text: &str) -> Result<(), String> {
    match Operation::parse(text) {
        Some(_) => Ok(()),
        None => {
            let known: Vec<_> = Operation::ALL.iter().map(|operation| operation.as_str()).collect();
            Err(format!("may list {}", known.join(", ")))
        }
    }
}

pub(super) fn level(text: &str) -> Result<(), String> {
    // A filter takes a bare word for a target and would show nothing else; here it is a mistyped level.
    let is_level = |word: &str| {
        ["off", "error", "warn", "info", "debug", "trace"].contains(&word.to_ascii_lowercase().as_str())
    };
    let plausible = text.split(',').all(|directive| directive.contains('=') || is_level(directive.trim()));
    if plausible && EnvFilter::builder().parse(text).is_ok() {
        return Ok(());
    }
    Err("must be error, warn, info, debug or trace, or a filter such as info,tidegate_gateway=debug"
        .to_owned())
}

pub(super) fn otlp_endpoint(text: &str) -> Result<(), String> {
    crate::app::check_otlp_endpoint(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_checked() {
        let table: [(super::super::key::Check, &[&str], &[&str]); 9] = [
            (
                address,
                &["0.0.0.0:0", "[::1]:8080"],
                &["8080", ":8080", "localhost:8080", "1.2.3.4", "1.2.3.4:99999"],
            ),
            (
                origin,
                &["*", "https://a.example", "http://localhost:3000"],
                &["a.example", "https://a/", "https://*.a", "://a"],
            ),
            (
                network,
                &["10.0.0.1", "10.0.0.0/8", "fd00::/128"],
                &["10.0.0.0/33", "10.0.0", "x/8", "10.0.0.0/"],
            ),
            (path, &["/socket.io/", "/a/b/"], &["/", "//", "socket.io", "/socket.io", "/a?/", "/a//b/"]),
            (
                redis_url,
                &["redis://h", "redis://u:p@h:1/0"],
                &[
                    "rediss+sentinel://h/m",
                    "redis+cluster://h",
                    "h:6379",
                    "redis://",
                    "redis://h/99x",
                    "redis://:hun?ter2@h",
                ],
            ),
            (prefix, &["tidegate", "a:b"], &["a b", "{a}", "a{", "}a", "ä"]),
            (
                api_key,
                &["0123456789abcdef", "Zm9vYmFyYmF6cXV4+/=="],
                &["0123456789abcde", "0123456789 abcdef", "ä23456789abcdefg"],
            ),
            (operation, &["join", "heartbeat"], &["Join", "kick"]),
            (level, &["info", "info,tidegate_gateway=debug"], &["loud", "info,=x"]),
        ];
        for (check, good, bad) in table {
            for text in good {
                assert_eq!(check(text), Ok(()), "{text}");
            }
            for text in bad {
                assert!(check(text).is_err(), "{text}");
            }
        }
    }
}
