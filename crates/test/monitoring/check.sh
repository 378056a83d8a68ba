#!/usr/bin/env bash
# Checks what watches Tidegate, without a cluster: the configuration and the rules of Prometheus, their unit tests and
# whether these would notice a change, and that rules, tests, runbook, dashboard and program fit each other.
#
#   crates/test/monitoring/check.sh
#
# Needs promtool (Debian: prometheus), node and npm, a built tidegate (TIDEGATE, by default target/debug/tidegate), and
# the npm registry at its first run. Nothing is skipped: what is missing is named, and the exit code is 1.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
prometheus=$root/deploy/prometheus
export TIDEGATE_BIN=${TIDEGATE:-$root/target/debug/tidegate}

missing() {
    echo "monitoring/check.sh: cannot check anything: $1" >&2
    exit 1
}

for tool in promtool node npm; do
    command -v "$tool" >/dev/null || missing "$tool is not installed"
done
[ -x "$TIDEGATE_BIN" ] || missing "there is no $TIDEGATE_BIN: cargo build -p tidegate"
for package in "$here" "$here/../interop"; do
    "$here/modules.sh" "$package" || missing "npm could not install what $package needs"
done

# shellcheck source-path=SCRIPTDIR source=../checks.sh
. "$here/../checks.sh"

types() {
    node "$here/types.mjs" >"$scratch/dashboard.ts"
    ln -s "$here/node_modules" "$scratch/node_modules"
    "$here/node_modules/.bin/tsc" --noEmit --strict --skipLibCheck --target es2022 --module nodenext \
        --moduleResolution nodenext "$scratch/dashboard.ts"
}

mkdir "$scratch/mutants"
check "prometheus.yml" promtool check config --lint=all --lint-fatal "$prometheus/prometheus.yml"
check "rules.yml and alerts.yml" promtool check rules --lint=all --lint-fatal "$prometheus/rules.yml" "$prometheus/alerts.yml"
check "their unit tests" promtool test rules "$prometheus"/tests/*.yml
check "the unit tests notice changed alerts" node "$here/mutants.mjs" "$scratch/mutants"
check "rules, tests, runbook, dashboard and program fit each other" node "$here/wiring.mjs"
check "tidegate.json against the types of Grafana" types

echo "NOT EXERCISED: Grafana itself, so neither how the dashboard looks nor its provisioning"
held
