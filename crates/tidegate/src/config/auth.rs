//! `[auth]`: how clients are told apart.

use tidegate_gateway::auth::{Authenticator, Grants, Key, KeyError, Verifier, VerifierOptions};
use tidegate_gateway::glob::Glob;

use super::fault::Origin;
use super::settings::Settings;

/// RFC 7518 section 3.2 asks for a secret of HS256 as long as its hash.
const SECRET_BYTES_ADVISED: usize = 32;

/// What `[auth]` comes to.
#[derive(Clone, Debug)]
pub enum Auth {
    /// Clients say who they are.
    Open,
    /// Clients show a token. The key has been tried.
    Jwt(Box<VerifierOptions>),
}

impl Auth {
    /// The authenticator of one node.
    #[must_use]
    pub fn authenticator(&self) -> Authenticator {
        match self {
            Self::Open => Authenticator::Open,
            Self::Jwt(options) => {
                let verifier = Verifier::new(VerifierOptions::clone(options));
                Authenticator::Jwt(Box::new(
                    verifier.expect("the key was tried when the configuration was read"),
                ))
            }
        }
    }

    /// Whether tokens are signed with a secret that can be guessed offline from any one of them.
    #[must_use]
    pub fn has_short_secret(&self) -> bool {
        match self {
            Self::Jwt(options) => {
                matches!(&options.key, Key::Secret(secret) if secret.len() < SECRET_BYTES_ADVISED)
            }
            Self::Open => false,
        }
    }
}

/// Reads the section; none after a fault.
pub(super) fn read(settings: &mut Settings) -> Option<Auth> {
    let options = settings.text("auth.jwt.secret").map(str::to_owned);
    let public = settings.text("auth.jwt.public_key").map(str::to_owned);
    let issuer = settings.text("auth.jwt.issuer").map(str::to_owned);
    let audience = settings.text("auth.jwt.audience").map(str::to_owned);
    let default_grants = Grants {
        namespaces: patterns(settings, "auth.default_grants.namespaces"),
        join: patterns(settings, "auth.default_grants.join"),
        publish: patterns(settings, "auth.default_grants.publish"),
        send: patterns(settings, "auth.default_grants.send"),
    };
    match settings.text("auth.mode") {
        Some("none") => return Some(Auth::Open),
        Some("webhook") => {
            settings.fault_at("auth.mode", "is not supported by this version; jwt and none are".to_owned());
            return None;
        }
        _ => {}
    }
    let (path, key) = match (options, public) {
        (Some(secret), None) => ("auth.jwt.secret", Key::Secret(secret)),
        (None, Some(public)) => match pem(&public) {
            Ok(pem) => ("auth.jwt.public_key", Key::PublicPem(pem)),
            Err(fault) => {
                settings.fault_at("auth.jwt.public_key", fault);
                return None;
            }
        },
        (Some(_), Some(_)) => {
            settings
                .fault_at("auth.jwt.public_key", "only one of it and auth.jwt.secret may be set".to_owned());
            return None;
        }
        (None, None) => {
            // A key that was given and is faulty, or belongs to a later version, has its own fault.
            let given = ["auth.jwt.secret", "auth.jwt.public_key", "auth.jwt.jwks_url", "auth.mode"];
            if given.iter().all(|path| settings.is_sound(path)) {
                let problem = "is not configured; set auth.jwt.secret or auth.jwt.public_key, \
                               or write auth.mode = \"none\" to let clients say who they are";
                settings.fault("auth", None, Origin::Default, problem.to_owned());
            }
            return None;
        }
    };
    let options = VerifierOptions { key, issuer, audience, default_grants };
    match Verifier::new(options.clone()) {
        Ok(_) => Some(Auth::Jwt(Box::new(options))),
        Err(fault) => {
            settings.fault_at(path, placed(fault));
            None
        }
    }
}

/// The fault, naming the key where the thing belongs.
fn placed(fault: KeyError) -> String {
    match fault {
        KeyError::SecretIsPem => {
            "is a key in PEM, which is no secret; it belongs in auth.jwt.public_key".to_owned()
        }
        other => format!("cannot be used: {other}"),
    }
}

fn pem(text: &str) -> Result<String, String> {
    if text.trim_start().starts_with("-----") {
        return Ok(text.to_owned());
    }
    std::fs::read_to_string(text)
        .map_err(|fault| format!("is neither a key in PEM nor a file that can be read: {fault}"))
}

fn patterns(settings: &Settings, path: &'static str) -> Vec<Glob> {
    settings.list(path).iter().map(|pattern| Glob::parse(pattern)).collect()
}
