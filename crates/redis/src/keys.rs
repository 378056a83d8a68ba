//! Every key and channel, in one table.
//!
//! | name | kind | value | TTL | owner |
//! |---|---|---|---|---|
//! | `{prefix}:{node:ID}:lease` | hash | `incarnation`, `fence_after_ms`, `started_at` (Unix ms), `connections`, `sessions`, `draining` (0, 1), `version`: the node's lease | the pulse's `lease_ttl` | the incarnation it names; written by `lua/pulse.lua`, deleted by `lua/release_lease.lua` |
//! | `{prefix}:{node:ID}:ch` | channel | a `NodeMessage` in MessagePack | - | subscribed by the node, published to by anybody |
//! | `{prefix}:{node:ID}:held:INC` | set | `[claim, session, namespace, user]`, see `index.rs`: what the incarnation may hold, written before it does | none | the incarnation; emptied by whoever takes over from it |
//! | `{prefix}:{node:ID}:stays:INC` | set | `[namespace, room, user, device, session]`: the rooms its sessions may be in | none | as above |
//! | `{prefix}:nodes` | hash | incarnation -> an entry of `nodes.rs` | none | the incarnation it names, by `lua/enlist.lua`; whoever takes over from it, by `lua/reap_*.lua`. Deleted when the node stops in good order, else a day after it was taken over |
//! | `{prefix}:{NS\|USER}:sessions` | hash | session -> a row or a mark of `row.rs` | 24 h from the latest claim, check or refresh: far more than a live session goes without one | `lua/claim.lua` and its neighbours |
//! | `{prefix}:{NS\|USER}:inbox` | stream | `x` when it expires (Unix ms), `m` a message of `inbox.rs` | one to two hours from when its last message expires; an hour when it is empty | `lua/send.lua` and its neighbours |
//! | `{prefix}:{NS\|USER}:inbox:known` | hash | `bytes`, `last`, `latest`, `aged`, `timed`, `kept`: what `lua/inbox.lua` knows about it | as above | as above |
//! | `{prefix}:{NS\|USER}:inbox:timed` | sorted set | serials of messages that expire before an older one, by when (Unix ms) | as above; gone with the last message | as above |
//! | `{prefix}:{NS\|USER}:id:SENDER\|ID` | string | the serial of the first message with this idempotency key | `offline.id_ttl` | `lua/send.lua` |
//! | `{prefix}:{NS\|USER}:attempts` | string | what the user has sent in this minute | the minute | `lua/token.lua` |
//! | `{prefix}:{NS\|BUCKET}:rooms` | hash | room -> how many users are in it | none | `lua/enter.lua`, `lua/depart.lua` |
//! | `{prefix}:{NS\|BUCKET}:room:ROOM` | hash | user -> `[session, device, node, entered (Unix ms), ...]`, four for each of its sessions there | none | as above |
//! | `{adapter_prefix}#NS#` | channel | an adapter envelope, for no room or several | - | subscribed by nodes with a session in the namespace |
//! | `{adapter_prefix}#NS#ROOM#` | channel | an adapter envelope, for exactly this room | - | subscribed by nodes with a member of the room |
//! | `{adapter_prefix}-request#NS#` | channel | a request, see `requests/mod.rs` | - | subscribed by servers that answer for the namespace; whoever is subscribed is counted |
//! | `{adapter_prefix}-response#NS#` | channel | answers, as far as who asks is no node | - | subscribed by nodes that ask, and by all other servers |
//! | `{adapter_prefix}-response#NS#UID#` | channel | answers to the process of that uid | - | subscribed by that process |
//!
//! `{prefix}` and `{adapter_prefix}` are placeholders. The other braces are sent: they are the hash tags of Redis
//! Cluster, so that what one script touches is in one slot. A prefix with braces of its own would end that. ID is a
//! node's id and INC an incarnation, neither of which can hold a brace; NS is a namespace and USER a user, in which
//! `%`, `|`, `{` and `}` are written as in a URL; SENDER is a user likewise, nothing for the operator, and ID as it is; BUCKET is 0 to 15, by the room's name.
//!
//! The adapter's channels are those of `@socket.io/redis-adapter` 8.3, with all names as they are; UID is what a
//! process calls itself there.

use std::borrow::Cow;

use tidegate_core::registry::Place;
use tidegate_core::{Incarnation, Namespace, NodeId, Room, SessionId, Topic};

/// How many buckets the rooms of a namespace are spread over, and with them its presence over a cluster's slots.
pub(crate) const BUCKETS: u32 = 16;

