//! How a client connects.

use std::net::IpAddr;
use std::time::Duration;

use tidegate_protocol::socketio::Parser;

use crate::value::Value;

/// Which transports a client uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transports {
    /// HTTP long-polling first, then the upgrade to WebSocket when the server offers it: what the official
    /// client does by default.
    #[default]
    Default,
    /// HTTP long-polling alone.
    Polling,
    /// WebSocket from the start.
    WebSocket,
}

/// How a client comes back after it lost its transport.
#[derive(Debug, Clone, PartialEq)]
pub struct Reconnect {
    /// Wait before the first attempt; it doubles with every failed one.
    pub delay: Duration,
    /// The wait never grows past this, jitter aside.
    pub delay_max: Duration,
    /// Each wait is spread by this share of itself, up or down; 0 to 1.
    pub jitter: f64,
    /// How many attempts in a row may fail; `None` means no limit.
    pub attempts_max: Option<u32>,
}

impl Default for Reconnect {
    /// The official client's: 1 s, doubling to 5 s, jitter 0.5, for ever.
    fn default() -> Reconnect {
        Reconnect {
            delay: Duration::from_secs(1),
            delay_max: Duration::from_secs(5),
            jitter: 0.5,
            attempts_max: None,
        }
    }
}

impl Reconnect {
    /// The wait before attempt `attempt` (from 0), where `spread` is a random number in 0..1.
    pub(crate) fn wait(&self, attempt: u32, spread: f64) -> Duration {
        let doubled = self.delay.saturating_mul(1u32.checked_shl(attempt).unwrap_or(u32::MAX));
        let base = doubled.min(self.delay_max);
        base.mul_f64((1.0 + self.jitter.clamp(0.0, 1.0) * (2.0 * spread - 1.0)).max(0.0))
    }
}

/// Whom a client believes to be the server of an `https://` address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Trust {
    /// Nobody, not even who the system trusts: `https://` is an error.
    #[default]
    Nobody,
    /// Whoever has a certificate of one of these authorities, in PEM, that names the address's host.
    Authorities(String),
    /// Anybody: whoever answers may read and change what is sent. For load on loopback.
    Anybody,
}

/// How a client connects.
#[derive(Debug, Clone)]
pub struct Options {
    /// The server: `http://host:port` or `https://host:port`.
    pub url: String,
    /// Who the server may be if it is `https://`.
    pub trust: Trust,
    /// The path Engine.IO is served under, with both slashes.
    pub path: String,
    /// Which transports to use.
    pub transports: Transports,
    /// How packets are written. Server and client must agree.
    pub parser: Parser,
    /// The payload of the first namespace's CONNECT.
    pub auth: Option<Value>,
    /// Headers sent with every HTTP request, the WebSocket handshake included.
    pub headers: Vec<(String, String)>,
    /// How to come back after the transport was lost; `None` means not at all. The first connect is never
    /// repeated: its failure is the caller's to see.
    pub reconnect: Option<Reconnect>,
    /// Limit of one attempt: from the TCP connect to the answer to CONNECT, and for the upgrade.
    pub connect_timeout: Duration,
    /// How many events may wait for [`crate::Socket::next_event`], per namespace. One more ends the client.
    pub events_max: usize,
    /// The largest message taken from the server, in bytes.
    pub message_bytes_max: usize,
    /// The address that connections come from; `None` leaves it to the system.
    pub local_address: Option<IpAddr>,
}

impl Options {
    /// Defaults of the official client, except that it does not reconnect unless told to.
    pub fn new(url: impl Into<String>) -> Options {
        Options {
            url: url.into(),
            trust: Trust::Nobody,
            path: "/socket.io/".to_owned(),
            transports: Transports::Default,
            parser: Parser::Text,
            auth: None,
            headers: Vec::new(),
            reconnect: None,
            connect_timeout: Duration::from_secs(20),
            events_max: 4096,
            message_bytes_max: 64 << 20,
            local_address: None,
        }
    }

    /// The same, trusting the authorities whose certificates these are, in PEM.
    #[must_use]
    pub fn authorities(mut self, pem: impl Into<String>) -> Options {
        self.trust = Trust::Authorities(pem.into());
        self
    }

    /// The same, taking anybody for the server who answers. TLS then protects nothing: for load on loopback only.
    #[must_use]
    pub fn danger_accept_any_certificate(mut self) -> Options {
        self.trust = Trust::Anybody;
        self
    }

    /// The same with these transports.
    #[must_use]
    pub fn transports(mut self, transports: Transports) -> Options {
        self.transports = transports;
        self
    }

    /// The same with this parser.
    #[must_use]
    pub fn parser(mut self, parser: Parser) -> Options {
        self.parser = parser;
        self
    }

    /// The same with this CONNECT payload, a JSON object.
    #[must_use]
    pub fn auth(mut self, auth: impl Into<Value>) -> Options {
        self.auth = Some(auth.into());
        self
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Options {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The same, coming back after a lost transport.
    #[must_use]
    pub fn reconnect(mut self, reconnect: Reconnect) -> Options {
        self.reconnect = Some(reconnect);
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waits_double_up_to_the_limit() {
        let reconnect = Reconnect { jitter: 0.0, ..Reconnect::default() };
        let waits: Vec<u64> = (0..5).map(|attempt| reconnect.wait(attempt, 0.9).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
        assert_eq!(reconnect.wait(4_000_000, 0.0), Duration::from_secs(5));
    }

    proptest! {
        #[test]
        fn jitter_stays_within_its_share(attempt in 0u32..100, spread in 0.0f64..1.0) {
            let reconnect = Reconnect::default();
            let base = Reconnect { jitter: 0.0, ..reconnect.clone() }.wait(attempt, spread);
            let wait = reconnect.wait(attempt, spread);
            prop_assert!(wait >= base.mul_f64(0.5) && wait <= base.mul_f64(1.5));
        }
    }
}
