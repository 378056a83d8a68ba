#!/usr/bin/env bash
# The same scenarios against the C floor, Tidegate, the stock Socket.IO server and socketioxide, in turn, each run on a
# fresh process; then medians, ratios to the floor, and where there is a bar, whether it was met. See README.md beside
# this file for the method, and peers/README.md for the servers.
#
#   ROUNDS=5 SCALE=100 CORES=1 ROWS="..." PEERS="..." loadtest/side-by-side.sh [DIRECTORY]
#
# ROUNDS is how often everything is measured; SCALE is the number of messages and connections in percent of the default,
# for trying things out; CORES is on how many cores the server runs, and with more than one it is told how the CPU is
# shared between its threads. ROWS is what to measure, by default all of
#
#   fanout-1000x1 fanout-5000x1 fanout-1000x8 fanout-5000x8 rooms acks idle idle-polling churn slow crossnode-1000x4
#   crossnode-10x500
#
# and PEERS is against what, by default "floor floor-queue tidegate stock socketioxide". There are tidegate-json and
# tidegate-msgpack as well, for the rows that Tidegate's plain protocol can do, and tidegate-tls, for those of one node.
# They have no bars, and each makes a run longer by about a fifth: name them when their figures are wanted. Records go
# to DIRECTORY, by default target/side-by-side, whose earlier records are overwritten. The exit code is 1 when Tidegate
# lost, repeated or reordered something or a run of it did not end; what the peers do is printed. With BUILD=no,
# Tidegate and the tool are taken as they are.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=servers.sh
. "$(dirname "$0")/servers.sh"

all_rows="fanout-1000x1 fanout-5000x1 fanout-1000x8 fanout-5000x8 rooms acks idle idle-polling churn slow
    crossnode-1000x4 crossnode-10x500"
read -ra rows <<<"$(tr '\n' ' ' <<<"${ROWS:-$all_rows}")"
read -ra peers <<<"${PEERS:-floor floor-queue tidegate stock socketioxide}"
records=${1:-$target/side-by-side}
floor=$target/loadtest-floor
socketioxide=$target/loadtest-socketioxide/release/tidegate-loadtest-socketioxide
# Those of the tests: they name 127.0.0.1, and the key is of the kind that costs least for each handshake, P-256.
certificates=$root/crates/test/certificates
unsound=0

for row in "${rows[@]}"; do
    if [[ " $(tr '\n' ' ' <<<"$all_rows") " != *" $row "* ]]; then
        echo "no such row: $row" >&2
        exit 64
    fi
done

has() {
    [[ " ${peers[*]} " == *" $1"* ]]
}

for peer in "${peers[@]}"; do
    case $peer in
    floor | floor-queue | tidegate | tidegate-json | tidegate-msgpack | tidegate-tls | stock | socketioxide) ;;
    *)
        echo "no such peer: $peer" >&2
        exit 64
        ;;
    esac
done

# can PEER ROW: whether there is such a measurement. The floor speaks nothing but WebSocket, and keeps whatever is not
# read; the plain protocol is not everywhere; how nodes meet over Redis has nothing to do with TLS.
can() {
    case $1:$2 in
    floor*:idle-polling | floor*:slow) return 1 ;;
    floor-queue:acks | floor-queue:idle | floor-queue:churn) return 1 ;;
    tidegate-tls:crossnode-*) return 1 ;;
    tidegate-tls:*) return 0 ;;
    tidegate-*:fanout-* | tidegate-*:idle) return 0 ;;
    tidegate-*:*) return 1 ;;
    esac
}

# start PEER [REDIS_URL]: one process of it, and sets url.
start() {
    local port redis=() config=()
    if [ $# -gt 1 ]; then redis=(--redis "$2"); fi
    case $1 in floor*) if [ $# -gt 1 ]; then redis=(--redis "${2##*:}"); fi ;; esac
    port=$(free_port)
    url=http://127.0.0.1:$port
    if [ "$1" = tidegate-tls ]; then
        url=https://127.0.0.1:$port
        config=(--config "$work/tls.toml")
    fi
    case $1 in
    floor) launch "$port" "${server_pin[@]}" "$floor" --port "$port" --mode send "${redis[@]}" ;;
    floor-queue) launch "$port" "${server_pin[@]}" "$floor" --port "$port" --mode queue "${redis[@]}" ;;
    tidegate*)
        launch "$port" "${server_pin[@]}" "$gateway" serve --dev "${config[@]}" "${redis[@]}" \
            --listen "127.0.0.1:$port" --admin-listen "127.0.0.1:$(free_port)"
        ;;
    stock) launch "$port" "${server_pin[@]}" node "$here/peers/stock/server.mjs" "$port" "${redis[@]}" ;;
    socketioxide) launch "$port" "${server_pin[@]}" "$socketioxide" "$port" "${redis[@]}" ;;
    esac
}

