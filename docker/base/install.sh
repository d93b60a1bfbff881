#!/bin/sh
# Install a lock's packages into a virtual environment, byte-compiled, without what nobody imports.
#
# usage: install.sh VENV REQUIREMENTS
#
# A lock is complete with those of the images below it (docker/lock.sh), hence --no-deps.
set -eu

# unchecked-hash: the compiled files hold no time, so that the same lock gives the same bytes.
PYC_INVALIDATION_MODE=UNCHECKED_HASH /opt/tools/bin/uv pip install --quiet --no-deps --require-hashes \
    --link-mode copy --compile-bytecode --python "$1/bin/python" --requirement "$2"

# Type stubs, headers and sources of extension modules.
find "$1/lib" -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.h' -o -name '*.c' -o -name '*.a' \) -delete
