//! Ids: of nodes, their incarnations, sessions, messages; and the names of rooms and namespaces.

use std::borrow::Borrow;
use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Length of a session id in characters. Stock Socket.IO ids have the same length, and peers tell a socket id
/// from a room name by it.
pub const SESSION_ID_LENGTH: usize = 20;

/// Longest node id, in bytes.
pub const NODE_ID_BYTES_MAX: usize = 64;

/// Random bytes that are asked of the system at a time: a system call for each id was a twentieth of a publish.
const RANDOM_BYTES: usize = 1_024;

/// Random bytes of this thread that were not given out yet.
struct Randomness {
    bytes: [u8; RANDOM_BYTES],
    used: usize,
}

thread_local! {
    static RANDOMNESS: RefCell<Randomness> =
        const { RefCell::new(Randomness { bytes: [0; RANDOM_BYTES], used: RANDOM_BYTES }) };
}

/// Random bytes for something that nobody may guess. At most 1,024 at a time.
///
/// # Panics
/// When the system has no random source.
#[must_use]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    const { assert!(N <= RANDOM_BYTES) };
    RANDOMNESS.with_borrow_mut(|randomness| {
        if randomness.used + N > RANDOM_BYTES {
            getrandom::fill(&mut randomness.bytes)
                .expect("the system has a random source; without one no id may be given out");
            randomness.used = 0;
        }
        let given = &mut randomness.bytes[randomness.used..randomness.used + N];
        randomness.used += N;
        let mut bytes = [0; N];
        // What was given out is not kept: some of it is nobody else's business.
        bytes.swap_with_slice(given);
        bytes
    })
}

/// Twenty characters of base64url that hold 120 random bits.
#[must_use]
pub fn random_token() -> String {
    URL_SAFE_NO_PAD.encode(random_bytes::<15>())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $type {
            fn from(name: &str) -> Self {
                Self(name.into())
            }
        }

        impl From<String> for $type {
            fn from(name: String) -> Self {
                Self(name.into())
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "({:?})"), &*self.0)
            }
        }
    };
}

name! {
    /// A Socket.IO namespace, with its leading slash.
    Namespace
}

name! {
    /// A room of one namespace. The id of a socket names a room, too: the one that holds only this socket.
    Room
}

name! {
    /// What a request between servers is called by who asks; see [`Request`](crate::Request). Those of other servers
    /// are any text.
    RequestId
}

impl RequestId {
    /// A new one, which nobody can guess: an answer is believed for knowing it.
    #[must_use]
    pub fn random() -> Self {
        Self::from(random_token())
    }
}

impl Namespace {
    /// The namespace every client may ask for without naming one.
    #[must_use]
    pub fn root() -> Self {
        ROOT.clone()
    }

    /// The namespace of that name. Nearly all are the root, which exists once however many hold it.
    #[must_use]
    pub fn named(name: &str) -> Self {
        if name == "/" { Self::root() } else { Self::from(name) }
    }
}

static ROOT: LazyLock<Namespace> = LazyLock::new(|| Namespace::from("/"));

impl Room {
    /// Whether the name has the shape of a socket id: exactly [`SESSION_ID_LENGTH`] characters of base64url.
    #[must_use]
    pub fn is_socket_id(name: &str) -> bool {
        name.len() == SESSION_ID_LENGTH
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
    }
}

/// What a node is called: 1 to [`NODE_ID_BYTES_MAX`] characters of `[A-Za-z0-9_.-]`, so that it can stand in
/// a key, a channel, a URL and a label.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeId(Arc<str>);

/// The name cannot be a node's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a node id has 1 to {NODE_ID_BYTES_MAX} characters of A-Z a-z 0-9 _ . -")]
pub struct InvalidNodeId;

impl NodeId {
    /// Checks the shape of `name`.
    ///
    /// # Errors
    /// When it is empty, too long, or holds another character.
    pub fn parse(name: &str) -> Result<Self, InvalidNodeId> {
        let valid = (1..=NODE_ID_BYTES_MAX).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        if valid { Ok(Self(name.into())) } else { Err(InvalidNodeId) }
    }

    /// A random id of eight characters, for a node that was given none.
    #[must_use]
    pub fn random() -> Self {
        Self(URL_SAFE_NO_PAD.encode(random_bytes::<6>()).into())
    }

