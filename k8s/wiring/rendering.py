"""One output of kustomize, and what must hold in any: whoever names another object names one that is there."""

import base64

import yaml


class Rendering:
    def __init__(self, path):
        self.name = path.stem
        self.objects = [document for document in yaml.safe_load_all(path.read_text()) if document]

    def all(self, kind):
        return [document for document in self.objects if document["kind"] == kind]

    def find(self, kind, name):
        return next((document for document in self.all(kind) if document["metadata"]["name"] == name), None)

    def workloads(self):
        return [*self.all("Deployment"), *self.all("StatefulSet")]

    def pods(self, selector):
        """The templates whose pods a selector means; an empty one means all."""
        labels = selector.get("matchLabels", {}).items()
        templates = [workload["spec"]["template"] for workload in self.workloads()]
        return [template for template in templates if labels <= template["metadata"]["labels"].items()]

    def services(self, labels):
        return [service for service in self.all("Service") if labels.items() <= service["metadata"]["labels"].items()]

    def secret(self, name):
        """The values of a Secret, if it is part of the rendering."""
        found = self.find("Secret", name)
        if found is None:
            return None
        decoded = {key: base64.b64decode(value).decode() for key, value in found.get("data", {}).items()}
        return decoded | found.get("stringData", {})


def title(document):
    return f"{document['kind']} {document['metadata']['name']}"


def ports(template):
    """The ports of a pod by name."""
    containers = template["spec"]["containers"]
    return {entry["name"]: entry["containerPort"] for container in containers for entry in container["ports"]}


def check(rendering, faults):
    names = [(document["kind"], document["metadata"]["name"]) for document in rendering.objects]
    faults.hold(len(names) == len(set(names)), "two objects share a name")
    namespaces = {document["metadata"].get("namespace") for document in rendering.objects} - {None}
    faults.hold(len(namespaces) < 2, f"objects in more than one namespace: {namespaces}")
    # Of custom objects no schema says so.
    for document in rendering.objects:
        for part in ["labels", "annotations"]:
            texts = all(isinstance(value, str) for value in document["metadata"].get(part, {}).values())
            faults.hold(texts, f"{title(document)}: {part} that are no texts")
    for workload in rendering.workloads():
        _workload(rendering, workload, faults)
    for service in rendering.all("Service"):
        selected = rendering.pods({"matchLabels": service["spec"]["selector"]})
        faults.hold(len(selected) == 1, f"{title(service)}: selects pods of {len(selected)} workloads")
        for template in selected:
            for entry in service["spec"]["ports"]:
                known = entry["targetPort"] in ports(template)
                faults.hold(known, f"{title(service)}: the pods have no port {entry['targetPort']}")
    for budget in rendering.all("PodDisruptionBudget"):
        faults.hold(rendering.pods(budget["spec"]["selector"]), f"{title(budget)}: selects no pods")
        faults.hold(budget["spec"].get("maxUnavailable", 0) >= 1, f"{title(budget)}: no host can be emptied")
    for scaler in rendering.all("HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        workload = rendering.find(target["kind"], target["name"])
        if workload is None:
            faults.append(f"{title(scaler)}: there is no {target['kind']} {target['name']}")
            continue
        faults.hold(workload["apiVersion"] == target["apiVersion"], f"{title(scaler)}: {target['apiVersion']}")
        faults.hold("replicas" not in workload["spec"], f"{title(scaler)}: every apply sets its replicas back")
        least, most = scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]
        faults.hold(most > least, f"{title(scaler)}: from {least} to {most} pods")
    for ingress in rendering.all("Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                _backend(rendering, ingress, path["backend"]["service"], faults)


def _workload(rendering, workload, faults):
    """What Pod Security calls restricted, and a little more, for every pod."""
    template, spec = workload["spec"]["template"], workload["spec"]["template"]["spec"]
    selector = workload["spec"]["selector"]
    faults.hold(rendering.pods(selector) == [template], f"{title(workload)}: selects other pods than its own")
    context = spec["securityContext"]
    faults.hold(context.get("runAsNonRoot") is True, f"{title(workload)}: may run as root")
    faults.hold(context.get("seccompProfile") == {"type": "RuntimeDefault"}, f"{title(workload)}: no seccomp profile")
    for setting in ["automountServiceAccountToken", "enableServiceLinks"]:
        faults.hold(spec.get(setting) is False, f"{title(workload)}: {setting} is not false")
    for container in spec["containers"]:
        context = container.get("securityContext", {})
        faults.hold(context.get("readOnlyRootFilesystem") is True, f"{title(workload)}: can write to its image")
        faults.hold(context.get("allowPrivilegeEscalation") is False, f"{title(workload)}: may gain privileges")
        faults.hold(context.get("capabilities") == {"drop": ["ALL"]}, f"{title(workload)}: has capabilities")
        limits = container.get("resources", {}).get("limits", {})
        faults.hold("memory" in limits, f"{title(workload)}: has no limit of memory")
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        volumes |= {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
        for mount in container.get("volumeMounts", []):
            faults.hold(mount["name"] in volumes, f"{title(workload)}: has no volume {mount['name']}")
    for constraint in spec.get("topologySpreadConstraints", []):
        matched = constraint["labelSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        faults.hold(matched, f"{title(workload)}: {constraint['topologyKey']} counts other pods than its own")
    if "serviceName" in workload["spec"]:
        service = rendering.find("Service", workload["spec"]["serviceName"])
        faults.hold(service is not None, f"{title(workload)}: no Service {workload['spec']['serviceName']}")


def _backend(rendering, ingress, backend, faults):
    service = rendering.find("Service", backend["name"])
    if service is None:
        faults.append(f"{title(ingress)}: there is no Service {backend['name']}")
        return
    named = [entry["name"] for entry in service["spec"]["ports"]]
    faults.hold(backend["port"]["name"] in named, f"{title(ingress)}: {backend['name']} has no port {backend['port']}")
