#!/bin/sh
# Lock every requirements.in below docker/, and what the services' tests need, for Python 3.13 on Linux,
# hashes included. Needs uv; arguments go to it (`docker/lock.sh --upgrade-package fastapi`).
#
# A lock holds only what the locks named behind it do not already have, so that each image installs its own
# with `pip install --no-deps --require-hashes` on top of its base.
set -eu
cd "$(dirname "$0")"

# lock SET BASE...: lock SET.in to SET.txt without the packages in the locks of the BASEs.
lock() {
    set_=$1
    shift
    held=""
    for base in "$@"; do
        held="$held $(sed -n 's/^\([A-Za-z0-9._-]*\)==.*/--no-emit-package \1/p' "$base/requirements.txt")"
    done
    # shellcheck disable=SC2086  # one word each is what is meant
    (cd "$(dirname "$set_")" && uv pip compile --quiet --python-version 3.13 --universal --generate-hashes \
        --no-emit-index-url --no-header $held $extra "${set_##*/}.in" -o "${set_##*/}.txt")
}

extra="$*"
lock tools/tools
lock base-python/requirements
lock base-ml/requirements base-python
lock base-python/tracing base-python
lock auth/requirements base-python
lock memory/requirements base-python base-ml
lock orchestrator/requirements base-python
lock llama/requirements base-python
lock ../tests/services/requirements-test base-python
