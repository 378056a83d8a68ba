//! The schema written out: as the manual, and with the values in effect.

use std::fmt::Write as _;

use super::fault::Origin;
use super::key::{Key, Kind, Preset};
use super::schema;
use super::settings::{Setting, Settings};

/// Longest line of a comment in the manual, in characters.
const LINE_WIDTH: usize = 110;

/// The text of `config.default.toml`: every supported key with its default, its unit and what it is for.
///
/// # Panics
/// Never: writing into a string does not fail.
#[must_use]
pub fn manual() -> String {
    let mut out = String::from(
        "# Every setting of Tidegate with its built-in default. Settings are looked up in this order, the later winning:\n\
         # built-in default, file (--config), environment (TIDEGATE_SECTION__KEY, lists comma-separated), flag.\n\
         # A key that is commented out has no fixed default; what stands there is an example.\n\
         # This file is written from the table in src/config/schema.rs, and a test keeps it so.\n",
    );
    for section in schema::sections() {
        let keys: Vec<&Key> =
            schema::KEYS.iter().filter(|key| key.is_supported() && key.split().0 == section).collect();
        if keys.is_empty() {
            continue;
        }
        if keys[0].path.contains('*') {
            out.push_str(NAMESPACES_INTRODUCTION);
        } else {
            write!(out, "\n[{section}]\n").expect("a string takes all");
        }
        for key in keys {
            comment(&mut out, &described(key));
            let name = key.split().1;
            let line = match (key.default, key.default.value()) {
                (Preset::Unset(example), _) => format!("# {name} = {example}"),
                (_, Some(value)) if key.path.contains('*') => {
                    format!("# {} = {value}", name.trim_start_matches("*."))
                }
                (_, value) => format!("{name} = {}", value.expect("what is not unset has a value")),
            };
            out.push_str(&line);
            out.push('\n');
        }
    }
    out
}

const NAMESPACES_INTRODUCTION: &str = "\n\
    # One table per namespace, by name or by glob; a name wins over a glob, and globs are tried in the order given.\n\
    # A namespace that no entry matches is refused. Without any entry there is only \"/\", or every one with --dev.\n\
    # [namespaces.\"/\"]\n";

fn described(key: &Key) -> String {
    match key.kind {
        Kind::Number { min, max, unit } => format!("{} Range: {min} to {max} {unit}.", key.doc),
        Kind::Text(_) | Kind::Choice(_) | Kind::Switch | Kind::List(_) | Kind::Later => key.doc.to_owned(),
    }
}

fn comment(out: &mut String, text: &str) {
    let mut width = 0;
    for word in text.split(' ') {
        if width == 0 || width + 1 + word.len() > LINE_WIDTH {
            out.push_str(if width == 0 { "#" } else { "\n#" });
            width = 1;
        }
        out.push(' ');
        out.push_str(word);
        width += 1 + word.len();
    }
    out.push('\n');
}

/// The configuration in effect, as TOML, with secrets masked and a note on who set what is not a default.
///
/// # Panics
/// Never: writing into a string does not fail.
#[must_use]
pub(super) fn effective(settings: &Settings) -> String {
    let mut out = String::new();
    for section in schema::sections() {
        let mut keys = schema::KEYS
            .iter()
            .filter(|key| key.is_supported() && !key.path.contains('*') && key.split().0 == section)
            .peekable();
        if keys.peek().is_some() {
            writeln!(out, "[{section}]").expect("a string takes all");
        }
        for key in keys {
            line(&mut out, key, key.split().1, settings.setting(key.path));
        }
        if section == "namespaces" {
            namespaces(&mut out, settings);
        } else if !out.ends_with("\n\n") {
            out.push('\n');
        }
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn namespaces(out: &mut String, settings: &Settings) {
    for namespace in settings.namespaces() {
        let pattern = super::value::Value::Text(namespace.pattern.clone());
        writeln!(out, "[namespaces.{pattern}]").expect("a string takes all");
        for key in schema::KEYS.iter().filter(|key| key.is_supported() && key.path.contains('*')) {
            let name = key.split().1.trim_start_matches("*.");
            let default = key.default.value().map(|value| Setting { value, origin: Origin::Default });
            line(out, key, name, namespace.setting(key.path).or(default.as_ref()));
        }
        out.push('\n');
    }
}

fn line(out: &mut String, key: &Key, name: &str, setting: Option<&Setting>) {
    match setting {
        None => writeln!(out, "# {name} is not set"),
        Some(Setting { value, origin: Origin::Default }) => {
            writeln!(out, "{name} = {}", value.shown(key.mask))
        }
        Some(Setting { value, origin }) => writeln!(out, "{name} = {} # {origin}", value.shown(key.mask)),
    }
    .expect("a string takes all");
}
