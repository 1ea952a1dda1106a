# The image that trains and publishes models. The build context is the repository's root:
#
#   docker build -f docker/training.Dockerfile -t har-training .
#
# VARIANT  gpu: TensorFlow with NVIDIA's libraries of CUDA 12, another major than the service's, hence the second
#          image; cpu: without them
# BASE, BUILD_BASE  as in service.Dockerfile

ARG BASE=python:3.13.15-slim-trixie
ARG BUILD_BASE=${BASE}

FROM ${BUILD_BASE} AS build
ARG VARIANT=gpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PIP_CONSTRAINT=/build/constraints.txt
WORKDIR /build
COPY pyproject.toml constraints.txt README.md docker/requirements.py ./
# A published model is compared on the CPU with the one that was trained: onnxruntime, whatever TensorFlow runs on.
RUN python3 -m venv --without-pip /opt/venv \
    && python3 requirements.py pyproject.toml cpu training > requirements.txt \
    && if [ "${VARIANT}" = gpu ]; then echo 'tensorflow[and-cuda]' >> requirements.txt; fi \
    && python3 -m pip --python /opt/venv/bin/python install --only-binary :all: --requirement requirements.txt
RUN mkdir metadata && cp pyproject.toml README.md metadata/ \
    && python3 -m pip --python /opt/venv/bin/python install --no-deps ./metadata
COPY clip app/clip
COPY training app/training
RUN python3 -m compileall -q app && mkdir runs

FROM ${BASE}
ARG REVISION=unknown
LABEL org.opencontainers.image.title="har-training" \
      org.opencontainers.image.description="Training of activity recognition models for har-service" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}"
# UCF50 comes as a .rar: bsdtar opens it. Its version is not pinned: Debian keeps only the newest.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libarchive-tools \
    && rm -r /var/lib/apt/lists/*
ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    TRAINING_COMMIT=${REVISION} \
    PYTHONPATH=/app
COPY --from=build /opt/venv /opt/venv
COPY --from=build --chown=10001:10001 /build/runs /runs
COPY --from=build /build/app /app
WORKDIR /runs
USER 10001:10001
STOPSIGNAL SIGTERM
# It serves nothing that could be asked for its health.
HEALTHCHECK NONE
ENTRYPOINT ["python", "-m"]
CMD ["training.fit", "--help"]
