//! Every key and channel, in one table.
//!
//! | name | kind | value | TTL | owner |
//! |---|---|---|---|---|
//! | `{prefix}:node:{id}` | hash | `incarnation`, `fence_after_ms`, `started_at` (Unix ms): the node's lease | the pulse's `lease_ttl` | the incarnation it names; written by `lua/pulse.lua`, deleted by `lua/release_lease.lua` |
//! | `{prefix}:node:{id}:ch` | channel | a `NodeMessage` in MessagePack | - | subscribed by the node, published to by anybody |
//! | `{adapter_prefix}#{namespace}#` | channel | an adapter envelope, for no room or several | - | subscribed by nodes with a session in the namespace |
//! | `{adapter_prefix}#{namespace}#{room}#` | channel | an adapter envelope, for exactly this room | - | subscribed by nodes with a member of the room |
//!
//! The adapter's channels are those of `@socket.io/redis-adapter` 8.3. Braces mark placeholders; none is sent.

use tidegate_core::{NodeId, Topic};

/// Spells the names of the table.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: String,
    adapter_prefix: String,
}

impl Keys {
    pub(crate) fn new(prefix: &str, adapter_prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), adapter_prefix: adapter_prefix.to_owned() }
    }

    pub(crate) fn node_lease(&self, node: &NodeId) -> String {
        format!("{}:node:{node}", self.prefix)
    }

    pub(crate) fn node_channel(&self, node: &NodeId) -> String {
        format!("{}:node:{node}:ch", self.prefix)
    }

    pub(crate) fn topic_channel(&self, topic: &Topic) -> String {
        match topic {
            Topic::Namespace(namespace) => format!("{}#{namespace}#", self.adapter_prefix),
            Topic::Room(namespace, room) => format!("{}#{namespace}#{room}#", self.adapter_prefix),
        }
    }

    /// Whether `channel` carries publications of `namespace`. Nodes match by pattern and check the namespace
    /// again; here a payload must not reach another namespace than its channel belongs to.
    pub(crate) fn carries(&self, channel: &[u8], namespace: &str) -> bool {
        channel
            .strip_prefix(self.adapter_prefix.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"#"))
            .and_then(|rest| rest.strip_prefix(namespace.as_bytes()))
            .is_some_and(|rest| rest.starts_with(b"#"))
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::{Namespace, Room};

    use super::*;

    #[test]
    fn names_are_those_of_the_table() {
        let keys = Keys::new("tidegate", "socket.io");
        let node = NodeId::parse("gw-1").expect("a valid id");
        assert_eq!(keys.node_lease(&node), "tidegate:node:gw-1");
        assert_eq!(keys.node_channel(&node), "tidegate:node:gw-1:ch");
        assert_eq!(keys.topic_channel(&Topic::Namespace(Namespace::root())), "socket.io#/#");
        let room = Topic::Room(Namespace::from("/chat"), Room::from("r1"));
        assert_eq!(keys.topic_channel(&room), "socket.io#/chat#r1#");
    }

    #[test]
    fn a_channel_carries_its_own_namespace_only() {
        let keys = Keys::new("tidegate", "socket.io");
        assert!(keys.carries(b"socket.io#/chat#", "/chat"));
        assert!(keys.carries(b"socket.io#/chat#r1#", "/chat"));
        assert!(!keys.carries(b"socket.io#/chat#r1#", "/"));
        assert!(!keys.carries(b"socket.io#/chat#", "/chatter"));
        assert!(!keys.carries(b"other#/chat#", "/chat"));
    }
}
