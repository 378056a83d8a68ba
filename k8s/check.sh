#!/usr/bin/env bash
# Checks the operating files without a cluster and without Docker: renders the base, the overlays with and without the
# monitoring component, and the example; validates all of it against the schemas of several Kubernetes versions and
# docker-compose.yml against the Compose schema; and checks that everything fits together and fits the program (wiring).
#
#   k8s/check.sh
#
# Needs kubectl, python3 (3.11 or later) with venv, and the program built from this checkout: $TIDEGATE, or
# target/debug/tidegate. The validators go into a venv under target/, by pip at the first run. Nothing is ever skipped: a
# missing tool is named, and the exit code is 1.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
target=${CARGO_TARGET_DIR:-$root/target}
tidegate=${TIDEGATE:-$target/debug/tidegate}
venv=$target/k8s-check
requirements=$here/check-requirements.txt

missing() {
    echo "k8s/check.sh: cannot check anything: $1" >&2
    exit 1
}

command -v kubectl >/dev/null || missing "kubectl is not installed"
command -v python3 >/dev/null || missing "python3 is not installed"
python3 -c 'import tomllib' 2>/dev/null || missing "python3 is older than 3.11"
[ -x "$tidegate" ] || missing "there is no $tidegate (cargo build -p tidegate makes it)"

# The copy of the requirements is written last, so that a venv that was left half-made is made again.
if ! cmp -s "$requirements" "$venv/installed.txt"; then
    rm -rf "$venv"
    python3 -m venv "$venv" || missing "python3 has no venv module (Debian: apt-get install python3-venv)"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements" ||
        missing "pip could not install kubernetes-validate and check-jsonschema"
    cp "$requirements" "$venv/installed.txt"
fi
for tool in kubernetes-validate check-jsonschema; do
    [ -x "$venv/bin/$tool" ] || missing "$tool is not in $venv; remove that directory and try again"
done

# shellcheck source-path=SCRIPTDIR source=../crates/test/checks.sh
. "$here/../crates/test/checks.sh"
mkdir "$scratch/rendered"
rendered=()

# A failed rendering leaves no file, so that what follows cannot pass on half of one.
render() {
    kubectl kustomize "$2" >"$scratch/rendering" && [ -s "$scratch/rendering" ] &&
        mv "$scratch/rendering" "$scratch/rendered/$1.yaml"
}

# An overlay with the component, as an operator would write it. Kustomize takes no absolute paths.
with_monitoring() {
    mkdir "$scratch/$1"
    python3 - "$scratch/$1" "$here/overlays/${1%+*}" "$here/components/monitoring" <<'PYTHON'
import os, sys
place, overlay, component = map(os.path.realpath, sys.argv[1:])
with open(os.path.join(place, "kustomization.yaml"), "w") as file:
    file.write(f"resources: [{os.path.relpath(overlay, place)}]\ncomponents: [{os.path.relpath(component, place)}]\n")
PYTHON
    render "$1" "$scratch/$1"
}

# The validator takes an older schema where it has none of that version, and only warns of kinds that it does not know:
# every line must be a success with this very version. Of the two kinds that the component brings, wiring/ knows more.
schema() {
    local answer=0
    "$venv/bin/kubernetes-validate" --kubernetes-version "$1" --strict \
        "$here/overlays/prod/secret.example.yaml" "${rendered[@]}" >"$scratch/answer" 2>&1 || answer=$?
    local success="^INFO .* against version $1\$"
    local ours='^WARN .* kind (ServiceMonitor|PrometheusRule) with api version monitoring\.coreos\.com/v1 '
    grep -q "$success" "$scratch/answer" || { echo "nothing was validated" && return 1; }
    if grep -vE "$success|$ours" "$scratch/answer"; then
        return 1
    fi
    return "$answer"
}

wiring() {
    "$venv/bin/python" -B "$here/wiring" "$root" "$tidegate" "${rendered[@]}"
}

check "k8s/base renders" render base "$here/base"
check "the overlay dev renders" render dev "$here/overlays/dev"
check "the overlay prod renders" render prod "$here/overlays/prod"
check "dev with monitoring renders" with_monitoring dev+monitoring
check "prod with monitoring renders" with_monitoring prod+monitoring
check "the example of a site renders" render site "$here/examples/site"
rendered=("$scratch/rendered"/*.yaml)
for version in 1.29 1.32 1.34 1.37; do
    check "all of them against the schemas of Kubernetes $version" schema "$version"
done
check "docker-compose.yml against the Compose schema" \
    "$venv/bin/check-jsonschema" --builtin-schema vendor.compose-spec "$root/docker-compose.yml"
check "the copies are what the originals say" "$venv/bin/python" -B "$here/copies.py" --check
check "the files fit each other and the program" wiring

echo "NOT EXERCISED here: a live cluster, a Docker engine, the official base images, ingress controllers"
held
