# auth the way most people build it: the honest baseline of every comparison, from the same locks. One stage,
# compilers inside, code before requirements, everything installed anew when any file changes.
ARG BASE_IMAGE=python:3.13-slim-trixie
FROM ${BASE_IMAGE}

# hadolint ignore=DL3015
RUN apt-get update && apt-get install -y build-essential curl libffi-dev libpq-dev libssl-dev && rm -rf /var/lib/apt/lists/*

RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1

WORKDIR /app
COPY services/common common
COPY services/auth auth
COPY docker/tools docker/tools
COPY docker/base-python docker/base-python
COPY docker/auth docker/auth

# Certificates and index come as in the optimized image: what is compared is how images are built.
RUN --mount=type=secret,id=build_ca --mount=type=secret,id=pip_index_url \
    sh docker/tools/with-secrets.sh pip install --no-cache-dir -r docker/base-python/requirements.txt \
        -r docker/auth/requirements.txt

EXPOSE 8005
# hadolint ignore=DL3025
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
    CMD curl -f http://localhost:8005/health || exit 1
CMD ["python", "-m", "common.serve", "auth", "8005"]
