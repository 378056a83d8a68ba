//! `tidegate token`: tokens for trying things out, signed with the configured secret.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value, json};
use tidegate_gateway::auth::Key;

use crate::config::{Auth, Config};

/// What the token is to say.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The user.
    pub sub: String,
    /// The device it is bound to.
    pub device: Option<String>,
    /// How long it is valid.
    pub ttl: Duration,
    /// Globs of namespaces; empty is the default.
    pub namespaces: Vec<String>,
    /// Globs of rooms to join.
    pub join: Vec<String>,
    /// Globs of rooms to publish to.
    pub publish: Vec<String>,
    /// Globs of users to send to.
    pub send: Vec<String>,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is a public key only, or no authentication at all.
    #[error("auth.jwt.secret: is not set; only tokens of a shared secret (HS256) can be signed here")]
    NoSecret,
    /// A name that the gateway would refuse.
    #[error("{flag}: must have 1 to {max} bytes (limits.name_bytes_max)")]
    Name {
        /// The flag.
        flag: &'static str,
        /// The limit.
        max: usize,
    },
    /// The signature failed.
    #[error("signing failed: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

/// Signs a token at `unix_s`. Without any grant the token has no claim `tidegate`, and so the default grants.
///
/// # Errors
/// When there is no secret to sign with, or the gateway would refuse the token.
pub fn sign(config: &Config, request: &Request, unix_s: u64) -> Result<String, Error> {
    let Auth::Jwt(options) = &config.auth else { return Err(Error::NoSecret) };
    let Key::Secret(secret) = &options.key else { return Err(Error::NoSecret) };
    let max = config.limits.name_bytes_max;
    for (flag, name) in [("--sub", Some(&request.sub)), ("--device", request.device.as_ref())] {
        if name.is_some_and(|name| name.is_empty() || name.len() > max) {
            return Err(Error::Name { flag, max });
        }
    }
    let mut claims = json!({
        "sub": request.sub,
        "iat": unix_s,
        "exp": unix_s.saturating_add(request.ttl.as_secs()),
    });
    for (claim, value) in [("device", &request.device), ("iss", &options.issuer), ("aud", &options.audience)]
    {
        if let Some(value) = value {
            claims[claim] = json!(value);
        }
    }
    let grants: Map<String, Value> = [
        ("namespaces", &request.namespaces),
        ("join", &request.join),
        ("publish", &request.publish),
        ("send", &request.send),
    ]
    .into_iter()
    .filter(|(_, patterns)| !patterns.is_empty())
    .map(|(list, patterns)| (list.to_owned(), json!(patterns)))
    .collect();
    if !grants.is_empty() {
        claims["tidegate"] = Value::Object(grants);
    }
    Ok(jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        &claims,
        &EncodingKey::from_secret(secret.as_bytes()),
    )?)
}

/// Reads a duration such as `90s`, `30m`, `1h` or `7d`.
///
/// # Errors
/// What would be right.
pub fn ttl(text: &str) -> Result<Duration, String> {
    let wanted = || "must be a duration such as 90s, 30m, 1h or 7d".to_owned();
    let unit_at = text.len().checked_sub(1).filter(|at| text.is_char_boundary(*at)).ok_or_else(wanted)?;
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wanted()),
    };
    // Digits only: the parser would take a sign, too.
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wanted());
    }
    let number: u64 = number.parse().map_err(|_| wanted())?;
    match number.checked_mul(seconds) {
        Some(seconds @ 1..) => Ok(Duration::from_secs(seconds)),
        _ => Err(wanted()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use tidegate_core::ErrorCode;
    use tidegate_gateway::auth::{Identity, NameLimits, Refused};

    use super::*;
    use crate::config::Sources;

    const NOW_S: u64 = 1_800_000_000;

    fn config(file: &str) -> Config {
        Config::load(&Sources { file: file.to_owned(), nodes: 1, ..Sources::default() }).unwrap()
    }

    fn request() -> Request {
        Request { sub: "ann".into(), ttl: Duration::from_secs(60), ..Request::default() }
    }

    fn identify(config: &Config, token: &str, namespace: &str, unix_s: u64) -> Result<Identity, Refused> {
        let length = u16::try_from(token.len()).unwrap().to_be_bytes();
        let auth = [b"\x81\xa5token\xda", &length[..], token.as_bytes()].concat();
        let limits = NameLimits { name_bytes_max: config.limits.name_bytes_max };
        config.auth.authenticator().identify(namespace, Some(&auth), unix_s * 1000, &limits)
    }

    #[test]
    fn the_gateway_accepts_what_is_signed() {
        let config = config("auth.jwt = { secret = 's3cret', issuer = 'me', audience = 'you' }");
        let token = sign(
            &config,
            &Request {
                device: Some("phone".into()),
                namespaces: vec!["/chat".into()],
                join: vec!["room:*".into()],
                ..request()
            },
            NOW_S,
        )
        .unwrap();
        let identity = identify(&config, &token, "/chat", NOW_S).unwrap();
        assert_eq!((identity.user.as_deref(), &*identity.device), (Some("ann"), "phone"));
        assert_eq!(identity.expires_at, std::num::NonZeroU64::new(NOW_S + 60));
        assert!(identity.grants.allows_join("room:1") && !identity.grants.allows_publish("room:1"));
        assert_eq!(identify(&config, &token, "/", NOW_S).unwrap_err().code, ErrorCode::Forbidden);
        assert_eq!(identify(&config, &token, "/chat", NOW_S + 65).unwrap_err().code, ErrorCode::TokenExpired);
    }

    #[test]
    fn without_grants_the_default_ones_hold() {
        let config = config("auth.jwt.secret = 's3cret'\nauth.default_grants.join = ['lobby']");
        let token = sign(&config, &request(), NOW_S).unwrap();
        assert!(identify(&config, &token, "/", NOW_S).unwrap().grants.allows_join("lobby"));
        let some = Request { send: vec!["*".into()], ..request() };
        let token = sign(&config, &some, NOW_S).unwrap();
        assert!(!identify(&config, &token, "/", NOW_S).unwrap().grants.allows_join("lobby"));
    }

    #[test]
    fn what_would_be_refused_is_not_signed() {
        let none = config("auth.mode = 'none'");
        assert!(matches!(sign(&none, &request(), NOW_S), Err(Error::NoSecret)));
        let short = config("auth.jwt.secret = 's3cret'\nlimits.name_bytes_max = 20");
        for sub in [String::new(), "x".repeat(21)] {
            let fault = sign(&short, &Request { sub, ..request() }, NOW_S).unwrap_err();
            assert!(fault.to_string().starts_with("--sub: must have 1 to 20 bytes"), "{fault}");
        }
    }

    #[test]
    fn durations() {
        for (text, seconds) in [("90s", 90), ("30m", 1_800), ("1h", 3_600), ("7d", 604_800)] {
            assert_eq!(ttl(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "s", "60", "0s", "-1h", "+1h", "1.5h", "1 h", "1w", "1ä", "99999999999999999999d"] {
            assert!(ttl(text).is_err(), "{text}");
        }
    }
}
