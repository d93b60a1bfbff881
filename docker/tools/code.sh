#!/bin/sh
# Bring the code in /mnt/code into /app, byte-compiled, for nobody to write, all of one time.
set -eu

cp -r /mnt/code/* /app/
chmod -R a=rX /app/*
# checked-hash: an edited source counts, though its time may be older than the compiled file's.
python -m compileall -q --invalidation-mode checked-hash /app
sh "${0%/*}/times.sh" /app
