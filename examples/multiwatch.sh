#!/bin/sh
# Serve an app with several processes that share a socket, each of which is started again when it
# has died: spawn-fcgi opens the socket, multiwatch starts the processes and watches them.
# spawn-fcgi's own options say where, and -n keeps it in the foreground, with the log:
#
#     ./multiwatch.sh -n -s /run/user/1000/app.sock     a UNIX socket
#     ./multiwatch.sh -n -a 127.0.0.1 -p 9000           TCP
#
# SIGTERM for multiwatch, which has the process id of this script, stops all of them. Two
# environment variables change what there is to change:
#
#     PROCS  how many processes (2)
#     APP    the app, with options for vsgi-fcgi in front if there are any (hello:app)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# multiwatch does not look on PATH. APP is split into words on purpose.
exec spawn-fcgi "$@" -- "$(command -v multiwatch)" -f "${PROCS:-2}" -- \
    "$(command -v vsgi-fcgi)" --chdir "$here" ${APP:-hello:app}
