"""The fixtures' servers and `Emulator`, the object that tests get (docs/pytest.md)."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from select import select
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO

from wesemu.client import AsyncClient, Bucket, Client, ClientError, ClientRun, ReceivedRequest
from wesemu.client.async_client import Files, Lanes
from wesemu.genomics.simulate.fixture import FixtureSettings, write_fixture
from wesemu.runs.model import JsonObject, JsonValue

_START_SECONDS = 120.0
_STOP_SECONDS = 60.0
_SHORTEST_GENOME = 10_000
_DEPTH = 30
_LAST_REQUESTS, _LAST_RUNS, _LAST_LINES = 20, 3, 15


class ServerFailed(Exception):
    """The server of the tests did not start."""


class EmulatorServer:
    """A server in a process of its own, with an empty data directory.

    `engine` is "scripted" or "real", `settings` are like wesemu.toml. The process ends with
    `close`, and when this process ends in any way. Raise ServerFailed if it does not start.
    """

    def __init__(self, engine: str, settings: JsonObject) -> None:
        self.engine = engine
        self._log: IO[bytes] = TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(
            # -P: no module of the tests' folder hides one of the server's
            [sys.executable, "-P", "-m", "wesemu.testing.server", engine, json.dumps(settings)],
            env={name: value for name, value in os.environ.items() if name[:7] != "WESEMU_"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C reaches the tests only, which stop the server
        )
        try:
            self.url = self._read_url()
        except BaseException:
            self._process.kill()
            self.close()
            raise

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """Stop the server with its runs and remove its data. Idempotent."""
        process = self._process
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        self._log.close()

    def log(self) -> str:
        """Return the end of the server's stderr."""
        self._log.seek(0)
        return self._log.read()[-4000:].decode(errors="replace")

    def _read_url(self) -> str:
        assert self._process.stdout is not None
        ready, _, _ = select([self._process.stdout], [], [], _START_SECONDS)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            raise ServerFailed(f"the wesemu server did not start; its last output:\n{self.log()}")
        return line.decode().strip()


@dataclass(frozen=True)
class SimulatedSample:
    """Simulated paired reads with their reference and their true variants, in `bucket`.

    `first`, `second`, `reference` and `truth` are locations (`oss://…`). `variants` are the records
    of the truth VCF: contig, position (from 1), reference and alternate bases, genotype.
    """

    bucket: str
    pairs: int
    first: str
    second: str
    reference: str
    truth: str
    variants: tuple[tuple[str, int, str, str, str], ...]


@dataclass(frozen=True)
class Snapshot:
    """The state of a server; `content` is a tar file that `wesemu snapshot load` reads."""

    content: bytes = field(repr=False)


@cache
def _simulate(settings: FixtureSettings) -> dict[str, bytes]:
    """Return the files of a sample by name. Raise InvalidRequest for impossible settings."""
    with TemporaryDirectory(prefix="wesemu-sample-") as folder:
        made = write_fixture(Path(folder), settings)
        paths = (made.reads_1, made.reads_2, made.reference, made.truth)
        return {path.name: path.read_bytes() for path in paths}


