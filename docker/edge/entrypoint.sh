#!/bin/sh
# Start Caddy with a certificate for EDGE_HOST: that of /tls (cert.pem, key.pem) where there is one; with
# EDGE_ACME_EMAIL one from EDGE_ACME_CA (Let's Encrypt); else one of its own authority, whose root is
# /data/caddy/pki/authorities/local/root.crt. Any other command runs as it is.
set -eu

[ "${1:-caddy}" = caddy ] || exec "$@"

fail() {
    echo "edge: $1" >&2
    exit 78
}

EDGE_HOST=${EDGE_HOST:-localhost}
case $EDGE_HOST in
    *[!A-Za-z0-9.-]* | -* | .*) fail "EDGE_HOST must be one host name, without scheme and port" ;;
esac
for number in "MAX_BODY_BYTES=${MAX_BODY_BYTES:=1048576}" "REQUEST_SECONDS=${REQUEST_SECONDS:=10}" \
    "MODEL_TIMEOUT_SECONDS=${MODEL_TIMEOUT_SECONDS:=120}"; do
    case ${number#*=} in
        '' | *[!0-9]*) fail "${number%%=*} must be a whole number here" ;;
    esac
done

EDGE_TLS='tls internal'
EDGE_ACME=
EDGE_HSTS='header Strict-Transport-Security "max-age=31536000"'
if [ -e /tls/cert.pem ]; then
    [ -r /tls/cert.pem ] && [ -r /tls/key.pem ] ||
        fail "cert.pem and key.pem in the folder of EDGE_CERTS must be readable for user $(id -u)"
    EDGE_TLS='tls /tls/cert.pem /tls/key.pem'
elif [ -n "${EDGE_ACME_EMAIL:-}" ]; then
    case $EDGE_ACME_EMAIL${EDGE_ACME_CA:-} in
        *[!A-Za-z0-9.@:/_+?=%-]*) fail "EDGE_ACME_EMAIL must be an address, EDGE_ACME_CA a URL" ;;
    esac
    EDGE_TLS="tls $EDGE_ACME_EMAIL"
    EDGE_ACME=${EDGE_ACME_CA:+acme_ca $EDGE_ACME_CA}
else
    # A browser would ask every port of localhost for TLS, for a year.
    EDGE_HSTS=
fi
# The services answer what is too large in words, so this only limits what they have to read for it.
EDGE_BODY_BYTES=$((MAX_BODY_BYTES * 4))
# An answer waits for the model, and may stream as long again.
EDGE_WRITE_SECONDS=$((MODEL_TIMEOUT_SECONDS * 2 + 30))
export EDGE_HOST EDGE_TLS EDGE_ACME EDGE_HSTS EDGE_BODY_BYTES EDGE_WRITE_SECONDS REQUEST_SECONDS

exec caddy run --config /etc/caddy/Caddyfile --adapter caddyfile
