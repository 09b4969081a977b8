#!/bin/sh
# The same with the command, for plain CGI. Without "$@", a request cannot set options.
exec /home/you/venv/bin/vsgi-fcgi --chdir "$(dirname "$0")/.." hello:app
