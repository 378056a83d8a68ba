//! The request that opens a session or belongs to one, and the reasons to turn it down.

use std::borrow::Cow;

/// The one protocol revision that is served.
const VERSION: &str = "4";

/// How packets travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// HTTP long-polling.
    Polling,
    /// WebSocket.
    WebSocket,
}

impl Transport {
    /// The name on the wire, also fit for a metric's label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Polling => "polling",
            Self::WebSocket => "websocket",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        match name {
            "polling" => Some(Self::Polling),
            "websocket" => Some(Self::WebSocket),
            _ => None,
        }
    }
}

/// The parameters of a request's query that Engine.IO looks at. Of a repeated parameter the last counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query<'a> {
    /// Protocol revision, as it came. See [`Query::is_version_4`].
    pub eio: Option<&'a str>,
    /// Name of the transport, as it came.
    pub transport: Option<&'a str>,
    /// The session the request belongs to, percent-decoded. `None` when absent or empty.
    pub sid: Option<Cow<'a, str>>,
    /// The client cannot take binary: binary messages go to it as `b` and base64 on a WebSocket too.
    pub b64: bool,
    /// JSONP index of Engine.IO v3 clients. Noticed here so that it can be refused or counted; not served.
    pub j: Option<&'a str>,
}

impl<'a> Query<'a> {
    /// Reads the part of a URL behind the `?`. Nothing in it is an error: what is missing shows when the request is
    /// judged.
    #[must_use]
    pub fn parse(query: &'a str) -> Self {
        let mut parsed = Self::default();
        for parameter in query.split('&') {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match name {
                "EIO" => parsed.eio = Some(value),
                "transport" => parsed.transport = Some(value),
                "sid" => parsed.sid = Some(percent_decode(value)).filter(|sid| !sid.is_empty()),
                "b64" => parsed.b64 = !value.is_empty(),
                "j" => parsed.j = Some(value),
                _ => {}
            }
        }
        parsed
    }

    /// Whether the client speaks the revision served here. A request of a session, which [`admit`] cannot judge
    /// alone, is a [`Refusal::BadRequest`] when it does not.
    #[must_use]
    pub fn is_version_4(&self) -> bool {
        self.eio == Some(VERSION)
    }
}

/// Decodes `%XX` and `+` of a query value as Node does: a broken escape stays as it is, broken UTF-8 becomes
/// U+FFFD.
fn percent_decode(value: &str) -> Cow<'_, str> {
    if memchr::memchr2(b'%', b'+', value.as_bytes()).is_none() {
        return Cow::Borrowed(value);
    }
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'+', _) => decoded.push(b' '),
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    decoded.push(high << 4 | low);
                    rest = after;
                }
                _ => decoded.push(b'%'),
            },
            _ => decoded.push(*first),
        }
    }
    match String::from_utf8_lossy(&decoded) {
        Cow::Owned(lossy) => Cow::Owned(lossy),
        Cow::Borrowed(valid) => Cow::Owned(valid.to_owned()),
    }
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Why a request is turned down. Codes and texts are those of a stock server; clients show them to people and some
/// branch on the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// `transport` is missing, unknown or switched off.
    #[error("transport unknown")]
    TransportUnknown,
    /// No node knows `sid`.
    #[error("session id unknown")]
    SessionUnknown,
    /// A session is opened by GET only.
    #[error("bad handshake method")]
    BadHandshakeMethod,
    /// An invalid `Origin`, another transport than the session's, a WebSocket without an upgrade, or another
    /// protocol revision than the session's.
    #[error("bad request")]
    BadRequest,
    /// The allow check said no.
    #[error("forbidden")]
    Forbidden,
    /// `EIO` is not 4.
    #[error("unsupported protocol version")]
    UnsupportedVersion,
}

