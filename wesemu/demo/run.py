"""The whole demo: simulated reads, a server, the requests, the GPU self-test, the checks."""

import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from wesemu.client import AsyncClient, RunDetail
from wesemu.demo.checks import (
    BUCKET,
    REFERENCE,
    Check,
    FinishedRequest,
    ShowProgress,
    run_checks,
    run_requests,
)
from wesemu.errors import SystemFault
from wesemu.genomics.gpu_selftest import summary
from wesemu.genomics.reference import ReferenceStore
from wesemu.genomics.simulate.fixture import Fixture, FixtureSettings, write_fixture
from wesemu.runs.model import JsonObject, RunState

# --- the server of the demo ---

_START_SECONDS = 60
_STOP_SECONDS = 15


@asynccontextmanager
async def serving(data: Path, settings: Mapping[str, str]) -> AsyncIterator[str]:
    """Start a server over `data` on a free port and yield its URL. Stop it and its runs at the end.

    The server logs to `server.log` in `data`. Its settings are the environment variables
    `settings`, without those of this process and without a wesemu.toml. Raise SystemFault if it
    does not start.
    """
    log = data / "server.log"
    process = await _start(data, log, settings)
    try:
        yield await _url(process, log)
    finally:
        await _stop(process)


async def _start(data: Path, log: Path, settings: Mapping[str, str]) -> Process:
    # in a new session: Ctrl-C in the terminal reaches only the demo, which stops the server
    with log.open("ab") as stderr:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "wesemu.cli",
            "serve",
            "--port=0",
            f"--data={data}",
            cwd=data,
            env={name: value for name, value in os.environ.items() if name[:7] != "WESEMU_"}
            | dict(settings),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=stderr,
            start_new_session=True,
        )


async def _url(process: Process, log: Path) -> str:
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), _START_SECONDS)
    except TimeoutError:
        line = b""
    if not line:
        output = await asyncio.to_thread(log.read_text, errors="replace")
        last = output.strip().rpartition("\n")[2] or "no output"
        raise SystemFault(f"the server did not start: {last} (see {log})")
    return line.decode().strip()


async def _stop(process: Process) -> None:
    """Stop the server with SIGINT. Kill it if it takes too long or the wait is cancelled."""
    try:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


# --- the node `cuda` ---

_NAME = "GPU self-test"
_FILES = ("Snakefile", "schemas/config.schema.yaml", "envs/gpu.yaml")


@dataclass(frozen=True, slots=True)
class SelfTest:
    """The workflow gpu-selftest in the folder `workflow`, on `reads` random reads."""

    workflow: Path
    reads: int


@dataclass(frozen=True, slots=True)
class CudaNode:
    """The node `cuda` of the demo.

    `settings` are the environment variables of the server. `selftest` is None if Parabricks
    executes the runs. Otherwise CPU tools execute them, and the self-test uses the GPU.
    """

    settings: Mapping[str, str]
    selftest: SelfTest | None = None


@dataclass(frozen=True, slots=True)
class SelfTestRun:
    """The run of the self-test, and its report if there is one."""

    run: RunDetail
    report: JsonObject | None


async def run_selftest(
    client: AsyncClient, selftest: SelfTest, reads: Path, show: ShowProgress
) -> SelfTestRun:
    """Submit the self-test as an attached workflow through WES and wait until it ends.

    Write its random reads to the file `reads`. Raise ClientError.
    """
    from wesemu.genomics.histograms import write_random  # needs the extra cuda

    await asyncio.to_thread(write_random, reads, selftest.reads)
    run_id = await client.wes.submit(
        "Snakefile",
        {"reads": str(reads)},
        attachments=[(name, selftest.workflow / name) for name in _FILES],
        engine_parameters={"node": "cuda", "gpus": "1"},
        tags={"project": "wesemu demo"},
    )
    async for run in client.wes.follow(run_id):
        show(_NAME, run.state, run.tasks_done, run.tasks_total)
    for name, output in run.outputs.items():
        if name.endswith("gpu.json"):
            return SelfTestRun(run, json.loads(await client.wes.text(output.download_url)))
    return SelfTestRun(run, None)


def check_node(
    node: CudaNode, done: Sequence[FinishedRequest], selftest_run: SelfTestRun | None
) -> Iterator[Check]:
    """Check that both APIs report the node `cuda` for the runs, and that a GPU was used."""
    placed = [_on_cuda(each.run) and each.job.raw.get("node") == "cuda" for each in done]
    placements = [each.run.placement for each in done]
    notes = sorted({each.note for each in placements if each is not None and each.note is not None})
    node_text = f"cuda, by AGS and WES, for {sum(placed)} of {len(done)} runs"
    if node.selftest is None:
        mapped = [any(task.name == "fq2bam" for task in each.run.tasks) for each in done]
        node_text += f"; {sum(mapped)} by Parabricks"
        yield Check("node", all(placed) and all(mapped), "; ".join([node_text, *notes]))
        return
    yield Check("node", all(placed), "; ".join([node_text, *notes]))
    if (
        selftest_run is None
        or selftest_run.report is None
        or selftest_run.run.state is not RunState.COMPLETE
    ):
        ended = None if selftest_run is None else (selftest_run.run.state, selftest_run.run.error)
        yield Check(_NAME, False, f"no report: {ended}")
        return
    ok = selftest_run.report["equal"] is True and _on_cuda(selftest_run.run)
    yield Check(_NAME, ok, summary(selftest_run.report))


def _on_cuda(run: RunDetail) -> bool:
    return run.placement is not None and run.placement.kind == "cuda"


# --- the demo ---

_ON_THE_CPU = {"WESEMU_NODE__DEFAULT": "cpu"}
"""The default node may be `cuda` on machines with GPUs."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The result of the demo. `server` is the URL of the stopped server, `seconds` the duration."""

    fixture: Fixture
    checks: tuple[Check, ...]
    server: str
    seconds: float

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)


async def run_demo(data: Path, show: ShowProgress, node: CudaNode | None = None) -> DemoResult:
    """Run the demo in the data directory `data`, on the CPU or on `node`.

    Raise SystemFault or ClientError.
    """
    start = time.monotonic()
    preparing = asyncio.create_task(asyncio.to_thread(_prepare_data, data), name="demo fixture")
    try:
        settings = server_settings(node)
        reads = data / "selftest.fq"
        # the self-test is an attached workflow: its sandbox hides the data directory
        settings = {**settings, "WESEMU_ENGINE__READABLE": json.dumps([str(reads)])}
        async with serving(data, settings) as server, AsyncClient(server) as client:
            fixture = await preparing
            done = await run_requests(client, show, cuda=node is not None)
            selftest_run = None
            if node is not None and node.selftest is not None:
                selftest_run = await run_selftest(client, node.selftest, reads, show)
    finally:
        preparing.cancel()
    parabricks = node is not None and node.selftest is None
    checks = await asyncio.to_thread(
        lambda: list(run_checks(data, fixture, done, exact=not parabricks))
    )
    if node is not None:
        checks += check_node(node, done, selftest_run)
    return DemoResult(fixture, tuple(checks), server, time.monotonic() - start)


def server_settings(node: CudaNode | None) -> Mapping[str, str]:
    """Return the environment variables of the demo's server."""
    return _ON_THE_CPU if node is None else node.settings


def _prepare_data(data: Path) -> Fixture:
    """Write simulated reads to a bucket and register their reference."""
    fixture = write_fixture(data / "buckets" / BUCKET, FixtureSettings())
    ReferenceStore(data / "references", data / "cache").add(REFERENCE, fixture.reference)
    return fixture
