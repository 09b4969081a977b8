#!/bin/sh
# Apache starts this script. mod_fcgid sets PATH and the variables of FcgidInitialEnv, and no other
# variables of Apache's environment. APP is not quoted, because it is several words.
exec vsgi-fcgi $APP
