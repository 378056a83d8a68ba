//! What a broker is told, and why it could not start.

use std::time::Duration;

use tidegate_core::{Incarnation, NodeId};

/// How [`RedisBroker`](crate::RedisBroker) reaches Redis and what it is called there.
#[derive(Clone, Debug)]
pub struct Options {
    /// `redis://[[user]:password@]host[:port][/db]`, `rediss://` for the same over TLS, or `redis+sentinel://` with several hosts
    /// and the master's name; [`check_url`](crate::check_url) says whether it can be used.
    pub url: String,
    /// Whose certificates are believed with `rediss://`, in PEM; those of the system if none are given.
    pub tls_ca: Option<Vec<u8>>,
    /// Before every key and channel of Tidegate's own. It must not hold a brace: what stands in the first braces of a
    /// key decides where Redis Cluster keeps it.
    pub prefix: String,
    /// Before the channels shared with `@socket.io/redis-adapter`.
    pub adapter_prefix: String,
    /// How long [`RedisBroker::connect`](crate::RedisBroker::connect) goes on trying.
    pub connect_timeout: Duration,
    /// How long any one command may take, and how long a publication may wait to be sent.
    pub command_timeout: Duration,
    /// What may wait to be published or answered, in bytes.
    pub publish_queue_bytes_max: usize,
    /// How long the node acts after a pulse without hearing from it. What was written to Redis and is not
    /// acknowledged by then must not arrive later, so it also bounds retransmission on both connections.
    pub fence_after: Duration,
    /// What the node is called. Its lease and its channel are named after it.
    pub node: NodeId,
    /// Which run of the node this is.
    pub incarnation: Incarnation,
}

impl Options {
    /// The documented defaults, for a node that meets the others at `url`.
    #[must_use]
    pub fn new(url: &str, node: NodeId) -> Self {
        Self {
            url: url.to_owned(),
            tls_ca: None,
            prefix: "tidegate".to_owned(),
            adapter_prefix: "socket.io".to_owned(),
            connect_timeout: Duration::from_secs(10),
            command_timeout: Duration::from_secs(2),
            publish_queue_bytes_max: 8 * 1024 * 1024,
            fence_after: Duration::from_secs(1),
            node,
            incarnation: Incarnation::random(),
        }
    }

    /// How long a pulse or a ping may take. An answer that comes after the node has fenced itself is worth
    /// nothing, and the connection must be reset by then.
    pub(crate) fn pulse_timeout(&self) -> Duration {
        self.command_timeout.min(self.fence_after)
    }
}

/// Why a broker could not be had. URLs are masked.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL cannot be used, whatever runs there.
    #[error("redis url {url}: {reason}")]
    Url {
        /// The URL without its password.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The prefix holds a brace.
    #[error("redis prefix {prefix:?} must be without {{ and }}")]
    Prefix {
        /// The prefix.
        prefix: String,
    },
    /// Nothing usable answered within `connect_timeout`.
    #[error("redis at {url} could not be reached within {timeout:?}: {reason}")]
    Unreachable {
        /// The URL without its password.
        url: String,
        /// `connect_timeout`.
        timeout: Duration,
        /// Why the last attempt failed.
        reason: String,
    },
    /// The server is too old.
    #[error("redis at {url} has version {found}; redis 6.2 or valkey 7.2 is the oldest supported")]
    Version {
        /// The URL without its password.
        url: String,
        /// What the server said.
        found: String,
    },
}
