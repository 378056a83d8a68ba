#!/usr/bin/env bash
# The cluster of docker-compose.yml, built from deploy/Dockerfile and run for real on a Docker engine of its own, and
# then ill-treated: nodes are killed, frozen, cut off from Redis, added, and restarted one after the other, while the
# official client looks on (steps.mjs).
#
#   crates/test/cluster/run.sh
#   CLUSTER_BINARY=target/release/tidegate crates/test/cluster/run.sh    # in place of compiling in the build
#   CLUSTER_ENVOY=/path/to/envoy crates/test/cluster/run.sh              # so that deploy/envoy is tried, too
#   CLUSTER_STEPS="smoke freeze" crates/test/cluster/run.sh              # these of the steps of steps.mjs only
#
# It takes root, since an engine does; the programs that are named below; a way to Debian's packages and to the registry
# of crates; and `npm ci` in crates/test/interop. No image is pulled: one Debian with the packages of Debian 12 stands in
# for all of them. The engine has a network namespace of its own, in which even 127.0.0.1:8080 is nobody else's.
#
# What is slow to make is kept in target/cluster-cache, and made again if that is removed. All else is gone afterwards.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
cache=${CARGO_TARGET_DIR:-$root/target}/cluster-cache
binary=${CLUSTER_BINARY:-}
name=tidegate-cluster-$$
began=$SECONDS
passed=0
work='' uplink='' engine='' running=''
# shellcheck source-path=SCRIPTDIR source=lab.sh
. "$here/lab.sh"

fail() {
    echo "cluster: $*" >&2
    exit 1
}

quietly() {
    (set -e && "$@") >"$work/output" 2>&1
}

# step NAME COMMAND...: what it prints is shown if it fails.
step() {
    local what=$1 from=$SECONDS code=0
    shift
    begin quietly "$@"
    wait "$running" || code=$?
    if [ $code != 0 ]; then
        echo "FAIL  $what"
        tail -n 60 "$work/output" | sed 's/^/      /'
        exit 1
    fi
    passed=$((passed + 1))
    printf 'ok    %4d s  %s\n' $((SECONDS - from)) "$what"
}

# Puts a command into the cluster's network. Not `ip netns exec`, which mounts /sys anew and so hides the control groups.
inside=(nsenter --net="/run/netns/$name" --)

# One that was left behind by a run that was killed; its containers end with it.
end_stale_engine() {
    local stale
    for stale in $(pgrep -f "dockerd .*--data-root $cache/engine "); do end "$stale"; done
}

start_engine() {
    "${inside[@]}" dockerd --host "unix://$work/socket" --data-root "$cache/engine" --exec-root "$work/exec" --dns "$UPLINK_DNS" \
        --pidfile "$work/pid" >"$work/log" 2>&1 9>&- &
    engine=$!
    for _ in $(seq 150); do
        ! docker info >/dev/null 2>&1 || return 0
        kill -0 "$engine" 2>/dev/null || break
        sleep 0.2
    done
    tail -n 20 "$work/log" >&2
    fail 'the engine did not start'
}

# What an earlier run may have left behind that was killed before it could clean up, or this one.
empty_engine() {
    docker ps -aq | xargs -r docker rm -f
    docker volume ls -q | xargs -r docker volume rm -f
    docker network prune -f
    docker image prune -f
}

# Whatever happened, nothing that was started outlives the script.
clean() {
    local code=$? left=''
    trap - EXIT
    end "$running"
    [ ! -S "$work/socket" ] || empty_engine >/dev/null 2>&1 || true
    end "$engine"
    end "$uplink"
    # Those of nested directories first.
    mounts | sort -r | xargs -r umount -l || true
    [ ! -e "/run/netns/$name" ] || ip netns delete "$name" || true
    left+=$(mounts)
    left+=$(ip netns list | grep -w "$name" || true)
    left+=$(pgrep -fa "$work|$cache/debian\." || true)
    remove "$work"
    if [ -n "$left" ]; then
        echo "FAIL  something is left: $left"
        code=1
    fi
    exit $code
}

mounts() {
    cut -d ' ' -f 2 /proc/mounts | grep -E "^($work|$cache/engine)(/|$)" || true
}

# --- The images

