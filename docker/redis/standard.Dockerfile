# redis the way most people build it from a distribution's packages: the honest baseline of every comparison.
ARG BASE_IMAGE=python:3.13-slim-trixie
FROM ${BASE_IMAGE}

# The ids of the official image, and of ours: both serve the same volume.
RUN groupadd -r -g 999 redis && useradd -r -u 999 -g redis -d /data redis \
 && mkdir /data && chown redis:redis /data

# hadolint ignore=DL3015
RUN apt-get update && apt-get install -y redis-server && rm -rf /var/lib/apt/lists/*

COPY docker/redis/entrypoint.sh docker/redis/healthcheck.sh /usr/local/bin/

USER 999:999
WORKDIR /data
VOLUME /data
EXPOSE 6379
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["/usr/local/bin/healthcheck.sh"]
ENTRYPOINT ["/usr/local/bin/entrypoint.sh"]
CMD ["redis-server"]
