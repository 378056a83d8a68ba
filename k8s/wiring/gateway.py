"""The gateway's Deployment: the program accepts what it is given, answers where it is asked, and has time to leave."""

from urllib.parse import urlsplit

import network
from program import AFTER_DRAIN_S, drain_s, port
from rendering import ports, title

# What stands in for a Secret that the operator brings.
SECRET = "tidegate"
DUMMIES = {
    "redis-url": "redis://redis.example:6379",
    "jwt-secret": "0123456789abcdef0123456789abcdef",
    "api-keys": "0123456789abcdef",
}

# What both of nginx's controllers must be told, and one of them.
INGRESS = [
    f"{controller}/{name}"
    for controller in ["nginx.org", "nginx.ingress.kubernetes.io"]
    for name in ["proxy-read-timeout", "proxy-send-timeout", "proxy-next-upstream"]
] + [
    "nginx.org/websocket-services",
    "nginx.org/lb-method",
    "nginx.org/client-max-body-size",
    "nginx.ingress.kubernetes.io/upstream-hash-by",
    "nginx.ingress.kubernetes.io/proxy-body-size",
]


def check(rendering, program, faults):
    deployment = rendering.find("Deployment", "tidegate")
    if deployment is None:
        faults.append("there is no Deployment tidegate")
        return
    # Only the overlay for development has a Secret, and with it a Redis.
    is_development = rendering.name.startswith("dev")
    faults.hold(is_development or not rendering.all("Secret"), "a Secret is shipped")
    template = deployment["spec"]["template"]
    (container,) = template["spec"]["containers"]
    environment = _environment(rendering, program, container, faults)
    file = _file(rendering, template, container, faults)
    settings = program.effective(faults, environment, file)
    if settings is None:
        return
    known = ports(template)
    for name, key in [("client", "listen"), ("admin", "admin_listen")]:
        faults.hold(known.get(name) == port(settings["server"][key]), f"server.{key} is not the port named {name}")
    _probes(program, container, faults)
    _leaving(deployment, container, drain_s(settings), faults)
    _memory(container, settings["server"]["connections_max"], faults)
    budgeted = any(rendering.pods(one["spec"]["selector"]) == [template] for one in rendering.all("PodDisruptionBudget"))
    faults.hold(budgeted, "Deployment: no PodDisruptionBudget keeps hosts from being emptied all at once")
    _image(program, deployment, container, faults)
    _clients(rendering, program, settings, faults)
    _scaling(rendering, program, settings, faults)
    redis = urlsplit(environment["TIDEGATE_REDIS__URL"])
    # The base leaves the way to Redis to the overlays.
    network.check(rendering, template, set() if rendering.name == "base" else {redis.port}, faults)
    if is_development:
        _own_redis(rendering, redis, faults)


def _environment(rendering, program, container, faults):
    """The variables as the kubelet would set them."""
    environment = {}
    for entry in container["env"]:
        source = entry.get("valueFrom", {})
        if "value" in entry:
            environment[entry["name"]] = entry["value"]
        elif "fieldRef" in source:
            environment[entry["name"]] = "tidegate-0123456789-abcde"
        else:
            reference = source["secretKeyRef"]
            values = rendering.secret(reference["name"])
            if values is None:
                faults.hold(reference["name"] == SECRET, f"{entry['name']}: there is no Secret {reference['name']}")
                values = DUMMIES
            if reference["key"] in values:
                environment[entry["name"]] = values[reference["key"]]
            else:
                faults.hold(reference.get("optional"), f"{entry['name']}: the Secret has no {reference['key']}")
    for name in program.strangers(environment):
        faults.append(f"{name} is no setting of the program")
    return environment


def _file(rendering, template, container, faults):
    """What stands where the program looks for its settings."""
    path = container["args"][container["args"].index("--config") + 1]
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    for mount in container["volumeMounts"]:
        named = volumes.get(mount["name"], {}).get("configMap", {}).get("name")
        config_map = rendering.find("ConfigMap", named)
        for name, text in (config_map or {"data": {}})["data"].items():
            if f"{mount['mountPath']}/{name}" == path:
                return text
    faults.append(f"Deployment: nothing is mounted at {path}")
    return None


def _probes(program, container, faults):
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"]:
        get = container.get(probe, {}).get("httpGet", {})
        faults.hold(get.get("port") == "admin", f"{probe}: asks port {get.get('port')}")
        faults.hold(get.get("path") in program.admin_routes, f"{probe}: the admin port has no {get.get('path')}")
        # /readyz is red while Redis is away: then a node is not ready, and must not be restarted.
        is_readiness = probe == "readinessProbe"
        faults.hold((get.get("path") == "/readyz") == is_readiness, f"{probe}: asks {get.get('path')}")
    patience = container["livenessProbe"]["periodSeconds"] * container["livenessProbe"]["failureThreshold"]
    faults.hold(patience >= 20, f"livenessProbe: a node that is busy for {patience} s is killed")


def _memory(container, connections_max, faults):
    """As much as it has when the alert TidegateMemoryPerConnection begins, with all the connections that it may have."""
    limit = container["resources"]["limits"]["memory"]
    bytes_limit = int(limit[:-2]) * {"Mi": 1 << 20, "Gi": 1 << 30}[limit[-2:]]
    needed = (64 << 20) + connections_max * (64 << 10)
    faults.hold(bytes_limit >= needed, f"Deployment: {limit} of memory, {needed >> 20}Mi before the alert comes")