# The plugins of Debian 13, which run on Debian 12, if this machine has none; its own sources of packages stay as they are.
plugins() {
    ! { docker compose version && docker buildx version; } || return 0
    mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(debian_mirror) trixie main" >"$work/apt/sources"
    local package apt=(apt-get -o "Dir::Etc::sourcelist=$work/apt/sources" -o Dir::Etc::sourceparts=-
        -o "Dir::State::lists=$work/apt/lists" -o "Dir::Cache=$work/apt/cache" -o APT::Default-Release=trixie
        -o APT::Sandbox::User=root -o DPkg::Lock::Timeout=400)
    "${apt[@]}" -qq update
    (cd "$work/apt" && "${apt[@]}" -qq download docker-compose/trixie docker-buildx/trixie)
    for package in "$work/apt"/*.deb; do dpkg -x "$package" "$work/apt/unpacked"; done
    mkdir -p "$DOCKER_CONFIG/cli-plugins"
    cp "$work/apt/unpacked/usr/libexec/docker/cli-plugins"/* "$DOCKER_CONFIG/cli-plugins/"
    docker compose version && docker buildx version
}

bare_image() {
    docker image inspect stand-in:bare || docker import "$cache/debian.tar" stand-in:bare
}

# One image for everything that is not ours, with the directories and their owners that the official ones have.
services_image() {
    docker build -t stand-in:services - <<'DOCKERFILE'
FROM stand-in:bare
RUN printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d && apt-get -qq update \
    && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends haproxy nginx-light prometheus redis-server wget \
    && install -d -o 999 -g 999 /data && install -d -o 65534 -g 65534 /prometheus
DOCKERFILE
}

# What compiles: a C compiler and this machine's Rust, in place of the official image of Rust.
rust_image() {
    docker build -t stand-in:rust -f - "$(rustc --print sysroot)" <<'DOCKERFILE'
FROM stand-in:bare
RUN apt-get -qq update && apt-get -qq install -y --no-install-recommends gcc libc6-dev make
COPY bin /usr/local/rust/bin
COPY lib /usr/local/rust/lib
ENV PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin CARGO_HOME=/usr/local/cargo
DOCKERFILE
}

# In its place, two scripts that hand out a program which is there already.
given_image() {
    mkdir -p "$work/given"
    cp "$binary" "$work/given/tidegate"
    docker build -t stand-in:given -f - "$work/given" <<'DOCKERFILE'
FROM stand-in:bare
COPY tidegate /usr/local/bin/given
RUN printf '#!/bin/sh\necho given\n' >/usr/local/bin/rustc \
    && printf '#!/bin/sh\nmkdir -p target/given/release && cp /usr/local/bin/given target/given/release/tidegate\n' >/usr/local/bin/cargo \
    && chmod +x /usr/local/bin/given /usr/local/bin/rustc /usr/local/bin/cargo
DOCKERFILE
}

# --- What is needed

[ "$(id -u)" = 0 ] || fail 'this takes root: a Docker engine is started'
for program in docker dockerd debootstrap iptables ip nsenter slirp4netns node git; do
    command -v "$program" >/dev/null ||
        fail "$program is missing: apt-get install docker.io debootstrap iptables iproute2 util-linux slirp4netns nodejs git"
done
[ -n "$binary" ] || command -v rustc >/dev/null || fail 'rustc is missing'
[ -z "$binary" ] || [ -x "$binary" ] || fail "CLUSTER_BINARY=$binary is no program"
[ -d "$root/crates/test/interop/node_modules/socket.io-client" ] || fail 'crates/test/interop wants an npm ci first'
mkdir -p "$cache"
exec 9>"$cache/lock"
flock -n 9 || fail "another run uses $cache"
work=$(mktemp -d)
trap clean EXIT
trap 'exit 130' INT TERM
sweep
end_stale_engine

cd "$root"
# The engine's own socket and settings: whatever engine this machine has is none of our business.
export DOCKER_HOST=unix://$work/socket DOCKER_CONFIG=$cache/docker DOCKER_BUILDKIT=1
export COMPOSE_FILE=docker-compose.yml:crates/test/cluster/compose.test.yml COMPOSE_PATH_SEPARATOR=:
export TIDEGATE_IMAGE=tidegate:under-test REDIS_IMAGE=stand-in:services HAPROXY_IMAGE=stand-in:services PROMETHEUS_IMAGE=stand-in:services
TIDEGATE_REVISION=$(git rev-parse --short HEAD)
CLUSTER_API_KEY=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
export TIDEGATE_REVISION CLUSTER_API_KEY

# --- The image, and the cluster

step 'compose and buildx' plugins
step 'the compose files are valid' docker compose --profile dashboards --profile others config -q
step 'a bare Debian' debian_root
network "$name" || fail 'slirp4netns did not come up'
start_engine
step 'the engine is empty' empty_engine
step 'a stand-in for the base images' bare_image
step 'a stand-in for the images of Redis, HAProxy, Prometheus and nginx' services_image
if [ -z "$binary" ]; then
    step 'a stand-in for the image of Rust' rust_image
    export RUST_IMAGE=stand-in:rust
    what='deploy/Dockerfile, all of it: crates are fetched and compiled'
else
    step 'a stand-in for the compiler' given_image
    export RUST_IMAGE=stand-in:given
    what='deploy/Dockerfile around a program that was compiled before'
    # One that wants a C library beside it is put where there is one.
    if ldd "$binary" >"$work/libraries" 2>&1 && ! grep -q statically "$work/libraries"; then export RUNTIME_IMAGE=stand-in:bare; fi
fi
# Through the compose file, as a user does it, whose arguments are tried thereby.
step "$what" docker compose build --progress=plain gateway
step 'docker compose up --wait' docker compose up --wait --wait-timeout 90 --no-build
begin "${inside[@]}" node "$here/steps.mjs" "$work/passed"
wait "$running"
passed=$((passed + $(cat "$work/passed")))
step 'docker compose down' docker compose --profile others down --volumes --timeout 40

echo 'NOT EXERCISED: the official images of Redis, HAProxy, Prometheus and Rust; Grafana; more than one machine'
if [ -n "$binary" ]; then
    echo 'NOT EXERCISED, because of CLUSTER_BINARY: compiling in the build'
    [ -z "${RUNTIME_IMAGE:-}" ] || echo 'NOT EXERCISED, because that program is not static: an image with nothing else in it'
fi
echo "$passed steps passed in $((SECONDS - began)) s"
