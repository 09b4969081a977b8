#!/bin/sh
# Serve an app on a socket that spawn-fcgi opens. spawn-fcgi's own options say where:
#
#     ./spawn-fcgi.sh -s /run/user/1000/app.sock        a UNIX socket
#     ./spawn-fcgi.sh -a 127.0.0.1 -p 9000              TCP
#     ./spawn-fcgi.sh -a 127.0.0.1 -p 9000 -F 2         two processes that share the socket
#     ./spawn-fcgi.sh -a 127.0.0.1 -p 9000 -n           in the foreground, with its log
#
# Whichever it is, the server finds the listening socket on descriptor 0, where it looks when
# nothing else is asked for. Without -n spawn-fcgi throws the log away, and returns once the
# processes run; -P FILE has it write down their ids. APP names another app, with options for
# vsgi-fcgi in front if there are any.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# APP is split into words on purpose.
exec spawn-fcgi "$@" -- "$(command -v vsgi-fcgi)" --chdir "$here" ${APP:-hello:app}
