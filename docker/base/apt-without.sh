#!/bin/sh
# Install Debian packages, but not those among what they depend on that a container never runs: the names that match
# PATTERN (grep -xE) are neither downloaded nor unpacked. The packages' own scripts could not run without them; what these
# set up for a machine, a Dockerfile does for an image. What apt downloads stays in the cache mounts.
#
# usage: apt-without.sh PATTERN PACKAGE…
set -eu
without=$1
shift
rm -f /etc/apt/apt.conf.d/docker-clean
apt-get -qq -o Acquire::Languages=none update
# "Inst NAME [OLD] (VERSION … [ARCHITECTURE])" of each: NAME_VERSION_ARCHITECTURE.deb, as apt calls what it downloads.
archives=$(apt-get --simulate --no-install-recommends install "$@" |
    sed -n 's/^Inst \([^ ]*\) \(\[[^]]*\] \)*(\([^ ]*\) .*\[\([^]]*\)\]).*/\1 \1_\3_\4.deb/p' |
    while read -r name archive; do printf '%s\n' "$name" | grep -qxE "$without" || echo "$archive"; done | sed 's/:/%3a/g')
mkdir -p /var/cache/apt/archives
cd /var/cache/apt/archives
for archive in $archives; do [ -e "$archive" ] || echo "${archive%%_*}"; done | xargs -r apt-get -qq download
quiet() { "$@" >/tmp/apt.log 2>&1 || { cat /tmp/apt.log >&2; exit 1; }; }
# shellcheck disable=SC2086  # one word each is what is meant
quiet dpkg --force-depends --unpack $archives
for archive in $archives; do
    rm -f /var/lib/dpkg/info/"${archive%%_*}".postinst /var/lib/dpkg/info/"${archive%%_*}":*.postinst
done
quiet dpkg --force-depends --configure --pending
rm /tmp/apt.log
