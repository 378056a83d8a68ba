//! What an identity may do.

use serde_json::{Map, Value};

use crate::glob::Glob;

/// Patterns over names, one list per kind of act. A name is allowed when any pattern of its list matches.
///
/// The layout in a token, under the claim `tidegate` (all keys optional, others ignored):
/// `{ "namespaces": ["/"], "join": ["room:*"], "publish": ["room:*"], "send": ["*"] }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grants {
    /// Namespaces the identity may connect to.
    pub namespaces: Vec<Glob>,
    /// Rooms it may join, and ask the presence of.
    pub join: Vec<Glob>,
    /// Rooms it may publish to.
    pub publish: Vec<Glob>,
    /// Users it may send durable messages to.
    pub send: Vec<Glob>,
}

/// The claim cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// It is no object.
    #[error("claim tidegate is not an object")]
    Claim,
    /// A list is something else.
    #[error("claim tidegate.{list} is not a list of strings")]
    List {
        /// Which of the four.
        list: &'static str,
    },
}

impl Default for Grants {
    /// The namespace `/` and nothing in it: what a token without the claim gets unless the operator says otherwise.
    fn default() -> Self {
        Self { namespaces: vec![root()], join: Vec::new(), publish: Vec::new(), send: Vec::new() }
    }
}

fn root() -> Glob {
    Glob::parse("/")
}

impl Grants {
    /// Everything, everywhere: for nodes that run without authentication.
    #[must_use]
    pub fn all() -> Self {
        let everything = || vec![Glob::everything()];
        Self { namespaces: everything(), join: everything(), publish: everything(), send: everything() }
    }

    /// Reads the claim. Absent `namespaces` mean `/`, any other absent list means nothing. `null` is absent.
    ///
    /// # Errors
    /// When the claim or a list has the wrong type.
    pub fn from_claim(claim: &Value) -> Result<Self, Invalid> {
        let lists = claim.as_object().ok_or(Invalid::Claim)?;
        Ok(Self {
            namespaces: list(lists, "namespaces")?.unwrap_or_else(|| vec![root()]),
            join: list(lists, "join")?.unwrap_or_default(),
            publish: list(lists, "publish")?.unwrap_or_default(),
            send: list(lists, "send")?.unwrap_or_default(),
        })
    }

    /// Whether the identity may connect to the namespace.
    #[must_use]
    pub fn allows_namespace(&self, namespace: &str) -> bool {
        any(&self.namespaces, namespace)
    }

    /// Whether it may join the room, and ask for the room's presence.
    #[must_use]
    pub fn allows_join(&self, room: &str) -> bool {
        any(&self.join, room)
    }

    /// Whether it may publish to the room.
    #[must_use]
    pub fn allows_publish(&self, room: &str) -> bool {
        any(&self.publish, room)
    }

    /// Whether it may send durable messages to the user, and ask for the user's presence.
    #[must_use]
    pub fn allows_send(&self, user: &str) -> bool {
        any(&self.send, user)
    }

    /// Whether it may publish to the whole namespace: only `*` itself says so. Matching the name `*` would not do,
    /// since `?` matches that too.
    #[must_use]
    pub fn allows_broadcast(&self) -> bool {
        self.publish.iter().any(Glob::is_everything)
    }

    /// Whether a join grant names the room without wildcards. Rooms in the shape of a socket id need that: `*` is
    /// meant for the rooms of an application, not for the private room of each of its sockets.
    #[must_use]
    pub fn literally_names_join(&self, room: &str) -> bool {
        literal(&self.join, room)
    }

    /// The same for publishing.
    #[must_use]
    pub fn literally_names_publish(&self, room: &str) -> bool {
        literal(&self.publish, room)
    }
}

fn any(patterns: &[Glob], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(name))
}

fn literal(patterns: &[Glob], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.is_literal() && pattern.matches(name))
}

fn list(lists: &Map<String, Value>, list: &'static str) -> Result<Option<Vec<Glob>>, Invalid> {
    let patterns = match lists.get(list) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(patterns)) => patterns,
        Some(_) => return Err(Invalid::List { list }),
    };
    patterns
        .iter()
        .map(|pattern| pattern.as_str().map(Glob::parse).ok_or(Invalid::List { list }))
        .collect::<Result<_, _>>()
        .map(Some)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::json;

    use super::*;

    #[test]
    fn absent_lists_mean_the_root_namespace_and_nothing_else() {
        for claim in [json!({}), json!({ "join": null, "other": 1 })] {
            let grants = Grants::from_claim(&claim).unwrap();
            assert_eq!(grants, Grants::default());
            assert!(grants.allows_namespace("/") && !grants.allows_namespace("/x"));
            assert!(!grants.allows_join("r") && !grants.allows_publish("r") && !grants.allows_send("u"));
        }
        let nowhere = Grants::from_claim(&json!({ "namespaces": [] })).unwrap();
        assert!(!nowhere.allows_namespace("/"));
    }

    #[test]
    fn each_list_covers_its_own_act() {
        let grants = Grants::from_claim(&json!({
            "namespaces": ["/chat*"], "join": ["room:*"], "publish": ["room:1"], "send": ["u?"],
        }))
        .unwrap();
        assert!(grants.allows_namespace("/chat/eu") && !grants.allows_namespace("/"));
        assert!(grants.allows_join("room:2") && !grants.allows_join("lobby"));
        assert!(grants.allows_publish("room:1") && !grants.allows_publish("room:2"));
        assert!(grants.allows_send("u1") && !grants.allows_send("u12"));
    }

    #[test]
    fn broadcast_takes_the_star_itself() {
        let publish = |patterns| Grants::from_claim(&json!({ "publish": patterns })).unwrap();
        assert!(publish(json!(["*"])).allows_broadcast());
        assert!(!publish(json!(["?", "?*", "/*", r"\*"])).allows_broadcast());
        assert!(Grants::all().allows_broadcast());
    }

    #[test]
    fn socket_rooms_must_be_named_literally() {
        let id = "abcdefghij0123456789";
        let grants = Grants::from_claim(&json!({ "join": ["*", id], "publish": ["*", "abc*"] })).unwrap();
        assert!(grants.literally_names_join(id));
        assert!(grants.allows_publish(id) && !grants.literally_names_publish(id));
        assert!(!Grants::all().literally_names_join(id));
    }

    #[test]
    fn wrong_types_are_refused() {
        let fault = |claim: Value| Grants::from_claim(&claim).unwrap_err();
        assert_eq!(fault(json!("all")), Invalid::Claim);
        assert_eq!(fault(json!({ "join": "room" })), Invalid::List { list: "join" });
        assert_eq!(fault(json!({ "send": ["a", 1] })), Invalid::List { list: "send" });
    }
}
