//! Who a client is, decided once per CONNECT from its `auth` payload.
//!
//! Layout: `grant` is what an identity may do, `jwt` verifies tokens, this file joins them to the payload. Nothing
//! here reads a clock or the network.

mod grant;
mod jwt;

use std::num::NonZeroU64;
use std::sync::{Arc, LazyLock};

use tidegate_core::{ErrorCode, SessionId};
use tidegate_msgpack::{Reader, Token};

pub use grant::{Grants, Invalid as InvalidGrants};
pub use jwt::{Key, KeyError, Verifier, VerifierOptions};

/// How long after its expiry a token is still honoured, in seconds: clocks of issuers and nodes differ.
pub const EXPIRY_LEEWAY_S: u64 = 5;

/// The device of a client that names none.
pub const DEVICE_DEFAULT: &str = "default";

/// Constant, and shared so that an open node does not store the same four lists once per session.
static EVERYTHING: LazyLock<Arc<Grants>> = LazyLock::new(|| Arc::new(Grants::all()));

/// Shared for the same reason.
static DEVICE: LazyLock<Arc<str>> = LazyLock::new(|| DEVICE_DEFAULT.into());

/// Who a session belongs to, and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user; `None` is anonymous.
    pub user: Option<Arc<str>>,
    /// The device, [`DEVICE_DEFAULT`] when none was named.
    pub device: Arc<str>,
    /// What it may do.
    pub grants: Arc<Grants>,
    /// When the token expires, in Unix seconds, [`EXPIRY_LEEWAY_S`] not added. `None` is never.
    pub expires_at: Option<NonZeroU64>,
}

/// The limits that names in a payload must keep.
#[derive(Clone, Copy, Debug)]
pub struct NameLimits {
    /// Longest user or device, in bytes.
    pub name_bytes_max: usize,
}

/// Why a client was turned away. The message is for the client and holds nothing secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// The code in the answer.
    pub code: ErrorCode,
    /// The text in the answer.
    pub message: String,
}

impl Refused {
    fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// How a node tells who its clients are.
#[derive(Debug)]
pub enum Authenticator {
    /// Clients say who they are and may do everything. Only for development and for nodes nobody else can reach.
    Open,
    /// Clients show a signed token.
    Jwt(Box<Verifier>),
}

impl Authenticator {
    /// Whether everyone is believed.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }

    /// Decides on one CONNECT. `auth` is its payload as a MessagePack map, `unix_ms` the time now.
    ///
    /// # Errors
    /// `bad_request` when a field has the wrong type or is too long, `unauthorized` without a valid token,
    /// `token_expired` past the expiry and its leeway, `forbidden` when the namespace is not granted or the token
    /// belongs to another device.
    pub fn identify(
        &self,
        namespace: &str,
        auth: Option<&[u8]>,
        unix_ms: u64,
        limits: &NameLimits,
    ) -> Result<Identity, Refused> {
        let payload = Payload::read(auth)?;
        let device = name("auth.device", payload.device, limits)?;
        let identity = match self {
            Self::Open => Identity {
                user: name("auth.user", payload.user, limits)?.map(Into::into),
                device: device_of(device),
                grants: Arc::clone(&EVERYTHING),
                expires_at: None,
            },
            Self::Jwt(verifier) => {
                let token = match payload.token {
                    Field::Absent => {
                        return Err(Refused::new(ErrorCode::Unauthorized, "auth.token is missing"));
                    }
                    Field::Text(token) => token,
                    Field::Other => {
                        return Err(Refused::new(ErrorCode::BadRequest, "auth.token must be a string"));
                    }
                };
                verifier.identify(token, device, unix_ms, limits)?
            }
        };
        if !identity.grants.allows_namespace(namespace) {
            return Err(Refused::new(ErrorCode::Forbidden, "this namespace is not granted"));
        }
        Ok(identity)
    }
}

/// The device that was named, or the default one.
fn device_of(named: Option<&str>) -> Arc<str> {
    named.map_or_else(|| Arc::clone(&DEVICE), Arc::from)
}

/// The session that a client says it had and comes back for, by itself: `resumes`, a session's id.
///
/// # Errors
/// `bad_request` when it is anything else.
pub(crate) fn resumes(auth: Option<&[u8]>) -> Result<Option<SessionId>, Refused> {
    match Payload::read(auth)?.resumes {
        Field::Absent => Ok(None),
        Field::Text(id) => SessionId::parse(id).map(Some).ok_or(()),
        Field::Other => Err(()),
    }
    .map_err(|()| Refused::new(ErrorCode::BadRequest, "auth.resumes must be a session's id"))
}

/// One field of the payload.
#[derive(Clone, Copy)]
enum Field<'a> {
    Absent,
    Text(&'a str),
    /// Neither text nor nil, or text that is not UTF-8.
    Other,
}

struct Payload<'a> {
    token: Field<'a>,
    user: Field<'a>,
    device: Field<'a>,
    resumes: Field<'a>,
}

impl<'a> Payload<'a> {
    fn read(auth: Option<&'a [u8]>) -> Result<Self, Refused> {
        let mut payload =
            Self { token: Field::Absent, user: Field::Absent, device: Field::Absent, resumes: Field::Absent };
        if let Some(auth) = auth {
            payload.fill(auth).map_err(|_| Refused::new(ErrorCode::BadRequest, "auth must be an object"))?;
        }
        Ok(payload)
    }

