//! A scenario with its settings as a file: TOML whose keys are the names of the command line.
//!
//! It becomes a command line, so that one parser judges both: what is typed takes the place of what is written.

use anyhow::{Context as _, bail};
use clap::{Arg, Command};
use toml::{Table, Value};

/// The key that names the scenario.
const SCENARIO: &str = "scenario";

/// The command line that a file stands for, without the program's name. `typed` are the settings behind the file.
pub(crate) fn arguments(text: &str, typed: &[String], program: &Command) -> anyhow::Result<Vec<String>> {
    let mut table: Table = text.parse().context("it is not TOML")?;
    let Some(Value::String(scenario)) = table.remove(SCENARIO) else {
        bail!("it has no key `{SCENARIO}` that names one");
    };
    // What has no --url is no scenario.
    let scenario_command = program.find_subcommand(&scenario).filter(|found| find(found, "url").is_some());
    let command = scenario_command.with_context(|| format!("there is no scenario `{scenario}`"))?;

    let mut arguments = vec![scenario];
    for (key, value) in &table {
        let setting = find(command, key);
        let setting =
            setting.with_context(|| format!("the key `{key}` is no setting of `{}`", arguments[0]))?;
        if !is_typed(typed, setting) {
            arguments.extend(argument(key, value)?);
        }
    }
    arguments.extend_from_slice(typed);
    Ok(arguments)
}

fn find<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|argument| argument.get_long() == Some(key))
}

fn is_typed(typed: &[String], setting: &Arg) -> bool {
    let names = setting.get_long().into_iter().chain(setting.get_all_aliases().into_iter().flatten());
    let names: Vec<&str> = names.collect();
    typed.iter().any(|word| {
        let name = word.strip_prefix("--").and_then(|name| name.split('=').next());
        name.is_some_and(|name| names.contains(&name))
    })
}

fn argument(key: &str, value: &Value) -> anyhow::Result<Vec<String>> {
    let one = |value: &Value| match value {
        Value::String(text) => Ok(format!("--{key}={text}")),
        Value::Integer(number) => Ok(format!("--{key}={number}")),
        Value::Float(number) => Ok(format!("--{key}={number}")),
        Value::Boolean(flag) => Ok(format!("--{key}={flag}")),
        _ => bail!("the key `{key}` is neither a text, a number, a truth value nor a list of these"),
    };
    match value {
        Value::Array(values) => values.iter().map(one).collect(),
        value => Ok(vec![one(value)?]),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use clap::{CommandFactory as _, Parser as _};

    use super::*;
    use crate::cli::{Cli, Scenario};

    fn parsed(text: &str, typed: &[&str]) -> anyhow::Result<Scenario> {
        let typed: Vec<String> = typed.iter().map(|word| (*word).to_owned()).collect();
        let arguments = arguments(text, &typed, &Cli::command())?;
        Ok(Cli::try_parse_from(std::iter::once("tidegate-loadtest".to_owned()).chain(arguments))?.scenario)
    }

    const FILE: &str = "scenario = 'fanout'\nurl = ['http://a:1', 'http://b:1']\nsubscribers = 5\nmessages = 7\nusers = true\n";

    #[test]
    fn a_file_is_a_command_line() {
        let Scenario::Fanout { target, options } = parsed(FILE, &["--pid", "3"]).unwrap() else { panic!() };
        assert_eq!(
            (target.urls.as_slice(), target.pids),
            (&["http://a:1".into(), "http://b:1".into()][..], vec![3])
        );
        assert_eq!((options.subscribers, options.messages, options.users), (5, 7, true));
    }

    #[test]
    fn what_is_typed_takes_the_place_of_what_is_written() {
        let typed = ["--url", "http://c:1", "--subscribers=9", "--users=false"];
        let Scenario::Fanout { target, options } = parsed(FILE, &typed).unwrap() else { panic!() };
        assert_eq!((target.urls, options.subscribers), (vec!["http://c:1".to_owned()], 9));
        assert_eq!((options.messages, options.users), (7, false));
    }

    #[test]
    fn what_a_file_has_wrong_is_named() {
        let error = |text: &str| format!("{:#}", parsed(text, &[]).err().unwrap());
        assert!(error("scenario = 'fanout'\nsubscriber = 5").contains("`subscriber`"));
        assert!(error("scenario = 'compare'").contains("`compare`"));
        assert!(error("scenario = 'nothing'").contains("`nothing`"));
        assert!(error("subscribers = 5").contains("`scenario`"));
        assert!(error("scenario = 'fanout'\nsubscribers = {}").contains("`subscribers`"));
        assert!(error("scenario = 'fanout'\nsubscribers = 'many'").contains("--subscribers"));
        assert!(error("not toml").contains("not TOML"));
    }

    #[test]
    fn every_file_of_ours_is_sound_and_every_scenario_has_one() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
        let mut found = Vec::new();
        for file in std::fs::read_dir(folder).unwrap() {
            let file = file.unwrap().path();
            let text = std::fs::read_to_string(&file).unwrap();
            let typed = ["--url=http://127.0.0.1:1", "--url=http://127.0.0.1:2"];
            parsed(&text, &typed).unwrap_or_else(|error| panic!("{file:?}: {error:#}"));
            assert!(text.starts_with('#'), "{file:?} says what it shows");
            found.push(file.file_stem().unwrap().to_str().unwrap().to_owned());
        }
        let command = Cli::command();
        let scenarios = command.get_subcommands().filter(|scenario| find(scenario, "url").is_some());
        for scenario in scenarios {
            assert!(
                found.iter().any(|name| name == scenario.get_name()),
                "{} has no file",
                scenario.get_name()
            );
        }
    }
}
