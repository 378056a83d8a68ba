//! What the schema says about one key.

use super::value::Value;

/// One key of the configuration.
///
/// The path is also the name in TOML and, in capitals and with `__` for each dot, the environment variable behind
/// `TIDEGATE_`. A segment `*` stands for any name.
#[derive(Debug)]
pub struct Key {
    /// Where the key stands.
    pub path: &'static str,
    /// What its value looks like.
    pub kind: Kind,
    /// What holds when nobody says otherwise.
    pub default: Preset,
    /// What holds under `--dev` when nobody says otherwise; `None` is the same as without.
    pub dev: Option<Preset>,
    /// How much of the value may be shown.
    pub mask: Mask,
    /// What it is for, for the manual.
    pub doc: &'static str,
}

/// What a value looks like.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A text that passes the check.
    Text(Check),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A whole number between bounds, both included.
    Number {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
        /// What is counted.
        unit: &'static str,
    },
    /// Yes or no.
    Switch,
    /// Texts that each pass the check; comma-separated where only text can be given.
    List(Check),
    /// A key of the contract whose part this version does not have. Better refused than silently without effect.
    Later,
}

/// Answers with what would be right, unless `text` is.
pub type Check = fn(text: &str) -> Result<(), String>;

/// A value written in the schema.
#[derive(Clone, Copy, Debug)]
pub enum Preset {
    /// No value; the manual shows this example, in TOML.
    Unset(&'static str),
    /// A text.
    Text(&'static str),
    /// A number.
    Number(u64),
    /// Yes or no.
    Switch(bool),
    /// A list.
    List(&'static [&'static str]),
}

/// How much of a value may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// All of it.
    Open,
    /// Nothing.
    Secret,
    /// All but the password of a URL.
    UrlPassword,
    /// A path, or the label of a key in PEM; nothing of what is neither.
    PemOrPath,
}

impl Key {
    /// Whether `path` is this key's, `*` standing for one segment.
    #[must_use]
    pub fn covers(&self, path: &[&str]) -> bool {
        self.path.split('.').count() == path.len() && self.leads_through(path)
    }

    /// Whether this key stands in the section `path`, however deep.
    #[must_use]
    pub fn stands_under(&self, path: &[&str]) -> bool {
        self.path.split('.').count() > path.len() && self.leads_through(path)
    }

    fn leads_through(&self, path: &[&str]) -> bool {
        self.path.split('.').zip(path).all(|(mine, other)| mine == "*" || mine == *other)
    }

    /// The section and the key inside it: `("auth", "jwt.secret")`.
    #[must_use]
    pub fn split(&self) -> (&'static str, &'static str) {
        self.path.split_once('.').expect("every key stands in a section; a test checks it")
    }

    /// Whether this version has the part that the key belongs to.
    #[must_use]
    pub const fn is_supported(&self) -> bool {
        !matches!(self.kind, Kind::Later)
    }

    /// The default, under `--dev` or not.
    #[must_use]
    pub fn preset(&self, dev: bool) -> Preset {
        self.dev.filter(|_| dev).unwrap_or(self.default)
    }
}

impl Preset {
    /// The value, if there is one.
    #[must_use]
    pub fn value(self) -> Option<Value> {
        match self {
            Self::Unset(_) => None,
            Self::Text(text) => Some(Value::Text(text.into())),
            Self::Number(number) => Some(Value::Number(number)),
            Self::Switch(on) => Some(Value::Switch(on)),
            Self::List(items) => Some(Value::List(items.iter().map(|item| (*item).into()).collect())),
        }
    }
}
