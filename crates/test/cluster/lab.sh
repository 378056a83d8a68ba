# shellcheck shell=bash
# What the cluster test and the rehearsal are done in: a bare Debian, and a network of its own. Sourced; it takes `cache`,
# a directory that outlives the run.

# Where this machine's apt gets Debian from; the public mirror on a machine that is none.
debian_mirror() {
    local uri
    # shellcheck disable=SC2016 # it is apt that fills it in
    uri=$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | sort -u | grep -E '/debian/?$' | head -n 1 || true)
    echo "${uri:-http://deb.debian.org/debian}"
}

# Makes $cache/debian.tar, unless it is there: Debian 12, minimal, with certificates and curl, and with the authorities that
# this machine trusts besides Debian's, in case registries are reached by way of them. It gets that name when it is whole.
debian_root() (
    tar=${cache:?}/debian.tar
    [ ! -e "$tar" ] || exit 0
    exec 8>"$cache/debian.lock"
    flock 8
    [ ! -e "$tar" ] || exit 0
    scratch=$(mktemp -d "$cache/debian.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    debootstrap --variant=minbase --include=ca-certificates,curl bookworm "$scratch/root" "$(debian_mirror)" || exit 1
    own=(/usr/local/share/ca-certificates/*.crt)
    if [ -e "${own[0]}" ]; then
        cp "${own[@]}" "$scratch/root/usr/local/share/ca-certificates/"
        chroot "$scratch/root" update-ca-certificates
    fi
    echo "nameserver $UPLINK_DNS" >"$scratch/root/etc/resolv.conf"
    rm -rf "$scratch/root/var/cache/apt/archives"/*.deb "$scratch/root/var/lib/apt/lists"/*
    tar -C "$scratch/root" -cf "$scratch/tar" . && mv "$scratch/tar" "$tar"
)

# begin COMMAND...: starts it, in a process group of its own; `running` is both. In the background, since bash hears a signal
# only when what runs in the foreground has ended.
begin() {
    set -m
    "$@" &
    # shellcheck disable=SC2034 # for whoever sourced this
    running=$!
    set +m
}

# end PID: at most 30 s for a process, or its group if it leads one, to end by itself.
end() {
    [ -n "$1" ] || return 0
    local whom=$1
    ! kill -0 -- "-$1" 2>/dev/null || whom=-$1
    kill -- "$whom" 2>/dev/null || return 0
    for _ in $(seq 150); do
        kill -0 -- "$whom" 2>/dev/null || return 0
        sleep 0.2
    done
    kill -9 -- "$whom" 2>/dev/null || true
}

# remove DIRECTORY: also where the last processes that write into it are still on their way out.
remove() {
    for _ in $(seq 50); do
        ! rm -rf --one-file-system "$1" 2>/dev/null || return 0
        sleep 0.2
    done
    rm -rf --one-file-system "$1"
}

# The networks of runs that were killed before they could clean up: a name ends with the process that made it.
sweep() {
    local network
    for network in $(ip netns list | grep -oE '^tidegate-(cluster|rehearsal)-[0-9]+'); do
        [ ! -e "/proc/${network##*-}" ] || continue
        pgrep -f "slirp4netns .*/run/netns/$network " | xargs -r kill || true
        ip netns delete "$network" || true
    done
}

# What answers for names in a network made below.
UPLINK_DNS=10.0.2.3

# network NAME: a network namespace whose 127.0.0.1 is its own. A program that stands between carries what goes out over this
# machine's sockets, so that neither its addresses nor its firewall nor its routes are touched; uplink is its process.
network() {
    ip netns add "$1"
    ip -n "$1" link set lo up
    # Without the lock of whoever sources this, which must not outlive that.
    slirp4netns --configure --mtu=65520 --disable-host-loopback --netns-type=path "/run/netns/$1" tap0 >/dev/null 2>&1 9>&- &
    # shellcheck disable=SC2034 # for whoever sourced this, to end it
    uplink=$!
    for _ in $(seq 100); do
        ! ip -n "$1" route 2>/dev/null | grep -q '^default' || return 0
        sleep 0.1
    done
    echo "there is no way out of the network namespace $1" >&2
    return 1
}