    fn fill(&mut self, auth: &'a [u8]) -> Result<(), tidegate_msgpack::Error> {
        let mut reader = Reader::new(auth);
        for _ in 0..reader.map()? {
            let field = match Reader::new(reader.value()?).token()? {
                Token::Str(b"token") => &mut self.token,
                Token::Str(b"user") => &mut self.user,
                Token::Str(b"device") => &mut self.device,
                Token::Str(b"resumes") => &mut self.resumes,
                _ => {
                    reader.skip()?;
                    continue;
                }
            };
            *field = match Reader::new(reader.value()?).token()? {
                Token::Nil => Field::Absent,
                Token::Str(text) => std::str::from_utf8(text).map_or(Field::Other, Field::Text),
                _ => Field::Other,
            };
        }
        Ok(())
    }
}

fn name<'a>(field: &str, value: Field<'a>, limits: &NameLimits) -> Result<Option<&'a str>, Refused> {
    match value {
        Field::Absent => Ok(None),
        Field::Text(text) => checked(field, text, limits).map(Some),
        Field::Other => Err(Refused::new(ErrorCode::BadRequest, format!("{field} must be a string"))),
    }
}

fn checked<'a>(field: &str, text: &'a str, limits: &NameLimits) -> Result<&'a str, Refused> {
    let max = limits.name_bytes_max;
    if text.is_empty() {
        return Err(Refused::new(ErrorCode::BadRequest, format!("{field} must not be empty")));
    }
    if text.len() > max {
        return Err(Refused::new(
            ErrorCode::BadRequest,
            format!("{field} has {} bytes, at most {max} (limits.name_bytes_max) are allowed", text.len()),
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;
    use tidegate_msgpack::write;

    use super::*;

    const LIMITS: NameLimits = NameLimits { name_bytes_max: 8 };

    fn payload(fields: &[(&str, Option<&str>)]) -> Vec<u8> {
        let mut out = Vec::new();
        write::map(&mut out, u32::try_from(fields.len()).unwrap());
        for (key, value) in fields {
            write::str(&mut out, key);
            match value {
                Some(text) => write::str(&mut out, text),
                None => write::nil(&mut out),
            }
        }
        out
    }

    fn open(auth: Option<&[u8]>) -> Result<Identity, Refused> {
        Authenticator::Open.identify("/any", auth, 0, &LIMITS)
    }

    #[test]
    fn what_is_resumed_is_a_sessions_id() {
        let id = SessionId::random();
        assert_eq!(resumes(Some(&payload(&[("resumes", Some(id.as_str()))]))).unwrap(), Some(id));
        for auth in [None, Some(payload(&[])), Some(payload(&[("resumes", None)]))] {
            assert_eq!(resumes(auth.as_deref()).unwrap(), None);
        }
        for auth in [payload(&[("resumes", Some("short"))]), b"\x81\xa7resumes\x07".to_vec()] {
            assert_eq!(resumes(Some(&auth)).unwrap_err().code, ErrorCode::BadRequest);
        }
    }

    #[test]
    fn without_authentication_clients_say_who_they_are() {
        let identity = open(Some(&payload(&[("user", Some("ann")), ("device", Some("phone"))]))).unwrap();
        assert_eq!((identity.user.as_deref(), &*identity.device), (Some("ann"), "phone"));
        assert!(identity.grants.allows_publish("any") && identity.expires_at.is_none());
    }

    #[test]
    fn without_a_payload_a_client_is_anonymous() {
        for auth in
            [None, Some(payload(&[])), Some(payload(&[("user", None), ("token", Some("x")), ("more", None)]))]
        {
            let identity = open(auth.as_deref()).unwrap();
            assert_eq!((identity.user, &*identity.device), (None, DEVICE_DEFAULT));
        }
    }

    #[test]
    fn names_are_checked() {
        let refusal = |auth: &[u8]| open(Some(auth)).unwrap_err();
        let long = refusal(&payload(&[("user", Some("ninebytes"))]));
        assert_eq!(long.code, ErrorCode::BadRequest);
        assert!(long.message.contains("auth.user") && long.message.contains("at most 8"), "{long}");
        assert!(refusal(&payload(&[("device", Some(""))])).message.contains("auth.device"));

        let mut number = Vec::new();
        write::map(&mut number, 1);
        write::str(&mut number, "user");
        write::uint(&mut number, 7);
        assert_eq!(refusal(&number).message, "auth.user must be a string");

        let mut surrogate = Vec::new();
        write::map(&mut surrogate, 1);
        write::str(&mut surrogate, "user");
        write::str_bytes(&mut surrogate, b"\xed\xa0\x80");
        assert_eq!(refusal(&surrogate).message, "auth.user must be a string");
    }

    #[test]
    fn a_payload_that_is_no_map_is_a_bad_request() {
        for auth in [&b"\x01"[..], b"", b"\x81\xa4user"] {
            assert_eq!(open(Some(auth)).unwrap_err().code, ErrorCode::BadRequest);
        }
    }

    proptest! {
        #[test]
        fn no_payload_panics(auth in proptest::collection::vec(any::<u8>(), 0..64)) {
            // Whatever it is, it is an identity or a refusal that blames the client.
            if let Err(refused) = open(Some(&auth)) {
                prop_assert_eq!(refused.code, ErrorCode::BadRequest);
            }
        }

        #[test]
        fn names_come_through_as_they_were_sent(user in "\\PC{1,2}", device in "\\PC{1,2}") {
            let identity = open(Some(&payload(&[("device", Some(&device)), ("user", Some(&user))]))).unwrap();
            prop_assert_eq!(identity.user.as_deref(), Some(user.as_str()));
            prop_assert_eq!(&*identity.device, device.as_str());
        }
    }
}
