# postgres the way most people build it from a distribution's packages: the honest baseline of every comparison.
ARG BASE_IMAGE=python:3.13-slim-trixie
FROM ${BASE_IMAGE}

# The ids of the official image, and of ours: both serve the same volume.
RUN groupadd -r -g 999 postgres && useradd -r -u 999 -g postgres -d /var/lib/postgresql postgres

# hadolint ignore=DL3015
RUN apt-get update && apt-get install -y postgresql-17 postgresql-17-pgvector && rm -rf /var/lib/apt/lists/*

ENV PATH=/usr/lib/postgresql/17/bin:$PATH \
    PGDATA=/var/lib/postgresql/17/data

# The cluster that the package made for itself is not ours to serve.
RUN rm -rf /var/lib/postgresql/17 && mkdir -p /var/lib/postgresql && chown postgres:postgres /var/lib/postgresql

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
