# The service's image. The build context is the repository's root:
#
#   docker build -f docker/service.Dockerfile -t har-service:cpu .
#   docker build -f docker/service.Dockerfile --build-arg VARIANT=gpu -t har-service:gpu .
#
# VARIANT  cpu: onnxruntime; gpu: onnxruntime-gpu with NVIDIA's libraries, whose driver must know CUDA 13
# EXTRAS   of pyproject.toml, e.g. "tracing"
# BASE     any image with a Python of 3.11 to 3.13 as python3
# BUILD_BASE  the same Python, with pip; it stays out of the image

ARG BASE=python:3.13.15-slim-trixie
ARG BUILD_BASE=${BASE}

FROM ${BUILD_BASE} AS build
ARG VARIANT=cpu
ARG EXTRAS=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PIP_CONSTRAINT=/build/constraints.txt
WORKDIR /build
# A venv without pip, which is as it is moved between two stages with the same Python. --only-binary: there is
# no compiler, and nothing a stranger's setup.py could run.
COPY pyproject.toml constraints.txt README.md docker/requirements.py ./
RUN python3 -m venv --without-pip /opt/venv \
    && python3 requirements.py pyproject.toml "${VARIANT}" ${EXTRAS} > requirements.txt \
    && python3 -m pip --python /opt/venv/bin/python install --only-binary :all: --requirement requirements.txt
# What installed packages bring for their own tests and for work that the service does not do.
RUN find /opt/venv/lib -type d -name tests -prune -exec rm -r {} + \
    && for part in backend datasets quantization tools transformers; do rm -r /opt/venv/lib/python3.*/site-packages/onnxruntime/$part; done \
    && find /opt/venv/bin -mindepth 1 ! -name 'python*' -delete
# The project's name and version, which the service asks for; its code comes below, without training/.
RUN mkdir metadata && cp pyproject.toml README.md metadata/ \
    && python3 -m pip --python /opt/venv/bin/python install --no-deps ./metadata
COPY clip app/clip
COPY service app/service
COPY docker/healthcheck.py app/
# The image's files cannot be written where it runs, so Python could not keep what it compiles.
RUN python3 -m compileall -q app

FROM ${BASE}
ARG REVISION=unknown
LABEL org.opencontainers.image.title="har-service" \
      org.opencontainers.image.description="Human activity recognition in video, over HTTP" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    HAR_HOST=0.0.0.0 \
    HAR_LOG_FORMAT=json \
    HAR_MODELS_DIR=/models \
    HAR_SPOOL_DIR=/spool \
    TMPDIR=/spool
COPY --from=build /opt/venv /opt/venv
# A tmpfs that is mounted there gets this folder's mode, but belongs to root.
RUN mkdir -m 1777 /spool
COPY --from=build /build/app /app
WORKDIR /app
# A number: Kubernetes can only tell of a number that it is not root.
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-IS", "/app/healthcheck.py"]
CMD ["python", "-m", "service"]
