#!/bin/sh
# Install Debian packages. What apt downloads stays in the cache mounts of the step.
#
# usage: apt.sh PACKAGE…
set -eu
rm -f /etc/apt/apt.conf.d/docker-clean
apt-get -qq -o Acquire::Languages=none update
DEBIAN_FRONTEND=noninteractive apt-get -qq -o APT::Keep-Downloaded-Packages=true \
    install --yes --no-install-recommends "$@"
