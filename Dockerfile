# Two images, `--target cpu` and `--target gpu`: any slim Python (3.11 or newer, with venv), plus onnxruntime and the service. No torch.
#
#   docker build --target cpu --tag oodgate:cpu .
#
# Behind a package index of your own: `--secret id=pip.conf,src=pip.conf`. It is read while building and is in no layer.
# What changes seldom comes first, so that an edit of the service copies the service and nothing else.
ARG BASE=docker.io/library/python:3.13-slim-bookworm
ARG VERSION=0.1.0
ARG REVISION=unknown

FROM ${BASE} AS environment
# pip stays in an environment of its own, which is left behind.
RUN python3 -m venv /tools && python3 -m venv --without-pip /opt/oodgate

FROM environment AS environment-cpu
COPY requirements/service.txt /tmp/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    /tools/bin/pip --python /opt/oodgate/bin/python --no-cache-dir install --require-hashes --requirement /tmp/service.txt

FROM environment AS environment-gpu
COPY requirements/service-gpu.txt /tmp/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    /tools/bin/pip --python /opt/oodgate/bin/python --no-cache-dir install --require-hashes --requirement /tmp/service-gpu.txt

FROM ${BASE} AS app
COPY service /app/service
COPY deploy/health.py /app/health.py
# The file system is read-only later: whatever is not compiled now is compiled at every start.
RUN python3 -m compileall -q /app

FROM ${BASE} AS runtime
# Python's own image comes without its library compiled.
RUN python3 -m compileall -q -x '/(tests?|site-packages)/' "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
# For OODGATE_STATE_DIR: a new volume that is mounted there belongs to whom this folder belongs to.
RUN install -d -o 10001 -g 10001 /state
LABEL org.opencontainers.image.title="oodgate" \
      org.opencontainers.image.description="An image classifier service that knows when to say \"I don't know\"" \
      org.opencontainers.image.licenses="Apache-2.0"
# The health check reads host and port here: set them by these variables, not by flags.
ENV PATH=/opt/oodgate/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    OODGATE_HOST=0.0.0.0 \
    OODGATE_PORT=8000 \
    OODGATE_MODELS_DIR=/models \
    OODGATE_LOG_FORMAT=json
WORKDIR /app
# A number, because Kubernetes cannot check a name against runAsNonRoot.
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 CMD ["python", "health.py"]
ENTRYPOINT ["python", "-m", "service"]
CMD ["serve"]

FROM runtime AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    OODGATE_DEVICE=cuda
COPY --from=environment-gpu /opt/oodgate /opt/oodgate
COPY models /models
COPY --from=app /app /app
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}"

FROM runtime AS cpu
COPY --from=environment-cpu /opt/oodgate /opt/oodgate
COPY models /models
COPY --from=app /app /app
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}"
