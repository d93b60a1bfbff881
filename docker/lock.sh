#!/bin/sh
# Lock every requirements.in below docker/, and what the services' tests need, for Python 3.13 on Linux,
# hashes included. Needs uv; arguments go to it (`docker/lock.sh --upgrade-package fastapi`).
#
# A lock holds only what the locks named behind it do not already have, so that each image installs its own
# with `pip install --no-deps --require-hashes` on top of its base.
set -eu
cd "$(dirname "$0")"
locks="tools/tools
base-python/requirements
base-ml/requirements base-python
base-python/tracing base-python
auth/requirements base-python
memory/requirements base-python base-ml
orchestrator/requirements base-python
llama/requirements base-python
../tests/services/requirements-test base-python"
all=$(mktemp -d)
trap 'rm -rf "$all"' EXIT

compile() {
    uv pip compile --quiet --python-version 3.13 --universal --generate-hashes --no-emit-index-url --no-header "$@"
}

# All that is asked for is resolved at once, from what is locked: a base's lock alone would take what is newest, and
# what is built on it may not go with that.
for lock in $(echo "$locks" | cut -d' ' -f1); do
    sed '/^-/d' "$lock.in" >>"$all/all.in"
    if [ -e "$lock.txt" ]; then cat "$lock.txt" >>"$all/all.txt"; fi
done
compile "$@" "$all/all.in" -o "$all/all.txt"

echo "$locks" | while read -r lock bases; do
    held=""
    for base in $bases; do
        held="$held $(sed -n 's/^\([A-Za-z0-9._-]*\)==.*/--no-emit-package \1/p' "$base/requirements.txt")"
    done
    cp "$all/all.txt" "$all/lock.txt" # uv keeps to what its output has
    # shellcheck disable=SC2086  # one word each is what is meant
    (cd "$(dirname "$lock")" && compile $held "${lock##*/}.in" -o "$all/lock.txt")
    cat "$all/lock.txt" >"$lock.txt"
done
