"""What the program itself says: its settings, its ports, its version, and its judgement on a configuration."""

import pathlib
import re
import subprocess
import tempfile
import tomllib

# After drain.timeout_ms the program gives itself 3 s for the lease and 3 s for its admin connections.
AFTER_DRAIN_S = 6

# What `tidegate check` answers to a configuration that it refuses.
REFUSED = 64


class Program:
    def __init__(self, root, binary):
        self.root, self.binary = root, binary
        self.version = tomllib.loads(self.text("Cargo.toml"))["workspace"]["package"]["version"]
        self.metrics = set(re.findall(r'"(tidegate_[a-z_]+)"', self.text("crates/gateway/src/metrics.rs")))
        self.admin_routes = re.findall(r'\.route\("(/[a-z]+)"', self.text("crates/tidegate/src/admin/mod.rs"))
        (self.plain_path,) = re.findall(
            r'const PATH: &str = "(.+)";', self.text("crates/gateway/src/transport/plain.rs")
        )
        (self.user,) = re.findall(r"^USER (\S+)$", self.text("deploy/Dockerfile"), re.MULTILINE)
        self.settings = self._settings()

    def text(self, path):
        return (self.root / path).read_text()

    def _settings(self):
        """Every key of config.default.toml, which a test of the program keeps complete; unset ones are commented out."""
        section, keys = "", set()
        for line in self.text("crates/tidegate/config.default.toml").splitlines():
            if found := re.match(r"\[([a-z.]+)\]$", line):
                section = found[1]
            elif found := re.match(r"(?:# )?([a-z_.]+) = ", line):
                keys.add(f"{section}.{found[1]}")
        if len(keys) < 20:
            raise ValueError(f"config.default.toml: only {len(keys)} settings could be read")
        return keys

    def strangers(self, names):
        """The variables that the program would ignore in silence: a mistyped name is not a fault to it."""
        for name in names:
            key = name.removeprefix("TIDEGATE_").lower().replace("__", ".")
            if not name.startswith("TIDEGATE_") or key not in self.settings:
                yield name

    def check(self, environment, file=None):
        """The exit code of `tidegate check`, and what it printed."""
        with tempfile.TemporaryDirectory() as scratch:
            arguments = [str(self.binary), "check"]
            if file is not None:
                path = pathlib.Path(scratch, "tidegate.toml")
                path.write_text(file)
                arguments += ["--config", str(path)]
            done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=30, check=False)
            return done.returncode, done.stdout if done.returncode == 0 else done.stderr

    def effective(self, faults, environment, file=None):
        """The settings in effect, or None after a fault."""
        code, words = self.check(environment, file)
        if code == 0:
            return tomllib.loads(words)
        faults.append(f"tidegate check answers {code}: {words.strip()}")
        return None


def port(address):
    return int(address.rsplit(":", 1)[1])


def drain_s(settings):
    return settings["drain"]["timeout_ms"] / 1000
