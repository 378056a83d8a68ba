//! Which namespaces exist, and which operations clients may use in each.

use tidegate_core::Namespace;
use tidegate_core::registry::{OnDuplicate, Policy};

use crate::glob::Glob;

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// An event that the gateway itself answers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Operation {
            $($(#[$doc])* $name,)*
        }

        impl Operation {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The event's name.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// The operation that an event of this name asks for.
            #[must_use]
            pub fn parse(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$name),)* _ => None }
            }
        }
    };
}

operations! {
    /// Become a member of a room.
    Join = "join";
    /// Cease to be.
    Leave = "leave";
    /// An event to a room.
    Publish = "publish";
    /// An event to the namespace.
    Broadcast = "broadcast";
    /// A durable message to a user.
    Send = "send";
    /// Ready for durable messages.
    Online = "online";
    /// Who is here.
    Presence = "presence";
    /// A sign of life.
    Heartbeat = "heartbeat";
}

/// The operations that are on in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operations(u8);

impl Operations {
    /// All of them.
    #[must_use]
    pub const fn all() -> Self {
        Self(u8::MAX)
    }

    /// Exactly these.
    #[must_use]
    pub fn of(operations: &[Operation]) -> Self {
        Self(operations.iter().fold(0, |bits, operation| bits | 1 << *operation as u8))
    }

    /// Whether `operation` is on.
    #[must_use]
    pub const fn contains(self, operation: Operation) -> bool {
        self.0 & (1 << operation as u8) != 0
    }
}

/// One configured namespace, or a glob for many.
#[derive(Clone, Debug)]
pub struct NamespaceRule {
    /// Which names it covers; also their label in metrics.
    pub pattern: Glob,
    /// What clients may do there.
    pub operations: Operations,
    /// How many sessions of one user may live.
    pub policy: Policy,
    /// What becomes of one too many.
    pub on_duplicate: OnDuplicate,
    /// Whether the cluster keeps who is in which room, and tells.
    pub presence: bool,
    /// Whether users have durable messages.
    pub offline: bool,
}

impl NamespaceRule {
    /// The defaults of the configuration for `pattern`.
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        Self {
            pattern: Glob::parse(pattern),
            operations: Operations::all(),
            policy: Policy::default(),
            on_duplicate: OnDuplicate::default(),
            presence: false,
            offline: true,
        }
    }
}

/// All the rules, most specific first: a literal name wins over a glob, and globs are tried in the order given.
#[derive(Clone, Debug)]
pub struct Namespaces {
    rules: Vec<NamespaceRule>,
}

impl Namespaces {
    /// Rules as configured. With none, `open` decides between every namespace and the root alone.
    ///
    /// # Panics
    /// Never: the built-in patterns parse.
    #[must_use]
    pub fn new(mut rules: Vec<NamespaceRule>, open: bool) -> Self {
        if rules.is_empty() {
            let patterns: &[&str] = if open { &["/", "*"] } else { &["/"] };
            rules = patterns.iter().map(|pattern| NamespaceRule::new(pattern)).collect();
        }
        rules.sort_by_key(|rule| !rule.pattern.is_literal());
        Self { rules }
    }

    /// The rules in the order they are tried.
    #[must_use]
    pub fn rules(&self) -> &[NamespaceRule] {
        &self.rules
    }

    /// The index of the rule for `namespace`; none means that the namespace does not exist.
    #[must_use]
    pub fn find(&self, namespace: &Namespace) -> Option<usize> {
        self.rules.iter().position(|rule| rule.pattern.matches(namespace.as_str()))
    }
}
