# shellcheck shell=sh
# What `doit backup`, `doit restore` and a migration do with the data: run in the container, as `sh -c THIS sh VERB`.
#
#   save     Redis' own snapshot (RDB), to standard output
#   load     standard input in place of the data; Redis is stopped, and this runs in a container of its own
#   version  nothing: what is kept here has no version
#   data     a line for each key: a digest of its name, 1, one of its value, and until when it lives (milliseconds)
set -eu

[ ! -r "${REDIS_PASSWORD_FILE:-}" ] || REDIS_PASSWORD=$(cat "$REDIS_PASSWORD_FILE")

case $1 in
    save)
        # Through a file: to standard output redis-cli would write the mark of the transfer's end, too.
        trap 'rm -f /data/saved.rdb' EXIT
        REDISCLI_AUTH=$REDIS_PASSWORD redis-cli --no-auth-warning --rdb /data/saved.rdb >&2
        cat /data/saved.rdb
        ;;
    load)
        # With an append-only file Redis starts from that alone; a snapshot is a valid first part of one.
        cd /data
        rm -rf restored
        mkdir restored
        cat >restored/appendonly.aof.1.base.rdb
        redis-check-rdb restored/appendonly.aof.1.base.rdb >&2
        echo 'file appendonly.aof.1.base.rdb seq 1 type b' >restored/appendonly.aof.manifest
        mkdir -p appendonlydir
        mv --exchange --no-target-directory restored appendonlydir
        rm -rf restored
        ;;
    version) ;;
    data)
        # A dump ends with Redis' version and a checksum: of no interest.
        REDISCLI_AUTH=$REDIS_PASSWORD redis-cli --no-auth-warning EVAL '
            local lines, cursor = {}, "0"
            repeat
                local page = redis.call("SCAN", cursor, "COUNT", 1000)
                cursor = page[1]
                for _, key in ipairs(page[2]) do
                    local value, ends = redis.call("DUMP", key), redis.call("PEXPIRETIME", key)
                    if value then
                        lines[#lines + 1] = redis.sha1hex(key) .. " 1 " .. redis.sha1hex(value:sub(1, -11))
                            .. (ends > 0 and string.format(" %d", ends) or "")
                    end
                end
            until cursor == "0"
            return lines' 0
        ;;
esac