impl Refusal {
    /// The number clients know it by.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::TransportUnknown => 0,
            Self::SessionUnknown => 1,
            Self::BadHandshakeMethod => 2,
            Self::BadRequest => 3,
            Self::Forbidden => 4,
            Self::UnsupportedVersion => 5,
        }
    }

    /// The text clients know it by. A refused WebSocket handshake has it as its whole body.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::TransportUnknown => "Transport unknown",
            Self::SessionUnknown => "Session ID unknown",
            Self::BadHandshakeMethod => "Bad handshake method",
            Self::BadRequest => "Bad request",
            Self::Forbidden => "Forbidden",
            Self::UnsupportedVersion => "Unsupported protocol version",
        }
    }

    /// Status of the HTTP answer. A refused WebSocket handshake gets 400 from a stock server, whatever the reason.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Forbidden => 403,
            _ => 400,
        }
    }

    /// Body of the HTTP answer, of type `application/json`.
    #[must_use]
    pub fn json(self) -> String {
        format!(r#"{{"code":{},"message":"{}"}}"#, self.code(), self.message())
    }
}

/// What an admissible request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission<'a> {
    /// A new session on this transport.
    Handshake(Transport),
    /// Part of a session, on the transport named. The caller still refuses an unknown session
    /// ([`Refusal::SessionUnknown`]), then another transport than the session's without an upgrade, then a revision
    /// that is not the session's (both [`Refusal::BadRequest`]).
    Session {
        /// The transport the request came by.
        transport: Transport,
        /// The session it belongs to.
        sid: &'a str,
    },
}

