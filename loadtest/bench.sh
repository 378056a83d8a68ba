#!/usr/bin/env bash
# Measures Tidegate and a stock Socket.IO server with the same tool in the same minutes, and prints medians and
# ratios. See README.md beside this file for the method.
#
#   ROUNDS=3 SCALE=100 loadtest/bench.sh [RECORD_FILE]
#
# ROUNDS is how often everything is measured; SCALE is the number of messages in percent of the default.
# Without RECORD_FILE the record goes to target/bench.jsonl, which is overwritten.
set -euo pipefail

rounds=${ROUNDS:-3}
scale=${SCALE:-100}
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
target=${CARGO_TARGET_DIR:-$root/target}
record=${1:-$target/bench.jsonl}
load=$target/release/tidegate-loadtest
gateway=$target/release/tidegate

server_pid=
stop_server() {
    [ -n "$server_pid" ] || return 0
    kill "$server_pid" 2>/dev/null || true
    # Both servers stop by themselves; neither gets more than ten seconds for it.
    for _ in $(seq 100); do
        kill -0 "$server_pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$server_pid" 2>/dev/null || true
    wait "$server_pid" 2>/dev/null || true
    server_pid=
}
trap stop_server EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Server on one core, load on another, so that neither is charged for waiting for the other.
server_pin=() load_pin=()
if command -v taskset >/dev/null && [ "$(nproc)" -ge 2 ]; then
    server_pin=(taskset -c 0)
    load_pin=(taskset -c 1)
else
    echo "taskset or a second core is missing: server and load share what there is" >&2
fi

free_port() {
    node -e 'const s = require("net").createServer().listen(0, "127.0.0.1", () => { console.log(s.address().port); s.close(); })'
}

# start LABEL: starts that server, sets server_pid and url.
start() {
    local port admin_port
    port=$(free_port)
    if [ "$1" = tidegate ]; then
        admin_port=$(free_port)
        "${server_pin[@]}" "$gateway" serve --dev \
            --listen "127.0.0.1:$port" --admin-listen "127.0.0.1:$admin_port" >"$log" 2>&1 &
    else
        "${server_pin[@]}" node "$here/stock/server.mjs" "$port" >"$log" 2>&1 &
    fi
    server_pid=$!
    url=http://127.0.0.1:$port
    for _ in $(seq 100); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            return 0
        fi
        if ! kill -0 "$server_pid" 2>/dev/null; then
            break
        fi
        sleep 0.1
    done
    echo "$1 did not start:" >&2
    tail -n 20 "$log" >&2
    exit 1
}

# measure LABEL SCENARIO ARGUMENT...: a fresh server, one run, its end.
measure() {
    local label=$1
    shift
    start "$label"
    # taskset executes the server in its own place, so the pid is the server's.
    if ! "${load_pin[@]}" "$load" "$@" --url "$url" --pid "$server_pid" --label "$label" --json "$record"; then
        echo "the run of $label was not sound: $*" >&2
        unsound=1
    fi
    stop_server
}

messages() {
    local scaled=$(($1 * scale / 100))
    echo $((scaled > 0 ? scaled : 1))
}

cargo build --locked --manifest-path "$root/Cargo.toml" --release -p tidegate -p tidegate-loadtest
(cd "$here/stock" && npm ci --no-audit --no-fund --loglevel=error)
mkdir -p "$(dirname "$record")"
: >"$record"
log=$(mktemp)
trap 'stop_server; rm -f "$log"' EXIT
unsound=0

for round in $(seq "$rounds"); do
    # Whoever goes first meets a colder or a hotter machine, so the order changes.
    if [ $((round % 2)) = 1 ]; then labels="tidegate stock"; else labels="stock tidegate"; fi
    for setting in "1000 1 600" "1000 8 2000" "5000 1 150" "5000 8 400"; do
        read -r subscribers in_flight count <<<"$setting"
        for label in $labels; do
            measure "$label" fanout --subscribers "$subscribers" --in-flight "$in_flight" \
                --messages "$(messages "$count")" --bytes 100
        done
    done
    for label in $labels; do
        measure "$label" idle --connections 5000
    done
done

echo
"$load" compare "$record" --base stock
exit "$unsound"
