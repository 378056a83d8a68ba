//! Tokens: JSON Web Tokens in the compact form (RFC 7519, RFC 7515), signed with one configured key.
//!
//! Claims read: `sub` (required, the user), `exp`, `nbf` (seconds, fractions are cut), `iss` and `aud` (required
//! when configured), `tidegate` (grants), `device` (binds the token to one device). All others are ignored.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;

use jsonwebtoken::crypto::rust_crypto;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Map, Value};
use tidegate_core::ErrorCode;

use super::{EXPIRY_LEEWAY_S, Grants, Identity, NameLimits, Refused, checked, device_of};

/// Smallest RSA modulus, in bytes: RFC 7518 section 3.3 asks for 2048 bits.
const RSA_MODULUS_BYTES_MIN: usize = 256;

/// What tokens are verified with. The algorithm follows from it, never from a token.
#[derive(Clone)]
pub enum Key {
    /// A shared secret, taken as its UTF-8 bytes: HS256.
    Secret(String),
    /// A public key in PEM: RS256, ES256 or EdDSA, by the kind of key.
    PublicPem(String),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret(_) => "Secret(..)",
            Self::PublicPem(_) => "PublicPem(..)",
        })
    }
}

/// Why a configured key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Anyone could sign with it.
    #[error("the secret is empty")]
    SecretEmpty,
    /// A public key used as an HMAC secret is known to everyone.
    #[error("a PEM key is no secret; it belongs in the public key's place")]
    SecretIsPem,
    /// A gateway that only verifies has no business with it.
    #[error("this is a private key; give the public one")]
    Private,
    /// Not a PEM block of a public key.
    #[error("not a public key in PEM (a block that begins with -----BEGIN PUBLIC KEY-----)")]
    NotPem,
    /// A kind or curve without an algorithm here.
    #[error("this kind of key is not supported; RSA, P-256 and Ed25519 are")]
    Unsupported,
    /// Too short to be safe.
    #[error("the RSA key is shorter than 2048 bits")]
    RsaShort,
}

/// What a verifier is made of.
#[derive(Clone, Debug)]
pub struct VerifierOptions {
    /// The key.
    pub key: Key,
    /// The issuer every token must name.
    pub issuer: Option<String>,
    /// The audience every token must name, alone or among others.
    pub audience: Option<String>,
    /// Grants of tokens without the claim `tidegate`.
    pub default_grants: Grants,
}

/// Verifies tokens against one key.
#[derive(Debug)]
pub struct Verifier {
    key: DecodingKey,
    signature: Validation,
    issuer: Option<String>,
    audience: Option<String>,
    default_grants: Arc<Grants>,
}

impl Verifier {
    /// Reads the key.
    ///
    /// # Errors
    /// When the key cannot be used.
    pub fn new(options: VerifierOptions) -> Result<Self, KeyError> {
        let (key, algorithm) = match &options.key {
            Key::Secret(secret) => (shared(secret)?, Algorithm::HS256),
            Key::PublicPem(pem) => public(pem)?,
        };
        let mut signature = Validation::new(algorithm);
        // Only the signature is checked there: its checks of claims read the system clock, and pass over a claim
        // of the wrong type.
        signature.required_spec_claims.clear();
        signature.validate_exp = false;
        signature.validate_aud = false;
        Ok(Self {
            key,
            signature,
            issuer: options.issuer,
            audience: options.audience,
            default_grants: Arc::new(options.default_grants),
        })
    }

    /// Verifies `token` at `unix_ms`; `device` is what the client calls its device, already checked.
    pub(super) fn identify(
        &self,
        token: &str,
        device: Option<&str>,
        unix_ms: u64,
        limits: &NameLimits,
    ) -> Result<Identity, Refused> {
        let claims = self.claims(token)?;
        self.check_parties(&claims)?;
        let expires_at = check_time(&claims, unix_ms)?;

        let user = text(&claims, "sub")?.ok_or_else(|| unauthorized("token has no claim sub"))?;
        let user = checked("claim sub", user, limits)?;
        let bound =
            text(&claims, "device")?.map(|bound| checked("claim device", bound, limits)).transpose()?;
        if let (Some(bound), Some(device)) = (bound, device)
            && bound != device
        {
            return Err(Refused::new(ErrorCode::Forbidden, "token belongs to another device"));
        }
        let grants = match present(&claims, "tidegate") {
            Some(claim) => {
                Arc::new(Grants::from_claim(claim).map_err(|fault| unauthorized(fault.to_string()))?)
            }
            None => Arc::clone(&self.default_grants),
        };
        Ok(Identity { user: Some(user.into()), device: device_of(bound.or(device)), grants, expires_at })
    }

    fn claims(&self, token: &str) -> Result<Map<String, Value>, Refused> {
        // One message for all that can be wrong: which part failed is of use to a forger only.
        let invalid = || unauthorized("token is not valid");
        let token =
            jsonwebtoken::decode::<Value>(token, &self.key, &self.signature).map_err(|_| invalid())?;
        // RFC 7515 section 4.1.11: a header that calls an extension critical must not be accepted by a reader that
        // does not know it, and this one knows none.
        if token.header.crit.is_some() {
            return Err(invalid());
        }
        match token.claims {
            Value::Object(claims) => Ok(claims),
            _ => Err(invalid()),
        }
    }

