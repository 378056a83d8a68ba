#!/usr/bin/env bash
# Checks the operating files without a cluster and without Docker: renders k8s/base, validates the result against the
# schemas of several Kubernetes versions and docker-compose.yml against the Compose schema, and checks that all of
# them fit each other and the program (wiring.py).
#
#   k8s/check.sh
#
# Needs kubectl, and python3 (3.11 or later) with venv; the validators go into a venv under target/, by pip at the
# first run. Nothing is ever skipped: a missing tool is named, and the exit code is 1.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
venv=${CARGO_TARGET_DIR:-$root/target}/k8s-check
requirements=$here/check-requirements.txt

missing() {
    echo "k8s/check.sh: cannot check anything: $1" >&2
    exit 1
}

command -v kubectl >/dev/null || missing "kubectl is not installed"
command -v python3 >/dev/null || missing "python3 is not installed"
python3 -c 'import tomllib' 2>/dev/null || missing "python3 is older than 3.11"

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

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
rendered=$scratch/base.yaml
passed=0
failed=0

# check NAME COMMAND...: the command's output is shown only if it fails.
check() {
    local name=$1
    shift
    if "$@" >"$scratch/output" 2>&1; then
        echo "ok    $name"
        passed=$((passed + 1))
    else
        echo "FAIL  $name"
        sed 's/^/      /' "$scratch/output"
        failed=$((failed + 1))
    fi
}

# A failed rendering leaves no file, so that what follows cannot pass on half of one.
render() {
    kubectl kustomize "$here/base" >"$scratch/rendering" && [ -s "$scratch/rendering" ] &&
        mv "$scratch/rendering" "$rendered"
}

# An unknown kind or version is only a warning to the validator, so its words are looked for.
schema() {
    [ -f "$rendered" ] || { echo "there is nothing to validate" && return 1; }
    local answer=0
    "$venv/bin/kubernetes-validate" --kubernetes-version "$1" --strict "$rendered" >"$scratch/answer" 2>&1 || answer=$?
    cat "$scratch/answer"
    ! grep -q "Couldn't find schema" "$scratch/answer" && return "$answer"
}

check "k8s/base renders" render
for version in 1.29 1.32 1.34; do
    check "k8s/base against the schema of Kubernetes $version" schema "$version"
done
check "docker-compose.yml against the Compose schema" \
    "$venv/bin/check-jsonschema" --builtin-schema vendor.compose-spec "$root/docker-compose.yml"
check "the files fit each other and the program" "$venv/bin/python" "$here/wiring.py" "$root" "$rendered"

echo "NOT EXERCISED here: a live cluster, a Docker engine, the official base images"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
