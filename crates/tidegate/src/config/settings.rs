//! The layers put on top of each other: built-in default < file < environment < flag.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Origin};
use super::key::{Key, Kind, Mask};
use super::value::{self, Value};
use super::{Sources, schema};

/// What stands in front of every setting in the environment.
const ENVIRONMENT_PREFIX: &str = "TIDEGATE_";

/// The section whose entries have names of the operator's.
const NAMESPACES: &str = "namespaces";

/// Every key with its value, who set it, and what was wrong on the way.
///
/// A key with a fault keeps the value of the layer below, so that everything else can still be checked.
pub(super) struct Settings {
    values: BTreeMap<&'static str, Setting>,
    namespaces: Vec<NamespaceSettings>,
    faults: Vec<Fault>,
    faulty: BTreeSet<String>,
    /// Which keys were asked for. A key that nobody asks for would be a setting without effect.
    asked: RefCell<BTreeSet<&'static str>>,
    dev: bool,
}

/// No values: some are secret.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("faults", &self.faults).finish_non_exhaustive()
    }
}

/// A value and who set it.
#[derive(Clone)]
pub(super) struct Setting {
    /// The value.
    pub(super) value: Value,
    /// Who set it.
    pub(super) origin: Origin,
}

/// One entry of `[namespaces]`, in the order of the file.
pub(super) struct NamespaceSettings {
    /// The name or glob.
    pub(super) pattern: String,
    /// Where it stands.
    pub(super) origin: Origin,
    values: BTreeMap<&'static str, Setting>,
}

impl Settings {
    /// Puts the layers together.
    #[must_use]
    pub(super) fn read(sources: &Sources) -> Self {
        let mut settings = Self {
            values: BTreeMap::new(),
            namespaces: Vec::new(),
            faults: Vec::new(),
            faulty: BTreeSet::new(),
            asked: RefCell::default(),
            dev: sources.dev,
        };
        for key in schema::KEYS {
            if let Some(value) = key.preset(sources.dev).value()
                && !key.path.contains('*')
            {
                settings.values.insert(key.path, Setting { value, origin: Origin::Default });
            }
        }
        settings.read_file(&sources.file);
        settings.read_environment(&sources.environment);
        for (path, flag, text) in &sources.flags {
            let key = schema::find(&segments(path)).expect("flags name keys of the schema");
            settings.put_text(key, text, Origin::Flag(flag));
        }
        settings
    }

    fn read_file(&mut self, text: &str) {
        // The parser's own rendering quotes the line, and the line may hold a secret.
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let line = line_of(text, error.span().map_or(0, |span| span.start));
            self.fault("the file", None, Origin::File { line }, format!("is not TOML: {}", error.message()));
        }
        File { text, settings: self }.section(&mut Vec::new(), table.get_ref(), None);
        self.namespaces.sort_by_key(|namespace| match namespace.origin {
            Origin::File { line } => line,
            _ => 0,
        });
    }

    fn read_environment(&mut self, environment: &[(String, Option<String>)]) {
        for (variable, text) in environment {
            let Some(name) = variable.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
            // Without a double underscore it is somebody else's: Kubernetes sets TIDEGATE_PORT and the like for a
            // service of that name.
            if !name.contains("__") {
                continue;
            }
            let path = name.to_ascii_lowercase().replace("__", ".");
            let origin = Origin::Environment(variable.clone());
            match (schema::find(&segments(&path)), text) {
                (Some(key), _) if key.path.starts_with(NAMESPACES) => {
                    self.fault(&path, None, origin, "namespaces can only be set in the file".to_owned());
                }
                (Some(key), Some(text)) => self.put_text(key, text, origin),
                (Some(_), None) => self.fault(&path, None, origin, "must be UTF-8".to_owned()),
                (None, _) => self.unknown(&path, &segments(&path), origin),
            }
        }
    }

    fn put_text(&mut self, key: &'static Key, text: &str, origin: Origin) {
        match Value::from_text(key.kind, text) {
            Ok(value) => {
                self.faulty.remove(key.path);
                self.values.insert(key.path, Setting { value, origin });
            }
            Err(problem) => {
                let shown = Value::Text(value::masked(text, mask_of(key))).to_string();
                self.fault(key.path, Some(shown), origin, problem);
            }
        }
    }

    fn unknown(&mut self, path: &str, segments: &[&str], origin: Origin) {
        let section = &segments[..segments.len().saturating_sub(1)];
        let mut neighbours = schema::neighbours(section);
        let hint = if section.is_empty() || neighbours.is_empty() {
            format!("the sections are {}", schema::sections().collect::<Vec<_>>().join(", "))
        } else {
            neighbours.sort_unstable();
            format!("{} has {}", section.join("."), neighbours.join(", "))
        };
        self.fault(path, None, origin, format!("unknown key; {hint}"));
    }

    /// Records a fault.
    pub(super) fn fault(&mut self, key: &str, value: Option<String>, origin: Origin, problem: String) {
        self.faulty.insert(key.to_owned());
        self.faults.push(Fault { key: key.to_owned(), value, origin, problem });
    }

    /// Records a fault of a value that was read without one.
    pub(super) fn fault_at(&mut self, path: &'static str, problem: String) {
        let key = schema::find(&segments(path)).expect("only keys of the schema are faulted");
        let setting = self.values.get(path).cloned();
        let shown = setting.as_ref().map(|setting| setting.value.shown(key.mask));
        self.fault(path, shown, setting.map_or(Origin::Default, |setting| setting.origin), problem);
    }

    /// Whether the key was read without a fault.
    #[must_use]
    pub(super) fn is_sound(&self, path: &str) -> bool {
        !self.faulty.contains(path)
    }

    /// The faults so far.
    #[must_use]
    pub(super) fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// The entries of `[namespaces]`.
    #[must_use]
    pub(super) fn namespaces(&self) -> &[NamespaceSettings] {
        &self.namespaces
    }

    /// What the key is set to; none when it has no default and nobody set it.
    #[must_use]
    pub(super) fn setting(&self, path: &str) -> Option<&Setting> {
        self.values.get(path)
    }

    /// Gives a key that nobody set the value that follows from others.
    pub(super) fn derive(&mut self, path: &'static str, value: Value) {
        self.values.entry(path).or_insert(Setting { value, origin: Origin::Default });
    }

    /// The number of a key.
    #[must_use]
    pub(super) fn number(&self, path: &'static str) -> u64 {
        match self.asked(path) {
            Some(Value::Number(number)) => *number,
            other => unreachable!("{path} is a number with a default, not {other:?}"),
        }
    }

    /// The text of a key, if it has one.
    #[must_use]
    pub(super) fn text(&self, path: &'static str) -> Option<&str> {
        match self.asked(path) {
            None => None,
            Some(Value::Text(text)) => Some(text),
            other => unreachable!("{path} is a text, not {other:?}"),
        }
    }

    /// The list of a key.
    #[must_use]
    pub(super) fn list(&self, path: &'static str) -> &[String] {
        match self.asked(path) {
            Some(Value::List(items)) => items,
            other => unreachable!("{path} is a list with a default, not {other:?}"),
        }
    }

    fn asked(&self, path: &'static str) -> Option<&Value> {
        self.asked.borrow_mut().insert(path);
        self.values.get(path).map(|setting| &setting.value)
    }

    /// Supported keys that nobody asked for, those of namespaces left out.
    #[must_use]
    pub(super) fn unused(&self) -> Vec<&'static str> {
        let asked = self.asked.borrow();
        schema::KEYS
            .iter()
            .filter(|key| key.is_supported() && !key.path.contains('*') && !asked.contains(key.path))
            .map(|key| key.path)
            .collect()
    }

    /// Whether the defaults are those of `--dev`.
    #[must_use]
    pub(super) const fn is_dev(&self) -> bool {
        self.dev
    }
}

