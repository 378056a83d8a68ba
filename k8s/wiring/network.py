"""NetworkPolicies: they mean pods and ports that are there, guard the admin port, and leave the ways out that it takes."""

from rendering import ports, title

DNS = {(53, "UDP"), (53, "TCP")}
DNS_PODS = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
    "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
}
PROMETHEUS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}


def check(rendering, gateway, redis_ports, faults):
    """`redis_ports` are those that the pods need; none where the way to Redis is left to the overlays."""
    policies = rendering.all("NetworkPolicy")
    for policy in policies:
        _policy(rendering, policy, faults)
    for workload in rendering.workloads():
        template = workload["spec"]["template"]
        types = {kind for policy in _of(policies, template) for kind in policy["spec"]["policyTypes"]}
        faults.hold(types == {"Ingress", "Egress"}, f"{title(workload)}: its policies cover only {sorted(types)}")
    _gateway(_of(policies, gateway), ports(gateway), redis_ports, faults)


def _of(policies, template):
    labels = template["metadata"]["labels"].items()
    return [policy for policy in policies if policy["spec"]["podSelector"]["matchLabels"].items() <= labels]


def _policy(rendering, policy, faults):
    selected = rendering.pods(policy["spec"]["podSelector"])
    faults.hold(selected, f"{title(policy)}: selects no pods")
    for direction in ["ingress", "egress"]:
        if direction in policy["spec"]:
            covered = direction.capitalize() in policy["spec"]["policyTypes"]
            faults.hold(covered, f"{title(policy)}: policyTypes leaves out its {direction} rules")
    for rule in policy["spec"].get("ingress", []):
        for template in selected:
            _ports(policy, rule, template, faults)
    for rule in policy["spec"].get("egress", []):
        faults.hold(rule.get("to") and rule.get("ports"), f"{title(policy)}: a way out to anywhere")
    for rule, peers in _rules(policy):
        for peer in peers:
            own = "podSelector" in peer and "namespaceSelector" not in peer
            # Callers of the admin port are not ours: any pod may be given the label.
            if not own or _is_label_for_callers(peer["podSelector"]):
                continue
            others = rendering.pods(peer["podSelector"])
            faults.hold(others, f"{title(policy)}: names pods that are not there: {peer['podSelector']}")
            if rule in policy["spec"].get("egress", []):
                for template in others:
                    _ports(policy, rule, template, faults)


def _rules(policy):
    for rule in policy["spec"].get("ingress", []):
        yield rule, rule.get("from", [])
    for rule in policy["spec"].get("egress", []):
        yield rule, rule.get("to", [])


def _is_label_for_callers(selector):
    return selector == {"matchLabels": {"tidegate-admin": "true"}}


def _ports(policy, rule, template, faults):
    for entry in rule.get("ports", []):
        known = entry["port"] in ports(template).values()
        faults.hold(known, f"{title(policy)}: the pods have no port {entry['port']}")


def _gateway(policies, known, redis_ports, faults):
    admitted, ways_out, names, scraped = set(), set(), False, False
    for policy in policies:
        for rule in policy["spec"].get("ingress", []):
            numbers = {entry["port"] for entry in rule.get("ports", [])} or set(known.values())
            admitted |= numbers
            scraped |= known["admin"] in numbers and PROMETHEUS in rule.get("from", [])
            anyone = known["client"] not in numbers or "from" not in rule
            faults.hold(anyone, f"{title(policy)}: not all clients may come in, and no policy says who balances")
            guarded = rule.get("from") and all(any(peer.values()) for peer in rule["from"])
            faults.hold(known["admin"] not in numbers or guarded, f"{title(policy)}: the admin port is open to all")
        for rule in policy["spec"].get("egress", []):
            ways = {(entry["port"], entry.get("protocol", "TCP")) for entry in rule.get("ports", [])}
            names |= DNS <= ways and DNS_PODS in rule.get("to", [])
            ways_out |= ways
    for name, number in known.items():
        faults.hold(number in admitted, f"NetworkPolicy: nobody may reach the {name} port {number}")
    faults.hold(scraped, "NetworkPolicy: Prometheus may not reach the admin port")
    faults.hold(names, "NetworkPolicy: no way to the cluster's DNS")
    needed = {(number, "TCP") for number in redis_ports}
    faults.hold(needed <= ways_out, f"NetworkPolicy: no way out for {sorted(needed - ways_out)}")
