#!/bin/sh
# Bring a service's code, and what services share, into /app: byte-compiled, for nobody to write, all of one time.
#
# usage: code.sh NAME    with its code mounted on /srv, and the shared one on /media
set -eu

cp -r /media /app/common
cp -r /srv "/app/$1"
chmod -R a=rX /app/*
# checked-hash: an edited source counts, though its time may be older than the compiled file's.
python -m compileall -q --invalidation-mode checked-hash /app
sh "${0%/*}/times.sh" /app
