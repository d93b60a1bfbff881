# redis as Docker's documentation teaches it. What people really use is the official image; it comes from a registry, and
# has a Debian without Python under it.
ARG BASE_IMAGE=python:3.13-slim-trixie
FROM ${BASE_IMAGE}

# The ids of the official image, and of ours: both serve the same volume.
RUN groupadd -r -g 999 redis && useradd -r -u 999 -g redis -d /data redis \
 && mkdir /data && chown redis:redis /data

RUN --mount=type=cache,id=documented-redis-cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,id=documented-redis-lists,target=/var/lib/apt,sharing=locked \
    rm -f /etc/apt/apt.conf.d/docker-clean \
 && apt-get update && apt-get install -y --no-install-recommends redis-server

COPY docker/redis/entrypoint.sh docker/redis/healthcheck.sh /usr/local/bin/

USER 999:999
WORKDIR /data
VOLUME /data
EXPOSE 6379
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["/usr/local/bin/healthcheck.sh"]
ENTRYPOINT ["/usr/local/bin/entrypoint.sh"]
CMD ["redis-server"]