    fn check_parties(&self, claims: &Map<String, Value>) -> Result<(), Refused> {
        if let Some(issuer) = &self.issuer
            && text(claims, "iss")? != Some(issuer)
        {
            return Err(unauthorized("token has another issuer"));
        }
        if let Some(audience) = &self.audience {
            let named = match present(claims, "aud") {
                Some(Value::String(one)) => one == audience,
                Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(audience)),
                _ => false,
            };
            if !named {
                return Err(unauthorized("token is for another audience"));
            }
        }
        Ok(())
    }
}

fn shared(secret: &str) -> Result<DecodingKey, KeyError> {
    if secret.is_empty() {
        return Err(KeyError::SecretEmpty);
    }
    if secret.trim_start().starts_with("-----BEGIN") {
        return Err(KeyError::SecretIsPem);
    }
    Ok(DecodingKey::from_secret(secret.as_bytes()))
}

fn public(pem: &str) -> Result<(DecodingKey, Algorithm), KeyError> {
    let first = pem.trim_start().lines().next().unwrap_or_default().trim_end();
    if first.starts_with("-----BEGIN") && first.contains("PRIVATE KEY") {
        return Err(KeyError::Private);
    }
    // Certificates are left out on purpose: nothing here would check their dates or chain.
    if !matches!(first, "-----BEGIN PUBLIC KEY-----" | "-----BEGIN RSA PUBLIC KEY-----") {
        return Err(KeyError::NotPem);
    }
    let bytes = pem.as_bytes();
    if let Ok(key) = DecodingKey::from_rsa_pem(bytes) {
        let components = rust_crypto::DEFAULT_PROVIDER.key_utils.rsa_pub_components_from_public_key;
        let der = key.try_get_as_bytes().map_err(|_| KeyError::NotPem)?;
        let (modulus, _) = components(der).map_err(|_| KeyError::NotPem)?;
        if modulus.len() < RSA_MODULUS_BYTES_MIN {
            return Err(KeyError::RsaShort);
        }
        return Ok((key, Algorithm::RS256));
    }
    if let Ok(key) = DecodingKey::from_ec_pem(bytes) {
        // Verifying anything shows whether the point lies on the one curve of ES256.
        jsonwebtoken::crypto::verify("AA", b"", &key, Algorithm::ES256).map_err(|_| KeyError::Unsupported)?;
        return Ok((key, Algorithm::ES256));
    }
    if let Ok(key) = DecodingKey::from_ed_pem(bytes) {
        // The verifier indexes 32 bytes, so the length is checked before it sees the key.
        if key.try_get_as_bytes().map(<[u8]>::len) != Ok(32) {
            return Err(KeyError::NotPem);
        }
        jsonwebtoken::crypto::verify("AA", b"", &key, Algorithm::EdDSA).map_err(|_| KeyError::Unsupported)?;
        return Ok((key, Algorithm::EdDSA));
    }
    Err(KeyError::Unsupported)
}

fn unauthorized(message: impl Into<String>) -> Refused {
    Refused::new(ErrorCode::Unauthorized, message)
}

fn present<'a>(claims: &'a Map<String, Value>, claim: &str) -> Option<&'a Value> {
    claims.get(claim).filter(|value| !value.is_null())
}

fn text<'a>(claims: &'a Map<String, Value>, claim: &str) -> Result<Option<&'a str>, Refused> {
    present(claims, claim)
        .map(|value| value.as_str().ok_or_else(|| unauthorized(format!("claim {claim} is not a string"))))
        .transpose()
}

/// A NumericDate (RFC 7519 section 2), which may have a fraction. What lies before 1970 counts as 1970.
fn seconds(claims: &Map<String, Value>, claim: &str) -> Result<Option<u64>, Refused> {
    let Some(value) = present(claims, claim) else { return Ok(None) };
    let Value::Number(number) = value else {
        return Err(unauthorized(format!("claim {claim} is not a number")));
    };
    let whole = number.as_u64().or_else(|| {
        // The cast saturates, which is what is wanted at both ends.
        number.as_f64().map(|fraction| fraction as u64)
    });
    Ok(whole)
}

/// When the token expires, in Unix seconds. At 0 it has expired, whatever the time.
fn check_time(claims: &Map<String, Value>, unix_ms: u64) -> Result<Option<NonZeroU64>, Refused> {
    let expires_at = seconds(claims, "exp")?;
    if let Some(end) = expires_at
        && (end == 0 || unix_ms >= end.saturating_add(EXPIRY_LEEWAY_S).saturating_mul(1000))
    {
        return Err(Refused::new(ErrorCode::TokenExpired, "token has expired"));
    }
    if let Some(start) = seconds(claims, "nbf")?
        && unix_ms < start.saturating_sub(EXPIRY_LEEWAY_S).saturating_mul(1000)
    {
        return Err(unauthorized("token is not valid yet"));
    }
    Ok(expires_at.and_then(NonZeroU64::new))
}

#[cfg(test)]
mod tests;
