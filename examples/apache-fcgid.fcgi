#!/bin/sh
# What Apache starts. mod_fcgid gives it PATH and what FcgidInitialEnv says, and nothing else of
# Apache's environment. APP has no quotes: it is several words.
exec vsgi-fcgi $APP
