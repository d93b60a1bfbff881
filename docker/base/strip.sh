#!/bin/sh
# Remove from a root filesystem what no container of ours runs; the caller then copies `/` into an empty image,
# so that what goes here takes no room in any layer.
#
# usage: strip.sh [PACKAGE-PATTERN...]    more packages to remove, dpkg's wildcards allowed
#
# It works on Debian's own Python (/usr) as on the official image's (/usr/local), and names only what goes:
# a package that it does not know stays. dpkg's list of what is left stays too, for vulnerability scanners.
set -eu

# The package manager and what only it needs; interactive shells, logins, filesystems; Python's installers.
set -- "$@" \
    apt 'libapt-pkg*' sqv debian-archive-keyring 'libgmp10*' 'libhogweed*' 'libnettle*' \
    debconf libdebconfclient0 adduser init-system-helpers sysvinit-utils \
    perl-base 'perl-modules-*' 'libperl5*' perl mawk gzip diffutils \
    bash login login.defs passwd mount util-linux bsdutils hostname 'ncurses-*' 'libpam-*' \
    openssl openssl-provider-legacy \
    'python3*-venv' python3-pip-whl python3-setuptools-whl

# dpkg and tar run until the end, so they go last.
packages=$(dpkg-query --show --showformat '${db:Status-Status} ${Package}\n' "$@" dpkg 2>/dev/null |
    sed -n 's/^installed //p' | sort -u)
# Their removal scripts would tidy up what goes anyway, and call each other while it goes.
for package in $packages; do
    rm -f /var/lib/dpkg/info/"$package".pre* /var/lib/dpkg/info/"$package".post* \
        /var/lib/dpkg/info/"$package":*.pre* /var/lib/dpkg/info/"$package":*.post*
done
# shellcheck disable=SC2086  # one word each is what is meant
dpkg --purge --no-triggers --force-all $packages >/dev/null 2>/tmp/strip.log || { cat /tmp/strip.log >&2; exit 1; }

# openssl's links stay: by them whoever speaks TLS finds the certificates.
mkdir -p /usr/lib/ssl
ln -s /etc/ssl/certs /usr/lib/ssl/certs
ln -s /etc/ssl/certs/ca-certificates.crt /usr/lib/ssl/cert.pem

# The installers and the desktop parts of a Python that dpkg does not know.
for lib in /usr/local/lib/python3* /usr/lib/python3*; do
    rm -rf "$lib"/ensurepip "$lib"/idlelib "$lib"/turtledemo "$lib"/tkinter "$lib"/test \
        "$lib"/site-packages/pip "$lib"/site-packages/pip-*
done
rm -rf /usr/local/bin/pip* /usr/local/bin/idle*

# Documentation, translations, conversion tables that nothing of ours opens; caches, logs, backups. Licenses stay.
find /usr/share/doc -type f -not -name copyright -delete
find /usr/share/doc -type d -empty -delete
rm -rf /usr/share/info /usr/share/locale /usr/share/man /usr/share/python-wheels /usr/share/perl* \
    /usr/lib/*/gconv /usr/lib/*/perl* /etc/apt /etc/dpkg /var/lib/apt /var/cache/* /var/log/* \
    /var/lib/dpkg/*-old /var/lib/dpkg/info/*.md5sums /root/.cache
rm -rf /tmp/*
