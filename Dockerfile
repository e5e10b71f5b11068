FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY wesemu wesemu
COPY pipelines pipelines
RUN python -m venv /opt/wesemu && /opt/wesemu/bin/pip install --no-cache-dir .

FROM python:3.12-slim
RUN useradd --uid 1000 --create-home wesemu \
    && install -d -o wesemu -g wesemu /data
COPY --from=build /opt/wesemu /opt/wesemu
ENV PATH=/opt/wesemu/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    WESEMU_DATA=/data \
    WESEMU_HOST=0.0.0.0 \
    WESEMU_PORT=8070
USER wesemu
WORKDIR /home/wesemu
VOLUME /data
EXPOSE 8070
STOPSIGNAL SIGINT
# refuses to start until WESEMU_AUTH__TOKENS or WESEMU_INSECURE=true is set: see README
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8070/_wesemu/health', timeout=2)"]
ENTRYPOINT ["wesemu"]
CMD ["serve"]
