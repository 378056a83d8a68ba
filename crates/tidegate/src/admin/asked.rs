//! What a request says besides its path: read, and held to the limits, at one place.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tidegate_core::registry::{Page, Place};
use tidegate_core::{ErrorCode, Namespace, Room, SessionId};
use tidegate_gateway::namespaces::Namespaces;

use super::body::Body;
use super::page::{self, LIMIT_DEFAULT, LIMIT_MAX};
use super::problem::Problem;
use super::query;

/// Most entries of one list in a body.
pub(super) const LIST_MAX: usize = 1000;

/// A parameter of a query, or a field of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Where; `/` when left out.
    Namespace,
    /// Of one device only.
    Device,
    /// How many entries at most.
    Limit,
    /// Where the page before ended.
    After,
    /// Members of these rooms.
    Rooms,
    /// Sessions of these users.
    Users,
    /// These sessions.
    Sessions,
    /// Whether the connection is to end, too.
    Close,
    /// What a message is called.
    Event,
    /// What it says.
    Data,
    /// The idempotency key.
    Id,
    /// How long it waits.
    TtlMs,
}

/// What names and namespaces are held to.
#[derive(Debug)]
pub(super) struct Limits {
    /// Longest name, in bytes.
    pub(super) name_bytes_max: usize,
    /// Largest durable message, in bytes of its MessagePack form.
    pub(super) message_bytes_max: usize,
    /// Which namespaces there are.
    pub(super) namespaces: Namespaces,
}

/// Everything a request says. What a route does not take is what it is when left out.
#[derive(Debug)]
pub(super) struct Asked {
    /// Where.
    pub(super) namespace: Namespace,
    /// The user or the room in the path.
    pub(super) subject: Arc<str>,
    /// One device only.
    pub(super) device: Option<Arc<str>>,
    /// Which part of a list.
    pub(super) page: Page,
    /// Rooms.
    pub(super) rooms: Vec<Room>,
    /// Users.
    pub(super) users: Vec<Arc<str>>,
    /// Sessions.
    pub(super) sessions: Vec<SessionId>,
    /// Whether to close.
    pub(super) close: bool,
    /// An event.
    pub(super) event: Option<Arc<str>>,
    /// Data, as the JSON that came.
    pub(super) data: Option<String>,
    /// An idempotency key.
    pub(super) id: Option<Arc<str>>,
    /// How long something lasts.
    pub(super) ttl: Option<Duration>,
}

impl Word {
    /// How it is written.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::Device => "device",
            Self::Limit => "limit",
            Self::After => "after",
            Self::Rooms => "rooms",
            Self::Users => "users",
            Self::Sessions => "sessions",
            Self::Close => "close",
            Self::Event => "event",
            Self::Data => "data",
            Self::Id => "id",
            Self::TtlMs => "ttl_ms",
        }
    }

    /// Its JSON Schema.
    pub(super) fn schema(self) -> Value {
        let names = |what: &str| {
            json!({
                "type": "array",
                "items": { "type": "string", "minLength": 1 },
                "maxItems": LIST_MAX,
                "default": [],
                "description": what,
            })
        };
        match self {
            Self::Namespace => json!({
                "type": "string",
                "default": "/",
                "pattern": "^/",
                "description": "The Socket.IO namespace.",
            }),
            Self::Device => json!({
                "type": "string",
                "minLength": 1,
                "description": "Only sessions of this device.",
            }),
            Self::Limit => json!({
                "type": "integer",
                "minimum": 1,
                "maximum": LIMIT_MAX,
                "default": LIMIT_DEFAULT,
                "description": "About how many entries at most; a page may hold fewer without being the last.",
            }),
            Self::After => json!({
                "type": "string",
                "minLength": 1,
                "description": "`next` of the page before; left out for the first.",
            }),
            Self::Rooms => names("Sessions in any of these rooms."),
            Self::Users => names("All sessions of these users."),
            Self::Sessions => names("Sessions by their ids, which are Socket.IO socket ids."),
            Self::Close => json!({
                "type": "boolean",
                "default": false,
                "description": "Whether to close the connections, too, and not only to leave the namespace.",
            }),
            Self::Event => json!({
                "type": "string",
                "minLength": 1,
                "description": "The event that a live session gets the message as. None of Socket.IO's reserved \
                                names, nor the gateway's own. At most limits.name_bytes_max bytes.",
            }),
            Self::Data => json!({
                "description": "Any JSON value; null when left out. At most offline.message_bytes_max bytes as \
                                MessagePack.",
            }),
            Self::Id => json!({
                "type": "string",
                "minLength": 1,
                "description": "An idempotency key: sent again to this user, nothing more is stored. At most \
                                limits.name_bytes_max bytes.",
            }),
            Self::TtlMs => json!({
                "type": "integer",
                "minimum": 1,
                "description": "How long it waits, if that is less than offline.age_max_ms. Milliseconds, in digits \
                                alone.",
            }),
        }
    }
}

impl Limits {
    /// Reads what a request says. `subject` is the name in the path with what it is the name of; `known` are the
    /// words its query may hold, `fields` those of its body.
    pub(super) fn read(
        &self,
        subject: Option<(&str, &str)>,
        (known, query): (&[Word], Option<&str>),
        (fields, body): (&[Word], Body),
    ) -> Result<Asked, Problem> {
        let said =
            Said { limits: self, values: [of_query(known, query)?, of_body(fields, body.value)?].concat() };
        // What is about no namespace must work also where there is no root.
        let named = known.contains(&Word::Namespace) || fields.contains(&Word::Namespace);
        Ok(Asked {
            namespace: if named { said.namespace()? } else { Namespace::root() },
            subject: subject.map_or(Ok(""), |(what, name)| self.name(what, name))?.into(),
            device: said.name(Word::Device)?,
            page: page::page(said.text(Word::Limit)?, said.text(Word::After)?.map(str::to_owned))?,
            rooms: said.list(Word::Rooms, |name| Some(Room::from(name)))?,
            users: said.list(Word::Users, |name| Some(name.into()))?,
            sessions: said.list(Word::Sessions, SessionId::parse)?,
            close: said.switch(Word::Close)?,
            event: said.name(Word::Event)?,
            data: body.data.filter(|_| fields.contains(&Word::Data)),
            id: said.name(Word::Id)?,
            ttl: said.milliseconds(Word::TtlMs)?,
        })
    }

