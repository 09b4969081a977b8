#!/bin/sh
# The same by the command, for plain CGI: no "$@" here, or a request could give it options.
exec /home/you/venv/bin/vsgi-fcgi --chdir "$(dirname "$0")/.." hello:app
