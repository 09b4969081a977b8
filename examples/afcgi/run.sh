#!/bin/sh
# Run a server with slow responses, the relay, and nginx, until Ctrl-C. With nginx installed and
# vsgi-fcgi on PATH, in any folder:
#
#     ./run.sh
#     curl 'http://127.0.0.1:8080/?seconds=1'
#     python ask.py
#
# Four environment variables configure it:
#
#     PORT         nginx's port on loopback (8080)
#     STATE        the folder of the sockets and logs (a new one in /tmp, which is removed)
#     CONNECTIONS  the number of connections from the relay to the server (1)
#     WORKERS      options for the workers (--threads 8)
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

# The shell splits WORKERS into words, as intended.
vsgi-fcgi --push ${WORKERS:---threads 8} --chdir "$here" --socket "$state/app.sock" slow:app &
pids="$!"
# nginx opens a thousand connections at the same time. All of them may wait in the backlog.
vsgi-fcgi relay --bind "unix:$state/relay.sock" --backlog 4096 \
    --upstream "unix:$state/app.sock" --connections "${CONNECTIONS:-1}" &
pids="$pids $!"

# Paths of included files are relative to nginx's configuration file. The path of the relay's socket
# is relative to the folder in which nginx is started.
cd "$state"
ln -sf "$here/nginx.conf" nginx.conf
echo "listen 127.0.0.1:${PORT:-8080} backlog=4096;" > nginx-port.conf
# If root starts nginx, its workers run as another user, who has no permission for the folder.
user=
[ "$(id -u)" -ne 0 ] || user="user root;"
nginx -p . -c "$state/nginx.conf" -e stderr -g "$user" &
pids="$pids $!"
wait "$!"
