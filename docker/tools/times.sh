#!/bin/sh
# Give files one time, so that the same content makes the same layer wherever and whenever it is built: no exporter does
# that for the engine's own store (docs/decisions.md).
#
# usage: times.sh FOLDER    everything in it, whatever time it has: sources are as old as their checkout
#        times.sh /         what is newer than that time; what packages bring has a time of its own
set -eu

time=@1754697600
if [ "$1" = / ]; then
    # What the builder mounts is no part of a layer.
    find / -xdev \( -path '/mnt/*' -o -path /proc -o -path /sys -o -path /dev \
        -o -path /etc/hosts -o -path /etc/resolv.conf \) -prune \
        -o -newermt "$time" -exec touch --no-dereference --date="$time" {} +
else
    find "$1" -exec touch --no-dereference --date="$time" {} +
fi
