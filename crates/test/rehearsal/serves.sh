#!/usr/bin/env bash
# serves.sh COMMAND...: starts COMMAND, which is to end in a node on the README's ports, waits until that says that it is
# ready, is a client of it by both transports, and ends it as Ctrl-C would.
set -euo pipefail

# A release build on a small machine.
BUILD_S=1800

"$@" >/tmp/node.log 2>&1 &
command=$!
for _ in $(seq $BUILD_S); do
    ! grep -qw ready /tmp/node.log || break
    kill -0 $command 2>/dev/null || break
    sleep 1
done
tail -n 20 /tmp/node.log
grep -qw ready /tmp/node.log || { echo "not ready: $*" && exit 1; }

client=http://127.0.0.1:8080
curl -fsS --max-time 5 http://127.0.0.1:8081/readyz
echo
curl -fsS --max-time 5 "$client/socket.io/?EIO=4&transport=polling" | grep '"sid"'
# It stays open, so curl gives up on it; the answer has come by then.
curl -sS --http1.1 --max-time 2 --include --no-buffer --header 'Connection: Upgrade' --header 'Upgrade: websocket' \
    --header 'Sec-WebSocket-Version: 13' --header 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' \
    --output /tmp/upgrade "$client/socket.io/?EIO=4&transport=websocket" || [ $? = 28 ]
grep '^HTTP/1.1 101' /tmp/upgrade
grep -a '"sid"' /tmp/upgrade

for process in /proc/[0-9]*; do
    case $(readlink "$process/exe") in */release/tidegate) node=${process#/proc/} ;; esac
done
kill -INT "${node:?is not running}"
wait $command
