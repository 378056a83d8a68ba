//! What answers look like, as JSON Schema.

use serde_json::{Map, Value, json};
use tidegate_core::ErrorCode;
use tidegate_core::offline::Status;
use tidegate_core::registry::Transport;

/// A schema of the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Schema {
    /// A refusal.
    Problem,
    /// A user.
    User,
    /// A session of one.
    Session,
    /// How many sessions were ended.
    Evicted,
    /// Part of the rooms.
    Rooms,
    /// Part of a room.
    Room,
    /// How many sessions were chosen.
    Matched,
    /// The nodes.
    Nodes,
    /// The node drains.
    Draining,
    /// What became of a durable message.
    Posted,
    /// How many messages were deleted.
    Deleted,
}

impl Schema {
    /// All of them.
    pub(super) const ALL: [Self; 11] = [
        Self::Problem,
        Self::User,
        Self::Session,
        Self::Evicted,
        Self::Rooms,
        Self::Room,
        Self::Matched,
        Self::Nodes,
        Self::Draining,
        Self::Posted,
        Self::Deleted,
    ];

    /// What it is called in the document.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Problem => "Problem",
            Self::User => "User",
            Self::Session => "Session",
            Self::Evicted => "Evicted",
            Self::Rooms => "Rooms",
            Self::Room => "Room",
            Self::Matched => "Matched",
            Self::Nodes => "Nodes",
            Self::Draining => "Draining",
            Self::Posted => "Posted",
            Self::Deleted => "Deleted",
        }
    }

    /// A reference to it.
    pub(super) fn reference(self) -> Value {
        json!({ "$ref": format!("#/components/schemas/{}", self.as_str()) })
    }

    /// The schema itself.
    pub(super) fn document(self) -> Value {
        match self {
            Self::Problem => problem(),
            Self::User => object(vec![
                ("user", text("The user.")),
                ("sessions", list(&Self::Session.reference(), "Live sessions, the oldest first.")),
                (
                    "offline",
                    object(vec![
                        ("count", number("Durable messages that wait for the user.")),
                        ("bytes", number("Their size, names included.")),
                    ]),
                ),
            ]),
            Self::Session => session(),
            Self::Evicted => object(vec![("evicted", number("How many sessions were ended."))]),
            Self::Rooms => {
                let room = object(vec![
                    ("room", text("The room.")),
                    ("members", number("How many it has: users where presence is on, else sessions.")),
                ]);
                page("rooms", list(&room, "Rooms that have members."), vec![])
            }
            Self::Room => {
                page("members", list(&member(), "Who is there."), vec![("room", text("The room."))])
            }
            Self::Matched => {
                object(vec![("matched", number("How many sessions were chosen, on all nodes."))])
            }
            Self::Nodes => list(&node(), "Nodes that hold their lease."),
            Self::Draining => object(vec![("draining", json!({ "type": "boolean", "const": true }))]),
            Self::Posted => posted(),
            Self::Deleted => object(vec![("deleted", number("How many messages were deleted."))]),
        }
    }
}

fn posted() -> Value {
    let statuses = [Status::Live, Status::Stored, Status::Duplicate].map(Status::as_str);
    object(vec![
        ("id", text("The message's id; for a duplicate, that of the first.")),
        (
            "status",
            json!({
                "type": "string",
                "enum": statuses,
                "description": "live: a session was ready for it. stored: none was. duplicate: it had been sent before.",
            }),
        ),
    ])
}

fn problem() -> Value {
    let codes: Vec<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
    object(vec![
        ("type", json!({ "type": "string", "const": "about:blank" })),
        ("title", text("The status in words.")),
        ("status", json!({ "type": "integer", "minimum": 400, "maximum": 599 })),
        (
            "code",
            json!({ "type": "string", "enum": codes, "description": "The same words as in acknowledgements." }),
        ),
        ("detail", text("What is wrong; it names the field and the limit.")),
    ])
}

fn session() -> Value {
    let transports = [Transport::Polling, Transport::WebSocket].map(Transport::as_str);
    object(vec![
        ("session", text("Its id, which is the Socket.IO socket id.")),
        ("device", text("Its device.")),
        ("node", text("Its node.")),
        ("transport", json!({ "type": "string", "enum": transports })),
        ("connected_at", time("When it connected.")),
        ("last_seen", time("Its last known sign of life.")),
    ])
}

fn member() -> Value {
    object(vec![
        ("session", text("The session.")),
        ("user", perhaps("Its user; null for an anonymous one.")),
        ("device", perhaps("Its device; null for sockets of Node peers.")),
        ("node", perhaps("Its node; null for sockets of Node peers.")),
    ])
}

fn node() -> Value {
    object(vec![
        ("node", text("What it is called.")),
        ("connections", number("Open connections.")),
        ("sessions", number("Live sessions.")),
        ("started_at", time("Since when it runs.")),
        ("draining", json!({ "type": "boolean", "description": "Whether it is going away." })),
        ("version", text("Its version.")),
    ])
}

fn page(name: &'static str, items: Value, others: Vec<(&'static str, Value)>) -> Value {
    let rest = vec![
        (name, items),
        ("missing", list(&json!({ "type": "string" }), "Nodes and peers that did not answer in time.")),
        ("next", perhaps("Ask with `after` set to this for the next page; null after the last.")),
    ];
    object([others, rest].concat())
}

/// An object all of whose properties are always there.
fn object(properties: Vec<(&'static str, Value)>) -> Value {
    let required: Vec<_> = properties.iter().map(|(name, _)| *name).collect();
    let properties: Map<_, _> =
        properties.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    json!({ "type": "object", "required": required, "properties": properties })
}

fn list(items: &Value, description: &str) -> Value {
    json!({ "type": "array", "items": items, "description": description })
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

fn perhaps(description: &str) -> Value {
    json!({ "type": ["string", "null"], "description": description })
}

fn number(description: &str) -> Value {
    json!({ "type": "integer", "minimum": 0, "description": description })
}

fn time(description: &str) -> Value {
    json!({ "type": "integer", "minimum": 0, "description": format!("{description} Unix milliseconds.") })
}
