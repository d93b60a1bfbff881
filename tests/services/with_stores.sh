#!/bin/sh
# Run a command with a PostgreSQL (with pgvector) and a Redis of its own, as the tests of the services need them:
#
#   tests/services/with_stores.sh pytest tests/services
#
# Needs Debian's postgresql-17, postgresql-17-pgvector and redis-server. Both listen on loopback only, on
# STORES_POSTGRES_PORT (15432) and STORES_REDIS_PORT (16379), keep their files in a new folder of /tmp, and are
# stopped, and their files removed, when the command has ended.
set -eu

for PG in /usr/lib/postgresql/*/bin; do :; done # the newest there is
export POSTGRES_HOST=127.0.0.1 POSTGRES_PORT="${STORES_POSTGRES_PORT:-15432}" POSTGRES_USER=swarm POSTGRES_DB=swarm
export REDIS_HOST=127.0.0.1 REDIS_PORT="${STORES_REDIS_PORT:-16379}"
POSTGRES_PASSWORD=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
REDIS_PASSWORD=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
export POSTGRES_PASSWORD REDIS_PASSWORD

folder=$(mktemp -d /tmp/stores.XXXXXX)
chmod 755 "$folder"
# PostgreSQL refuses to run as root; Debian's package has made a user for it.
as_postgres=""
if [ "$(id -u)" = 0 ]; then
    as_postgres="setpriv --reuid=postgres --regid=postgres --clear-groups"
    chown postgres "$folder"
fi

stop() {
    status=$?
    trap - EXIT INT TERM
    $as_postgres "$PG/pg_ctl" --pgdata "$folder/pg" stop --mode fast >/dev/null 2>&1 || true
    [ -f "$folder/redis.pid" ] && kill "$(cat "$folder/redis.pid")" 2>/dev/null || true
    rm -rf "$folder"
    exit $status
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

umask 077
printf '%s' "$POSTGRES_PASSWORD" >"$folder/password"
[ -z "$as_postgres" ] || chown postgres "$folder/password"
cd "$folder"
$as_postgres "$PG/initdb" --pgdata "$folder/pg" --username swarm --pwfile "$folder/password" --auth scram-sha-256 \
    --encoding UTF8 --locale C.UTF-8 --no-sync >/dev/null
if ! $as_postgres "$PG/pg_ctl" --pgdata "$folder/pg" --wait --log "$folder/postgres.log" --options \
    "-h 127.0.0.1 -p $POSTGRES_PORT -k $folder -c fsync=off" start >/dev/null; then
    cat "$folder/postgres.log" >&2
    exit 1
fi
PGPASSWORD=$POSTGRES_PASSWORD "$PG/createdb" --host 127.0.0.1 --port "$POSTGRES_PORT" --username swarm swarm
# The password by its standard input: a command's arguments can be seen by everybody.
redis-server - >"$folder/redis.log" 2>&1 <<CONF &
bind 127.0.0.1
port $REDIS_PORT
requirepass $REDIS_PASSWORD
dir $folder
pidfile $folder/redis.pid
save ""
appendonly yes
appendfsync no
maxmemory-policy noeviction
CONF
echo $! >"$folder/redis.pid"
until REDISCLI_AUTH=$REDIS_PASSWORD redis-cli -p "$REDIS_PORT" ping >/dev/null 2>&1; do
    kill -0 "$(cat "$folder/redis.pid")" 2>/dev/null || { cat "$folder/redis.log" >&2; exit 1; }
    sleep 0.05
done
cd "$OLDPWD"
"$@"
