#!/bin/sh
# Start Prometheus with the token of /metrics, which is in the environment and in a file in memory, and nowhere else.
set -eu

case ${METRICS_TOKEN:-} in
    "" | change-me*)
        echo "Refusing to start." >&2
        echo "METRICS_TOKEN: required, here and for the services: openssl rand -hex 32 makes one" >&2
        exit 1
        ;;
esac
umask 077
printf '%s' "$METRICS_TOKEN" >/tmp/metrics-token
unset METRICS_TOKEN
sed "s/_interval: 15s/_interval: ${SCRAPE_SECONDS:-15}s/" /etc/swarm/prometheus.yml >/tmp/prometheus.yml

exec "$@" --config.file=/tmp/prometheus.yml --storage.tsdb.path=/data --web.listen-address=:9090 \
    --storage.tsdb.retention.time=15d --storage.tsdb.retention.size=2GB
