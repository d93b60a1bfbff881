# The three services as Docker, uv and Depot document it today (docs.docker.com/build/building/best-practices,
# docs.astral.sh/uv/guides/integration/docker, depot.dev/docs): a slim base, several stages, locks before code, installed
# by uv with its downloads in a cache mount, an environment without pip, not root. The strongest plain Dockerfile that we
# know of, and the column that we judge ourselves by; docker-compose.documented.yml deploys it.
ARG BASE_IMAGE=python:3.13-slim-trixie
FROM ${BASE_IMAGE} AS builder
ENV UV_LINK_MODE=copy \
    VIRTUAL_ENV=/opt/venv
# Certificates and index come as in the optimized image: what is compared is how images are built.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=docker/tools,target=/mnt/tools \
    --mount=type=secret,id=build_ca --mount=type=secret,id=pip_index_url \
    python3 -m venv /tools \
 && sh /mnt/tools/with-secrets.sh /tools/bin/pip install --quiet --requirement /mnt/tools/tools.txt \
 && /tools/bin/uv venv --quiet /opt/venv

FROM ${BASE_IMAGE} AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin appuser
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health')"]
USER 10001

FROM builder AS auth-builder
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,source=docker/tools/with-secrets.sh,target=/mnt/with-secrets.sh \
    --mount=type=bind,source=docker/base-python/requirements.txt,target=/mnt/base-python.txt \
    --mount=type=bind,source=docker/auth/requirements.txt,target=/mnt/auth.txt \
    --mount=type=secret,id=build_ca --mount=type=secret,id=pip_index_url \
    sh /mnt/with-secrets.sh /tools/bin/uv pip install --quiet \
        --requirement /mnt/base-python.txt --requirement /mnt/auth.txt

FROM base AS auth
COPY --from=auth-builder /opt/venv /opt/venv
COPY services/common common
COPY services/auth auth
ENV PORT=8005
EXPOSE 8005
CMD ["python", "-m", "common.serve", "auth", "8005"]

FROM builder AS memory-builder
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,source=docker/tools/with-secrets.sh,target=/mnt/with-secrets.sh \
    --mount=type=bind,source=docker/base-python/requirements.txt,target=/mnt/base-python.txt \
    --mount=type=bind,source=docker/base-ml/requirements.txt,target=/mnt/base-ml.txt \
    --mount=type=bind,source=docker/memory/requirements.txt,target=/mnt/memory.txt \
    --mount=type=secret,id=build_ca --mount=type=secret,id=pip_index_url \
    sh /mnt/with-secrets.sh /tools/bin/uv pip install --quiet \
        --requirement /mnt/base-python.txt --requirement /mnt/base-ml.txt --requirement /mnt/memory.txt

FROM base AS memory
COPY --from=memory-builder /opt/venv /opt/venv
COPY services/common common
COPY services/memory memory
ENV PORT=8003
EXPOSE 8003
CMD ["python", "-m", "common.serve", "memory", "8003"]

FROM builder AS orchestrator-builder
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,source=docker/tools/with-secrets.sh,target=/mnt/with-secrets.sh \
    --mount=type=bind,source=docker/base-python/requirements.txt,target=/mnt/base-python.txt \
    --mount=type=bind,source=docker/orchestrator/requirements.txt,target=/mnt/orchestrator.txt \
    --mount=type=secret,id=build_ca --mount=type=secret,id=pip_index_url \
    sh /mnt/with-secrets.sh /tools/bin/uv pip install --quiet \
        --requirement /mnt/base-python.txt --requirement /mnt/orchestrator.txt

FROM base AS orchestrator
COPY --from=orchestrator-builder /opt/venv /opt/venv
COPY services/common common
COPY services/orchestrator orchestrator
ENV PORT=8004
EXPOSE 8004
CMD ["python", "-m", "common.serve", "orchestrator", "8004"]