/// Spells the names of the table.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: String,
    adapter_prefix: String,
    /// What this process calls itself on the adapter's channels.
    uid: String,
}

/// What a channel carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic<'a> {
    /// Publications.
    Publications,
    /// Requests to the servers of this namespace.
    Requests(&'a str),
    /// Answers.
    Answers,
}

impl Keys {
    pub(crate) fn new(prefix: &str, adapter_prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), adapter_prefix: adapter_prefix.to_owned(), uid: String::new() }
    }

    /// As the process that calls itself `uid`.
    pub(crate) fn of_process(self, uid: &str) -> Self {
        Self { uid: uid.to_owned(), ..self }
    }

    pub(crate) fn uid(&self) -> &str {
        &self.uid
    }

    pub(crate) fn node_lease(&self, node: &NodeId) -> String {
        format!("{}:{{node:{node}}}:lease", self.prefix)
    }

    pub(crate) fn node_channel(&self, node: &NodeId) -> String {
        format!("{}{node}{NODE_CHANNEL_END}", self.node_channel_front())
    }

    /// What stands before a node's id in the name of its channel, for scripts, which spell the rest themselves.
    pub(crate) fn node_channel_front(&self) -> String {
        format!("{}:{{node:", self.prefix)
    }

    pub(crate) fn held(&self, node: &NodeId, incarnation: &Incarnation) -> String {
        format!("{}:{{node:{node}}}:held:{}", self.prefix, incarnation.as_str())
    }

    pub(crate) fn stays(&self, node: &NodeId, incarnation: &Incarnation) -> String {
        format!("{}:{{node:{node}}}:stays:{}", self.prefix, incarnation.as_str())
    }

    pub(crate) fn nodes(&self) -> String {
        format!("{}:nodes", self.prefix)
    }

    pub(crate) fn place(&self, place: &Place) -> String {
        self.of_place(place, "sessions")
    }

    /// The key of one thing that belongs to a place, in its slot.
    fn of_place(&self, place: &Place, what: &str) -> String {
        let (namespace, user) = (escaped(place.namespace.as_str()), escaped(&place.user));
        format!("{}:{{{namespace}|{user}}}:{what}", self.prefix)
    }

    /// The keys of an inbox, as the scripts of `lua/inbox.lua` want them.
    pub(crate) fn inbox(&self, place: &Place) -> [String; 4] {
        ["sessions", "inbox", "inbox:known", "inbox:timed"].map(|what| self.of_place(place, what))
    }

    pub(crate) fn idempotency(&self, place: &Place, sender: Option<&str>, id: &str) -> String {
        let sender = sender.map_or_else(Cow::default, escaped);
        self.of_place(place, &format!("id:{sender}|{id}"))
    }

    pub(crate) fn attempts(&self, place: &Place) -> String {
        self.of_place(place, "attempts")
    }

    pub(crate) fn rooms(&self, namespace: &Namespace, bucket: u32) -> String {
        format!("{}:{{{}|{bucket}}}:rooms", self.prefix, escaped(namespace.as_str()))
    }

    pub(crate) fn room(&self, namespace: &Namespace, room: &Room) -> String {
        format!("{}:{{{}|{}}}:room:{room}", self.prefix, escaped(namespace.as_str()), bucket(room))
    }

    pub(crate) fn topic_channel(&self, topic: &Topic) -> String {
        let prefix = &*self.adapter_prefix;
        // Joined and not formatted: each publish needs one.
        match topic {
            Topic::Namespace(namespace) => [prefix, "#", namespace.as_str(), "#"].concat(),
            Topic::Room(namespace, room) => {
                [prefix, "#", namespace.as_str(), "#", room.as_str(), "#"].concat()
            }
            Topic::Socket(namespace, socket) => {
                [prefix, "#", namespace.as_str(), "#", socket.as_str(), "#"].concat()
            }
            Topic::Requests(namespace) => [prefix, "-request#", namespace.as_str(), "#"].concat(),
            Topic::Answers(namespace) => [prefix, "-response#", namespace.as_str(), "#"].concat(),
        }
    }

    /// The channel of answers to one process. Nobody outside knows its uid, so no namespace is named to end in it.
    pub(crate) fn answer_channel(&self, namespace: &Namespace, uid: &str) -> String {
        format!("{}-response#{namespace}#{uid}#", self.adapter_prefix)
    }

    /// All the channels of a topic.
    pub(crate) fn topic_channels(&self, topic: &Topic) -> impl Iterator<Item = String> {
        let own = match topic {
            Topic::Answers(namespace) => Some(self.answer_channel(namespace, &self.uid)),
            _ => None,
        };
        [self.topic_channel(topic)].into_iter().chain(own)
    }

    /// What a subscribed channel carries.
    pub(crate) fn traffic<'a>(&self, channel: &'a [u8]) -> Traffic<'a> {
        let Some(rest) = channel.strip_prefix(self.adapter_prefix.as_bytes()) else {
            return Traffic::Publications;
        };
        if rest.starts_with(b"-response#") {
            return Traffic::Answers;
        }
        let namespace = rest.strip_prefix(b"-request#").and_then(|rest| rest.strip_suffix(b"#"));
        // The names of channels are made of strings here, and no other is subscribed to.
        match namespace.map(std::str::from_utf8) {
            Some(Ok(namespace)) => Traffic::Requests(namespace),
            _ => Traffic::Publications,
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

/// What stands behind a node's id in the name of its channel. `lua/place.lua` spells it, too.
const NODE_CHANNEL_END: &str = "}:ch";

/// The bucket of a room. Every version has to find the same: it is FNV-1a over the name, of 32 bits.
pub(crate) fn bucket(room: &Room) -> u32 {
    let hash = room
        .as_str()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash % BUCKETS
}

/// What the connections of an incarnation are called.
pub(crate) fn connection_name(incarnation: &Incarnation) -> String {
    format!("tidegate:{}", incarnation.as_str())
}

/// `name` without the characters that mean something in a key: no two names become one.
fn escaped(name: &str) -> Cow<'_, str> {
    if !name.contains(['%', '|', '{', '}']) {
        return name.into();
    }
    let mut out = String::with_capacity(name.len() + 8);
    for character in name.chars() {
        match character {
            '%' => out.push_str("%25"),
            '|' => out.push_str("%7C"),
            '{' => out.push_str("%7B"),
            '}' => out.push_str("%7D"),
            other => out.push(other),
        }
    }
    out.into()
}

