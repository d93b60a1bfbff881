# postgres as Docker's documentation teaches it. What people really use is the official image with pgvector; it comes from
# a registry, is made of the same kind of packages, and has a Debian without Python under it.
ARG BASE_IMAGE=python:3.13-slim-trixie
FROM ${BASE_IMAGE}

# The ids of the official image, and of ours: both serve the same volume.
RUN groupadd -r -g 999 postgres && useradd -r -u 999 -g postgres -d /var/lib/postgresql postgres \
 && mkdir /etc/postgresql-common \
 && echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf

RUN --mount=type=cache,id=documented-postgres-cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,id=documented-postgres-lists,target=/var/lib/apt,sharing=locked \
    rm -f /etc/apt/apt.conf.d/docker-clean \
 && apt-get update && apt-get install -y --no-install-recommends postgresql-17 postgresql-17-pgvector \
 && mkdir -p /var/lib/postgresql && chown postgres:postgres /var/lib/postgresql /run/postgresql

ENV PATH=/usr/lib/postgresql/17/bin:$PATH \
    PGDATA=/var/lib/postgresql/17/data

COPY docker/postgres/entrypoint.sh /usr/local/bin/

USER 999:999
WORKDIR /var/lib/postgresql
VOLUME /var/lib/postgresql
EXPOSE 5432
STOPSIGNAL SIGINT
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --start-interval=1s --retries=3 \
    CMD ["pg_isready", "--quiet", "--host=127.0.0.1"]
ENTRYPOINT ["/usr/local/bin/entrypoint.sh"]
CMD ["postgres"]
