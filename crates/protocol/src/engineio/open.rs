//! The handshake answer.

use serde::{Deserialize, Serialize};

use super::PacketType;

/// What a server tells a client whose session it opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open<'a> {
    /// The session id. It is a secret: whoever knows it may speak for the client.
    pub sid: &'a str,
    /// Whether the client may upgrade to a WebSocket; `false` when it is on one already.
    pub upgrades_websocket: bool,
    /// Time between two pings of the server, in milliseconds.
    pub ping_interval_ms: u64,
    /// Time the client has to answer a ping, in milliseconds.
    pub ping_timeout_ms: u64,
    /// Largest polling body and largest WebSocket message the server takes, in bytes.
    pub max_payload: u64,
}

/// Exactly these keys, in the order of a stock server: clients check that there are no others.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OpenJson<'a> {
    sid: &'a str,
    upgrades: &'static [&'static str],
    ping_interval: u64,
    ping_timeout: u64,
    max_payload: u64,
}

impl Open<'_> {
    /// The whole packet, type digit included.
    #[must_use]
    pub fn encode(&self) -> String {
        let upgrades: &[&str] = if self.upgrades_websocket { &["websocket"] } else { &[] };
        let json = serde_json::to_string(&OpenJson {
            sid: self.sid,
            upgrades,
            ping_interval: self.ping_interval_ms,
            ping_timeout: self.ping_timeout_ms,
            max_payload: self.max_payload,
        })
        .expect("strings and integers always serialize");
        let mut packet = String::with_capacity(1 + json.len());
        packet.push(char::from(PacketType::Open.digit()));
        packet.push_str(&json);
        packet
    }
}

/// What a client learned from a server's open packet. Unknown keys are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Opened {
    /// The session id.
    pub sid: String,
    /// The transports the client may upgrade to.
    pub upgrades: Vec<String>,
    /// Time between two pings of the server, in milliseconds.
    #[serde(rename = "pingInterval")]
    pub ping_interval_ms: u64,
    /// Time the server waits for a pong, in milliseconds. A client that hears no ping for this and the interval
    /// together takes the connection for dead.
    #[serde(rename = "pingTimeout")]
    pub ping_timeout_ms: u64,
    /// Largest polling body the server takes, in bytes; `u64::MAX` from servers before Engine.IO 6.2, which do not
    /// say.
    #[serde(rename = "maxPayload", default = "unlimited")]
    pub max_payload: u64,
}

const fn unlimited() -> u64 {
    u64::MAX
}

/// The data of an open packet is not what a server sends.
#[derive(Debug, thiserror::Error)]
#[error("invalid open packet: {0}")]
pub struct OpenError(#[from] serde_json::Error);

impl Opened {
    /// Reads the data of an open packet, that is, without the type digit.
    ///
    /// # Errors
    ///
    /// Text that is not JSON, a missing key, or one of the wrong type.
    pub fn decode(json: &str) -> Result<Self, OpenError> {
        Ok(serde_json::from_str(json)?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    const OPEN: Open<'_> = Open {
        sid: "lv_VI97HAXpY6yYWAAAC",
        upgrades_websocket: true,
        ping_interval_ms: 25_000,
        ping_timeout_ms: 20_000,
        max_payload: 1_000_000,
    };

    #[test]
    fn keys_stand_in_the_order_of_a_stock_server() {
        assert_eq!(
            OPEN.encode(),
            r#"0{"sid":"lv_VI97HAXpY6yYWAAAC","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#
        );
        let on_websocket = Open { upgrades_websocket: false, ..OPEN }.encode();
        assert!(on_websocket.contains(r#""upgrades":[],"#), "{on_websocket}");
    }

    #[test]
    fn a_client_reads_what_a_server_wrote() {
        let opened = Opened::decode(&OPEN.encode()[1..]).unwrap();
        assert_eq!(
            opened,
            Opened {
                sid: OPEN.sid.to_owned(),
                upgrades: vec!["websocket".to_owned()],
                ping_interval_ms: 25_000,
                ping_timeout_ms: 20_000,
                max_payload: 1_000_000,
            }
        );
    }

    #[test]
    fn an_old_server_names_no_payload_limit_and_a_new_one_may_say_more() {
        let old = r#"{"sid":"a","upgrades":[],"pingInterval":1,"pingTimeout":2}"#;
        assert_eq!(Opened::decode(old).unwrap().max_payload, u64::MAX);
        let new = r#"{"sid":"a","upgrades":[],"pingInterval":1,"pingTimeout":2,"maxPayload":3,"more":{}}"#;
        assert_eq!(Opened::decode(new).unwrap().max_payload, 3);
    }

    #[test]
    fn what_is_no_open_packet_is_an_error() {
        for json in [
            "",
            "[]",
            "{}",
            r#"{"sid":1,"upgrades":[],"pingInterval":1,"pingTimeout":2}"#,
            r#"{"sid":"a","upgrades":[],"pingInterval":-1,"pingTimeout":2}"#,
        ] {
            assert!(Opened::decode(json).is_err(), "{json}");
        }
    }
}
