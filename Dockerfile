# Two images, `--target cpu` and `--target gpu`: any slim Python (3.11 or newer, with venv), plus onnxruntime and the service. No torch.
#
#   docker build --target cpu --tag oodgate:cpu .
#
# Behind a package index of your own: `--secret id=pip.conf,src=pip.conf`. It is read while building and is in no layer.
ARG BASE=docker.io/library/python:3.13-slim-bookworm

FROM ${BASE} AS build
# pip stays in an environment of its own, which is left behind.
RUN python3 -m venv /tools && python3 -m venv --without-pip /opt/oodgate
COPY service /app/service
COPY deploy/health.py /app/health.py
# The file system is read-only later: whatever is not compiled now is compiled at every start.
RUN python3 -m compileall -q /app

FROM build AS build-cpu
COPY requirements/service.txt /tmp/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    /tools/bin/pip --python /opt/oodgate/bin/python --no-cache-dir install --require-hashes --requirement /tmp/service.txt

FROM build AS build-gpu
COPY requirements/service-gpu.txt /tmp/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    /tools/bin/pip --python /opt/oodgate/bin/python --no-cache-dir install --require-hashes --requirement /tmp/service-gpu.txt

FROM ${BASE} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="oodgate" \
      org.opencontainers.image.description="An image classifier service that knows when to say \"I don't know\"" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/oodgate/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    OODGATE_HOST=0.0.0.0 \
    OODGATE_PORT=8000 \
    OODGATE_MODELS_DIR=/models \
    OODGATE_LOG_FORMAT=json
WORKDIR /app
COPY models /models
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
COPY --from=build-gpu /opt/oodgate /opt/oodgate
COPY --from=build-gpu /app /app

FROM runtime AS cpu
COPY --from=build-cpu /opt/oodgate /opt/oodgate
COPY --from=build-cpu /app /app
