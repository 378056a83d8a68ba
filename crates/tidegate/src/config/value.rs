//! Values: reading them from TOML and from text, checking them, showing them.

use std::fmt::{self, Write as _};

use toml::de::{DeInteger, DeValue};

use super::key::{Kind, Mask};

/// What a key was set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(u64),
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
        Mask::UrlPassword => without_password(text),
        Mask::FirstLine => match text.trim().split_once('\n') {
            Some((first, _)) => format!("{} ...", first.trim_end()),
            None => text.to_owned(),
        },
    }
}

/// Hides more rather than less: a password may hold an unescaped `/` or `@`, and what is no URL may be a password.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "***".to_owned() };
    let rest = match rest.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((name, _)) => format!("{name}:***@{host}"),
            None => format!("***@{host}"),
        },
        None => rest.to_owned(),
    };
    match rest.split_once('?') {
        Some((rest, query)) if query.to_ascii_lowercase().contains("pass") => {
            format!("{scheme}://{rest}?***")
        }
        _ => format!("{scheme}://{rest}"),
    }
}

fn whole(number: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => quote(text, f),
            Self::Number(number) => write!(f, "{number}"),
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
    fn passwords_are_hidden() {
        for (url, shown) in [
            ("redis://h:6379/0", "redis://h:6379/0"),
            ("redis://:pw@h", "redis://:***@h"),
            ("redis://ann:pw@h:1", "redis://ann:***@h:1"),
            ("redis://ann:p/w@x@h:1", "redis://ann:***@h:1"),
            ("redis://pw@h", "redis://***@h"),
            ("redis+unix:///run/redis.sock?pass=pw&db=1", "redis+unix:///run/redis.sock?***"),
            ("hunter2", "***"),
        ] {
            assert_eq!(masked(url, Mask::UrlPassword), shown);
        }
        let list = Value::List(vec!["a".into(), "b".into()]);
        assert_eq!(list.shown(Mask::Secret), r#"["***", "***"]"#);
        assert_eq!(Value::Text("line\nmore".into()).shown(Mask::FirstLine), r#""line ...""#);
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
}