    /// The id itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One run of a node: 96 random bits in base64url. Two processes that were given the same node id differ in it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Incarnation(Arc<str>);

impl Incarnation {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        Self(URL_SAFE_NO_PAD.encode(random_bytes::<12>()).into())
    }

    /// The characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Incarnation {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

/// What one claim of a session is called: 96 random bits in base64url. It is compared for equality and never ordered.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClaimId([u8; CLAIM_ID_LENGTH]);

/// Length of a claim id in characters.
pub const CLAIM_ID_LENGTH: usize = 16;

impl ClaimId {
    /// Stands where no claim was made. No claim is called so, but by a chance of one in 2^96.
    pub const NOBODY: Self = Self([b'-'; CLAIM_ID_LENGTH]);

    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        let mut id = [0; CLAIM_ID_LENGTH];
        URL_SAFE_NO_PAD
            .encode_slice(random_bytes::<12>(), &mut id)
            .expect("twelve bytes are sixteen characters of base64");
        Self(id)
    }

    /// The id that `text` spells, if it has the shape of one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let valid = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        if valid { text.as_bytes().try_into().ok().map(Self) } else { None }
    }

    /// The characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("only base64url characters are ever stored")
    }
}

impl fmt::Debug for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClaimId({})", self.as_str())
    }
}

/// The public id of a session, which is the Socket.IO socket id: 20 characters that hold 120 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId([u8; SESSION_ID_LENGTH]);

impl SessionId {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        let mut id = [0; SESSION_ID_LENGTH];
        URL_SAFE_NO_PAD
            .encode_slice(random_bytes::<15>(), &mut id)
            .expect("fifteen bytes are twenty characters of base64");
        Self(id)
    }

    /// The id that `text` spells, if it has the shape of one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if !Room::is_socket_id(text) {
            return None;
        }
        text.as_bytes().try_into().ok().map(Self)
    }

    /// The characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("only base64url characters are ever stored")
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// The id of one message: 48 bits of Unix milliseconds, then 72 random bits, as 20 characters of base64url.
/// Ids of one publisher sort roughly by time once decoded; nothing depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageId([u8; 20]);

impl MessageId {
    /// An id for a message of `unix_ms`.
    #[must_use]
    pub fn new(unix_ms: u64) -> Self {
        let mut raw = random_bytes::<15>();
        raw[..6].copy_from_slice(&unix_ms.to_be_bytes()[2..]);
        let mut id = [0; 20];
        URL_SAFE_NO_PAD.encode_slice(raw, &mut id).expect("fifteen bytes are twenty characters of base64");
        Self(id)
    }

    /// The characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("only base64url characters are ever stored")
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageId({})", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

    use super::*;

    #[test]
    fn session_ids_have_the_shape_peers_expect() {
        let id = SessionId::random();
        assert!(Room::is_socket_id(id.as_str()));
        assert_eq!(SessionId::parse(id.as_str()), Some(id));
        assert_ne!(SessionId::random(), id);
        assert_eq!(SessionId::parse("short"), None);
        assert_eq!(SessionId::parse("twenty characters !!"), None);
    }

    #[test]
    fn no_randomness_is_given_out_twice() {
        let ids = |_| (0..2_000).map(|_| SessionId::random()).collect::<Vec<_>>();
        let threads = [0, 1].map(|thread| std::thread::spawn(move || ids(thread)));
        let mut all: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        all.extend(ids(2));
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), 6_000);
    }

    #[test]
    fn node_ids_are_checked() {
        assert!(NodeId::parse("gw-1.eu_west").is_ok());
        assert!(NodeId::parse(NodeId::random().as_str()).is_ok());
        for bad in ["", "a b", "a/b", "ä", &"x".repeat(65)] {
            assert_eq!(NodeId::parse(bad), Err(InvalidNodeId), "{bad}");
        }
    }

    #[test]
    fn message_ids_begin_with_their_time() {
        let id = MessageId::new(0x0001_0203_0405);
        let raw = URL_SAFE_NO_PAD.decode(id.as_str()).unwrap();
        assert_eq!(raw[..6], [0, 1, 2, 3, 4, 5]);
    }
}