def _leaving(deployment, container, drain, faults):
    spec = deployment["spec"]
    pre_stop = container.get("lifecycle", {}).get("preStop", {})
    faults.hold(list(pre_stop) == ["sleep"], f"Deployment: the image has no command for preStop {pre_stop}")
    sleep = pre_stop.get("sleep", {}).get("seconds", 0)
    faults.hold(sleep > 0, "Deployment: no preStop, so that late newcomers meet a node that drains")
    grace = spec["template"]["spec"]["terminationGracePeriodSeconds"]
    needed = sleep + drain + AFTER_DRAIN_S
    faults.hold(grace > needed, f"Deployment: {grace} s of grace for preStop, drain and what follows, {needed} s")
    ready = spec.get("minReadySeconds", 0)
    faults.hold(ready >= sleep + drain, f"Deployment: minReadySeconds {ready} lets two pods drain at once")
    update = spec["strategy"]["rollingUpdate"]
    faults.hold(update["maxUnavailable"] == 0, "Deployment: a rollout takes a node away before its successor is ready")
    faults.hold(update["maxSurge"] == 1, f"Deployment: maxSurge {update['maxSurge']}, so that not one pod at a time goes")


def _image(program, deployment, container, faults):
    spec = deployment["spec"]["template"]["spec"]
    image = container["image"].rsplit("/", 1)[-1]
    faults.hold(image == f"tidegate:{program.version}", f"Deployment: {image} is not version {program.version}")
    user = f"{spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}"
    faults.hold(user == program.user, f"Deployment: runs as {user}, the image as {program.user}")
    spread = {constraint["topologyKey"] for constraint in spec.get("topologySpreadConstraints", [])}
    for key in ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]:
        faults.hold(key in spread, f"Deployment: is not spread over {key}")


def _clients(rendering, program, settings, faults):
    service = rendering.find("Service", "tidegate")
    if service is None:
        faults.append("there is no Service tidegate")
        return
    targets = [entry["targetPort"] for entry in service["spec"]["ports"]]
    faults.hold(targets == ["client"], f"{title(service)}: leads clients to {targets}")
    affinity = service["spec"].get("sessionAffinity")
    faults.hold(affinity == "ClientIP", f"{title(service)}: polls of a client go to any pod")
    served = {settings["engine"]["path"], program.plain_path}
    for ingress in rendering.all("Ingress"):
        for rule in ingress["spec"]["rules"]:
            paths = {path["path"] for path in rule["http"]["paths"]}
            faults.hold(paths == served, f"{title(ingress)}: leads to {sorted(paths)}, served are {sorted(served)}")
        silence = (settings["engine"]["ping_interval_ms"] + settings["engine"]["ping_timeout_ms"]) / 1000
        for name in INGRESS:
            faults.hold(name in ingress["metadata"]["annotations"], f"{title(ingress)}: does not say {name}")
        for name, value in ingress["metadata"]["annotations"].items():
            if name.endswith(("/proxy-read-timeout", "/proxy-send-timeout")):
                faults.hold(int(value.rstrip("s")) > silence, f"{title(ingress)}: {name} is not above {silence} s")


def _scaling(rendering, program, settings, faults):
    for scaler in rendering.all("HorizontalPodAutoscaler"):
        spec = scaler["spec"]
        faults.hold(spec["minReplicas"] >= 3, f"{title(scaler)}: fewer than three pods")
        for metric in spec["metrics"]:
            name = metric["pods"]["metric"]["name"]
            faults.hold(name in program.metrics, f"{title(scaler)}: the program has no {name}")
            target = int(metric["pods"]["target"]["averageValue"])
            crowd = target * spec["minReplicas"] / (spec["minReplicas"] - 1)
            most = settings["server"]["connections_max"]
            faults.hold(crowd <= most, f"{title(scaler)}: a pod fewer leaves {crowd} clients to each, of {most} at most")
        down = spec["behavior"]["scaleDown"]
        one_by_one = all(policy["value"] == 1 and policy["periodSeconds"] >= 60 for policy in down["policies"])
        slow = down["stabilizationWindowSeconds"] >= 600 and one_by_one and down["policies"]
        faults.hold(slow, f"{title(scaler)}: clients are sent away in a hurry")


def _own_redis(rendering, redis, faults):
    """A Redis that comes with the overlay is the one that the URL of its Secret means."""
    service = rendering.find("Service", redis.hostname)
    if service is None:
        faults.append(f"there is no Service {redis.hostname}, which redis-url names")
        return
    faults.hold(redis.port in [entry["port"] for entry in service["spec"]["ports"]], f"{title(service)}: no {redis.port}")
    for template in rendering.pods({"matchLabels": service["spec"]["selector"]}):
        (container,) = template["spec"]["containers"]
        options = container["args"]
        persists = options[options.index("--appendonly") + 1] == "yes" if "--appendonly" in options else False
        faults.hold(persists, f"{title(service)}: forgets durable messages")
        (reference,) = [entry["valueFrom"]["secretKeyRef"] for entry in container["env"]]
        password = (rendering.secret(reference["name"]) or {}).get(reference["key"])
        faults.hold(password == redis.password, f"{title(service)}: the password in redis-url is another")
