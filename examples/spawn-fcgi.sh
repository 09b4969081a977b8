#!/bin/sh
# Serve an app on a socket that spawn-fcgi opens. The options of this script are those of
# spawn-fcgi:
#
#     ./spawn-fcgi.sh -s /run/user/1000/app.sock        a UNIX socket
#     ./spawn-fcgi.sh -a 127.0.0.1 -p 9000              TCP
#     ./spawn-fcgi.sh -a 127.0.0.1 -p 9000 -F 2         two processes that share the socket
#     ./spawn-fcgi.sh -a 127.0.0.1 -p 9000 -n           in the foreground, with its log
#
# The server gets the listening socket as descriptor 0, which it uses by default. Without -n,
# spawn-fcgi discards the log, and exits as soon as the processes run. -P FILE writes the process
# ids to a file. APP names another app; options for vsgi-fcgi may precede it.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# The shell splits APP into words, as intended.
exec spawn-fcgi "$@" -- "$(command -v vsgi-fcgi)" --chdir "$here" ${APP:-hello:app}
