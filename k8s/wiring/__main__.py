"""Checks what no schema can see: that the operating files fit each other and the program.

    wiring ROOT TIDEGATE RENDERING...

ROOT is the repository, TIDEGATE the program built from it, each RENDERING an output of `kubectl kustomize` with the
overlay's name. Prints every fault; exits 1 if there is one.

Layout: `program` is what the program says of itself, `rendering` what holds for any objects, `gateway` the Deployment
and what belongs to it, `network` who may reach whom, `monitoring` the custom objects, `compose` docker-compose.yml.
"""

import pathlib
import sys

import yaml

import compose
import gateway
import monitoring
import rendering
from faults import Faults
from program import REFUSED, Program
from rendering import Rendering


def main():
    root, binary, *paths = map(pathlib.Path, sys.argv[1:])
    program, faults = Program(root, binary), Faults()
    renderings = [Rendering(path) for path in paths]
    for one in renderings:
        for part in [_objects, gateway.check, monitoring.check, _redis]:
            looked_at(one.name, part, one, program, faults)
    looked_at("secret.example.yaml", _secret, program, faults)
    looked_at("prometheus-adapter-values.yaml", _adapter, renderings, program, faults)
    looked_at("docker-compose.yml", compose.check, program, faults)
    for line in faults.lines():
        print(line)
    sys.exit(1 if faults.found else 0)


def looked_at(where, part, *arguments):
    """What has another shape than this code expects is a fault among the others, and not the end of them."""
    faults = arguments[-1]
    faults.where = where
    try:
        part(*arguments)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        faults.append(f"{part.__module__}.{part.__name__} cannot read it: {type(error).__name__} {error}")


def _objects(one, _program, faults):
    rendering.check(one, faults)


def _redis(one, program, faults):
    composed = compose.image_of(program, "redis")
    for workload in one.all("StatefulSet"):
        image = workload["spec"]["template"]["spec"]["containers"][0]["image"]
        faults.hold(image == composed, f"Redis is {image}, in docker-compose.yml {composed}")


def _adapter(renderings, program, faults):
    scalers = [scaler for one in renderings for scaler in one.all("HorizontalPodAutoscaler")]
    faults.hold(scalers, "there is no autoscaler to give its metric")
    values = yaml.safe_load(program.text("k8s/examples/prometheus-adapter-values.yaml"))
    monitoring.adapter(program, scalers, values, faults)


def _secret(program, faults):
    """Applied as it is, the example must stop a node, and say why; it has every key that the Deployment needs."""
    values = yaml.safe_load(program.text("k8s/overlays/prod/secret.example.yaml"))
    faults.hold(values["metadata"]["name"] == gateway.SECRET, f"is called {values['metadata']['name']}")
    faults.hold(set(values["stringData"]) == set(gateway.DUMMIES) - {"api-keys"}, f"has {sorted(values['stringData'])}")
    environment = {
        "TIDEGATE_REDIS__URL": values["stringData"].get("redis-url", ""),
        "TIDEGATE_AUTH__JWT__SECRET": values["stringData"].get("jwt-secret", ""),
    }
    code, words = program.check(environment)
    refused = code == REFUSED and "redis.url" in words and "auth.jwt.secret" in words
    faults.hold(refused, f"the program takes its values: {code} {words}")


main()
