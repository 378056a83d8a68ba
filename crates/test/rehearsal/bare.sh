#!/usr/bin/env bash
# One command on the bare machine whose files are in a directory, as a newcomer's shell would run it. run.sh starts it in
# namespaces of its own, so that its mounts and its processes are gone when it ends.
#
#   bare.sh DIRECTORY COMMAND
set -euo pipefail

bare=$1
shift
# A mount of its own, as the root of every machine is one.
mount --bind "$bare" "$bare"
mount -t proc proc "$bare/proc"
mount -t sysfs sysfs "$bare/sys"
mount --rbind /dev "$bare/dev"
mount -t tmpfs tmpfs "$bare/tmp"
mount -t tmpfs tmpfs "$bare/run"
# In place of rustup, and as good as read-only for those who run it.
mount --bind -o ro "$(rustc --print sysroot)" "$bare/opt/rust"
exec chroot "$bare" env -i HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
    PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    bash -e -o pipefail -c "cd /root/tidegate && $*"
