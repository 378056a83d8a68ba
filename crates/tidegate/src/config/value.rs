//! Values: reading them from TOML and from text, checking them, showing them.

use std::fmt::{self, Write as _};
use std::path::Path;

use toml::de::{DeInteger, DeValue};

use super::key::{Kind, Mask};

/// What a key was set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(u64),
    /// Yes or no.
    Switch(bool),
    /// Texts.
    List(Vec<String>),
}

impl Value {
    /// Reads what a file says.
    ///
    /// # Errors
    /// What would be right.
    pub fn from_toml(kind: Kind, value: &DeValue<'_>) -> Result<Self, String> {
        let value = match (kind, value) {
            (Kind::Text(_) | Kind::Choice(_), DeValue::String(text)) => Self::Text(text.clone().into_owned()),
            (Kind::Number { .. }, DeValue::Integer(number)) => {
                Self::Number(whole(number).ok_or_else(|| kind.wanted())?)
            }
            (Kind::Switch, DeValue::Boolean(on)) => Self::Switch(*on),
            (Kind::List(_), DeValue::Array(items)) => Self::List(
                items
                    .iter()
                    .map(|item| item.get_ref().as_str().map(str::to_owned).ok_or_else(|| kind.wanted()))
                    .collect::<Result<_, _>>()?,
            ),
            _ => return Err(kind.wanted()),
        };
        value.checked(kind)
    }

    /// Reads what an environment variable or a flag says.
    ///
    /// # Errors
    /// What would be right.
    pub fn from_text(kind: Kind, text: &str) -> Result<Self, String> {
        let value = match kind {
            Kind::Text(_) | Kind::Choice(_) => Self::Text(text.to_owned()),
            Kind::Number { .. } => Self::Number(text.trim().parse().map_err(|_| kind.wanted())?),
            Kind::Switch => Self::Switch(text.trim().parse().map_err(|_| kind.wanted())?),
            Kind::List(_) => Self::List(
                text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect(),
            ),
            Kind::Later => return Err(kind.wanted()),
        };
        value.checked(kind)
    }

    fn checked(self, kind: Kind) -> Result<Self, String> {
        match (&self, kind) {
            // An empty text is nearly always a variable that expanded to nothing; taking it for "not set" would
            // start a node without Redis or without an issuer.
            (Self::Text(text), Kind::Text(_)) if text.trim().is_empty() => {
                return Err("must not be empty; leave the key out to have none".to_owned());
            }
            (Self::Text(text), Kind::Text(check)) => check(text)?,
            (Self::Text(text), Kind::Choice(words)) if !words.contains(&text.as_str()) => {
                return Err(kind.wanted());
            }
            (Self::Number(number), Kind::Number { min, max, .. }) if !(min..=max).contains(number) => {
                return Err(kind.wanted());
            }
            (Self::List(items), Kind::List(check)) => items.iter().try_for_each(|item| check(item))?,
            _ => {}
        }
        Ok(self)
    }

    /// The value as far as it may be shown, in TOML.
    #[must_use]
    pub fn shown(&self, mask: Mask) -> String {
        match (self, mask) {
            (Self::List(items), Mask::Secret) => Self::List(vec!["***".to_owned(); items.len()]).to_string(),
            (_, Mask::Secret) => Self::Text("***".to_owned()).to_string(),
            (Self::Text(text), mask) => Self::Text(masked(text, mask)).to_string(),
            _ => self.to_string(),
        }
    }
}

impl Kind {
    /// What a value must be, as a fragment that follows the key.
    #[must_use]
    pub fn wanted(self) -> String {
        match self {
            Self::Text(_) => "must be a text".to_owned(),
            Self::Choice(words) => format!("must be one of {}", words.join(", ")),
            Self::Number { min, max, unit } => format!("must be a whole number from {min} to {max} ({unit})"),
            Self::Switch => "must be true or false".to_owned(),
            Self::List(_) => "must be a list of texts".to_owned(),
            Self::Later => "is not supported by this version".to_owned(),
        }
    }
}