/// Whether another topic with the channel of `topic` can exist that has a shorter namespace, or, of a room, is a socket.
///
/// Names may hold the `#` that ends them, so that one channel can be read in several ways: `/a#b#c` is the room
/// `b#c` of `/a`, the room `c` of `/a#b`, and the namespace `/a#b#c`. Of any two readings, the one with the longer
/// namespace has a `#` in it.
pub(crate) fn may_share_channel(topic: &Topic) -> bool {
    match topic {
        Topic::Namespace(namespace) | Topic::Socket(namespace, _) => namespace.as_str().contains('#'),
        Topic::Room(namespace, room) => namespace.as_str().contains('#') || Room::is_socket_id(room.as_str()),
        Topic::Requests(_) | Topic::Answers(_) => false,
    }
}

/// Whether `is_wanted` holds of any reading of the channel of `topic`, itself included.
pub(crate) fn any_reading(topic: &Topic, is_wanted: impl Fn(&Topic) -> bool) -> bool {
    let names = match topic {
        Topic::Namespace(namespace) => namespace.as_str().to_owned(),
        Topic::Room(namespace, room) => format!("{namespace}#{room}"),
        Topic::Socket(namespace, socket) => format!("{namespace}#{socket}"),
        Topic::Requests(_) | Topic::Answers(_) => return is_wanted(topic),
    };
    let mut rooms = names.match_indices('#').flat_map(|(at, _)| {
        let (namespace, room) = (Namespace::from(&names[..at]), &names[at + 1..]);
        let socket = SessionId::parse(room).map(|socket| Topic::Socket(namespace.clone(), socket));
        [Some(Topic::Room(namespace, Room::from(room))), socket].into_iter().flatten()
    });
    rooms.any(|room| is_wanted(&room)) || is_wanted(&Topic::Namespace(Namespace::from(names.as_str())))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn place(namespace: &str, user: &str) -> Place {
        Place { namespace: Namespace::from(namespace), user: user.into() }
    }

    #[test]
    fn rooms_are_found_where_every_version_finds_them() {
        for (room, expected) in [("", 5), ("a", 12), ("room:1", 3)] {
            assert_eq!(bucket(&Room::from(room)), expected, "{room}");
        }
        let used: HashSet<_> = (0..500).map(|n| bucket(&Room::from(format!("room:{n}")))).collect();
        assert_eq!(used.len(), BUCKETS as usize);
    }

    proptest! {
        /// The part that Redis Cluster hashes: from the first brace to the first that closes one after it.
        #[test]
        fn no_two_places_share_a_key_and_each_tag_is_whole(
            a in ("/[a-c|%{}7BCD25]{0,6}", "[a-c|%{}7BCD25]{0,6}"),
            b in ("/[a-c|%{}7BCD25]{0,6}", "[a-c|%{}7BCD25]{0,6}"),
        ) {
            let keys = Keys::new("p", "socket.io");
            let (one, two) = (keys.place(&place(&a.0, &a.1)), keys.place(&place(&b.0, &b.1)));
            prop_assert_eq!(one == two, a == b);
            let tag = one.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
            prop_assert_eq!(tag.map(|(_, rest)| rest), Some(":sessions"));
        }
    }

    #[test]
    fn names_are_those_of_the_table() {
        let keys = Keys::new("tidegate", "socket.io");
        let node = NodeId::parse("gw-1").expect("a valid id");
        assert_eq!(keys.node_lease(&node), "tidegate:{node:gw-1}:lease");
        assert_eq!(keys.node_channel(&node), "tidegate:{node:gw-1}:ch");
        let incarnation = Incarnation::from("abc");
        assert_eq!(keys.held(&node, &incarnation), "tidegate:{node:gw-1}:held:abc");
        assert_eq!(keys.stays(&node, &incarnation), "tidegate:{node:gw-1}:stays:abc");
        assert_eq!(keys.nodes(), "tidegate:nodes");
        assert_eq!(keys.place(&place("/chat", "ann")), "tidegate:{/chat|ann}:sessions");
        let namespace = Namespace::from("/{a}");
        assert_eq!(keys.rooms(&namespace, 3), "tidegate:{/%7Ba%7D|3}:rooms");
        assert_eq!(keys.room(&namespace, &Room::from("r{1}|%")), "tidegate:{/%7Ba%7D|7}:room:r{1}|%");
        assert_eq!(keys.topic_channel(&Topic::Namespace(Namespace::root())), "socket.io#/#");
        let room = Topic::Room(Namespace::from("/chat"), Room::from("r1"));
        assert_eq!(keys.topic_channel(&room), "socket.io#/chat#r1#");
    }

    #[test]
    fn a_channel_says_what_it_carries() {
        let keys = Keys::new("tidegate", "socket.io").of_process("asukF3");
        let requests = Topic::Requests(Namespace::from("/chat"));
        let answers = Topic::Answers(Namespace::from("/chat"));
        assert_eq!(keys.topic_channels(&requests).collect::<Vec<_>>(), ["socket.io-request#/chat#"]);
        assert_eq!(
            keys.topic_channels(&answers).collect::<Vec<_>>(),
            ["socket.io-response#/chat#", "socket.io-response#/chat#asukF3#"]
        );
        for (channel, traffic) in [
            (&b"socket.io-request#/chat#"[..], Traffic::Requests("/chat")),
            (b"socket.io-request#/a#b#", Traffic::Requests("/a#b")),
            (b"socket.io-response#/chat#", Traffic::Answers),
            (b"socket.io-response#/chat#asukF3#", Traffic::Answers),
            (b"socket.io#/chat#", Traffic::Publications),
            (b"socket.io#-request#/chat#", Traffic::Publications),
            (b"other-request#/chat#", Traffic::Publications),
        ] {
            assert_eq!(keys.traffic(channel), traffic, "{}", channel.escape_ascii());
        }
        for topic in [requests, answers] {
            assert!(!may_share_channel(&topic) && any_reading(&topic, |reading| *reading == topic));
        }
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
        let socket = SessionId::parse("aaaaaaaaaaaaaaaaaaaa").unwrap();
        for (readings, ambiguous) in [
            (vec![room("/a", "b#c"), room("/a#b", "c"), Topic::Namespace(Namespace::from("/a#b#c"))], 2),
            (vec![room("/x", "y"), Topic::Namespace(Namespace::from("/x#y"))], 1),
            (vec![room("/x", ""), Topic::Namespace(Namespace::from("/x#"))], 1),
            (vec![Topic::Namespace(Namespace::root())], 0),
            (
                vec![
                    room("/a", "aaaaaaaaaaaaaaaaaaaa"),
                    Topic::Socket(Namespace::from("/a"), socket),
                    Topic::Namespace(Namespace::from("/a#aaaaaaaaaaaaaaaaaaaa")),
                ],
                2,
            ),
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