/// Judges a request as far as that goes without its headers and the session, in the order of a stock server:
/// transport, then (for a new session) method, then revision. `enabled` tells which of polling and WebSocket are
/// switched on.
///
/// A caller's own allow check belongs between method and revision; one that runs after this function differs only in
/// which of two refusals a request deserving both gets.
///
/// # Errors
///
/// The first reason that applies.
pub fn admit<'a>(
    query: &'a Query<'_>,
    is_get: bool,
    enabled: (bool, bool),
) -> Result<Admission<'a>, Refusal> {
    let (polling, websocket) = enabled;
    let transport = query
        .transport
        .and_then(Transport::from_name)
        .filter(|transport| match transport {
            Transport::Polling => polling,
            Transport::WebSocket => websocket,
        })
        .ok_or(Refusal::TransportUnknown)?;
    if let Some(sid) = query.sid.as_deref() {
        return Ok(Admission::Session { transport, sid });
    }
    if !is_get {
        return Err(Refusal::BadHandshakeMethod);
    }
    if !query.is_version_4() {
        return Err(Refusal::UnsupportedVersion);
    }
    Ok(Admission::Handshake(transport))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;

    use super::*;

    const BOTH: (bool, bool) = (true, true);

    fn judge(
        query: &str,
        is_get: bool,
        enabled: (bool, bool),
    ) -> Result<(Transport, Option<String>), Refusal> {
        let query = Query::parse(query);
        admit(&query, is_get, enabled).map(|admission| match admission {
            Admission::Handshake(transport) => (transport, None),
            Admission::Session { transport, sid } => (transport, Some(sid.to_owned())),
        })
    }

    #[test]
    fn the_query_of_the_official_client_is_read() {
        let query = Query::parse("EIO=4&transport=polling&t=ab12cd&sid=lv_VI97HAXpY6yYWAAAC");
        assert_eq!(
            query,
            Query {
                eio: Some("4"),
                transport: Some("polling"),
                sid: Some(Cow::Borrowed("lv_VI97HAXpY6yYWAAAC")),
                b64: false,
                j: None,
            }
        );
        assert!(query.is_version_4());
    }

    #[test]
    fn odd_queries_are_read_like_node_does() {
        assert_eq!(Query::parse(""), Query::default());
        assert_eq!(Query::parse("&&=&=x&EIO"), Query { eio: Some(""), ..Query::default() });
        assert_eq!(Query::parse("sid=").sid, None);
        assert_eq!(Query::parse("eio=4").eio, None);
        assert_eq!(Query::parse("EIO=4&EIO=3").eio, Some("3"));
        assert_eq!(Query::parse("sid=a&sid=b").sid.unwrap(), "b");
        assert_eq!(Query::parse("sid=a&sid=").sid, None);
        assert!(Query::parse("b64=1").b64);
        assert!(!Query::parse("b64").b64);
        assert_eq!(Query::parse("j=0").j, Some("0"));
        assert!(!Query::parse("EIO=44").is_version_4());
        assert!(!Query::parse("EIO=").is_version_4());
    }

    #[test]
    fn the_session_id_is_percent_decoded() {
        let table = [
            ("a%2Db", "a-b"),
            ("a%2db%7E", "a-b~"),
            ("a+b", "a b"),
            ("%", "%"),
            ("%4", "%4"),
            ("%zz", "%zz"),
            ("%%41", "%A"),
            ("%e2%82%ac", "€"),
            ("%ff", "\u{fffd}"),
            ("€", "€"),
        ];
        for (value, sid) in table {
            let query = format!("sid={value}");
            assert_eq!(Query::parse(&query).sid.unwrap(), sid, "{value}");
        }
    }

    #[test]
    fn refusals_read_as_a_stock_server_writes_them() {
        let table = [
            (Refusal::TransportUnknown, 400, r#"{"code":0,"message":"Transport unknown"}"#),
            (Refusal::SessionUnknown, 400, r#"{"code":1,"message":"Session ID unknown"}"#),
            (Refusal::BadHandshakeMethod, 400, r#"{"code":2,"message":"Bad handshake method"}"#),
            (Refusal::BadRequest, 400, r#"{"code":3,"message":"Bad request"}"#),
            (Refusal::Forbidden, 403, r#"{"code":4,"message":"Forbidden"}"#),
            (Refusal::UnsupportedVersion, 400, r#"{"code":5,"message":"Unsupported protocol version"}"#),
        ];
        for (refusal, status, json) in table {
            assert_eq!(refusal.http_status(), status);
            assert_eq!(refusal.json(), json);
        }
    }

    #[test]
    fn a_handshake_names_its_transport() {
        assert_eq!(judge("EIO=4&transport=polling", true, BOTH), Ok((Transport::Polling, None)));
        assert_eq!(judge("EIO=4&transport=websocket", true, BOTH), Ok((Transport::WebSocket, None)));
        assert_eq!(judge("EIO=4&transport=polling&sid=", true, BOTH), Ok((Transport::Polling, None)));
    }

    #[test]
    fn the_transport_is_checked_before_all_else() {
        for query in ["", "EIO=3", "EIO=4&transport=", "transport=abc&sid=x", "EIO=4&transport=webtransport"]
        {
            assert_eq!(judge(query, false, BOTH), Err(Refusal::TransportUnknown), "{query}");
        }
        let refused = Err(Refusal::TransportUnknown);
        assert_eq!(judge("EIO=4&transport=polling", true, (false, true)), refused);
        assert_eq!(judge("EIO=4&transport=websocket&sid=x", true, (true, false)), refused);
    }

    #[test]
    fn the_method_is_checked_before_the_revision() {
        assert_eq!(judge("EIO=3&transport=polling", false, BOTH), Err(Refusal::BadHandshakeMethod));
        assert_eq!(judge("EIO=3&transport=polling", true, BOTH), Err(Refusal::UnsupportedVersion));
        assert_eq!(judge("transport=websocket", true, BOTH), Err(Refusal::UnsupportedVersion));
    }

    #[test]
    fn a_request_of_a_session_may_have_any_method_and_leaves_the_revision_to_the_caller() {
        for (query, is_get) in
            [("EIO=4&transport=polling&sid=x", false), ("EIO=3&transport=polling&sid=x", true)]
        {
            assert_eq!(judge(query, is_get, BOTH), Ok((Transport::Polling, Some("x".to_owned()))), "{query}");
        }
    }

    proptest! {
        #[test]
        fn any_query_is_read(query in "\\PC{0,60}", encoded in "[%+0-9a-fé]{0,24}") {
            let _ = Query::parse(&query);
            let query = format!("sid={encoded}");
            prop_assert_eq!(Query::parse(&query).sid.is_none(), encoded.is_empty());
        }
    }
}