    fn name<'n>(&self, what: &str, name: &'n str) -> Result<&'n str, Problem> {
        if (1..=self.name_bytes_max).contains(&name.len()) {
            return Ok(name);
        }
        let limit = self.name_bytes_max;
        Err(Problem::bad_request(format!("{what}: must have 1 to {limit} bytes (limits.name_bytes_max)")))
    }
}

/// The words of a request with their values. Those of a query are texts.
struct Said<'l> {
    limits: &'l Limits,
    values: Vec<(Word, Value)>,
}

impl Said<'_> {
    fn value(&self, word: Word) -> Option<&Value> {
        self.values.iter().find(|(said, _)| *said == word).map(|(_, value)| value)
    }

    fn text(&self, word: Word) -> Result<Option<&str>, Problem> {
        self.value(word)
            .map(|value| value.as_str().ok_or_else(|| wanted(word.as_str(), "a text")))
            .transpose()
    }

    fn name(&self, word: Word) -> Result<Option<Arc<str>>, Problem> {
        let name = self.text(word)?.map(|name| self.limits.name(word.as_str(), name)).transpose()?;
        Ok(name.map(Arc::from))
    }

    fn milliseconds(&self, word: Word) -> Result<Option<Duration>, Problem> {
        let wanted = || wanted(word.as_str(), "a whole number of milliseconds, at least 1");
        let number = |value: &Value| value.as_u64().filter(|number| *number > 0).ok_or_else(wanted);
        Ok(self.value(word).map(number).transpose()?.map(Duration::from_millis))
    }

    fn switch(&self, word: Word) -> Result<bool, Problem> {
        let value = self
            .value(word)
            .map(|value| value.as_bool().ok_or_else(|| wanted(word.as_str(), "true or false")));
        value.unwrap_or(Ok(false))
    }

    fn list<T>(&self, word: Word, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, Problem> {
        let what = word.as_str();
        let items = match self.value(word) {
            None => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(_) => return Err(wanted(what, "a list of texts")),
        };
        if items.len() > LIST_MAX {
            return Err(Problem::bad_request(format!("{what}: may hold at most {LIST_MAX} entries")));
        }
        let each = items.iter().enumerate().map(|(index, item)| {
            let what = format!("{what}[{index}]");
            let text = item.as_str().ok_or_else(|| wanted(&what, "a text"))?;
            parse(self.limits.name(&what, text)?)
                .ok_or_else(|| wanted(&what, "a session id: 20 characters of A-Z a-z 0-9 _ -"))
        });
        each.collect()
    }

    fn namespace(&self) -> Result<Namespace, Problem> {
        let name = self.text(Word::Namespace)?.unwrap_or("/");
        if !self.limits.name("namespace", name)?.starts_with('/') {
            return Err(wanted("namespace", "a name that begins with a slash, such as /chat"));
        }
        let namespace = Namespace::from(name);
        match self.limits.namespaces.find(&namespace) {
            Some(_) => Ok(namespace),
            None => Err(Problem::new(ErrorCode::NotFound, format!("namespace: there is no {namespace}"))),
        }
    }
}

fn of_query(known: &[Word], query: Option<&str>) -> Result<Vec<(Word, Value)>, Problem> {
    let pairs = query::pairs(query.unwrap_or_default())
        .ok_or_else(|| Problem::bad_request("the query is not percent-encoded UTF-8"))?;
    let mut values: Vec<(Word, Value)> = Vec::new();
    for (name, text) in pairs {
        let word = find(known, &name, "query parameter")?;
        // One that is given twice would mean what the reader thinks it means.
        if values.iter().any(|(said, _)| *said == word) {
            return Err(Problem::bad_request(format!("{name}: is given twice")));
        }
        values.push((word, Value::String(text)));
    }
    Ok(values)
}

fn of_body(known: &[Word], body: Value) -> Result<Vec<(Word, Value)>, Problem> {
    let fields = match body {
        Value::Object(fields) => fields,
        Value::Null if known.is_empty() => Map::new(),
        _ => return Err(Problem::bad_request("the body must be a JSON object")),
    };
    fields.into_iter().map(|(name, value)| Ok((find(known, &name, "field")?, value))).collect()
}

/// A mistyped name is refused: taken for left out, it would let a request mean more than was meant.
fn find(known: &[Word], name: &str, kind: &str) -> Result<Word, Problem> {
    known.iter().copied().find(|word| word.as_str() == name).ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|word| word.as_str()).collect();
        let there = if names.is_empty() {
            "there are none".to_owned()
        } else {
            format!("there are {}", names.join(", "))
        };
        Problem::bad_request(format!("{name:?}: unknown {kind}; {there}"))
    })
}

fn wanted(what: &str, shape: &str) -> Problem {
    Problem::bad_request(format!("{what}: must be {shape}"))
}

impl Asked {
    /// The user of the path, in the namespace.
    pub(super) fn place(self) -> Place {
        Place { namespace: self.namespace, user: self.subject }
    }

    /// The room of the path.
    pub(super) fn room(&self) -> Room {
        Room::from(&*self.subject)
    }
}
