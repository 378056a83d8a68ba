"""docker-compose.yml: reachable from this machine only, gateways that can be scaled, settings that the program takes."""

import re

import yaml

from program import AFTER_DRAIN_S, drain_s, port


def check(program, faults):
    document = yaml.safe_load(program.text("docker-compose.yml"))
    services = document["services"]
    for name, service in services.items():
        for published in service.get("ports", []):
            loopback = str(published).startswith("127.0.0.1:")
            faults.hold(loopback, f"{name}: port {published} is not on loopback only")
        faults.hold("test" in service.get("healthcheck", {}), f"{name}: has no healthcheck")
        for needed in service.get("depends_on", {}):
            faults.hold(needed in services, f"{name}: depends on {needed}, which is no service")
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            there = (program.root / source).exists() if source.startswith(".") else source in document["volumes"]
            faults.hold(there, f"{name}: there is no {source}")
    if "gateway" in services:
        _gateway(program, services["gateway"], faults)
    else:
        faults.append(f"there is no service gateway among {sorted(services)}")


def _gateway(program, service, faults):
    for alone in ["ports", "container_name", "hostname"]:
        faults.hold(alone not in service, f"gateway: with {alone} there can be only one")
    environment = {name: filled_in(value) for name, value in service["environment"].items()}
    for name in program.strangers(environment):
        faults.append(f"gateway: {name} is no setting of the program")
    faults.hold("TIDEGATE_SERVER__NODE_ID" not in environment, "gateway: several of one name cannot live")
    settings = program.effective(faults, environment)
    if settings is not None:
        grace = _seconds(service["stop_grace_period"])
        needed = drain_s(settings) + AFTER_DRAIN_S
        faults.hold(grace > needed, f"gateway: stop_grace_period {grace} s for a drain and what follows, {needed} s")
        files = int(filled_in(service["ulimits"]["nofile"]))
        most = settings["server"]["connections_max"]
        faults.hold(most < files, f"gateway: {most} connections with {files} files")
        admin = port(settings["server"]["admin_listen"])
        faults.hold(admin == 8081, f"gateway: its healthcheck asks port 8081, it listens on {admin}")
    image = filled_in(service["image"])
    faults.hold(image == f"tidegate:{program.version}", f"gateway: image {image} is not version {program.version}")
    _build(program, service["build"], faults)


def _build(program, build, faults):
    path = program.root / build["context"] / build["dockerfile"]
    if not path.is_file():
        faults.append(f"gateway: there is no {build['dockerfile']}")
        return
    declared = dict(re.findall(r"^ARG (\w+)=(\S+)$", path.read_text(), re.MULTILINE))
    for argument, value in build["args"].items():
        same = argument in declared and declared[argument] == filled_in(value)
        faults.hold(same, f"gateway: {argument} is {filled_in(value)}, in the Dockerfile {declared.get(argument)}")
    labelled = declared.get("TIDEGATE_VERSION", program.version)
    faults.hold(labelled == program.version, f"Dockerfile: TIDEGATE_VERSION {labelled} is not {program.version}")


def image_of(program, service):
    services = yaml.safe_load(program.text("docker-compose.yml"))["services"]
    return filled_in(services[service]["image"])


def filled_in(value):
    """What Compose makes of ${NAME:-default} where nothing is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))


def _seconds(text):
    found = re.fullmatch(r"(\d+)s", str(text))
    return int(found[1]) if found else 0
