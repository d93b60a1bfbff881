#!/bin/sh
# Install a lock's packages into a virtual environment, byte-compiled, without what nobody imports.
#
# usage: install.sh VENV REQUIREMENTS    with a filesystem that has binutils at /mnt/binutils, if it is to strip
#
# A lock is complete with those of the images below it (docker/lock.sh), hence --no-deps.
set -eu

# Several images are built at once, and a proxy or a mirror that gets uv's fifty connections from each drops some, which
# then time out one after the other: five locks took 12 s where four connections each take 2 s.
export UV_CONCURRENT_DOWNLOADS=4

# unchecked-hash: the compiled files hold no time, so that the same lock gives the same bytes.
PYC_INVALIDATION_MODE=UNCHECKED_HASH /tools/bin/uv pip install --quiet --no-deps --require-hashes \
    --link-mode copy --compile-bytecode --python "$1/bin/python" --requirement "$2"

# uv's own lock; the packages' own tests; type stubs, headers and sources of extension modules.
rm -f "$1/.lock"
find "$1/lib" -type d -name tests -prune -exec rm -rf {} +
find "$1/lib" -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.h' -o -name '*.c' -o -name '*.a' \) -delete

# Debugging symbols. Libraries that a wheel was repaired with (NAME.libs) are left as they were made.
for strip in /mnt/binutils/usr/bin/*-linux-gnu*-strip; do
    [ -x "$strip" ] || continue
    LD_LIBRARY_PATH=$(printf '%s:' /mnt/binutils/usr/lib/*-linux-gnu*) \
        find "$1/lib" -type f -name '*.so' -not -path '*.libs/*' -exec "$strip" --strip-unneeded {} +
done