/// `text` as far as it may be shown.
#[must_use]
pub(super) fn masked(text: &str, mask: Mask) -> String {
    match mask {
        Mask::Open => text.to_owned(),
        Mask::Secret => "***".to_owned(),
        Mask::UrlPassword => tidegate_redis::masked(text),
        Mask::PemOrPath => without_key(text),
    }
}

/// A key in PEM as far as its label, and a path as it is. Anything else may well be the secret of HS256 in the wrong
/// place.
fn without_key(text: &str) -> String {
    const DASHES: &str = "-----";
    let text = text.trim();
    if let Some(rest) = text.strip_prefix(DASHES) {
        return match rest.split_once(DASHES) {
            Some((label, _)) => format!("{DASHES}{label}{DASHES} ..."),
            None => format!("{DASHES} ..."),
        };
    }
    let is_path = text.starts_with(['/', '.']) || Path::new(text).is_file();
    if is_path { text.to_owned() } else { "***".to_owned() }
}

fn whole(number: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => quote(text, f),
            Self::Number(number) => write!(f, "{number}"),
            Self::Switch(on) => write!(f, "{on}"),
            Self::List(items) => {
                f.write_char('[')?;
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        f.write_str(", ")?;
                    }
                    quote(item, f)?;
                }
                f.write_char(']')
            }
        }
    }
}

/// A basic string of TOML.
fn quote(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_char('"')?;
    for character in text.chars() {
        match character {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            control if control.is_control() => write!(f, "\\u{:04X}", u32::from(control))?,
            plain => f.write_char(plain)?,
        }
    }
    f.write_char('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden() {
        let list = Value::List(vec!["a".into(), "b".into()]);
        assert_eq!(list.shown(Mask::Secret), r#"["***", "***"]"#);
        assert_eq!(Value::Text("redis://:pw@h".into()).shown(Mask::UrlPassword), r#""redis://:***@h""#);

        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let here_too = std::env::current_dir().expect("tests run somewhere").join("Cargo.toml");
        for (text, shown) in [
            ("an HS256 secret", "***"),
            ("QmFzZTY0/of+it==", "***"),
            ("no/such/file.pem", "***"),
            ("/no/such/file.pem", "/no/such/file.pem"),
            ("./jwt.pem", "./jwt.pem"),
            (here, here),
            ("Cargo.toml", if here_too.is_file() { "Cargo.toml" } else { "***" }),
            ("-----BEGIN PUBLIC KEY-----\nMCow\n", "-----BEGIN PUBLIC KEY----- ..."),
            // The line breaks were lost on the way.
            ("-----BEGIN PRIVATE KEY----- MC4C -----END PRIVATE KEY-----", "-----BEGIN PRIVATE KEY----- ..."),
            ("-----MC4C", "----- ..."),
        ] {
            assert_eq!(masked(text, Mask::PemOrPath), shown);
        }
    }

    #[test]
    fn shown_texts_are_toml() {
        for text in ["plain", "a\"b\\c", "line\nbreak\ttab\r", "\u{1}\u{7f}ä"] {
            let file = format!("x = {}", Value::Text(text.into()));
            let table: toml::Table = file.parse().expect("a quoted text is TOML");
            assert_eq!(table["x"].as_str(), Some(text));
        }
    }

    #[test]
    fn lists_may_be_given_as_text() {
        let read = |text| Value::from_text(Kind::List(|_| Ok(())), text);
        assert_eq!(read("a, b,,c"), Ok(Value::List(vec!["a".into(), "b".into(), "c".into()])));
        assert_eq!(read(""), Ok(Value::List(Vec::new())));
    }

    #[test]
    fn switches_are_true_or_false() {
        for (text, value) in [("true", Ok(Value::Switch(true))), (" false ", Ok(Value::Switch(false)))] {
            assert_eq!(Value::from_text(Kind::Switch, text), value);
        }
        for text in ["1", "yes", "True", ""] {
            assert!(Value::from_text(Kind::Switch, text).is_err(), "{text}");
        }
        assert_eq!(Value::Switch(true).to_string(), "true");
    }
}
