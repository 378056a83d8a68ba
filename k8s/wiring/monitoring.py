"""The custom objects of components/monitoring, of which the validator knows no schema, and the autoscaler's metric."""

import re

import yaml

from rendering import title

KINDS = {"ServiceMonitor", "PrometheusRule"}
ENDPOINT = {"port", "path", "interval", "scrapeTimeout", "honorLabels", "relabelings"}
RELABELING = {"sourceLabels", "targetLabel"}
GROUP = {"name", "interval", "rules"}
RULE = {"record", "alert", "expr", "for", "keep_firing_for", "labels", "annotations"}


def check(rendering, program, faults):
    custom = [document for document in rendering.objects if document["apiVersion"] == "monitoring.coreos.com/v1"]
    # The overlays by themselves are for clusters without the operator, too.
    wanted = rendering.name == "site" or rendering.name.endswith("+monitoring")
    faults.hold(bool(custom) == wanted, f"has {len(custom)} custom objects")
    if not custom:
        return
    kinds = {document["kind"] for document in custom}
    faults.hold(kinds == KINDS, f"the component has the kinds {sorted(kinds)}")
    monitors = [document for document in custom if document["kind"] == "ServiceMonitor"]
    jobs = {job for monitor in monitors for job in _monitor(rendering, program, monitor, faults)}
    originals = {name: yaml.safe_load(program.text(f"deploy/prometheus/{name}.yml")) for name in ["rules", "alerts"]}
    for name, original in originals.items():
        rule = next((one for one in custom if one["metadata"]["name"] == f"tidegate-{name}"), None)
        same = rule is not None and rule["kind"] == "PrometheusRule" and rule["spec"] == original
        faults.hold(same, f"there is no PrometheusRule like deploy/prometheus/{name}.yml")
        _groups(f"deploy/prometheus/{name}.yml", original, faults)
    meant = set(re.findall(r'job="(tidegate[a-z-]*)"', str(originals)))
    faults.hold(meant == jobs, f"the rules ask for the jobs {sorted(meant)}, scraped are {sorted(jobs)}")


def _monitor(rendering, program, monitor, faults):
    """The jobs under which it scrapes."""
    spec = monitor["spec"]
    faults.hold(set(spec) == {"selector", "jobLabel", "endpoints"}, f"{title(monitor)}: has {sorted(spec)}")
    services = rendering.services(spec["selector"]["matchLabels"])
    faults.hold(len(services) == 1, f"{title(monitor)}: selects {len(services)} Services, so pods are scraped as often")
    for endpoint in spec["endpoints"]:
        faults.hold(set(endpoint) <= ENDPOINT, f"{title(monitor)}: an endpoint has {sorted(endpoint)}")
        faults.hold(endpoint["path"] in program.admin_routes, f"{title(monitor)}: there is no {endpoint['path']}")
        faults.hold(endpoint.get("honorLabels") is True, f"{title(monitor)}: renames the label namespace of our series")
        for relabeling in endpoint.get("relabelings", []):
            faults.hold(set(relabeling) <= RELABELING, f"{title(monitor)}: a relabeling has {sorted(relabeling)}")
        named_by_pod = any(one.get("targetLabel") == "instance" for one in endpoint.get("relabelings", []))
        faults.hold(named_by_pod, f"{title(monitor)}: instance is an address and not the node's id")
        for service in services:
            named = [entry["name"] for entry in service["spec"]["ports"]]
            faults.hold(endpoint["port"] in named, f"{title(monitor)}: {title(service)} has no port {endpoint['port']}")
            hidden = not service["spec"].get("publishNotReadyAddresses")
            faults.hold(not hidden, f"{title(monitor)}: {title(service)} hides the pods that are not ready")
    return [service["metadata"]["labels"][spec["jobLabel"]] for service in services]


def _groups(where, original, faults):
    faults.hold(set(original) == {"groups"}, f"{where}: has {sorted(original)}")
    for group in original["groups"]:
        faults.hold(set(group) <= GROUP, f"{where}: group {group.get('name')} has {sorted(group)}")
        for rule in group["rules"]:
            well_formed = set(rule) <= RULE and ("record" in rule) != ("alert" in rule) and isinstance(rule["expr"], str)
            faults.hold(well_formed, f"{where}: {rule} is no rule of an operator")


def adapter(program, scalers, values, faults):
    """The example of the adapter gives each autoscaler the metric that it asks for."""
    rules = {rule["seriesQuery"].split("{")[0]: rule for rule in values["rules"]["custom"]}
    for name in rules:
        faults.hold(name in program.metrics, f"the program has no {name}")
    for scaler in scalers:
        for metric in scaler["spec"]["metrics"]:
            name = metric["pods"]["metric"]["name"]
            # Without `name`, the series' own name is the metric's.
            given = name in rules and "name" not in rules[name]
            faults.hold(given, f"no rule for {name}, which {title(scaler)} asks for")
            if given:
                pods = {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}
                faults.hold(rules[name]["resources"] == {"overrides": pods}, f"{name} is not told apart by pods")
                summed = rules[name]["metricsQuery"] == "sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)"
                faults.hold(summed, f"{name} is not the sum of its transports")
