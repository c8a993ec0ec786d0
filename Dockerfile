# Hands packs to devices and labels photos, with the embedded backbone. No torch: what learns and exports is not for a server.
#
#   docker build -t edge-qprompt .
#   docker run --rm -p 8000:8000 -v packs:/var/lib/edge-qprompt --read-only --tmpfs /tmp edge-qprompt
#   docker run --rm -v packs:/var/lib/edge-qprompt edge-qprompt token create --store /var/lib/edge-qprompt --scope publish --scope promote

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY edge_qprompt edge_qprompt
COPY device_agent device_agent
COPY exporter exporter
COPY server server
RUN python -m venv /opt/edge-qprompt && /opt/edge-qprompt/bin/pip install --no-cache-dir '.[postgres,heic]'

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin edge-qprompt \
    && install -d -o edge-qprompt -g edge-qprompt -m 0700 /var/lib/edge-qprompt
COPY --from=build /opt/edge-qprompt /opt/edge-qprompt
# two malloc arenas instead of eight a core: what big photos leave behind stays small;
# onnxruntime reports nothing to its maker, whoever imports it first
ENV PATH=/opt/edge-qprompt/bin:$PATH \
    EDGE_QPROMPT_CACHE=/var/lib/edge-qprompt/cache \
    EDGE_QPROMPT_BACKBONES=/var/lib/edge-qprompt/backbones \
    MALLOC_ARENA_MAX=2 \
    ORT_DISABLE_TELEMETRY=1
USER 10001
VOLUME /var/lib/edge-qprompt
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["edge-qprompt"]
CMD ["serve", "--store", "/var/lib/edge-qprompt", "--host", "0.0.0.0"]
