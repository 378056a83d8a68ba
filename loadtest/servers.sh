# shellcheck shell=bash
# What the scripts beside it have in common: it is sourced by them. Starts servers, each pinned to a core that the load
# is not on if there is one, and stops them; whatever happens, none is left.

# These are for whoever sources it.
# shellcheck disable=SC2034
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
target=$(realpath -m "${CARGO_TARGET_DIR:-$root/target}")
tool=$target/release/tidegate-loadtest
gateway=$target/release/tidegate
rounds=${ROUNDS:-5}
scale=${SCALE:-100}
cores=${CORES:-1}
work=$(mktemp -d)

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
trap 'stop_servers; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if ! [[ $cores =~ ^[1-9][0-9]{0,3}$ ]] || ((cores > $(nproc))); then
    echo "CORES is a number from 1 to $(nproc), and not $cores" >&2
    exit 64
fi
# Server on one core, load on another, so that neither is charged for waiting for the other. A server that is to show
# how it divides its work has the first CORES cores, and the load the next one. Where there is none left, the load stays
# on the server's last one: when it was left to wander, the threads' shares were no more even.
server_pin=() load_pin=()
if command -v taskset >/dev/null && [ "$(nproc)" -ge 2 ]; then
    server_pin=(taskset -c "0-$((cores - 1))")
    load_pin=(taskset -c "$((cores < $(nproc) ? cores : cores - 1))")
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

# launch_redis: an empty one, and sets redis_url. It shares the core of the load, of which there is less than of two
# nodes. Its own CPU is told by itself.
launch_redis() {
    local port
    port=$(free_port)
    redis_url=redis://127.0.0.1:$port
    launch "$port" "${load_pin[@]}" redis-server --bind 127.0.0.1 --port "$port" \
        --save '' --appendonly no --dir "$work"
}

# scaled NUMBER [LEAST]: that many per cent of it, at least one, or at least so many.
scaled() {
    local scaled=$(($1 * scale / 100)) least=${2:-1}
    echo $((scaled > least ? scaled : least))
}

# build_tidegate: the gateway and the tool. With BUILD=no they are taken as they are.
build_tidegate() {
    if [ "${BUILD:-yes}" = no ]; then return; fi
    cargo build --locked --manifest-path "$root/Cargo.toml" --release -p tidegate -p tidegate-loadtest
}