impl NamespaceSettings {
    /// What a key of this entry is set to; `None` is its default.
    #[must_use]
    pub(super) fn setting(&self, path: &str) -> Option<&Setting> {
        self.values.get(path)
    }
}

/// The walk through the file.
struct File<'t, 's> {
    text: &'t str,
    settings: &'s mut Settings,
}

impl File<'_, '_> {
    /// `path` is where `table` stands; `entry` is the namespace it belongs to.
    fn section(&mut self, path: &mut Vec<String>, table: &DeTable<'_>, entry: Option<usize>) {
        for (name, value) in table {
            path.push(name.get_ref().clone().into_owned());
            self.item(path, line_of(self.text, name.span().start), value, entry);
            path.pop();
        }
    }

    fn item(
        &mut self,
        path: &mut Vec<String>,
        line: usize,
        value: &Spanned<DeValue<'_>>,
        entry: Option<usize>,
    ) {
        let origin = Origin::File { line };
        let shown = written(path);
        let segments: Vec<&str> = path.iter().map(String::as_str).collect();
        if let Some(key) = schema::find(&segments) {
            match Value::from_toml(key.kind, value.get_ref()) {
                Ok(value) => {
                    let values = match entry {
                        Some(index) => &mut self.settings.namespaces[index].values,
                        None => &mut self.settings.values,
                    };
                    values.insert(key.path, Setting { value, origin });
                }
                Err(problem) => {
                    let text = as_written(self.text, value);
                    let text = match mask_of(key) {
                        Mask::Open => text.to_owned(),
                        mask => match value.get_ref().as_str() {
                            Some(text) => Value::Text(value::masked(text, mask)).to_string(),
                            None => "***".to_owned(),
                        },
                    };
                    self.settings.fault(&shown, Some(text), origin, problem);
                }
            }
            return;
        }
        let is_section = schema::KEYS.iter().any(|key| key.stands_under(&segments));
        match value.get_ref() {
            DeValue::Table(table) if is_section => {
                let entry = if segments.len() == 2 && segments[0] == NAMESPACES {
                    let pattern = segments[1].to_owned();
                    self.settings.namespaces.push(NamespaceSettings {
                        pattern,
                        origin,
                        values: BTreeMap::new(),
                    });
                    Some(self.settings.namespaces.len() - 1)
                } else {
                    entry
                };
                self.section(path, table, entry);
            }
            _ if is_section => {
                let problem = format!("is a section with {}", schema::neighbours(&segments).join(", "));
                self.settings.fault(&shown, None, origin, problem);
            }
            _ => self.settings.unknown(&shown, &segments, origin),
        }
    }
}

/// A key of a later version may hold a secret as well as any other.
fn mask_of(key: &Key) -> Mask {
    match key.kind {
        Kind::Later => Mask::Secret,
        _ => key.mask,
    }
}

fn segments(path: &str) -> Vec<&str> {
    path.split('.').collect()
}

/// The path as one would write it in TOML.
fn written(path: &[String]) -> String {
    let bare = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
    };
    let names: Vec<String> = path
        .iter()
        .map(|name| if bare(name) { name.clone() } else { Value::Text(name.clone()).to_string() })
        .collect();
    names.join(".")
}

/// The first line of what stands in the file.
fn as_written<'t>(text: &'t str, value: &Spanned<DeValue<'_>>) -> &'t str {
    text.get(value.span()).unwrap_or_default().lines().next().unwrap_or_default()
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count()
}
