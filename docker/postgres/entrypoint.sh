#!/bin/sh
# Start PostgreSQL. The first time, prepare a cluster in $PGDATA with the database POSTGRES_DB, its owner
# POSTGRES_USER and the password of POSTGRES_PASSWORD (or of the file POSTGRES_PASSWORD_FILE). Any other command runs
# as it is.
#
# The cluster is made beside $PGDATA, or in it where that is a mount, and moved when it is complete: killed half-way, it
# starts over.
set -eu

[ "${1:-postgres}" = postgres ] || exec "$@"
[ "$#" -eq 0 ] || shift

die() {
    echo "postgres: $1" >&2
    exit 78
}

if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
    POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE") || die "POSTGRES_PASSWORD_FILE cannot be read"
fi
newline='
'
case ${POSTGRES_PASSWORD:-} in
    '' | change-me*)
        die "POSTGRES_PASSWORD is empty or still the example's; set it in .env (doit up_optimized makes one)" ;;
    *"$newline"*) die "POSTGRES_PASSWORD must be one line" ;;
esac

literal() { printf "'%s'" "$(printf '%s' "$1" | sed "s/'/''/g")"; }
name() { printf '"%s"' "$(printf '%s' "$1" | sed 's/"/""/g')"; }

prepare() {
    new=$PGDATA.new
    # Where $PGDATA is there and empty it may be a mount, which nothing can be renamed to: then it is made inside, and
    # what a cluster is known by comes last. What a killed start left of that goes.
    if [ -e "$PGDATA/.new" ]; then
        find "$PGDATA" -mindepth 1 -maxdepth 1 ! -name lost+found ! -name .new -exec rm -rf {} +
    elif [ -d "$PGDATA" ] && [ -n "$(find "$PGDATA" -mindepth 1 -maxdepth 1 ! -name lost+found -print -quit)" ]; then
        die "$PGDATA holds files, but no cluster: empty it, or mount what was in it"
    fi
    if [ -d "$PGDATA" ] && ! rmdir "$PGDATA" 2>/dev/null; then
        new=$PGDATA/.new
        chmod 0700 "$PGDATA"
    fi
    user=${POSTGRES_USER:-swarm}
    database=${POSTGRES_DB:-swarm}
    rm -rf "$new"
    mkdir -p "$new"
    # The built-in C.UTF-8 sorts alike whatever C library an image carries, so data may move between images.
    initdb --pgdata="$new" --username=postgres --auth-local=peer --auth-host=scram-sha-256 \
        --encoding=UTF8 --locale=C.UTF-8 --locale-provider=builtin --data-checksums --no-instructions >/dev/null
    echo 'host all all all scram-sha-256' >>"$new/pg_hba.conf"
    # A single-user server has no port and no log of statements; -j: a statement ends at an empty line.
    single() { postgres --single -j -D "$new" -c log_min_messages=fatal -c exit_on_error=on "$1" >/dev/null; }
    printf 'CREATE ROLE %s LOGIN CREATEROLE PASSWORD %s;\n\nCREATE DATABASE %s OWNER %s;\n\n' \
        "$(name "$user")" "$(literal "$POSTGRES_PASSWORD")" "$(name "$database")" "$(name "$user")" | single postgres
    printf 'CREATE EXTENSION vector;\n\n' | single "$database"
    touch "$new/owner-makes-roles"
    if [ "$new" = "$PGDATA/.new" ]; then
        find "$new" -mindepth 1 -maxdepth 1 ! -name PG_VERSION -exec mv -t "$PGDATA" {} +
        mv "$new/PG_VERSION" "$PGDATA"
        rmdir "$new"
    else
        mv --no-target-directory "$new" "$PGDATA"
    fi
    echo "postgres: prepared database $database of user $user" >&2
}

# The owner of the database gives each service a role (common.migrate). Once, also in a cluster of before.
let_owner_make_roles() {
    printf 'ALTER ROLE %s CREATEROLE;\n\n' "$(name "${POSTGRES_USER:-swarm}")" |
        postgres --single -j -D "$PGDATA" -c log_min_messages=fatal -c exit_on_error=on postgres >/dev/null
    touch "$PGDATA/owner-makes-roles"
}

[ -s "$PGDATA/PG_VERSION" ] || prepare
[ -e "$PGDATA/owner-makes-roles" ] || let_owner_make_roles
unset POSTGRES_PASSWORD
exec postgres -c listen_addresses='*' "$@"