# load PEER ROW ARGUMENT...: one run, recorded with the others of the row.
load() {
    local peer=$1 row=$2
    shift 2
    if "${load_pin[@]}" "$tool" "$@" --label "$peer" --json "$records/$row.jsonl"; then return; fi
    echo "the run of $peer was not sound: $*" >&2
    if [[ $peer == tidegate* ]]; then unsound=1; fi
}

# single PEER ROW ARGUMENT...: a fresh process, one run, its end. Every connection has a user.
single() {
    local peer=$1 row=$2 spoken=()
    shift 2
    case $peer in
    tidegate-tls) spoken=(--ca "$certificates/ca.pem") ;;
    tidegate-*) spoken=(--protocol "${peer#tidegate-}") ;;
    esac
    start "$peer"
    load "$peer" "$row" "$@" "${spoken[@]}" --users --url "$url" --pid "${pids[0]}"
    stop_servers
}

# double PEER ROW ARGUMENT...: a fresh Redis and two fresh processes that meet there, one run, their end.
double() {
    local peer=$1 row=$2 first
    shift 2
    launch_redis
    start "$peer" "$redis_url"
    first=$url
    start "$peer" "$redis_url"
    load "$peer" "$row" "$@" --url "$first" --url "$url" --pid "${pids[1]}" --pid "${pids[2]}" \
        --redis "$redis_url" --redis-pid "${pids[0]}"
    stop_servers
}

# measure PEER ROW: one run.
measure() {
    local fanout=(fanout --bytes 100)
    case $2 in
    fanout-1000x1) single "$@" "${fanout[@]}" --subscribers 1000 --in-flight 1 --messages "$(scaled 500)" ;;
    fanout-5000x1) single "$@" "${fanout[@]}" --subscribers 5000 --in-flight 1 --messages "$(scaled 120)" ;;
    fanout-1000x8) single "$@" "${fanout[@]}" --subscribers 1000 --in-flight 8 --messages "$(scaled 800)" ;;
    fanout-5000x8) single "$@" "${fanout[@]}" --subscribers 5000 --in-flight 8 --messages "$(scaled 200)" ;;
    rooms) single "$@" rooms --rooms 100 --members 10 --bytes 100 --seconds "$(scaled 10)" ;;
    acks) single "$@" acks --connections 200 --event heartbeat --seconds "$(scaled 8)" ;;
    idle) single "$@" idle --connections "$(scaled 10000)" ;;
    idle-polling) single "$@" idle --connections "$(scaled 10000)" --transport polling ;;
    churn) single "$@" churn --seconds "$(scaled 10)" ;;
    slow)
        # The kernel takes up to 4 MB of what is sent to somebody who does not read, and the gateway keeps as much: with
        # less than eight seconds of this nothing would happen.
        single "$@" slow --subscribers 100 --stalled 10 --bytes 16384 --rate 100 --seconds "$(scaled 10 8)"
        ;;
    crossnode-1000x4)
        double "$@" crossnode --bytes 100 --subscribers 1000 --in-flight 4 --messages "$(scaled 1200)"
        ;;
    crossnode-10x500)
        double "$@" crossnode --bytes 100 --subscribers 10 --rate 500 --messages "$(scaled 5000)"
        ;;
    esac
}

build_tidegate
if has floor; then make -s -C "$here/peers/floor" FLOOR="$floor"; fi
if has stock; then (cd "$here/peers/stock" && npm ci --no-audit --no-fund --loglevel=error); fi
if has socketioxide; then
    CARGO_TARGET_DIR=$target/loadtest-socketioxide \
        cargo build --locked --manifest-path "$here/peers/socketioxide/Cargo.toml" --release
fi
cat >"$work/tls.toml" <<END
[server]
tls.cert = "$certificates/server.pem"
tls.key = "$certificates/server.key"
END
mkdir -p "$records"
rm -f "$records"/*.jsonl

for row in "${rows[@]}"; do
    able=()
    for peer in "${peers[@]}"; do
        if can "$peer" "$row"; then able+=("$peer"); fi
    done
    for ((round = 0; round < rounds; round++)); do
        echo
        echo "$row, round $((round + 1)) of $rounds"
        # Whoever goes first meets a colder or a hotter machine, so the order changes.
        for ((at = 0; at < ${#able[@]}; at++)); do
            measure "${able[(at + round) % ${#able[@]}]}" "$row"
        done
    done
done

echo
cat "$records"/*.jsonl >"$work/all"
"$tool" compare "$work/all" --base floor
echo
node "$here/peers/bars.mjs" "$records" "$cores"
exit "$unsound"
