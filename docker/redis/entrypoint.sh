#!/bin/sh
# Start Redis with the password of REDIS_PASSWORD. With AUTH_STORE_PASSWORD and its like the services have users of
# their own: auth keeps what it counts and what is revoked, the others ask what is revoked. With READER_PASSWORD there is
# a user that may only ask what machines have built (docker-compose.cache.yml). Passwords go in with the configuration,
# over standard input: neither a file nor the list of processes ever holds it. Any other command runs as it is.
set -eu

[ "${1:-redis-server}" = redis-server ] || exec "$@"
[ "$#" -eq 0 ] || shift

# NAME_FILE is a file that holds what NAME would, as Compose mounts secrets.
for name in REDIS READER AUTH_STORE MEMORY_STORE ORCHESTRATOR_STORE; do
    eval "file=\${${name}_PASSWORD_FILE:-}"
    [ -z "$file" ] || eval "${name}_PASSWORD=\$(cat \"\$file\")" || exit 78
done

case ${REDIS_PASSWORD:-} in
    '' | change-me*)
        echo "redis: REDIS_PASSWORD is empty or still the example's; set it in .env (doit up_optimized makes one)" >&2
        exit 78
        ;;
esac
# Inside the quotes of its configuration Redis gives these two a meaning.
password=$(printf '%s' "$REDIS_PASSWORD" | sed 's/[\\"]/\\&/g')
unset REDIS_PASSWORD

# user NAME PASSWORD RIGHTS: a line of the configuration; Redis keeps a digest as well as a password.
user() {
    [ -n "$2" ] || return 0
    printf 'user %s on #%s %s\n' "$1" "$(printf '%s' "$2" | sha256sum | cut -d ' ' -f 1)" "$3"
}
made='%R~{doit-images}:made:* %R~{doit-images}:shared:* %R~{doit-images}:leases %R~{doit-images}:holders -@all +ping'
made="$made +mget +hget +zscore +hello +client|setinfo +select"
revoked='%R~auth:revoked:* %R~auth:ended:* -@all +ping +mget +hello +client|setinfo +select'
users=$(
    user auth "${AUTH_STORE_PASSWORD:-}" '~auth:* -@all +@connection +@transaction +@string +@keyspace -@dangerous'
    user reader "${READER_PASSWORD:-}" "$made"
    user memory "${MEMORY_STORE_PASSWORD:-}" "$revoked"
    user orchestrator "${ORCHESTRATOR_STORE_PASSWORD:-}" "$revoked"
)
unset READER_PASSWORD AUTH_STORE_PASSWORD MEMORY_STORE_PASSWORD ORCHESTRATOR_STORE_PASSWORD

exec redis-server - "$@" <<EOT
bind * -::*
protected-mode yes
requirepass "$password"
$users
dir /data
appendonly yes
appendfsync everysec
save ""
maxmemory ${REDIS_MAXMEMORY:-96mb}
maxmemory-policy ${REDIS_EVICTION:-noeviction}
EOT
