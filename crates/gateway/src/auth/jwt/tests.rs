//! The keys in `../fixtures` were made for these tests and guard nothing.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use tidegate_msgpack::write;

use super::super::DEVICE_DEFAULT;
use super::*;
use crate::auth::Authenticator;

const SECRET: &str = "a secret of the tests, 32 bytes or more";
const NOW_S: u64 = 1_800_000_000;
const LIMITS: NameLimits = NameLimits { name_bytes_max: 64 };

const RSA_PRIVATE: &str = include_str!("../fixtures/rsa.private.pem");
const RSA_PUBLIC: &str = include_str!("../fixtures/rsa.public.pem");
const P256_PRIVATE: &str = include_str!("../fixtures/p256.private.pem");
const P256_PUBLIC: &str = include_str!("../fixtures/p256.public.pem");
const ED25519_PRIVATE: &str = include_str!("../fixtures/ed25519.private.pem");
const ED25519_PUBLIC: &str = include_str!("../fixtures/ed25519.public.pem");

fn options(key: Key) -> VerifierOptions {
    VerifierOptions { key, issuer: None, audience: None, default_grants: Grants::default() }
}

fn secret() -> VerifierOptions {
    options(Key::Secret(SECRET.into()))
}

fn public_pem(pem: &str) -> VerifierOptions {
    options(Key::PublicPem(pem.into()))
}

fn sign(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    jsonwebtoken::encode(&Header::new(algorithm), claims, key).unwrap()
}

fn hs256(claims: &Value) -> String {
    sign(Algorithm::HS256, &EncodingKey::from_secret(SECRET.as_bytes()), claims)
}

fn identify_in(
    namespace: &str,
    options: VerifierOptions,
    token: &str,
    device: Option<&str>,
    unix_ms: u64,
) -> Result<Identity, Refused> {
    let mut auth = Vec::new();
    write::map(&mut auth, 1 + u32::from(device.is_some()));
    write::str(&mut auth, "token");
    write::str(&mut auth, token);
    if let Some(device) = device {
        write::str(&mut auth, "device");
        write::str(&mut auth, device);
    }
    let verifier = Verifier::new(options).unwrap();
    Authenticator::Jwt(Box::new(verifier)).identify(namespace, Some(&auth), unix_ms, &LIMITS)
}

fn identify(options: VerifierOptions, token: &str) -> Result<Identity, Refused> {
    identify_in("/", options, token, None, NOW_S * 1000)
}

fn refusal(claims: &Value) -> Refused {
    identify(secret(), &hs256(claims)).unwrap_err()
}

#[test]
fn every_algorithm_verifies() {
    let claims = json!({ "sub": "ann" });
    let keys = [
        (secret(), hs256(&claims)),
        (
            public_pem(RSA_PUBLIC),
            sign(Algorithm::RS256, &EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).unwrap(), &claims),
        ),
        (
            public_pem(include_str!("../fixtures/rsa-pkcs1.public.pem")),
            sign(Algorithm::RS256, &EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).unwrap(), &claims),
        ),
        (
            public_pem(P256_PUBLIC),
            sign(Algorithm::ES256, &EncodingKey::from_ec_pem(P256_PRIVATE.as_bytes()).unwrap(), &claims),
        ),
        (
            public_pem(ED25519_PUBLIC),
            sign(Algorithm::EdDSA, &EncodingKey::from_ed_pem(ED25519_PRIVATE.as_bytes()).unwrap(), &claims),
        ),
    ];
    for (mine, (options, token)) in keys.iter().enumerate() {
        let identity = identify(options.clone(), token).unwrap();
        assert_eq!((identity.user.as_deref(), &*identity.device), (Some("ann"), DEVICE_DEFAULT));
        assert_eq!((&*identity.grants, identity.expires_at), (&Grants::default(), None));

        // The last character carries bits that base64 may ignore; one in the middle does not.
        let mut forged = token.clone().into_bytes();
        let at = token.rfind('.').unwrap() + 10;
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(forged).unwrap();
        assert_eq!(identify(options.clone(), &forged).unwrap_err().code, ErrorCode::Unauthorized);

        for (other, (_, token)) in keys.iter().enumerate() {
            let both_rsa = (1..=2).contains(&mine) && (1..=2).contains(&other);
            assert_eq!(identify(options.clone(), token).is_ok(), mine == other || both_rsa);
        }
    }
}

#[test]
fn the_token_does_not_choose_the_algorithm() {
    let claims = json!({ "sub": "mallory" });
    for pem in [RSA_PUBLIC, P256_PUBLIC, ED25519_PUBLIC] {
        // Signed with what everyone knows, the public key, as if it were the secret of an HMAC.
        let token = sign(Algorithm::HS256, &EncodingKey::from_secret(pem.as_bytes()), &claims);
        assert_eq!(identify(public_pem(pem), &token).unwrap_err().code, ErrorCode::Unauthorized);
    }
    for other in [Algorithm::HS384, Algorithm::HS512] {
        let token = sign(other, &EncodingKey::from_secret(SECRET.as_bytes()), &claims);
        assert_eq!(identify(secret(), &token).unwrap_err().code, ErrorCode::Unauthorized);
    }
    let rsa = EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).unwrap();
    let token = sign(Algorithm::PS256, &rsa, &claims);
    assert_eq!(identify(public_pem(RSA_PUBLIC), &token).unwrap_err().code, ErrorCode::Unauthorized);
}

