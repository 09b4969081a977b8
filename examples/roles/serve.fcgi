#!/bin/sh
# Apache starts this script for the authorizer and for the app.
exec vsgi-fcgi --chdir "$(dirname "$0")" --authorizer app:authorizer app:app
