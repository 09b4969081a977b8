#!/bin/sh
# A server of slow answers, the relay, and nginx in front of it, until Ctrl-C. With nginx installed
# and vsgi-fcgi on PATH, from wherever you are:
#
#     ./run.sh
#     curl 'http://127.0.0.1:8080/?seconds=1'
#     python ask.py
#
# Environment variables change what there is to change:
#
#     PORT         nginx's port on loopback (8080)
#     STATE        the folder of the sockets and logs (a new one in /tmp, which is removed)
#     CONNECTIONS  how many the relay may have to the server (1)
#     WORKERS      options that say what runs the app (--threads 1100: each sleeps with its request)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
if [ -n "${STATE:-}" ]; then
    state=$(cd "$STATE" && pwd)
    remove=
else
    state=$(mktemp -d)
    remove=$state
fi
pids=
stop() {
    trap - EXIT INT TERM
    [ -z "$pids" ] || kill $pids 2>/dev/null || true
    wait
    [ -z "$remove" ] || rm -r "$remove"
}
trap stop EXIT
trap 'exit 0' INT TERM

# WORKERS is split into words on purpose.
vsgi-fcgi ${WORKERS:---threads 1100} --chdir "$here" --socket "$state/app.sock" slow:app &
pids="$!"
# nginx opens a thousand connections at once: they may all wait to be accepted.
vsgi-fcgi relay --bind "unix:$state/relay.sock" --backlog 4096 \
    --upstream "unix:$state/app.sock" --connections "${CONNECTIONS:-1}" &
pids="$pids $!"

# nginx finds what it includes beside the file that it was started with, and the relay's socket in
# the folder that it was started in.
cd "$state"
ln -sf "$here/nginx.conf" nginx.conf
echo "listen 127.0.0.1:${PORT:-8080} backlog=4096;" > nginx-port.conf
# Started by root its workers become another user, who may not enter the folder.
user=
[ "$(id -u)" -ne 0 ] || user="user root;"
nginx -p . -c "$state/nginx.conf" -e stderr -g "$user" &
pids="$pids $!"
wait "$!"
