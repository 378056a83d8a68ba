#!/usr/bin/env bash
# Makes sure that the named tools are here: build, redis, node, netns, chromium. Installs what Debian and Ubuntu have, and says plainly
# what is missing elsewhere.
set -euo pipefail

fail() {
    echo "tools: $*" >&2
    exit 1
}

# install PACKAGE...: by apt-get, which only root may use.
install() {
    command -v apt-get >/dev/null || fail "please install: $*"
    local sudo=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || fail "please install as root: apt-get install $*"
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
        command -v cc >/dev/null && command -v make >/dev/null || install gcc libc6-dev make
        command -v cargo >/dev/null || fail "cargo is missing; Rust 1.95 or newer comes from rustup: https://rustup.rs"
        ;;
    redis)
        command -v redis-server >/dev/null || install redis-server
        ;;
    node)
        command -v node >/dev/null && command -v npm >/dev/null || install nodejs npm
        # What Ubuntu 24.04 has; Debian 12 has a later 18. Older distributions need one from https://nodejs.org.
        node -e 'const [major, minor] = process.versions.node.split(".").map(Number);
            process.exit(major > 18 || (major === 18 && minor >= 19) ? 0 : 1)' ||
            fail "node $(node --version) is too old; 18.19 or newer is needed"
        ;;
    netns)
        command -v ip >/dev/null && command -v nsenter >/dev/null || install iproute2 util-linux
        [ "$(id -u)" = 0 ] || echo "tools: not root: tests that cut a node off from Redis will be skipped" >&2
        ;;
    chromium)
        # Ubuntu's package of that name is a snap; there any Chromium or Chrome will do, named in CHROMIUM.
        [ -n "${CHROMIUM:-}" ] || command -v chromium >/dev/null || install chromium
        ;;
    *) fail "no such tool: $tool" ;;
    esac
done
