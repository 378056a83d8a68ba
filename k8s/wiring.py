"""Checks what no schema can see: that the operating files fit each other and the program.

    wiring.py ROOT RENDERED

ROOT is the repository, RENDERED the output of `kubectl kustomize`. Prints every fault; exits 1 if there is one.
"""

import pathlib
import re
import sys
import tomllib

import yaml

# After drain.timeout_ms the program gives itself 3 s for the lease and 3 s for its admin connections.
AFTER_DRAIN_S = 6

root, rendered = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
faults = []


def hold(condition, fault):
    if not condition:
        faults.append(fault)


def known_settings():
    """Every key of config.default.toml, which a test of the program keeps complete; unset ones are commented out."""
    section, keys = "", set()
    for line in (root / "crates/tidegate/config.default.toml").read_text().splitlines():
        if found := re.match(r"\[([a-z.]+)\]$", line):
            section = found[1]
        elif found := re.match(r"(?:# )?([a-z_.]+) = ", line):
            keys.add(f"{section}.{found[1]}")
    return keys


def flattened(table, path=""):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{path}{key}.")
        else:
            yield path + key


def environment(who, names, known):
    for name in names:
        key = name.removeprefix("TIDEGATE_").lower().replace("__", ".")
        hold(name.startswith("TIDEGATE_") and key in known, f"{who}: {name} is no setting of the program")


def seconds(text):
    found = re.fullmatch(r"(\d+)s", str(text))
    return int(found[1]) if found else 0


def port(address):
    return int(address.rsplit(":", 1)[1])


def kubernetes(known, image_user, version):
    by_kind = {}
    for document in filter(None, yaml.safe_load_all(rendered.read_text())):
        by_kind.setdefault(document["kind"], []).append(document)
    kinds = {kind: len(documents) for kind, documents in by_kind.items()}
    if kinds != {"Deployment": 1, "Service": 1, "ConfigMap": 1}:
        faults.append(f"rendered: one Deployment, Service and ConfigMap are expected, found {kinds}")
        return
    (deployment,), (service,), (config_map,) = by_kind["Deployment"], by_kind["Service"], by_kind["ConfigMap"]
    pod = deployment["spec"]["template"]["spec"]
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    (container,) = pod["containers"]
    ports = {entry["name"]: entry["containerPort"] for entry in container["ports"]}

    hold(deployment["spec"]["selector"]["matchLabels"].items() <= labels, "Deployment: selector misses its pods")
    hold(service["spec"]["selector"].items() <= labels, "Service: selector misses the pods")
    for entry in service["spec"]["ports"]:
        hold(entry["targetPort"] in ports, f"Service: the pods have no port {entry['targetPort']}")

    # The program reads the file that the ConfigMap holds, at the place where it is mounted.
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    files = {}
    for mount in container["volumeMounts"]:
        hold(mount["name"] in volumes, f"Deployment: no volume {mount['name']}")
        named = volumes.get(mount["name"], {}).get("configMap", {}).get("name")
        if named == config_map["metadata"]["name"]:
            files |= {f"{mount['mountPath']}/{name}": text for name, text in config_map["data"].items()}
    path = container["args"][container["args"].index("--config") + 1]
    if path not in files:
        faults.append(f"Deployment: nothing is mounted at {path}")
        return
    settings = tomllib.loads(files[path])
    for key in flattened(settings):
        hold(key in known, f"ConfigMap: {key} is no setting of the program")
    environment("Deployment", [entry["name"] for entry in container["env"]], known)

    server = settings["server"]
    for name, key in [("client", "listen"), ("admin", "admin_listen")]:
        hold(ports.get(name) == port(server[key]), f"ConfigMap: server.{key} is not the port named {name}")
    routes = re.findall(r'\.route\("(/[a-z]+)"', (root / "crates/tidegate/src/admin/mod.rs").read_text())
    for probe in ["livenessProbe", "readinessProbe"]:
        get = container[probe]["httpGet"]
        hold(get["port"] == "admin", f"{probe}: asks port {get['port']}")
        hold(get["path"] in routes, f"{probe}: the admin port has no {get['path']}")

    drain_s = settings["drain"]["timeout_ms"] / 1000
    grace_s = pod["terminationGracePeriodSeconds"]
    hold(grace_s > drain_s + AFTER_DRAIN_S, f"Deployment: {grace_s} s of grace for a drain of {drain_s} s")
    user = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    hold(user == image_user, f"Deployment: runs as {user}, the image as {image_user}")
    hold(container["image"] == f"tidegate:{version}", f"Deployment: image {container['image']} is not {version}")


def compose(known, version):
    services = yaml.safe_load((root / "docker-compose.yml").read_text())["services"]
    defaults = tomllib.loads((root / "crates/tidegate/config.default.toml").read_text())
    for name, service in services.items():
        for published in service.get("ports", []):
            hold(published.startswith("127.0.0.1:"), f"{name}: port {published} is not on loopback only")
        hold("healthcheck" in service, f"{name}: has no healthcheck")
        for needed in service.get("depends_on", {}):
            hold(needed in services, f"{name}: depends on {needed}, which is no service")
        if not name.startswith("gateway-"):
            continue
        environment(name, service["environment"], known)
        drain_ms = service["environment"].get("TIDEGATE_DRAIN__TIMEOUT_MS", defaults["drain"]["timeout_ms"])
        hold(
            seconds(service["stop_grace_period"]) > int(drain_ms) / 1000 + AFTER_DRAIN_S,
            f"{name}: stop_grace_period {service['stop_grace_period']} for a drain of {drain_ms} ms",
        )
        hold(service["image"].endswith(f":-tidegate:{version}}}"), f"{name}: image {service['image']} is not {version}")
        dockerfile = root / service["build"]["context"] / service["build"]["dockerfile"]
        hold(dockerfile.is_file(), f"{name}: no {service['build']['dockerfile']}")
        declared = re.findall(r"^ARG (\w+)=(\S+)$", dockerfile.read_text(), re.MULTILINE)
        for argument, value in service["build"]["args"].items():
            default = value.removeprefix(f"${{{argument}:-").removesuffix("}")
            hold((argument, default) in declared, f"{name}: the Dockerfile has no ARG {argument}={default}")


version = tomllib.loads((root / "Cargo.toml").read_text())["workspace"]["package"]["version"]
users = re.findall(r"^USER (\S+)$", (root / "deploy/Dockerfile").read_text(), re.MULTILINE)
hold(len(users) == 1, f"Dockerfile: one USER is expected, found {users}")
known = known_settings()
hold(len(known) > 20, f"config.default.toml: only {len(known)} settings could be read")
kubernetes(known, users[-1] if users else None, version)
compose(known, version)
for fault in faults:
    print(fault)
sys.exit(1 if faults else 0)