#[test]
fn unsigned_and_broken_tokens_are_unauthorized() {
    // {"alg":"none"} and {"sub":"mallory"}, with no signature at all.
    let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJtYWxsb3J5In0.";
    let valid = hs256(&json!({ "sub": "ann" }));
    let unsigned = format!("{}.", &valid[..valid.rfind('.').unwrap()]);
    for token in [none, &unsigned, "", "x", "a.b.c", "....", &valid[1..]] {
        assert_eq!(identify(secret(), token).unwrap_err().code, ErrorCode::Unauthorized, "{token}");
    }
    let array = hs256(&json!(["sub"]));
    assert_eq!(identify(secret(), &array).unwrap_err().code, ErrorCode::Unauthorized);
}

#[test]
fn critical_extensions_are_refused() {
    let mut header = Header::new(Algorithm::HS256);
    header.crit = Some(vec!["exp".into()]);
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let token = jsonwebtoken::encode(&header, &json!({ "sub": "ann" }), &key).unwrap();
    assert_eq!(identify(secret(), &token).unwrap_err().code, ErrorCode::Unauthorized);
}

#[test]
fn a_missing_token_is_unauthorized_and_a_wrong_type_a_bad_request() {
    let authenticator = Authenticator::Jwt(Box::new(Verifier::new(secret()).unwrap()));
    assert!(!authenticator.is_open());
    let code = |auth: Option<&[u8]>| authenticator.identify("/", auth, 0, &LIMITS).unwrap_err().code;
    assert_eq!(code(None), ErrorCode::Unauthorized);
    assert_eq!(code(Some(b"\x80")), ErrorCode::Unauthorized);
    assert_eq!(code(Some(b"\x81\xa5token\xc0")), ErrorCode::Unauthorized);
    assert_eq!(code(Some(b"\x81\xa5token\x01")), ErrorCode::BadRequest);
    // Who the client says it is counts for nothing here.
    assert_eq!(code(Some(b"\x81\xa4user\xa3ann")), ErrorCode::Unauthorized);
}

#[test]
fn expiry_is_honoured_with_its_leeway() {
    let token = hs256(&json!({ "sub": "ann", "exp": NOW_S }));
    let at = |unix_ms| identify_in("/", secret(), &token, None, unix_ms);
    let last_ms = (NOW_S + EXPIRY_LEEWAY_S) * 1000 - 1;
    assert_eq!(at(last_ms).unwrap().expires_at, NonZeroU64::new(NOW_S));
    assert_eq!(at(last_ms + 1).unwrap_err().code, ErrorCode::TokenExpired);

    let fraction = hs256(&json!({ "sub": "ann", "exp": NOW_S as f64 + 0.9 }));
    assert_eq!(identify(secret(), &fraction).unwrap().expires_at, NonZeroU64::new(NOW_S));
    for long_ago in [json!(-1), json!(0), json!(-1.5)] {
        assert_eq!(refusal(&json!({ "sub": "ann", "exp": long_ago })).code, ErrorCode::TokenExpired);
    }
    let far = hs256(&json!({ "sub": "ann", "exp": u64::MAX }));
    assert_eq!(identify(secret(), &far).unwrap().expires_at, NonZeroU64::new(u64::MAX));
}

#[test]
fn a_token_is_not_valid_before_its_time() {
    let begins = |start: u64| hs256(&json!({ "sub": "ann", "nbf": start }));
    assert!(identify(secret(), &begins(NOW_S + EXPIRY_LEEWAY_S)).is_ok());
    let early = identify(secret(), &begins(NOW_S + EXPIRY_LEEWAY_S + 1)).unwrap_err();
    assert_eq!(early.code, ErrorCode::Unauthorized);
}

#[test]
fn the_subject_is_required_and_bounded() {
    for claims in [json!({}), json!({ "sub": null }), json!({ "sub": 7 })] {
        assert_eq!(refusal(&claims).code, ErrorCode::Unauthorized, "{claims}");
    }
    assert_eq!(refusal(&json!({ "sub": "" })).code, ErrorCode::BadRequest);
    let long = refusal(&json!({ "sub": "x".repeat(65) }));
    assert_eq!(long.code, ErrorCode::BadRequest);
    assert!(long.message.contains("claim sub") && long.message.contains("64"), "{long}");
}

#[test]
fn claims_of_the_wrong_type_are_unauthorized() {
    for (claim, value) in [
        ("exp", json!("tomorrow")),
        ("nbf", json!([])),
        ("device", json!(1)),
        ("tidegate", json!("all")),
        ("tidegate", json!({ "join": [7] })),
    ] {
        let mut claims = json!({ "sub": "ann" });
        claims[claim] = value;
        assert_eq!(refusal(&claims).code, ErrorCode::Unauthorized, "{claims}");
    }
}

