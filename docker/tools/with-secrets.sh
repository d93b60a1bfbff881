#!/bin/sh
# Run a command with the certificate bundle and the package index that the build was given as secrets.
# They are mounted while one step runs; one that was not given is an absent or empty file.
set -eu
if [ -s /run/secrets/build_ca ]; then
    export PIP_CERT=/run/secrets/build_ca SSL_CERT_FILE=/run/secrets/build_ca
fi
if [ -s /run/secrets/pip_index_url ]; then
    PIP_INDEX_URL=$(cat /run/secrets/pip_index_url)
    export PIP_INDEX_URL UV_DEFAULT_INDEX="$PIP_INDEX_URL"
fi
# pip goes on with a download whose connection dropped, instead of failing (from 25.1 on; older ones do not look).
export PIP_RESUME_RETRIES=5
exec "$@"
