#!/usr/bin/env bash
# The README's own commands, as they stand there, on a machine that has nothing but Debian, Rust and make: does `make run`
# serve, and does `make test` pass, without anything that only the machines of its developers have?
#
#   crates/test/rehearsal/run.sh
#   REHEARSE_TEST=short crates/test/rehearsal/run.sh    # without `make test`, which takes long
#
# What is rehearsed is HEAD, not what lies in the working tree. It takes root, debootstrap, slirp4netns, iproute2 and
# util-linux. Debian and the network are those of the cluster test: the machine's own ports and files are not touched.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
cache=${CARGO_TARGET_DIR:-$root/target}/cluster-cache
tests=${REHEARSE_TEST:-full}
name=tidegate-rehearsal-$$
began=$SECONDS
log=$cache/rehearsal.log
work='' uplink='' running=''
# shellcheck source-path=SCRIPTDIR source=../cluster/lab.sh
. "$here/../cluster/lab.sh"

fail() {
    echo "rehearsal: $*" >&2
    exit 1
}

clean() {
    local code=$?
    trap - EXIT
    # It takes along what is in its namespaces.
    [ -z "$running" ] || kill -KILL -- "-$running" 2>/dev/null || true
    end "$uplink"
    [ ! -e "/run/netns/$name" ] || ip netns delete "$name" || true
    # Mounts were private to processes that are gone, or about to be.
    remove "$work"
    exit $code
}

# bare NAME COMMAND...: COMMAND on the bare machine, and how long it took. All of it ends with the command.
bare() {
    local what=$1 from=$SECONDS
    shift
    begin inside "$@"
    if ! wait "$running"; then
        grep -nE '^ *not ok |panicked at|^error|FAILED' "$log" | head -n 40 | sed 's/^/      /' || true
        tail -n 30 "$log" | sed 's/^/      /'
        fail "$what; all of it is in $log"
    fi
    running=''
    printf 'ok    %4d s  %s\n' $((SECONDS - from)) "$what"
}

inside() {
    exec nsenter --net="/run/netns/$name" -- \
        unshare --mount --propagation private --pid --fork --kill-child "$here/bare.sh" "$bare" "$@" >"$log" 2>&1 9>&-
}

[ "$(id -u)" = 0 ] || fail 'this takes root: another Debian is entered'
for program in debootstrap slirp4netns ip nsenter unshare git rustc; do
    command -v "$program" >/dev/null ||
        fail "$program is missing: apt-get install debootstrap slirp4netns iproute2 util-linux git, and Rust by rustup"
done
case $tests in full | short) ;; *) fail "REHEARSE_TEST=$tests is neither full nor short" ;; esac
mkdir -p "$cache"
exec 9>"$cache/rehearsal.lock"
flock -n 9 || fail "another run uses $cache"
work=$(mktemp -d)
bare=$work/root
trap clean EXIT
trap 'exit 130' INT TERM
sweep

# What the README tells a newcomer to type: the first lines of shell under "Start".
commands=$(git -C "$root" show HEAD:README.md |
    awk '/^## /{start = $0 == "## Start"} start && /^```/{inside = !inside && !seen; seen = 1; next} inside' | sed -E 's/ *#.*//')
[ "$commands" = $'make run\nmake test' ] || fail "under \"Start\" the README has other commands than this expects: $commands"

debian_root >"$log" 2>&1 || { cat "$log" && fail 'no bare Debian'; }
network "$name" || fail 'slirp4netns did not come up'
mkdir -p "$bare" && tar -C "$bare" -xf "$cache/debian.tar"
mkdir -p "$bare/opt/rust" "$bare/root/tidegate"
# As every installer writes it.
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' >"$bare/etc/hosts"
git -C "$root" archive HEAD | tar -C "$bare/root/tidegate" -x
install -m 755 "$here/serves.sh" "$bare/root/serves.sh"

bare 'what the README says is needed: make, beside Rust' 'apt-get -qq update && apt-get -qq install -y --no-install-recommends make'
bare 'make run: ready, and it shakes hands' '/root/serves.sh make run'
if [ "$tests" = full ]; then
    bare 'make test' 'make test'
else
    echo 'NOT EXERCISED, because of REHEARSE_TEST: make test'
fi
echo 'NOT EXERCISED: installing Rust by rustup; Ubuntu'
echo "rehearsed in $((SECONDS - began)) s"
