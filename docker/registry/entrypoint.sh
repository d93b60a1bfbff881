#!/bin/sh
# Start the registry with the login CACHE_USER and CACHE_PASSWORD, and TLS if a certificate is there. Secrets reach it by
# its environment and by files in memory, never as arguments. Before it serves, manifests that have had no tag for a week
# are forgotten, and blobs that no manifest needs any more are removed: only then does nobody push, and no descriptor in
# memory says that one of them is still there.
# With CACHE_READ_ONLY=1 nobody can push or delete, and nothing is removed.
set -eu

[ "${1:-docker-registry}" = docker-registry ] || exec "$@"

case ${CACHE_PASSWORD:-} in
    '' | change-me*)
        echo "registry: CACHE_PASSWORD is empty or still the example's; set it in .env" \
            "(CACHE_READ_PASSWORD for the one that only reads)" >&2
        exit 78
        ;;
esac

# The registry knows bcrypt logins only; the C library makes them.
umask 077
CACHE_PASSWORD=$CACHE_PASSWORD perl -e '
    open my $random, "<:raw", "/dev/urandom" or die;
    read $random, my $bytes, 22;
    my @alphabet = (".", "/", "A" .. "Z", "a" .. "z", "0" .. "9");
    my $salt = join "", map { $alphabet[$_ % 64] } unpack "C*", $bytes;
    my $hash = crypt($ENV{CACHE_PASSWORD}, "\$2b\$10\$" . substr($salt, 0, 21) . "u");
    die "this system knows no bcrypt\n" unless defined $hash && length $hash == 60;
    print "$ENV{CACHE_USER}:$hash\n";
' > /tmp/htpasswd
unset CACHE_PASSWORD

tls=
if [ -f /tls/cert.pem ]; then
    tls=', "tls": {"certificate": "/tls/cert.pem", "key": "/tls/key.pem"}'
fi
maintenance=
if [ "${CACHE_READ_ONLY:-}" = 1 ]; then
    maintenance=', "maintenance": {"readonly": {"enabled": true}, "uploadpurging": {"enabled": false}}'
fi
# JSON is YAML. What is written half and dropped is purged by the registry itself.
cat > /tmp/config.yml <<EOT
{
  "version": "0.1",
  "log": {"level": "info", "accesslog": {"disabled": true}},
  "storage": {
    "filesystem": {"rootdirectory": "/data"},
    "cache": {"blobdescriptor": "inmemory"},
    "delete": {"enabled": true}$maintenance
  },
  "auth": {"htpasswd": {"realm": "cache", "path": "/tmp/htpasswd"}},
  "http": {"addr": ":5000", "headers": {"X-Content-Type-Options": ["nosniff"]}$tls}
}
EOT
if [ -z "$maintenance" ] && [ -d /data/docker/registry/v2/repositories ]; then
    # Not `garbage-collect --delete-untagged`: that takes the images of an index, and signatures.
    sweep.py /data/docker/registry/v2 604800 || echo "registry: untagged manifests stay" >&2
    docker-registry garbage-collect /tmp/config.yml | grep -c '^blob eligible for deletion' | sed 's/^/blobs removed: /'
fi
exec docker-registry serve /tmp/config.yml
