# syntax=docker/dockerfile:1
# Two images: `docker build --target api .` has no torch, `docker build --target worker .` has it.

FROM python:3.12-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/lightyard
ENV PATH=/opt/lightyard/bin:$PATH
WORKDIR /build
COPY . .

FROM build AS build-api
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt '.[server]'

# The package index gives torch with CUDA. For another build of it, name the index that has that one.
FROM build AS build-worker
ARG PIP_EXTRA_INDEX_URL=""
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt '.[server,worker]'

FROM python:3.12-slim AS base
RUN useradd --uid 10001 --user-group --home-dir /var/lib/lightyard --create-home --shell /usr/sbin/nologin lightyard \
    && chmod 0700 /var/lib/lightyard \
    && install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/lightyard-store
ENV PATH=/opt/lightyard/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LIGHTYARD_HOME=/var/lib/lightyard \
    LIGHTYARD_STORAGE_URL=file:///var/lib/lightyard-store \
    LIGHTYARD_LOG_FORMAT=json
WORKDIR /var/lib/lightyard
USER 10001:10001

FROM base AS api
COPY --from=build-api /opt/lightyard /opt/lightyard
ENV LIGHTYARD_HOST=0.0.0.0 LIGHTYARD_PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"LIGHTYARD_PORT\"]}/healthz', timeout=4)"]
CMD ["python", "-m", "app"]

FROM base AS worker
COPY --from=build-worker /opt/lightyard /opt/lightyard
# Only what is in the container: a database or broker that is away must not end a healthy training run.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import psutil, sys; titles = {' '.join(p.info['cmdline'] or []).strip() for p in psutil.process_iter(['cmdline'])}; sys.exit(not {'lightyard-worker', 'lightyard-forkserver'} <= titles)"]
CMD ["python", "-m", "workers"]
