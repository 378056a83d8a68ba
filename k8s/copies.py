#!/usr/bin/env python3
"""Keeps the copies that kustomize needs inside k8s/, since it reads nothing outside its root.

    copies.py --check      fails when a copy is not what --write would make
    copies.py --write      makes them anew; run it after a change of the originals

base/tidegate.toml is the program's commented default file with some settings changed: lines that begin with `#:`, and
the one setting below them, are its own. The rule files of Prometheus become PrometheusRule objects as they are.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SETTINGS = ROOT / "crates/tidegate/config.default.toml"
RULES = ROOT / "deploy/prometheus"
MONITORING = ROOT / "k8s/components/monitoring"
OWN = "#:"

OBJECT = """\
# Made by k8s/copies.py of deploy/prometheus/{name}.yml: change that file, and run it with --write.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: tidegate-{name}
  labels:
    app.kubernetes.io/name: tidegate
spec:
"""


def entries(text):
    """Every line with the name of what it sets, if it does: (section, key), commented out or not."""
    section = ""
    for line in text.splitlines():
        bare = line.removeprefix("# ")
        if re.fullmatch(r"\[[^\]]+\]", bare):
            section = bare
            yield line, (section, "")
        elif found := re.match(r"([a-z_]+(?:\.[a-z_]+)*) = ", bare):
            yield line, (section, found[1])
        else:
            yield line, None


def settings(copy):
    """The default file with what is `copy`'s own put in place."""
    head, changed, own = [], {}, []
    for line, name in entries(copy):
        if line.startswith(OWN):
            own.append(line)
        elif own and name:
            changed[name] = [*own, line]
            own = []
        elif own:
            head, own = [*own, ""], []
    lines = list(head)
    for line, name in entries(SETTINGS.read_text()):
        lines.extend(changed.pop(name, [line]))
    for section, key in changed:
        sys.exit(f"base/tidegate.toml: {SETTINGS.name} has no {key} in {section}")
    return "\n".join(lines) + "\n"


def rules(name):
    text = (RULES / f"{name}.yml").read_text()
    indented = "".join(f"  {line}" if line.strip() else line for line in text.splitlines(keepends=True))
    return OBJECT.format(name=name) + indented


def copies():
    target = ROOT / "k8s/base/tidegate.toml"
    yield target, settings(target.read_text())
    for name in ["rules", "alerts"]:
        yield MONITORING / f"{name}.yaml", rules(name)


def main():
    if sys.argv[1:] not in (["--check"], ["--write"]):
        sys.exit(__doc__)
    stale = []
    for target, text in copies():
        if target.is_file() and target.read_text() == text:
            continue
        if sys.argv[1] == "--write":
            target.write_text(text)
            print(f"{target.relative_to(ROOT)} is written")
        else:
            stale.append(target.relative_to(ROOT))
    for target in stale:
        print(f"{target} is not what k8s/copies.py --write makes")
    sys.exit(1 if stale else 0)


main()
