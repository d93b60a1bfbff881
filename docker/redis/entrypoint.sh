#!/bin/sh
# Start Redis with the password of REDIS_PASSWORD. It goes in with the configuration, over standard input:
# neither a file nor the list of processes ever holds it. Any other command runs as it is.
set -eu

[ "${1:-redis-server}" = redis-server ] || exec "$@"
[ "$#" -eq 0 ] || shift

case ${REDIS_PASSWORD:-} in
    '' | change-me*)
        echo "redis: REDIS_PASSWORD is empty or still the example's; set it in .env (doit up_optimized makes one)" >&2
        exit 78
        ;;
esac
# Inside the quotes of its configuration Redis gives these two a meaning.
password=$(printf '%s' "$REDIS_PASSWORD" | sed 's/[\\"]/\\&/g')
unset REDIS_PASSWORD

exec redis-server - "$@" <<EOT
bind * -::*
protected-mode yes
requirepass "$password"
dir /data
appendonly yes
appendfsync everysec
save ""
maxmemory ${REDIS_MAXMEMORY:-96mb}
maxmemory-policy noeviction
EOT
