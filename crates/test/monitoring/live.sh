#!/usr/bin/env bash
# A real Prometheus beside a real cluster: Redis and three nodes on free loopback ports, half a minute of load by the
# official client, then every expression of the dashboard and of the rules has to answer; see live.mjs.
#
#   crates/test/monitoring/live.sh
#
# Needs prometheus, promtool, redis-server, node and npm, a built tidegate (TIDEGATE, by default target/debug/tidegate), and
# the npm registry at its first run. Without haproxy, what is about the load balancer is told as NOT EXERCISED.
# LIVE_SECONDS is how long the load lasts before anything is asked, 35 if not set.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
export TIDEGATE_BIN=${TIDEGATE:-$root/target/debug/tidegate}

missing() {
    echo "monitoring/live.sh: cannot check anything: $1" >&2
    exit 1
}

for tool in prometheus promtool redis-server node npm; do
    command -v "$tool" >/dev/null || missing "$tool is not installed"
done
[ -x "$TIDEGATE_BIN" ] || missing "there is no $TIDEGATE_BIN: cargo build -p tidegate"
for package in "$here" "$here/../interop"; do
    "$here/modules.sh" "$package" || missing "npm could not install what $package needs"
done

exec node "$here/live.mjs"
