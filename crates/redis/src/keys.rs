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

use tidegate_core::{Namespace, NodeId, Room, Topic};

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

/// Whether another topic with the channel of `topic` can exist that has a shorter namespace.
///
/// Names may hold the `#` that ends them, so that one channel can be read in several ways: `/a#b#c` is the room
/// `b#c` of `/a`, the room `c` of `/a#b`, and the namespace `/a#b#c`. Of any two readings, the one with the longer
/// namespace has a `#` in it.
pub(crate) fn may_share_channel(topic: &Topic) -> bool {
    let (Topic::Namespace(namespace) | Topic::Room(namespace, _)) = topic;
    namespace.as_str().contains('#')
}

/// Whether `is_wanted` holds of any reading of the channel of `topic`, itself included.
pub(crate) fn any_reading(topic: &Topic, is_wanted: impl Fn(&Topic) -> bool) -> bool {
    let names = match topic {
        Topic::Namespace(namespace) => namespace.as_str().to_owned(),
        Topic::Room(namespace, room) => format!("{namespace}#{room}"),
    };
    let mut rooms = names
        .match_indices('#')
        .map(|(at, _)| Topic::Room(Namespace::from(&names[..at]), Room::from(&names[at + 1..])));
    rooms.any(|room| is_wanted(&room)) || is_wanted(&Topic::Namespace(Namespace::from(names.as_str())))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

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

    #[test]
    fn every_reading_of_a_channel_is_found() {
        let room = |namespace: &str, room: &str| Topic::Room(Namespace::from(namespace), Room::from(room));
        let keys = Keys::new("tidegate", "socket.io");
        for (readings, ambiguous) in [
            (vec![room("/a", "b#c"), room("/a#b", "c"), Topic::Namespace(Namespace::from("/a#b#c"))], 2),
            (vec![room("/x", "y"), Topic::Namespace(Namespace::from("/x#y"))], 1),
            (vec![room("/x", ""), Topic::Namespace(Namespace::from("/x#"))], 1),
            (vec![Topic::Namespace(Namespace::root())], 0),
        ] {
            for topic in &readings {
                let seen = RefCell::new(Vec::new());
                assert!(!any_reading(topic, |reading| {
                    seen.borrow_mut().push(reading.clone());
                    false
                }));
                assert_eq!(*seen.borrow(), readings);
                assert!(any_reading(topic, |reading| reading == topic));
                assert_eq!(keys.topic_channel(topic), keys.topic_channel(&readings[0]));
            }
            assert_eq!(readings.iter().filter(|topic| may_share_channel(topic)).count(), ambiguous);
        }
    }
}
