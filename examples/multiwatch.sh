#!/bin/sh
# Serve an app with several processes that share a socket. spawn-fcgi opens the socket. multiwatch
# starts the processes, and restarts a process that exits. The options of this script are those of
# spawn-fcgi. -n keeps it in the foreground, with the log:
#
#     ./multiwatch.sh -n -s /run/user/1000/app.sock     a UNIX socket
#     ./multiwatch.sh -n -a 127.0.0.1 -p 9000           TCP
#
# SIGTERM to multiwatch, which has the process id of this script, stops all processes. Two
# environment variables configure it:
#
#     PROCS  the number of processes (2)
#     APP    the app; options for vsgi-fcgi may precede it (hello:app)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# multiwatch does not search PATH. The shell splits APP into words, as intended.
exec spawn-fcgi "$@" -- "$(command -v multiwatch)" -f "${PROCS:-2}" -- \
    "$(command -v vsgi-fcgi)" --chdir "$here" ${APP:-hello:app}
