#!/bin/sh
# Lock every requirements.in below docker/ for Python 3.13 on Linux, hashes included.
#
# An image's lock holds only what the images below it do not already have, so that each installs with
# `pip install --no-deps --require-hashes` on top of its base. Needs uv; arguments go to it
# (`docker/lock.sh --upgrade`, `docker/lock.sh --upgrade-package fastapi`).
set -eu
cd "$(dirname "$0")"

# lock IMAGE BASE...: lock IMAGE without the packages that the BASEs' locks name.
lock() {
    image=$1
    shift
    held=""
    for base in "$@"; do
        held="$held $(sed -n 's/^\([A-Za-z0-9._-]*\)==.*/--no-emit-package \1/p' "$base/requirements.txt")"
    done
    # shellcheck disable=SC2086  # one word each is what is meant
    (cd "$image" && uv pip compile --quiet --python-version 3.13 --universal --generate-hashes \
        --no-emit-index-url --no-header $held $extra requirements.in -o requirements.txt)
}

extra="$*"
lock base-python
lock base-ml base-python
lock auth base-python
lock memory base-python base-ml
lock orchestrator base-python