#[test]
fn issuer_and_audience_are_required_once_configured() {
    let strict = || VerifierOptions { issuer: Some("iss".into()), audience: Some("aud".into()), ..secret() };
    for (accepted, claims) in [
        (true, json!({ "sub": "ann", "iss": "iss", "aud": "aud" })),
        (true, json!({ "sub": "ann", "iss": "iss", "aud": ["other", "aud"] })),
        (false, json!({ "sub": "ann", "iss": "iss" })),
        (false, json!({ "sub": "ann", "aud": "aud" })),
        (false, json!({ "sub": "ann", "iss": "other", "aud": "aud" })),
        (false, json!({ "sub": "ann", "iss": ["iss"], "aud": "aud" })),
        (false, json!({ "sub": "ann", "iss": "iss", "aud": ["other"] })),
        (false, json!({ "sub": "ann", "iss": "iss", "aud": 1 })),
    ] {
        let outcome = identify(strict(), &hs256(&claims));
        assert_eq!(
            outcome.as_ref().map_err(|refused| refused.code).err(),
            (!accepted).then_some(ErrorCode::Unauthorized),
            "{claims}"
        );
    }
    // Without the settings, tokens of any issuer and audience do.
    assert!(identify(secret(), &hs256(&json!({ "sub": "ann", "iss": "x", "aud": ["y"] }))).is_ok());
}

#[test]
fn grants_come_from_the_claim_or_from_the_default() {
    let default_grants = Grants::from_claim(&json!({ "join": ["lobby"] })).unwrap();
    let with_default = || VerifierOptions { default_grants: default_grants.clone(), ..secret() };
    let absent = identify(with_default(), &hs256(&json!({ "sub": "ann" }))).unwrap();
    assert_eq!(*absent.grants, default_grants);
    let empty = identify(with_default(), &hs256(&json!({ "sub": "ann", "tidegate": {} }))).unwrap();
    assert!(!empty.grants.allows_join("lobby"));
    let own = hs256(&json!({ "sub": "ann", "tidegate": { "join": ["room:*"] } }));
    assert!(identify(with_default(), &own).unwrap().grants.allows_join("room:1"));
}

#[test]
fn a_namespace_that_is_not_granted_is_forbidden() {
    let token = hs256(&json!({ "sub": "ann", "tidegate": { "namespaces": ["/chat"] } }));
    let code =
        |namespace| identify_in(namespace, secret(), &token, None, 0).map_err(|refused| refused.code).err();
    assert_eq!(code("/chat"), None);
    assert_eq!(code("/"), Some(ErrorCode::Forbidden));
    assert_eq!(code("/chat2"), Some(ErrorCode::Forbidden));
}

#[test]
fn a_token_may_be_bound_to_a_device() {
    let free = hs256(&json!({ "sub": "ann" }));
    let bound = hs256(&json!({ "sub": "ann", "device": "phone" }));
    let device = |token: &str, device| {
        identify_in("/", secret(), token, device, 0).map(|identity| identity.device.to_string())
    };
    assert_eq!(device(&free, Some("laptop")).unwrap(), "laptop");
    assert_eq!(device(&bound, None).unwrap(), "phone");
    assert_eq!(device(&bound, Some("phone")).unwrap(), "phone");
    assert_eq!(device(&bound, Some("laptop")).unwrap_err().code, ErrorCode::Forbidden);
}

#[test]
fn unusable_keys_are_refused() {
    let fault = |options: VerifierOptions| Verifier::new(options).unwrap_err();
    assert_eq!(fault(options(Key::Secret(String::new()))), KeyError::SecretEmpty);
    assert_eq!(fault(options(Key::Secret(RSA_PUBLIC.into()))), KeyError::SecretIsPem);
    assert_eq!(fault(public_pem(RSA_PRIVATE)), KeyError::Private);
    assert_eq!(fault(public_pem("-----BEGIN RSA PRIVATE KEY-----\nAA==\n")), KeyError::Private);
    assert_eq!(fault(public_pem(include_str!("../fixtures/rsa-1024.public.pem"))), KeyError::RsaShort);
    assert_eq!(fault(public_pem(include_str!("../fixtures/p384.public.pem"))), KeyError::Unsupported);
    assert_eq!(fault(public_pem("secret")), KeyError::NotPem);
    assert_eq!(fault(public_pem("-----BEGIN CERTIFICATE-----\nAA==\n")), KeyError::NotPem);
    let cut: String = P256_PUBLIC.lines().take(2).collect::<Vec<_>>().join("\n");
    assert_eq!(fault(public_pem(&cut)), KeyError::Unsupported);
}

#[test]
fn keys_do_not_show_up_in_debug_output() {
    let verifier = Verifier::new(secret()).unwrap();
    assert!(!format!("{:?} {verifier:?}", secret()).contains(SECRET));
}