class Emulator:
    """A running server for tests.

    `url` is its address; `wes`, `ags` and `oss` are the addresses of its APIs. `client` is a
    `wesemu.Client`; `clock`, `faults` and the method `submit` are the client's.
    """

    def __init__(self, server: EmulatorServer) -> None:
        self.url = server.url
        self.wes = f"{server.url}/ga4gh/wes/v1"
        self.ags = server.url
        self.oss = server.url
        self.client = Client(server.url)
        self.clock = self.client.clock
        self.faults = self.client.faults
        self.submit = self.client.submit
        self._server = server
        self._made = 0

    def __repr__(self) -> str:
        return f"<wesemu at {self.url}, {self._server.engine} engine>"

    @property
    def requests(self) -> list[ReceivedRequest]:
        """The last requests to WES, AGS and OSS, oldest first, those of this object too."""
        return self.client.requests()

    def bucket(self, name: str, files: Files | None = None) -> Bucket:
        """Return a bucket, created if needed, with these objects: bytes, text, or files at
        Paths."""

        async def fill(client: AsyncClient) -> None:
            bucket = client.bucket(name)
            await bucket.create()
            for key, content in (files or {}).items():
                await bucket.put(key, content)

        self.client.call(fill)
        return self.client.bucket(name)

    def reads(
        self,
        *,
        pairs: int = 500,
        snps: int = 3,
        indels: int = 0,
        duplicates: float = 0.0,
        read_length: int = 150,
        seed: int = 1,
        bucket: str | None = None,
    ) -> SimulatedSample:
        """Simulate paired reads of a small genome, and store them with their reference and truth.

        `snps` and `indels` are the numbers of true variants, `duplicates` the share of PCR
        duplicates. The same arguments give the same reads. Raise InvalidRequest for an impossible
        sample.
        """
        length = max(_SHORTEST_GENOME, 2 * read_length * pairs // _DEPTH)
        settings = FixtureSettings(
            seed=seed,
            length=length,
            contigs=1,
            depth=2 * read_length * pairs / length,
            snps=snps,
            indels=indels,
            duplicates=duplicates,
            read_length=read_length,
        )
        files = _simulate(settings)
        self._made += 1
        stored = self.bucket(bucket or f"sample-{self._made}", files)
        return SimulatedSample(
            bucket=stored.name,
            pairs=settings.pairs,
            first=stored.url("reads_1.fq.gz"),
            second=stored.url("reads_2.fq.gz"),
            reference=stored.url("reference.fa"),
            truth=stored.url("truth.vcf"),
            variants=_variants(files["truth.vcf"].decode()),
        )

    def reference(self, name: str, fasta: bytes | str | Path) -> str:
        """Register a FASTA as `name`, wait until it is indexed, and return the name for runs.

        `fasta` is its content, a Path, or a location (`oss://…`).
        """
        if isinstance(fasta, Path) or (isinstance(fasta, str) and "://" in fasta):
            self.client.add_reference(name, fasta)
            return name
        with TemporaryDirectory(prefix="wesemu-fasta-") as folder:
            file = Path(folder, "genome.fa")
            file.write_bytes(fasta.encode() if isinstance(fasta, str) else fasta)
            self.client.add_reference(name, file)
        return name

    def run(
        self,
        name: str,
        *,
        reads: SimulatedSample | Lanes,
        reference: str | None = None,
        bucket: str | None = None,
        tags: Mapping[str, str] | None = None,
        engine_parameters: Mapping[str, str] | None = None,
        **params: JsonValue,
    ) -> ClientRun:
        """Submit a run of "mapping" or "wgs" through WES; see Client.run.

        A SimulatedSample brings its reference and its bucket, where relative outputs go.
        """
        if isinstance(reads, SimulatedSample):
            reference, bucket = reference or reads.reference, bucket or reads.bucket
            reads = (reads.first, reads.second)
        if reference is None:
            raise ValueError("name a reference, or give reads that wesemu.reads() made")
        return self.client.run(
            name,
            reads=reads,
            reference=reference,
            bucket=bucket,
            tags=tags,
            engine_parameters=engine_parameters,
            **params,
        )

    def snapshot(self) -> Snapshot:
        """Return the buckets, references, ended runs and emulated time of this moment."""
        with TemporaryDirectory(prefix="wesemu-snapshot-") as folder:
            return Snapshot(self.client.save_snapshot(Path(folder, "snapshot")).read_bytes())

    def restore(self, snapshot: Snapshot) -> None:
        """Replace everything by a snapshot, also one of another server."""
        with TemporaryDirectory(prefix="wesemu-snapshot-") as folder:
            file = Path(folder, "snapshot")
            file.write_bytes(snapshot.content)
            self.client.load_snapshot(file)

    def reset(self) -> None:
        """Remove runs, buckets, references, faults and logged requests. Emulated time continues."""

        async def reset(client: AsyncClient) -> None:
            await client.control.reset(buckets=True)
            for reference in await client.control.references():
                await client.control.remove_reference(str(reference["name"]))
            await client.control.seed(1)  # so run ids do not depend on earlier tests

        self.client.call(reset)
        self._made = 0

    def report(self) -> str:
        """Return what helps to understand a failed test: the last runs and requests."""
        try:
            requests = self.requests  # before those of this report
            lines = [*self._report_runs(), *_report_requests(requests)]
        except (ClientError, OSError) as error:
            lines = [f"no report: {error}", self._server.log()]
        return "\n".join(lines)

    def _report_runs(self) -> Sequence[str]:
        lines = []
        for line in self.client.runs(limit=_LAST_RUNS):
            run = self.client.get(line.id)
            lines.append(f"run {run.id}: {run.state}" + (f": {run.error}" if run.error else ""))
            lines += [f"    {text}" for text in run.logs().splitlines()[-_LAST_LINES:]]
        return lines


def _variants(truth: str) -> tuple[tuple[str, int, str, str, str], ...]:
    records = [line.split("\t") for line in truth.splitlines() if not line.startswith("#")]
    return tuple((row[0], int(row[1]), row[3], row[4], row[9].partition(":")[0]) for row in records)


def _report_requests(requests: Sequence[ReceivedRequest]) -> Sequence[str]:
    """Describe the last requests; equal ones in a row are one line."""
    lines: list[tuple[str, int]] = []
    for each in requests:
        text = f"{each.status} {each.operation}"
        text += "" if each.operation.endswith(each.path) else f" {each.path}"
        text += f" by {each.owner}" if each.owner else ""
        text += f": {each.error}" if each.error else ""
        text += f" (nothing read {', '.join(each.unread)})" if each.unread else ""
        if lines and lines[-1][0] == text:
            lines[-1] = text, lines[-1][1] + 1
        else:
            lines.append((text, 1))
    shown = [f"{text} (x{times})" if times > 1 else text for text, times in lines]
    return ["the last requests:", *(f"    {text}" for text in shown[-_LAST_REQUESTS:])]
