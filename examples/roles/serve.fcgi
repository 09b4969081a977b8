#!/bin/sh
# What Apache starts, for the authorizer and for the app behind it.
exec vsgi-fcgi --chdir "$(dirname "$0")" --authorizer app:authorizer app:app
