#!/usr/bin/env bash
# Measures Tidegate and a stock Socket.IO server with the same tool in the same minutes, and prints medians and
# ratios; and what only Tidegate does, with two nodes on one Redis. See README.md beside this file for the method.
#
#   ROUNDS=3 SCALE=100 SCENARIO="fanout idle takeover offline" loadtest/bench.sh [RECORD_FILE]
#
# ROUNDS is how often everything is measured; SCALE is the number of messages, and of the users of takeover, in
# percent of the default; SCENARIO is what to run, by default everything.
# Without RECORD_FILE the record goes to target/bench.jsonl, which is overwritten.
set -euo pipefail

rounds=${ROUNDS:-3}
scale=${SCALE:-100}
read -ra scenarios <<<"${SCENARIO:-fanout idle takeover offline}"
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
target=${CARGO_TARGET_DIR:-$root/target}
record=${1:-$target/bench.jsonl}
tool=$target/release/tidegate-loadtest
gateway=$target/release/tidegate

for scenario in "${scenarios[@]}"; do
    case $scenario in
    fanout | idle | takeover | offline) ;;
    *)
        echo "no such scenario: $scenario" >&2
        exit 64
        ;;
    esac
done
runs() {
    [[ " ${scenarios[*]} " == *" $1 "* ]]
}

# What was started for the present run, in this order.
pids=()
# The last one first: nodes need their Redis until they have stopped.
stop_servers() {
    local at pid
    for ((at = ${#pids[@]} - 1; at >= 0; at--)); do
        pid=${pids[at]}
        kill "$pid" 2>/dev/null || true
        # All of them stop by themselves; none gets more than ten seconds for it.
        for _ in $(seq 100); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    pids=()
}
trap stop_servers EXIT
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

# launch PORT COMMAND...: starts it and waits until it listens there. taskset executes a command in its own place, so
# the pid is the server's.
launch() {
    local port=$1 log
    shift
    log=$work/${#pids[@]}.log
    "$@" >"$log" 2>&1 &
    pids+=($!)
    for _ in $(seq 100); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            return 0
        fi
        if ! kill -0 "${pids[-1]}" 2>/dev/null; then
            break
        fi
        sleep 0.1
    done
    echo "it did not start: $*" >&2
    tail -n 20 "$log" >&2
    exit 1
}

# start LABEL: starts that server and sets url.
start() {
    local port
    port=$(free_port)
    url=http://127.0.0.1:$port
    if [[ $1 == tidegate* ]]; then
        launch "$port" "${server_pin[@]}" "$gateway" serve --dev \
            --listen "127.0.0.1:$port" --admin-listen "127.0.0.1:$(free_port)"
    else
        launch "$port" "${server_pin[@]}" node "$here/peers/stock/server.mjs" "$port"
    fi
}

# load LABEL ARGUMENT...: one run.
load() {
    local label=$1
    shift
    if ! "${load_pin[@]}" "$tool" "$@" --label "$label" --json "$record"; then
        echo "the run of $label was not sound: $*" >&2
        unsound=1
    fi
}

# measure LABEL SCENARIO ARGUMENT...: a fresh server, one run, its end. Tidegate's plain protocol is spoken for the labels
# that say so, Socket.IO for the others.
measure() {
    local label=$1 protocol=socketio
    shift
    if [[ $label == tidegate-* ]]; then protocol=${label#tidegate-}; fi
    start "$label"
    load "$label" "$@" --protocol "$protocol" --url "$url" --pid "${pids[0]}"
    stop_servers
}

# measure_cluster SCENARIO ARGUMENT...: a fresh Redis and two fresh nodes with that scenario's configuration, one run,
# their end.
measure_cluster() {
    local scenario=$1 redis_port port
    local urls=()
    shift
    redis_port=$(free_port)
    # Redis shares the core of the load, of which there is less than of the two nodes. Its own CPU is told by itself.
    launch "$redis_port" "${load_pin[@]}" redis-server --bind 127.0.0.1 --port "$redis_port" \
        --save '' --appendonly no --dir "$work"
    for _ in 1 2; do
        port=$(free_port)
        urls+=("http://127.0.0.1:$port")
        launch "$port" "${server_pin[@]}" "$gateway" serve --config "$work/$scenario.toml" \
            --redis "redis://127.0.0.1:$redis_port" \
            --listen "127.0.0.1:$port" --admin-listen "127.0.0.1:$(free_port)"
    done
    load tidegate "$scenario" --url "${urls[0]}" --other-url "${urls[1]}" --redis "redis://127.0.0.1:$redis_port" \
        --pid "${pids[1]}" --pid "${pids[2]}" "$@"
    stop_servers
}

scaled() {
    local scaled=$(($1 * scale / 100))
    echo $((scaled > 0 ? scaled : 1))
}

cargo build --locked --manifest-path "$root/Cargo.toml" --release -p tidegate -p tidegate-loadtest
if runs fanout || runs idle; then
    (cd "$here/peers/stock" && npm ci --no-audit --no-fund --loglevel=error)
fi
mkdir -p "$(dirname "$record")"
: >"$record"
work=$(mktemp -d)
trap 'stop_servers; rm -rf "$work"' EXIT
unsound=0

# Users need names, and two namespaces: one where their transports wait, and one where their sessions move.
cat >"$work/takeover.toml" <<'END'
[auth]
mode = "none"
[limits]
connections_per_ip_max = 0
[namespaces."/"]
[namespaces."/takeover"]
END
# Nothing but the gateway is to hold the senders up, and every inbox has room for all that the run stores.
cat >"$work/offline.toml" <<'END'
[auth]
mode = "none"
[limits]
connections_per_ip_max = 0
events_per_second_max = 0
[offline]
sender_per_minute_max = 0
messages_max = 1000
END

for round in $(seq "$rounds"); do
    # Whoever goes first meets a colder or a hotter machine, so the order changes.
    labels="tidegate tidegate-json tidegate-msgpack stock"
    if [ $((round % 2)) = 0 ]; then labels="stock tidegate-msgpack tidegate-json tidegate"; fi
    if runs fanout; then
        for setting in "1000 1 600" "1000 8 2000" "5000 1 150" "5000 8 400"; do
            read -r subscribers in_flight count <<<"$setting"
            for label in $labels; do
                measure "$label" fanout --subscribers "$subscribers" --in-flight "$in_flight" \
                    --messages "$(scaled "$count")" --bytes 100
            done
        done
    fi
    if runs idle; then
        for label in $labels; do
            measure "$label" idle --connections 5000
        done
    fi
    if runs takeover; then
        # As many as 20,000 open files of the load allow, at a pace that leaves room, and kept for a while: how long a
        # takeover takes, and what sessions cost. Then as fast as can be: how many takeovers there can be.
        measure_cluster takeover --sessions "$(scaled 9500)" --rate 500 --in-flight 1000 --hold "$(scaled 30)"
        measure_cluster takeover --sessions "$(scaled 2000)" --rounds 3 --in-flight 64
    fi
    if runs offline; then
        measure_cluster offline --users 1000 --messages "$(scaled 100)" --senders 64 --live "$(scaled 20000)" \
            --bytes 100 --hold "$(scaled 20)"
    fi
done

echo
"$tool" compare "$record" --base stock
exit "$unsound"
