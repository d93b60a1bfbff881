#!/bin/sh
# As install.sh, into an environment that the image below has already: left is what the lock adds, and nothing else.
# containerd's store would leave out of a layer what is the same below, the classic one would not.
#
# usage: add.sh VENV REQUIREMENTS
set -eu

there=$(find "$1" -not -type d)
sh "${0%/*}/install.sh" "$@"
# shellcheck disable=SC2086  # one word each is what is meant
rm -f $there
find "$1" -type d -empty -delete
