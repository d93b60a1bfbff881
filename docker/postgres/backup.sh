# shellcheck shell=sh
# What `doit backup`, `doit restore` and a migration do with the data: run in the container, as `sh -c THIS sh VERB`.
#
#   save     the database, to standard output
#   load     standard input in place of the database: made beside it, and renamed when it is complete
#   version  which version the tables are of, or nothing
#   data     a line for each table: its name, how many rows, a checksum over them in whatever order
#
# By the socket, where the user that PostgreSQL runs as is its superuser. Names are quoted by psql.
set -eu

db=${POSTGRES_DB:-swarm} owner=${POSTGRES_USER:-swarm}
new=$db.restored old=$db.replaced

sql() {
    psql --no-psqlrc --quiet --tuples-only --no-align --field-separator=' ' --set=ON_ERROR_STOP=1 --username=postgres \
        --dbname="$1" --set=db="$db" --set=new="$new" --set=old="$old" --set=owner="$owner"
}

case $1 in
    save) exec pg_dump --username=postgres --format=custom --dbname="$db" ;;
    load)
        sql postgres <<'SQL'
DROP DATABASE IF EXISTS :"new" WITH (FORCE);
DROP DATABASE IF EXISTS :"old" WITH (FORCE);
CREATE DATABASE :"new" OWNER :"owner" TEMPLATE template0;
SQL
        echo 'CREATE EXTENSION vector' | sql "$new"
        # Rights are given by common.migrate, which runs before the services do; their roles may not be there yet.
        pg_restore --username=postgres --role="$owner" --no-owner --no-privileges --no-comments \
            --single-transaction --exit-on-error --dbname="$new" || {
            echo 'DROP DATABASE :"new"' | sql postgres
            exit 1
        }
        sql postgres >/dev/null <<'SQL'
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN (:'db', :'new');
BEGIN;
ALTER DATABASE :"db" RENAME TO :"old";
ALTER DATABASE :"new" RENAME TO :"db";
COMMIT;
DROP DATABASE :"old" WITH (FORCE);
SQL
        ;;
    version)
        sql "$db" <<'SQL'
SELECT to_regclass('alembic_version') IS NOT NULL AS there \gset
\if :there
SELECT version_num FROM alembic_version;
\endif
SQL
        ;;
    data)
        sql "$db" <<'SQL'
SELECT format(
    'SELECT %L, count(*), coalesce(sum(hashtextextended(one::text, 0)), 0) FROM %I.%I AS one',
    replace(schemaname || '.' || tablename, ' ', '_'), schemaname, tablename
) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1 \gexec
SQL
        ;;
esac
