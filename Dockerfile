# docker build -t wesemu .            podman build --format docker -t wesemu .
# BASE is any Debian whose python3 is 3.11 to 3.13. EXTRAS are extras of wesemu: cwl,wdl,crate.
ARG BASE=debian:trixie-slim

FROM ${BASE} AS build
ARG EXTRAS=""
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY wesemu wesemu
COPY pipelines pipelines
RUN python3 -m venv /opt/wesemu \
    && /opt/wesemu/bin/pip install --no-cache-dir ".${EXTRAS:+[$EXTRAS]}"

FROM ${BASE}
LABEL org.opencontainers.image.title="wesemu" \
      org.opencontainers.image.description="A local emulator of GA4GH WES and Alibaba Cloud Genomics Service that runs real genomics pipelines" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        bcftools bwa ca-certificates freebayes python3 samtools tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home wesemu \
    && install -d -o wesemu -g wesemu /data
COPY --from=build /opt/wesemu /opt/wesemu
ENV PATH=/opt/wesemu/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    WESEMU_DATA=/data \
    WESEMU_HOST=0.0.0.0
USER wesemu
# ./wesemu.toml here is the configuration file
WORKDIR /home/wesemu
VOLUME /data
EXPOSE 8070
# queries the address of the settings; needs no credentials. OCI images have no HEALTHCHECK: see above
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["wesemu", "ready"]
# tini forwards signals and reaps the processes that runs leave behind
ENTRYPOINT ["tini", "--", "wesemu"]
# refuses to start until WESEMU_AUTH__TOKENS or WESEMU_INSECURE=true is set
CMD ["serve"]
