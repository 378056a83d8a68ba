#!/usr/bin/env bash
# Measures what only Tidegate does, with two nodes on one Redis: sessions that move, and durable messages. Side by side
# with other servers it is measured by side-by-side.sh. See README.md beside this file for the method.
#
#   ROUNDS=3 SCALE=100 SCENARIO="takeover offline" loadtest/bench.sh [RECORD_FILE]
#
# ROUNDS is how often everything is measured; SCALE is the number of messages, and of the users of takeover, in
# percent of the default; SCENARIO is what to run, by default everything.
# Without RECORD_FILE the record goes to target/bench.jsonl, which is overwritten.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=servers.sh
. "$(dirname "$0")/servers.sh"

rounds=${ROUNDS:-3}
read -ra scenarios <<<"${SCENARIO:-takeover offline}"
record=${1:-$target/bench.jsonl}
unsound=0

for scenario in "${scenarios[@]}"; do
    case $scenario in
    takeover | offline) ;;
    *)
        echo "no such scenario: $scenario" >&2
        exit 64
        ;;
    esac
done
runs() {
    [[ " ${scenarios[*]} " == *" $1 "* ]]
}

# load ARGUMENT...: one run.
load() {
    if ! "${load_pin[@]}" "$tool" "$@" --label tidegate --json "$record"; then
        echo "this run was not sound: $*" >&2
        unsound=1
    fi
}

# measure_cluster SCENARIO ARGUMENT...: a fresh Redis and two fresh nodes with that scenario's configuration, one run,
# their end.
measure_cluster() {
    local scenario=$1 port
    local urls=()
    shift
    launch_redis
    for _ in 1 2; do
        port=$(free_port)
        urls+=("http://127.0.0.1:$port")
        launch "$port" "${server_pin[@]}" "$gateway" serve --config "$work/$scenario.toml" \
            --redis "$redis_url" \
            --listen "127.0.0.1:$port" --admin-listen "127.0.0.1:$(free_port)"
    done
    load "$scenario" --url "${urls[0]}" --other-url "${urls[1]}" --redis "$redis_url" \
        --pid "${pids[1]}" --pid "${pids[2]}" "$@"
    stop_servers
}

build_tidegate
mkdir -p "$(dirname "$record")"
: >"$record"

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

for _ in $(seq "$rounds"); do
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
"$tool" compare "$record" --base tidegate
exit "$unsound"
