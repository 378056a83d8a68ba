#!/usr/bin/env bash
# Makes sure that the named tools are here: build, shellcheck, redis, node, netns, chromium, prometheus, haproxy, lab,
# docker, valgrind.
# Installs what Debian and Ubuntu have, and says plainly what is missing elsewhere.
set -euo pipefail

fail() {
    echo "tools: $*" >&2
    exit 1
}

# have PROGRAM...: whether all of them are here.
have() {
    local program
    for program in "$@"; do
        command -v "$program" >/dev/null || return 1
    done
}

# install PACKAGE...: by apt-get, which only root may use.
install() {
    have apt-get || fail "please install: $*"
    local sudo=()
    if [ "$(id -u)" != 0 ]; then
        have sudo || fail "please install as root: apt-get install $*"
        sudo=(sudo)
    fi
    echo "tools: installing $*" >&2
    local log
    log=$(mktemp)
    if ! { "${sudo[@]}" apt-get -o DPkg::Lock::Timeout=400 -qq update &&
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get -o DPkg::Lock::Timeout=400 -qq install -y --no-install-recommends "$@"; } >"$log" 2>&1; then
        cat "$log" >&2
        fail "apt-get failed to install $*"
    fi
    rm -f "$log"
}

for tool in "$@"; do
    case "$tool" in
    build)
        have cc make || install gcc libc6-dev make
        have cargo || fail "cargo is missing; Rust 1.95 or newer comes from rustup: https://rustup.rs"
        ;;
    shellcheck)
        have shellcheck || install shellcheck
        ;;
    redis)
        have redis-server || install redis-server
        ;;
    node)
        have node npm || install nodejs npm
        # What Ubuntu 24.04 has; Debian 12 has a later 18. Older distributions need one from https://nodejs.org.
        node -e 'const [major, minor] = process.versions.node.split(".").map(Number);
            process.exit(major > 18 || (major === 18 && minor >= 19) ? 0 : 1)' ||
            fail "node $(node --version) is too old; 18.19 or newer is needed"
        ;;
    netns)
        have ip nsenter || install iproute2 util-linux
        [ "$(id -u)" = 0 ] || echo "tools: not root: tests that cut a node off from Redis will be skipped" >&2
        ;;
    chromium)
        # Ubuntu's package of that name is a snap; there any Chromium or Chrome will do, named in CHROMIUM.
        [ -n "${CHROMIUM:-}" ] || have chromium || install chromium
        ;;
    prometheus)
        have prometheus promtool || install prometheus
        ;;
    lab)
        have debootstrap slirp4netns ip nsenter git || install debootstrap slirp4netns iproute2 util-linux git
        ;;
    docker)
        have docker dockerd || install docker.io
        have iptables || install iptables
        ;;
    haproxy)
        have haproxy || install haproxy
        ;;
    valgrind)
        have valgrind || install valgrind
        ;;
    *) fail "no such tool: $tool" ;;
    esac
done
