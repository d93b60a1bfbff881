# The three services as Docker's own documentation teaches it (docs.docker.com/build/building/best-practices and its
# guide for Python): a slim base, no compilers, locks before code, pip's downloads in a cache mount, a stage for what the
# services share, not root. The strongest plain Dockerfile that we know of, and the column that we judge ourselves by;
# docker-compose.documented.yml deploys it.
ARG BASE_IMAGE=python:3.13-slim-trixie
FROM ${BASE_IMAGE} AS base

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

WORKDIR /app
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin appuser \
 && python3 -m venv /opt/venv

# Certificates and index come as in the optimized image: what is compared is how images are built.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=docker/tools/with-secrets.sh,target=/mnt/with-secrets.sh \
    --mount=type=bind,source=docker/base-python/requirements.txt,target=/mnt/requirements.txt \
    --mount=type=secret,id=build_ca --mount=type=secret,id=pip_index_url \
    sh /mnt/with-secrets.sh pip install --quiet --requirement /mnt/requirements.txt

HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health')"]

FROM base AS auth
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=docker/tools/with-secrets.sh,target=/mnt/with-secrets.sh \
    --mount=type=bind,source=docker/auth/requirements.txt,target=/mnt/requirements.txt \
    --mount=type=secret,id=build_ca --mount=type=secret,id=pip_index_url \
    sh /mnt/with-secrets.sh pip install --quiet --requirement /mnt/requirements.txt
USER 10001
COPY services/common common
COPY services/auth auth
ENV PORT=8005
EXPOSE 8005
CMD ["python", "-m", "common.serve", "auth", "8005"]

FROM base AS memory
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=docker/tools/with-secrets.sh,target=/mnt/with-secrets.sh \
    --mount=type=bind,source=docker/base-ml/requirements.txt,target=/mnt/requirements-ml.txt \
    --mount=type=bind,source=docker/memory/requirements.txt,target=/mnt/requirements.txt \
    --mount=type=secret,id=build_ca --mount=type=secret,id=pip_index_url \
    sh /mnt/with-secrets.sh pip install --quiet --requirement /mnt/requirements-ml.txt \
        --requirement /mnt/requirements.txt
USER 10001
COPY services/common common
COPY services/memory memory
ENV PORT=8003
EXPOSE 8003
CMD ["python", "-m", "common.serve", "memory", "8003"]

FROM base AS orchestrator
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=docker/tools/with-secrets.sh,target=/mnt/with-secrets.sh \
    --mount=type=bind,source=docker/orchestrator/requirements.txt,target=/mnt/requirements.txt \
    --mount=type=secret,id=build_ca --mount=type=secret,id=pip_index_url \
    sh /mnt/with-secrets.sh pip install --quiet --requirement /mnt/requirements.txt
USER 10001
COPY services/common common
COPY services/orchestrator orchestrator
ENV PORT=8004
EXPOSE 8004
CMD ["python", "-m", "common.serve", "orchestrator", "8004"]
