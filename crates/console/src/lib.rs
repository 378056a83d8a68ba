//! The console: one page on which a developer sees a cluster at work, and takes part in it.
//!
//! It is a page of HTML, style and script that fetches nothing: what it needs stands in it, the JavaScript client of
//! `crates/client-js` included, whose modules are put into one script here. It knows the cluster only as any page does, by
//! the client port and `/metrics`.

use serde::Serialize;

/// One node, as the page must be able to reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodePorts {
    /// What the node is called.
    pub name: String,
    /// Its client port, on the host that the page was loaded from.
    pub client: u16,
    /// Its admin port, on the same host.
    pub admin: u16,
}

const PAGE: &str = include_str!("../web/page.html");
const STYLE: &str = include_str!("../web/page.css");

/// A module of JavaScript: its file's name, and its source.
type Module = (&'static str, &'static str);

macro_rules! modules {
    ($folder:literal: $($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!($folder, $name)))),*]
    };
}

/// The client's modules, each behind those that it imports.
const CLIENT: &[Module] = modules!("../../client-js/src/":
    "alarms.js", "backoff.js", "binary.js", "fail.js", "closing.js", "identity.js", "packet.js", "envelope.js", "line.js",
    "options.js", "plain.js", "polling.js", "pulse.js", "requests.js", "siding.js", "surroundings.js", "link.js", "socket.js",
);

/// The page's own, likewise.
const CONSOLE: &[Module] = modules!("../web/":
    "element.js", "value.js", "metrics.js", "chart.js", "card.js", "entry.js", "panel.js", "console.js",
);

/// The page for these nodes, the one that serves it first.
#[must_use]
pub fn page(nodes: &[NodePorts]) -> String {
    let script: String = CLIENT.iter().chain(CONSOLE).map(|(_, source)| inlined(source)).collect();
    // Plain data, and no text that could end the element it stands in.
    let nodes = serde_json::to_string(nodes).unwrap_or_default().replace('<', "\\u003c");
    PAGE.replace("/* style */", STYLE).replace("/* nodes */", &nodes).replace("/* script */", &script)
}

/// A module's source as part of one script: without its imports, whose modules stand before it, and without what makes its
/// declarations known to others.
fn inlined(source: &str) -> String {
    let lines = source.lines().filter(|line| !line.starts_with("import "));
    lines.flat_map(|line| [line.strip_prefix("export ").unwrap_or(line), "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    /// The modules that one imports.
    fn imports(source: &str) -> impl Iterator<Item = &str> {
        let imports = source.lines().filter(|line| line.starts_with("import "));
        imports.map(|line| {
            let from = line.split_once(" from '").map(|(_, from)| from);
            let path = from.and_then(|from| from.strip_suffix("';")).expect("an import is one line");
            path.rsplit('/').next().expect("there is a last part")
        })
    }

    /// What a module declares at its top.
    fn declared(source: &str) -> impl Iterator<Item = &str> {
        source.lines().filter_map(|line| {
            let line = line.strip_prefix("export ").unwrap_or(line);
            let line = line.strip_prefix("async ").unwrap_or(line);
            let rest =
                ["const ", "let ", "class ", "function "].iter().find_map(|word| line.strip_prefix(word))?;
            rest.split(|letter: char| !letter.is_alphanumeric() && letter != '_' && letter != '$').next()
        })
    }

    #[test]
    fn every_module_stands_behind_those_that_it_imports() {
        let mut known = BTreeSet::from(["client.js"]);
        for (name, source) in CLIENT.iter().chain(CONSOLE) {
            for import in imports(source) {
                assert!(known.contains(import) || import == "index.js", "{name} needs {import}");
            }
            assert!(known.insert(name), "two modules are called {name}");
        }
    }

    #[test]
    fn no_module_is_left_out() {
        for (folder, modules) in [("../client-js/src", CLIENT), ("web", CONSOLE)] {
            let folder = format!("{}/{folder}", env!("CARGO_MANIFEST_DIR"));
            for file in fs::read_dir(folder).unwrap() {
                let file = file.unwrap().file_name().into_string().unwrap();
                let is_inlined = modules.iter().any(|(name, _)| *name == file);
                assert_eq!(is_inlined, file.ends_with(".js") && file != "index.js", "{file}");
            }
        }
    }

    #[test]
    fn no_two_modules_declare_the_same() {
        let mut known = BTreeSet::new();
        for (name, source) in CLIENT.iter().chain(CONSOLE) {
            for declared in declared(source) {
                assert!(known.insert(declared), "{name} declares {declared}, too");
            }
        }
        assert!(known.contains("Socket") && known.contains("SocketError"));
    }

    #[test]
    fn the_page_is_whole_and_fetches_nothing() {
        let nodes = [NodePorts { name: "</script>".to_owned(), client: 8080, admin: 8081 }];
        let page = page(&nodes);
        assert!(page.contains(r#"[{"name":"\u003c/script>","client":8080,"admin":8081}]"#));
        for left in ["/* style */", "/* nodes */", "/* script */", "import {", "\nexport "] {
            assert!(!page.contains(left), "{left}");
        }
        // Its own scripts and nothing else end a script.
        assert_eq!(page.matches("</script").count(), 2);
        for outside in ["src=\"", "href=\"http", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
