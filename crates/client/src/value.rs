//! What an event carries: JSON, bytes and dates.

pub(crate) mod wire;

use std::collections::BTreeMap;
use std::ops::Index;

use bytes::Bytes;

/// One value of an event or of an acknowledgement.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// JSON `null`; JavaScript's `undefined` arrives as this too.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number that fits in 64 bits with sign.
    Int(i64),
    /// A whole number above `i64::MAX`.
    UInt(u64),
    /// Any other number. A whole one within 2^53 is sent, and so comes back, as [`Value::Int`].
    Float(f64),
    /// Text.
    String(String),
    /// Bytes: an attachment in the text parser, a bin value in the MessagePack parser.
    Bytes(Bytes),
    /// A moment in Unix milliseconds. The text parser turns it into an ISO string on the way.
    Date(i64),
    /// A list.
    Array(Vec<Value>),
    /// A map. The order of its keys is not kept.
    Object(BTreeMap<String, Value>),
}

impl Value {
    /// Bytes as a value.
    pub fn bytes(bytes: impl Into<Bytes>) -> Value {
        Value::Bytes(bytes.into())
    }

    /// The text, if it is text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    /// The whole number, if it is one that fits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The whole number, if it is one and not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::Int(number) => u64::try_from(*number).ok(),
            Value::UInt(number) => Some(*number),
            _ => None,
        }
    }

    /// The bytes, if it is bytes.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match self {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The items, if it is a list.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    /// What a map holds under `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Object(map) => map.get(key),
            _ => None,
        }
    }

    /// The value as JSON; `None` when it holds what JSON cannot say: bytes, dates, NaN, infinities.
    pub fn to_json(&self) -> Option<serde_json::Value> {
        Some(match self {
            Value::Null => serde_json::Value::Null,
            Value::Bool(flag) => (*flag).into(),
            Value::Int(number) => (*number).into(),
            Value::UInt(number) => (*number).into(),
            Value::Float(number) => serde_json::Number::from_f64(*number)?.into(),
            Value::String(text) => text.as_str().into(),
            Value::Bytes(_) | Value::Date(_) => return None,
            Value::Array(items) => items.iter().map(Value::to_json).collect::<Option<Vec<_>>>()?.into(),
            Value::Object(map) => {
                let entries = map.iter().map(|(key, value)| Some((key.clone(), value.to_json()?)));
                serde_json::Value::Object(entries.collect::<Option<serde_json::Map<_, _>>>()?)
            }
        })
    }
}

impl From<serde_json::Value> for Value {
    fn from(json: serde_json::Value) -> Value {
        match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(flag) => Value::Bool(flag),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(whole), _) => Value::Int(whole),
                (None, Some(whole)) => Value::UInt(whole),
                (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(text) => Value::String(text),
            serde_json::Value::Array(items) => Value::Array(items.into_iter().map(Value::from).collect()),
            serde_json::Value::Object(map) => {
                Value::Object(map.into_iter().map(|(key, value)| (key, value.into())).collect())
            }
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::String(text)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Value {
        Value::Bool(flag)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Int(number)
    }
}

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Value {
        Value::Bytes(bytes)
    }
}

/// Lets a test say `assert_eq!(answer, json!({...}))`.
impl PartialEq<serde_json::Value> for Value {
    fn eq(&self, other: &serde_json::Value) -> bool {
        let other = Value::from(other.clone());
        *self == other
    }
}

impl PartialEq<str> for Value {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == Some(other)
    }
}

impl PartialEq<&str> for Value {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == Some(*other)
    }
}

/// What a map holds under a key; [`Value::Null`] when it holds nothing or is no map.
impl Index<&str> for Value {
    type Output = Value;

    fn index(&self, key: &str) -> &Value {
        self.get(key).unwrap_or(&Value::Null)
    }
}

/// An item of a list; [`Value::Null`] when it is not there.
impl Index<usize> for Value {
    type Output = Value;

    fn index(&self, at: usize) -> &Value {
        self.as_array().and_then(|items| items.get(at)).unwrap_or(&Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn indexing_finds_and_misses_quietly() {
        let value = Value::from(json!({ "users": [{ "user": "u" }], "ok": true }));
        assert_eq!(value["users"][0]["user"], "u");
        assert_eq!(value["users"][7]["user"], Value::Null);
        assert_eq!(value["ok"], json!(true));
    }

    #[test]
    fn json_equality_sees_through_the_types() {
        assert_eq!(Value::Object(BTreeMap::from([("n".to_owned(), Value::Int(1))])), json!({ "n": 1 }));
        assert_ne!(Value::Int(1), json!("1"));
    }
}
