//! One entry of `[namespaces]`.

use tidegate_core::registry::{OnDuplicate, Policy};
use tidegate_gateway::namespaces::Operation;

use super::schema;
use super::settings::NamespaceSettings;
use super::value::Value;

/// What holds in the namespaces of one name or glob.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// A name or a glob.
    pub pattern: String,
    /// What is on.
    pub operations: Vec<Operation>,
    /// How many sessions of one user may live.
    pub policy: Policy,
    /// What happens when that is too many.
    pub on_duplicate: OnDuplicate,
    /// Whether the members of rooms are kept where every node finds them.
    pub presence: bool,
    /// Whether users have durable messages.
    pub offline: bool,
}

impl Namespace {
    pub(super) fn of(namespace: &NamespaceSettings) -> Self {
        let operations = list(namespace, "namespaces.*.operations");
        let policy = text(namespace, "namespaces.*.sessions.policy");
        Self {
            pattern: namespace.pattern.clone(),
            operations: operations.iter().filter_map(|name| Operation::parse(name)).collect(),
            policy: parse_policy(&policy).expect("the schema checks policies"),
            on_duplicate: match text(namespace, "namespaces.*.sessions.on_duplicate").as_str() {
                "reject" => OnDuplicate::Reject,
                _ => OnDuplicate::Replace,
            },
            presence: switch(namespace, "namespaces.*.presence"),
            offline: switch(namespace, "namespaces.*.offline.enabled"),
        }
    }
}

/// What the entry says, or the default.
fn value(namespace: &NamespaceSettings, path: &'static str) -> Value {
    let written = namespace.setting(path).map(|setting| setting.value.clone());
    let default = || {
        let segments: Vec<&str> = path.split('.').collect();
        schema::find(&segments)?.default.value()
    };
    written.or_else(default).expect("every key of a namespace has a default")
}

fn switch(namespace: &NamespaceSettings, path: &'static str) -> bool {
    matches!(value(namespace, path), Value::Switch(true))
}

fn text(namespace: &NamespaceSettings, path: &'static str) -> String {
    match value(namespace, path) {
        Value::Text(text) => text,
        other => unreachable!("{path} is a text, not {other:?}"),
    }
}

fn list(namespace: &NamespaceSettings, path: &'static str) -> Vec<String> {
    match value(namespace, path) {
        Value::List(items) => items,
        other => unreachable!("{path} is a list, not {other:?}"),
    }
}

/// What `sessions.policy` may say.
pub(super) fn check_policy(text: &str) -> Result<(), String> {
    match parse_policy(text) {
        Some(_) => Ok(()),
        None => {
            Err("must be per_device, single, unlimited, or max:N with N at least 1, such as max:3".to_owned())
        }
    }
}

fn parse_policy(text: &str) -> Option<Policy> {
    match text {
        "per_device" => Some(Policy::PerDevice),
        "single" => Some(Policy::Max(1)),
        "unlimited" => Some(Policy::Unlimited),
        other => {
            let number = other.strip_prefix("max:")?;
            // A sign would be taken for part of the number.
            let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
            number.parse().ok().filter(|max| is_number && *max > 0).map(Policy::Max)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        for (text, policy) in [
            ("per_device", Policy::PerDevice),
            ("single", Policy::Max(1)),
            ("max:1", Policy::Max(1)),
            ("max:4294967295", Policy::Max(u32::MAX)),
            ("unlimited", Policy::Unlimited),
        ] {
            assert_eq!(parse_policy(text), Some(policy), "{text}");
        }
        for text in ["", "max", "max:", "max:0", "max:+3", "max:-1", "max:3 ", "max:4294967296", "Single"] {
            assert!(check_policy(text).is_err(), "{text}");
        }
    }
}
